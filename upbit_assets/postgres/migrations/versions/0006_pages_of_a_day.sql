ALTER TABLE silver.candle_coverage ADD COLUMN pages bigint NOT NULL DEFAULT 0;
ALTER TABLE silver.candle_coverage ALTER COLUMN pages DROP DEFAULT;
