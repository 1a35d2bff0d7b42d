CREATE TABLE silver.market (
  market        varchar(30) PRIMARY KEY,
  korean_name   text,
  english_name  text,
  warning       boolean NOT NULL,
  cautions      text[] NOT NULL,
  first_seen_at timestamptz NOT NULL,
  last_seen_at  timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON silver.market TO upbit_pipeline;
GRANT SELECT ON silver.market TO upbit_reader;

CREATE OR REPLACE VIEW gold.turnover_top10 AS
SELECT s.rank_volume, s.market, s.trade_price, s.change_rate, s.turnover_krw, s.turnover, s.quote_currency,
       s.daily_volume, s.volatility, s.rank_volatility, s.ingested_at, s.window_start, m.korean_name, m.english_name
FROM (SELECT window_start FROM gold.market_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 1) newest
JOIN gold.market_stats s
  ON s.window_start = newest.window_start
 AND s.ingested_at >= newest.window_start AND s.ingested_at < newest.window_start + interval '10 minutes'
LEFT JOIN silver.market m ON m.market = s.market
WHERE s.rank_volume <= 10
ORDER BY s.rank_volume, s.market
LIMIT 10;
