-- Partitions of one table from that of p_first to that of p_last in Seoul: months of gold and of candles, whose years
-- would be too many days; days of all else. Rows that wait in the default partition move into theirs. Returns how many
-- were made. Gives up on a long write's locks, as it would hold up everyone else behind itself. All of them are one
-- transaction, which holds some ten locks a partition: many years are several calls.
CREATE OR REPLACE FUNCTION bronze.make_partitions(p_table regclass, p_first timestamptz, p_last timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET lock_timeout = '30s' AS $$
DECLARE
  parent record;
  lower_bound timestamptz;
  upper_bound timestamptz;
  child text;
  rows_wait boolean;
  made integer := 0;
BEGIN
  SELECT n.nspname AS schema, c.relname AS name, a.attname AS axis,
         CASE WHEN n.nspname = 'gold' OR c.relname LIKE 'candle%' THEN 'month' ELSE 'day' END AS unit
  INTO STRICT parent
  FROM pg_partitioned_table p
  JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
  WHERE p.partrelid = p_table AND n.nspname IN ('bronze', 'silver', 'gold');
  lower_bound := date_trunc(parent.unit, p_first);
  WHILE lower_bound <= p_last LOOP
    upper_bound := lower_bound + ('1 ' || parent.unit)::interval;
    child := parent.name || to_char(lower_bound, CASE parent.unit WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END);
    IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
      -- Locks it, so that no row comes into the default partition meanwhile and nobody else makes the same one, and
      -- changes nothing. LOCK TABLE is refused where even the owner may not write, before 17.
      EXECUTE format('ALTER TABLE ONLY %I.%I ALTER COLUMN %I SET NOT NULL', parent.schema, parent.name, parent.axis);
      IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I WHERE %I >= %L AND %I < %L)',
                       parent.schema, parent.name || '_default', parent.axis, lower_bound, parent.axis, upper_bound)
        INTO rows_wait;
        IF rows_wait THEN
          EXECUTE format('CREATE TEMP TABLE waiting ON COMMIT DROP AS SELECT * FROM %I.%I WHERE %I >= %L AND %I < %L',
                         parent.schema, parent.name || '_default', parent.axis, lower_bound, parent.axis, upper_bound);
          EXECUTE format('DELETE FROM %I.%I WHERE %I >= %L AND %I < %L',
                         parent.schema, parent.name || '_default', parent.axis, lower_bound, parent.axis, upper_bound);
        END IF;
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                       parent.schema, child, parent.schema, parent.name, lower_bound, upper_bound);
        IF rows_wait THEN
          EXECUTE format('INSERT INTO %I.%I OVERRIDING SYSTEM VALUE SELECT * FROM pg_temp.waiting',
                         parent.schema, parent.name);
          DROP TABLE pg_temp.waiting;
        END IF;
        made := made + 1;
      END IF;
    END IF;
    lower_bound := upper_bound;
  END LOOP;
  RETURN made;
END
$$;

-- Drops the partitions of a table that end before the day of p_before in Seoul, or its month where they are months, and
-- the rows of its default partition that are older; notes from when on rows are kept, and when others were dropped.
-- At most fifty partitions a call, the oldest first, so that the locks of a first call after years are few: there may
-- be more until it says 0.
-- Refuses the last two days: figures over 24 hours need them, and who can call this must not be able to empty a table.
-- Gives up on a long write's locks, as it would hold up everyone else behind itself.
CREATE OR REPLACE FUNCTION bronze.drop_partitions(p_table regclass, p_before timestamptz, OUT partitions integer, OUT stray_rows bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET datestyle = 'ISO' SET lock_timeout = '30s' AS $$
DECLARE
  most CONSTANT integer := 50;
  keep_from timestamptz;
  parent record;
  child record;
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

-- `make up` tells what was computed since it last looked, every other second
CREATE INDEX ix_market_stats_build_computed_at ON gold.market_stats_build (computed_at);
CREATE INDEX ix_orderbook_stats_build_computed_at ON gold.orderbook_stats_build (computed_at);
CREATE INDEX ix_market_daily_build_computed_at ON gold.market_daily_build (computed_at);
