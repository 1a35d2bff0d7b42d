CREATE TABLE bronze.retention (
  table_name text PRIMARY KEY,
  kept_from  timestamptz NOT NULL
);

-- Drops the partitions of a table that end before the day of p_before in Seoul, and the rows of its default partition
-- that are older, and notes from when on rows are kept. Refuses the last two days: figures over 24 hours need them, and
-- who can call this must not be able to empty a table. Gives up on a long write's locks, as it would hold up everyone
-- else behind itself.
CREATE FUNCTION bronze.drop_partitions(p_table regclass, p_before timestamptz, OUT partitions integer, OUT stray_rows bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET datestyle = 'ISO' SET lock_timeout = '30s' AS $$
DECLARE
  keep_from timestamptz := date_trunc('day', p_before);
  parent record;
  child regclass;
BEGIN
  IF keep_from > now() - interval '2 days' THEN
    RAISE EXCEPTION 'the last two days of % are not dropped', p_table;
  END IF;
  SELECT format('%I.%I', n.nspname, c.relname) AS name, a.attname AS axis, p.partdefid::regclass AS default_partition
  INTO STRICT parent
  FROM pg_partitioned_table p
  JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
  WHERE p.partrelid = p_table AND n.nspname IN ('bronze', 'silver', 'gold');

  partitions := 0;
  FOR child IN
    SELECT c.oid
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = p_table
      AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(.+)''\)'))[1]::timestamptz <= keep_from
  LOOP
    EXECUTE format('DROP TABLE %s', child);
    partitions := partitions + 1;
  END LOOP;

  -- what came when its partition was gone, or never had one
  EXECUTE format('DELETE FROM %s WHERE %I < %L', parent.default_partition, parent.axis, keep_from);
  GET DIAGNOSTICS stray_rows = ROW_COUNT;

  IF partitions > 0 OR stray_rows > 0 THEN
    INSERT INTO bronze.retention AS noted VALUES (parent.name, keep_from)
    ON CONFLICT (table_name) DO UPDATE SET kept_from = greatest(noted.kept_from, excluded.kept_from);
  END IF;
END
$$;

REVOKE ALL ON FUNCTION bronze.drop_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION bronze.drop_partitions TO upbit_pipeline;
GRANT SELECT ON bronze.retention TO upbit_pipeline;
