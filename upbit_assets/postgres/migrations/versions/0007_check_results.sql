CREATE TABLE silver.check_result (
  asset         text NOT NULL,
  check_name    text NOT NULL,
  window_start  timestamptz NOT NULL,
  passed        boolean NOT NULL,
  severity      text NOT NULL,
  reason        text,
  failing_since timestamptz,
  checked_at    timestamptz NOT NULL,
  run_id        text NOT NULL,
  PRIMARY KEY (asset, check_name, window_start)
);
-- of the many windows those that each run looks for, whatever its own are
CREATE INDEX ix_check_result_failing ON silver.check_result (asset, check_name, window_start) WHERE NOT passed;

GRANT SELECT, INSERT, UPDATE, DELETE ON silver.check_result TO upbit_pipeline;
GRANT SELECT ON silver.check_result TO upbit_reader;
