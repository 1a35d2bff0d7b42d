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

-- Drops the partitions of a table that end before the day of p_before in Seoul, or its month where they are months, and
-- the rows of its default partition that are older; notes from when on rows are kept, and when others were dropped.
-- At most fifty partitions a call, the oldest first, so that the locks of a first call after years are few: there may
-- be more until it says 0.
-- With p_rows, how many rows older than that were compared with their archive, nothing is dropped where there are others.
-- Refuses the last two days: figures over 24 hours need them, and who can call this must not be able to empty a table.
-- Gives up on a long write's locks, as it would hold up everyone else behind itself.
DROP FUNCTION bronze.drop_partitions(regclass, timestamptz);
CREATE FUNCTION bronze.drop_partitions(
  p_table regclass, p_before timestamptz, p_rows bigint DEFAULT NULL, OUT partitions integer, OUT stray_rows bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET datestyle = 'ISO' SET lock_timeout = '30s' AS $$
DECLARE
  most CONSTANT integer := 50;
  keep_from timestamptz;
  parent record;
  child record;
  rows_there bigint;
BEGIN
  IF date_trunc('day', p_before) > now() - interval '2 days' THEN
    RAISE EXCEPTION 'the last two days of % are not dropped', p_table;
  END IF;
  SELECT format('%I.%I', n.nspname, c.relname) AS name, a.attname AS axis, p.partdefid::regclass AS default_partition,
         CASE WHEN n.nspname = 'gold' OR c.relname LIKE 'candle%' THEN 'month' ELSE 'day' END AS unit
  INTO STRICT parent
  FROM pg_partitioned_table p
  JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
  WHERE p.partrelid = p_table AND n.nspname IN ('bronze', 'silver', 'gold');
  keep_from := date_trunc(parent.unit, p_before);

  IF p_rows IS NOT NULL THEN
    -- Locks it, so that no row comes meanwhile, and changes nothing. LOCK TABLE is refused where even the owner may not
    -- write, before 17.
    EXECUTE format('ALTER TABLE ONLY %s ALTER COLUMN %I SET NOT NULL', p_table, parent.axis);
    EXECUTE format('SELECT count(*) FROM %s WHERE %I < %L', p_table, parent.axis, keep_from) INTO rows_there;
    IF rows_there <> p_rows THEN
      RAISE EXCEPTION '% rows of % were compared with their archive, and % are there now', p_rows, p_table, rows_there
      USING ERRCODE = 'serialization_failure';
    END IF;
  END IF;

  partitions := 0;
  FOR child IN
    SELECT bounded.name, bounded.upper_bound
    FROM (
      SELECT c.oid::regclass AS name,
             (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(.+)''\)'))[1]::timestamptz AS upper_bound
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = p_table
    ) bounded
    WHERE bounded.upper_bound <= keep_from
    ORDER BY bounded.upper_bound
    LIMIT most
  LOOP
    EXECUTE format('DROP TABLE %s', child.name);
    partitions := partitions + 1;
  END LOOP;
  IF partitions = most THEN
    keep_from := child.upper_bound;
  END IF;

  -- what came when its partition was gone, or never had one
  EXECUTE format('DELETE FROM %s WHERE %I < %L', parent.default_partition, parent.axis, keep_from);
  GET DIAGNOSTICS stray_rows = ROW_COUNT;

  IF partitions > 0 OR stray_rows > 0 THEN
    INSERT INTO bronze.retention AS noted VALUES (parent.name, keep_from, clock_timestamp())
    ON CONFLICT (table_name) DO UPDATE
    SET kept_from = greatest(noted.kept_from, excluded.kept_from), dropped_at = excluded.dropped_at;
  END IF;
END
$$;
REVOKE ALL ON FUNCTION bronze.drop_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION bronze.drop_partitions TO upbit_pipeline;
