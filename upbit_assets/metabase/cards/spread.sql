-- Of a long span every n-th window, the newest included: at most 500 points a line, as Metabase cuts results off.
WITH figures AS (
  SELECT market, window_start, spread_bps_mean,
         row_number() OVER (PARTITION BY market ORDER BY window_start DESC) - 1 AS age,
         (count(*) OVER (PARTITION BY market) + 499) / 500 AS step
  FROM gold.orderbook_stats
  WHERE market IN ({{market}})
    AND ingested_at >= coalesce([[{{from}}::date::timestamp AT TIME ZONE 'Asia/Seoul',]]
                                [[{{to}}::date::timestamp AT TIME ZONE 'Asia/Seoul',]] now() - interval '1 day')
    AND ingested_at < coalesce([[({{to}}::date + 1)::timestamp AT TIME ZONE 'Asia/Seoul',]] 'infinity'::timestamptz)
)
SELECT window_start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)", market AS "종목", spread_bps_mean AS "스프레드 (bp)"
FROM figures
WHERE age % step = 0
ORDER BY window_start, market
