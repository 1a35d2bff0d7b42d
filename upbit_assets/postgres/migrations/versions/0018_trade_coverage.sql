CREATE TABLE bronze.trade_stream_page (
  id           bigint GENERATED ALWAYS AS IDENTITY,
  market       varchar(30) NOT NULL,
  window_start timestamptz NOT NULL,
  covered      tstzrange NOT NULL,
  rows         bigint NOT NULL,
  problem      text,
  ingested_at  timestamptz NOT NULL,
  written_in   bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (window_start, market, id)
);
CREATE INDEX ix_trade_stream_page_written_in ON bronze.trade_stream_page (written_in);
GRANT SELECT, INSERT ON bronze.trade_stream_page TO upbit_pipeline;
REVOKE UPDATE, DELETE, TRUNCATE ON bronze.trade_stream_page FROM CURRENT_USER;

CREATE TABLE silver.trade_coverage (
  window_start timestamptz NOT NULL,
  market       varchar(30) NOT NULL,
  state        varchar(9) NOT NULL,
  missing      tstzmultirange,
  computed_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (window_start, market)
) PARTITION BY RANGE (window_start);
CREATE INDEX ix_trade_coverage_missing ON silver.trade_coverage (window_start) WHERE missing IS NOT NULL;
CREATE TABLE silver.trade_coverage_default PARTITION OF silver.trade_coverage DEFAULT;

CREATE VIEW silver.trade_coverage_by_window AS
SELECT window_start,
       count(*) FILTER (WHERE state = 'proved') AS proved,
       count(*) FILTER (WHERE state = 'collected') AS collected,
       count(*) FILTER (WHERE state = 'missing') AS missing,
       max(computed_at) AS computed_at
FROM silver.trade_coverage
GROUP BY window_start;
COMMENT ON VIEW silver.trade_coverage_by_window IS
  'How many markets'' trades of a window are proved to be all there, collected without a proof, and missing';

GRANT SELECT, INSERT, DELETE ON silver.trade_coverage TO upbit_pipeline;
GRANT SELECT ON silver.trade_coverage, silver.trade_coverage_by_window TO upbit_pipeline, upbit_reader;
