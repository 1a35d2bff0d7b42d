-- Whether tickers are being collected, for readers, who may not read raw rows.
CREATE VIEW bronze.newest_ticker AS
SELECT max(ingested_at) AS received_at
FROM bronze.ticker_raw
WHERE ingested_at > now() - interval '1 day';

COMMENT ON VIEW bronze.newest_ticker IS 'When the newest raw ticker of the last day was received; NULL without one';

GRANT SELECT ON bronze.newest_ticker TO upbit_pipeline, upbit_reader;
