-- gold.market_daily_build: one row is a day: its row count in gold.market_daily, and the builds of candles and trades
-- that it was computed from.
-- The days are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 09:00+09'''
--   \set end '''2026-01-30 09:00+09'''

WITH written AS (
  SELECT day, count(*) AS gold_rows
  FROM gold.market_daily
  WHERE day >= :start AND day < :end
  GROUP BY day
)

SELECT candle.window_start,
       coalesce(gold_rows, 0) AS gold_rows,
       candle.computed_at AS candle_computed_at,
       trade.computed_at AS trade_computed_at
FROM silver.candle_build AS candle
LEFT JOIN silver.trade_build AS trade ON trade.window_start = candle.window_start
LEFT JOIN written ON written.day = candle.window_start
WHERE candle.window_start >= :start AND candle.window_start < :end;
