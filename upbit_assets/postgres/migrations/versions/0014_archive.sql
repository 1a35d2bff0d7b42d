CREATE TABLE bronze.archive (
  table_name   text NOT NULL,
  day          timestamptz NOT NULL,
  archived_at  timestamptz NOT NULL,
  rows         bigint NOT NULL,
  bytes        bigint NOT NULL,
  content_hash text NOT NULL,
  columns      text[] NOT NULL,
  database     text NOT NULL,
  snapshot     text NOT NULL,
  PRIMARY KEY (table_name, day, archived_at)
);
CREATE TABLE bronze.restored (
  table_name  text NOT NULL,
  day         timestamptz NOT NULL,
  restored_at timestamptz NOT NULL DEFAULT now(),
  rows        bigint NOT NULL,
  PRIMARY KEY (table_name, day, restored_at)
);
GRANT SELECT, INSERT ON bronze.archive, bronze.restored TO upbit_pipeline;
REVOKE UPDATE, DELETE, TRUNCATE ON bronze.archive, bronze.restored FROM CURRENT_USER;
GRANT SELECT ON alembic_version TO upbit_pipeline; -- an archive says of which schema it is

-- Sees to it that rows to come get ids above p_id, as rows that come back from an archive keep theirs.
CREATE FUNCTION bronze.keep_ids_above(p_table regclass, p_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids regclass := pg_get_serial_sequence(p_table::text, 'id');
BEGIN
  IF p_table NOT IN (SELECT oid FROM pg_class WHERE relnamespace = 'bronze'::regnamespace) THEN
    RAISE EXCEPTION '% is no table of bronze', p_table;
  END IF;
  -- nextval first: it can't fall back behind what another session is given meanwhile
  IF nextval(ids) < p_id THEN
    PERFORM setval(ids, p_id);
  END IF;
END
$$;
REVOKE ALL ON FUNCTION bronze.keep_ids_above FROM PUBLIC;
GRANT EXECUTE ON FUNCTION bronze.keep_ids_above TO upbit_pipeline;
