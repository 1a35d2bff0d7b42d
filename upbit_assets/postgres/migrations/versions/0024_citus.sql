-- A Citus cluster gives rows their ids with the rights of who writes them, not by the identity column itself.
GRANT USAGE ON ALL SEQUENCES IN SCHEMA bronze, silver, gold TO upbit_pipeline;

-- Partitions of one table from that of p_first to that of p_last in Seoul: months of gold and of candles, whose years
-- would be too many days; days of all else. Rows that wait in the default partition move into theirs. Returns how many
-- were made. Gives up on a long write's locks, as it would hold up everyone else behind itself. At most a hundred a call
-- of a table, the oldest first, as a transaction holds some ten locks for each: there may be more until it says 0.
CREATE OR REPLACE FUNCTION bronze.make_partitions(p_table regclass, p_first timestamptz, p_last timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET lock_timeout = '30s' AS $$
DECLARE
  most CONSTANT integer := 100;
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
  WHILE lower_bound <= p_last AND made < most LOOP
    upper_bound := lower_bound + ('1 ' || parent.unit)::interval;
    child := parent.name || to_char(lower_bound, CASE parent.unit WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END);
    IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
      -- Locks it, so that no row comes into the default partition meanwhile and nobody else makes the same one, and
      -- changes nothing. LOCK TABLE is refused where even the owner may not write, before 17.
      EXECUTE format('ALTER TABLE ONLY %I.%I ALTER COLUMN %I SET NOT NULL', parent.schema, parent.name, parent.axis);
      IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I.%I WHERE %I >= %L AND %I < %L)',
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
