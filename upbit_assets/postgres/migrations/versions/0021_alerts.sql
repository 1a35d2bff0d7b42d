-- Problems that people were told of, so that a restart tells nothing again.
CREATE TABLE silver.alert (
  key      text PRIMARY KEY,
  began_at timestamptz NOT NULL,
  seen_at  timestamptz NOT NULL,
  text     text NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON silver.alert TO upbit_pipeline;
GRANT SELECT ON silver.alert TO upbit_reader;
