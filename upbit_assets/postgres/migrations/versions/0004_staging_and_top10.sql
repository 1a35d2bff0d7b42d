-- A hardened database gives nobody this by itself.
DO $$
BEGIN
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO upbit_pipeline', current_database());
END
$$;

-- RANK() leaves no market of the first ten behind 10, and says so to the index.
CREATE OR REPLACE VIEW gold.turnover_top10 AS
SELECT s.rank_volume, s.market, s.trade_price, s.change_rate, s.turnover_krw, s.turnover, s.quote_currency,
       s.daily_volume, s.volatility, s.rank_volatility, s.ingested_at, s.window_start
FROM (SELECT window_start FROM gold.market_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 1) newest
JOIN gold.market_stats s
  ON s.window_start = newest.window_start
 AND s.ingested_at >= newest.window_start AND s.ingested_at < newest.window_start + interval '10 minutes'
WHERE s.rank_volume <= 10
ORDER BY s.rank_volume, s.market
LIMIT 10;
