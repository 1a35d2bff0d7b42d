ALTER TABLE gold.market_daily
  ADD COLUMN rank_note text,
  ADD COLUMN log_volatility numeric,
  ADD COLUMN annualized_volatility numeric,
  ADD COLUMN parkinson_volatility numeric,
  ADD COLUMN garman_klass_volatility numeric,
  ALTER COLUMN vwap DROP NOT NULL,
  ALTER COLUMN realized_volatility DROP NOT NULL,
  ALTER COLUMN rank_volatility DROP NOT NULL;

COMMENT ON VIEW gold.turnover_top10 IS
  'The ten largest turnovers of the newest window; of equals at the tenth place those whose code sorts first';
