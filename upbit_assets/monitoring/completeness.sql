-- The trades of the last day's windows by state. Columns are named as the metrics.
SELECT state, count(*) AS upbit_trade_market_windows
FROM silver.trade_coverage
WHERE window_start > now() - interval '1 day'
GROUP BY state
