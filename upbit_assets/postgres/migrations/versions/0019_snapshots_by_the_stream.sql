-- Unlogged: after a crash of the server runs collect until the stream has taken its next snapshot.
CREATE UNLOGGED TABLE live.snapshot (
  taken_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX uq_snapshot ON live.snapshot ((true));

GRANT SELECT ON live.snapshot TO upbit_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON live.snapshot TO upbit_pipeline;
