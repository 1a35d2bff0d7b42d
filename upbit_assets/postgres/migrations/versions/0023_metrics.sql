-- What the stream and the exchange's clients last reported. Unlogged: after a crash of the server the counters restart.
CREATE UNLOGGED TABLE live.stream (
  reported_at      timestamptz NOT NULL,
  collecting_since timestamptz NOT NULL,
  tickers          bigint NOT NULL,
  orderbooks       bigint NOT NULL,
  trades           bigint NOT NULL,
  reconnects       bigint NOT NULL,
  stored           bigint NOT NULL,
  waiting          bigint NOT NULL,
  lost             bigint NOT NULL,
  bytes_spilled    bigint NOT NULL
);
CREATE UNIQUE INDEX uq_stream ON live.stream ((true));

CREATE UNLOGGED TABLE live.exchange_calls (
  call_group        text PRIMARY KEY,
  calls             bigint NOT NULL,
  too_many_requests bigint NOT NULL,
  blocked           bigint NOT NULL,
  calls_left        integer,
  blocked_until     timestamptz,
  reported_at       timestamptz NOT NULL
);

GRANT SELECT ON live.stream, live.exchange_calls TO upbit_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON live.stream, live.exchange_calls TO upbit_pipeline;

-- The following are for readers, who may not read bronze.
CREATE VIEW bronze.newest_trade AS
SELECT ingested_at AS received_at
FROM bronze.trade_stream_raw
WHERE traded_at > now() - interval '1 day'
ORDER BY traded_at DESC
LIMIT 1;
COMMENT ON VIEW bronze.newest_trade IS
  'When the newest trade of the last day that the stream has stored was received; no row without one';

CREATE VIEW silver.failing_check AS
SELECT asset, check_name, count(*) AS windows, max(window_start) AS newest,
       (array_agg(reason ORDER BY window_start DESC))[1] AS reason
FROM silver.check_result AS result
WHERE NOT passed AND severity = 'ERROR' AND NOT EXISTS (
  SELECT FROM bronze.retention AS dropped
  WHERE replace(dropped.table_name, '.', '_') = result.asset AND result.window_start < dropped.kept_from)
GROUP BY asset, check_name;
COMMENT ON VIEW silver.failing_check IS
  'Each check of severity ERROR that fails: in how many windows, the newest of them and its reason';

-- By the row counts of silver, as a day of raw rows is too much to look at.
CREATE VIEW silver.archive_day AS
WITH collected AS (
  SELECT 'bronze.ticker_raw' AS table_name, window_start FROM silver.ticker_build WHERE bronze_rows > 0
  UNION ALL
  SELECT 'bronze.orderbook_raw', window_start FROM silver.orderbook_build WHERE bronze_rows > 0
  UNION ALL
  SELECT 'bronze.candle_raw', window_start FROM silver.candle_build WHERE bronze_rows > 0
  UNION ALL
  SELECT 'bronze.trade_raw', window_start FROM silver.trade_build WHERE bronze_rows > 0
  UNION ALL
  SELECT 'bronze.trade_stream_raw', window_start FROM silver.trade_stream_build WHERE bronze_rows > 0
),
known AS (
  SELECT table_name, date_trunc('day', window_start, 'Asia/Seoul') AS day, false AS archived FROM collected
  UNION ALL
  SELECT table_name, day, true FROM bronze.archive
)
SELECT known.table_name, known.day, bool_or(known.archived) AS archived
FROM known
LEFT JOIN bronze.retention USING (table_name)
GROUP BY known.table_name, known.day
HAVING bool_or(known.archived) OR known.day >= coalesce(max(retention.kept_from), '-infinity');
COMMENT ON VIEW silver.archive_day IS
  'Each day in Seoul with raw rows, and whether it was archived; without days that were dropped unarchived';

GRANT SELECT ON bronze.newest_trade, silver.failing_check, silver.archive_day TO upbit_pipeline, upbit_reader;

-- Runs with the owner's privilege to connect to that database, which readers don't have.
CREATE FUNCTION live.dagster_bytes() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT pg_database_size(oid) FROM pg_database WHERE datname = 'dagster' AND has_database_privilege(oid, 'CONNECT')
$$;
COMMENT ON FUNCTION live.dagster_bytes IS
  'The size of Dagster''s database; NULL if it is on another server, or the owner may not connect to it';
REVOKE ALL ON FUNCTION live.dagster_bytes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION live.dagster_bytes TO upbit_pipeline, upbit_reader;
