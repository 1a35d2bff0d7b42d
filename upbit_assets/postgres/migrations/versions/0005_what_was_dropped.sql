ALTER TABLE bronze.retention ADD COLUMN dropped_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE bronze.retention ALTER COLUMN dropped_at DROP DEFAULT;
-- it was noted to the day, also where only whole months are dropped
UPDATE bronze.retention SET kept_from = date_trunc('month', kept_from AT TIME ZONE 'Asia/Seoul') AT TIME ZONE 'Asia/Seoul'
WHERE table_name LIKE 'gold.%' OR table_name LIKE '%.candle%';

-- Drops the partitions of a table that end before the day of p_before in Seoul, or its month where they are months, and
-- the rows of its default partition that are older; notes from when on rows are kept, and when others were dropped.
-- Refuses the last two days: figures over 24 hours need them, and who can call this must not be able to empty a table.
-- Gives up on a long write's locks, as it would hold up everyone else behind itself.
CREATE OR REPLACE FUNCTION bronze.drop_partitions(p_table regclass, p_before timestamptz, OUT partitions integer, OUT stray_rows bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET datestyle = 'ISO' SET lock_timeout = '30s' AS $$
DECLARE
  keep_from timestamptz;
  parent record;
  child regclass;
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
    INSERT INTO bronze.retention AS noted VALUES (parent.name, keep_from, clock_timestamp())
    ON CONFLICT (table_name) DO UPDATE
    SET kept_from = greatest(noted.kept_from, excluded.kept_from), dropped_at = excluded.dropped_at;
  END IF;
END
$$;
