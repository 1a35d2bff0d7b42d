-- The first partition is of the day on which a database is first started. One that holds data keeps the start that was
-- everybody's before.
CREATE TABLE bronze.collection_start (
  starts_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX uq_collection_start ON bronze.collection_start ((true));

INSERT INTO bronze.collection_start
SELECT '2026-01-01 00:00+09' WHERE EXISTS (SELECT FROM bronze.origin);

GRANT SELECT, UPDATE ON bronze.collection_start TO upbit_pipeline; -- restoring an archive moves it back
