-- gold.market_stats_build: one row is a window: its row count in gold.market_stats, and the builds of silver that it was
-- computed from.
-- The windows are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''

WITH written AS (
  SELECT window_start, count(*) AS gold_rows
  FROM gold.market_stats
  WHERE ingested_at >= :start AND ingested_at < :end
  GROUP BY window_start
)

SELECT silver.window_start,
       coalesce(gold_rows, 0) AS gold_rows,
       silver.computed_at AS silver_computed_at,
       day_before.computed_at AS day_before_computed_at
FROM silver.ticker_build AS silver
LEFT JOIN silver.ticker_build AS day_before ON day_before.window_start = silver.window_start - interval '1 day'
LEFT JOIN written ON written.window_start = silver.window_start
WHERE silver.window_start >= :start AND silver.window_start < :end;
