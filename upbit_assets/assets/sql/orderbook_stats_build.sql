-- gold.orderbook_stats_build: one row is a window: its row count in gold.orderbook_stats, and the build of silver that
-- it was computed from.
-- The windows are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''

WITH written AS (
  SELECT window_start, count(*) AS gold_rows
  FROM gold.orderbook_stats
  WHERE ingested_at >= :start AND ingested_at < :end
  GROUP BY window_start
)

SELECT silver.window_start,
       coalesce(gold_rows, 0) AS gold_rows,
       silver.computed_at AS silver_computed_at
FROM silver.orderbook_build AS silver
LEFT JOIN written ON written.window_start = silver.window_start
WHERE silver.window_start >= :start AND silver.window_start < :end;
