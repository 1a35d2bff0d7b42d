-- Of a long span every n-th window, the newest included: at most 250 points a line, as Metabase cuts results off.
WITH figures AS (
  SELECT market, window_start, trade_price, vwap,
         row_number() OVER (PARTITION BY market ORDER BY window_start DESC) - 1 AS age,
         (count(*) OVER (PARTITION BY market) + 249) / 250 AS step
  FROM gold.market_stats
  WHERE market IN ({{market}})
    AND ingested_at >= coalesce([[{{from}}::date::timestamp AT TIME ZONE 'Asia/Seoul',]]
                                [[{{to}}::date::timestamp AT TIME ZONE 'Asia/Seoul',]] now() - interval '1 day')
    AND ingested_at < coalesce([[({{to}}::date + 1)::timestamp AT TIME ZONE 'Asia/Seoul',]] 'infinity'::timestamptz)
)
SELECT figures.window_start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)", line.name AS "선", line.price AS "가격"
FROM figures
CROSS JOIN LATERAL (VALUES (market || ' 현재가', trade_price), (market || ' VWAP', vwap)) line (name, price)
WHERE age % step = 0
ORDER BY figures.window_start, line.name
