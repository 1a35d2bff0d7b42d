CREATE TABLE bronze.trade_stream_raw (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  ingested_at timestamptz NOT NULL,
  traded_at   timestamptz NOT NULL,
  key         varchar(30) NOT NULL,
  connection  varchar(30) NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (traded_at, market, key, id)
) PARTITION BY RANGE (traded_at);
CREATE INDEX ix_trade_stream_raw_written_in ON bronze.trade_stream_raw (written_in);
CREATE TABLE bronze.trade_stream_raw_default PARTITION OF bronze.trade_stream_raw DEFAULT;

GRANT SELECT, INSERT ON bronze.trade_stream_raw TO upbit_pipeline;
-- the table's owner included, though an owner can take the right back and a superuser asks nobody
REVOKE UPDATE, DELETE, TRUNCATE ON bronze.trade_stream_raw FROM CURRENT_USER;
