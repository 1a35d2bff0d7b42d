-- gold.market_stats: one row is a market at its last snapshot of a ten-minute window, with the figures of that window.
-- The windows are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''

WITH ticker AS NOT MATERIALIZED (
  SELECT *, date_bin('10 minutes', ingested_at, '2000-01-01 00:00+09') AS window_start
  FROM silver.ticker
  WHERE ingested_at >= :start AND ingested_at < :end
),

ticker_day_before AS NOT MATERIALIZED (
  SELECT *, date_bin('10 minutes', ingested_at, '2000-01-01 00:00+09') AS window_start
  FROM silver.ticker
  WHERE ingested_at >= CAST(:start AS timestamptz) - interval '1 day'
    AND ingested_at < CAST(:end AS timestamptz) - interval '1 day'
),

-- every snapshot of a market, with aggregates over its window
in_window AS (
  SELECT *,
         max(trade_price) OVER market_window AS window_high,
         min(trade_price) OVER market_window AS window_low,
         last_value(traded_at) OVER down_to_the_first AS first_traded_at,
         last_value(day_volume) OVER down_to_the_first AS first_day_volume,
         last_value(day_turnover) OVER down_to_the_first AS first_day_turnover,
         count(*) OVER market_window AS snapshots,
         row_number() OVER (market_window ORDER BY ingested_at DESC) AS recency
  FROM ticker
  WINDOW market_window AS (PARTITION BY window_start, market),
         down_to_the_first AS (market_window ORDER BY ingested_at DESC
                               RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
),

last_snapshot AS (
  SELECT *, split_part(market, '-', 1) AS quote_currency, max(ingested_at) OVER (PARTITION BY window_start) AS newest
  FROM in_window
  WHERE recency = 1
),

-- at the rate of the same snapshot, else at the window's newest
in_krw AS (
  SELECT last_snapshot.*,
         CASE WHEN last_snapshot.quote_currency = 'KRW' THEN last_snapshot.acc_trade_price
              ELSE last_snapshot.acc_trade_price * coalesce(rate.trade_price, newest_rate.trade_price)
         END AS turnover_krw,
         CASE WHEN last_snapshot.quote_currency = 'KRW' OR rate.market IS NOT NULL THEN NULL
              WHEN newest_rate.market IS NULL THEN 'no rate: no KRW-' || last_snapshot.quote_currency || ' in the window'
              ELSE 'KRW-' || last_snapshot.quote_currency || ' of '
                || to_char(newest_rate.ingested_at AT TIME ZONE 'Asia/Seoul', 'HH24:MI:SS')
                || ' KST: not in the same snapshot'
         END AS rate_note
  FROM last_snapshot
  LEFT JOIN ticker AS rate ON rate.ingested_at = last_snapshot.ingested_at
                          AND rate.market = 'KRW-' || last_snapshot.quote_currency
  LEFT JOIN last_snapshot AS newest_rate ON newest_rate.window_start = last_snapshot.window_start
                                        AND newest_rate.market = 'KRW-' || last_snapshot.quote_currency
),

-- for each snapshot, the one of the window 24 hours before with the nearest time of day; of two, the earlier
nearest AS (
  SELECT DISTINCT ON (wanted.ingested_at) wanted.ingested_at, there.ingested_at AS day_before
  FROM (SELECT DISTINCT window_start, ingested_at FROM ticker) AS wanted
  JOIN (SELECT DISTINCT window_start, ingested_at FROM ticker_day_before) AS there
    ON there.window_start = wanted.window_start - interval '1 day'
  ORDER BY wanted.ingested_at,
           abs(extract(epoch FROM wanted.ingested_at - interval '1 day' - there.ingested_at)),
           there.ingested_at
),

-- the increase of the exchange's day counters since the window's first snapshot; on a new day they start at 0
gained AS (
  SELECT in_krw.*,
         day_volume - CASE WHEN new_day THEN 0 ELSE first_day_volume END AS volume_gained,
         day_turnover - CASE WHEN new_day THEN 0 ELSE first_day_turnover END AS turnover_gained
  FROM in_krw
  CROSS JOIN LATERAL (
    SELECT date_bin('1 day', traded_at, '2000-01-01 09:00+09')
         > date_bin('1 day', first_traded_at, '2000-01-01 09:00+09') AS new_day
  ) AS counters
),

figures AS (
  SELECT gained.*,
         CASE WHEN snapshots > 1 THEN gold.quotient(window_high - window_low, window_low, 10) END AS volatility,
         gold.quotient(gained.trade_price - before.trade_price, before.trade_price, 10) AS change_rate_24h,
         -- NULL if a counter decreased or didn't change
         CASE WHEN volume_gained > 0 AND turnover_gained > 0
              THEN gold.quotient(turnover_gained, volume_gained, 16) END AS vwap
  FROM gained
  LEFT JOIN nearest ON nearest.ingested_at = gained.ingested_at
  LEFT JOIN ticker_day_before AS before ON before.ingested_at = nearest.day_before AND before.market = gained.market
)

SELECT ingested_at,
       market,
       trade_price,
       acc_trade_volume AS daily_volume,
       rank() OVER (PARTITION BY window_start ORDER BY turnover_krw DESC NULLS LAST) AS rank_volume,
       quote_currency,
       acc_trade_price AS turnover,
       turnover_krw,
       nullif(concat_ws('; ', rate_note,
         CASE WHEN ingested_at < newest THEN 'not in the window''s last snapshot' END), '') AS rank_note,
       change_rate,
       change_rate_24h,
       window_high,
       window_low,
       volatility,
       CASE WHEN volatility IS NOT NULL
            THEN rank() OVER (PARTITION BY window_start ORDER BY volatility DESC NULLS LAST) END AS rank_volatility,
       window_start,
       vwap
FROM figures;
