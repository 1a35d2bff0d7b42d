-- A strict stand-in for Citus: the functions that distribute tables, on one server. They move nothing; they refuse what
-- Citus refuses (its documentation, and src/backend/distributed/commands/{create_distributed_table,table}.c), and some
-- more: Citus takes foreign keys and triggers under conditions, which the project has no need of.

CREATE TABLE public.pg_dist_partition (
  logicalrelid regclass PRIMARY KEY,
  partmethod   "char" NOT NULL,  -- h: by hash, n: a reference table
  partkey      text,
  colocationid int NOT NULL
);

CREATE TABLE public.pg_dist_node (
  nodeid   int PRIMARY KEY,
  groupid  int NOT NULL,  -- 0: the coordinator
  nodename text NOT NULL,
  nodeport int NOT NULL,
  isactive boolean NOT NULL DEFAULT true
);
INSERT INTO public.pg_dist_node VALUES (1, 0, 'coordinator', 5432), (2, 1, 'worker', 5432);

-- The roles that a machine's pg_hba.conf does not accept from the coordinator.
CREATE TABLE public.not_in_pg_hba (nodeid int NOT NULL, role name NOT NULL);

-- All machines are this one.
CREATE FUNCTION public.run_command_on_all_nodes(command text, OUT nodeid int, OUT success boolean, OUT result text)
RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
  FOR nodeid IN SELECT node.nodeid FROM pg_dist_node AS node LOOP
    success := false;
    IF EXISTS (SELECT FROM not_in_pg_hba AS refused WHERE refused.nodeid = run_command_on_all_nodes.nodeid AND role = current_user) THEN
      result := format('FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "%s"', current_user);
    ELSIF NOT (SELECT rolcanlogin FROM pg_roles WHERE rolname = current_user) THEN
      result := format('FATAL:  role "%s" is not permitted to log in', current_user);
    ELSIF NOT has_database_privilege(current_database(), 'CONNECT') THEN
      result := format('FATAL:  permission denied for database "%s"', current_database());
    ELSE
      success := true;
      EXECUTE command INTO result;
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;

CREATE FUNCTION public.create_distributed_function(function_name regprocedure) RETURNS void LANGUAGE sql AS '';

CREATE FUNCTION public.refuse(p_table regclass, p_why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'cannot distribute %: %', p_table, p_why USING ERRCODE = 'feature_not_supported';
END
$$;

CREATE FUNCTION public.refuse_what_citus_refuses(p_table regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  relation pg_class := (SELECT c FROM pg_class c WHERE oid = p_table);
BEGIN
  IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = p_table) THEN
    PERFORM refuse(p_table, 'it is already distributed');
  END IF;
  IF NOT pg_has_role(relation.relowner, 'USAGE') THEN
    PERFORM refuse(p_table, 'must be owner');
  END IF;
  IF NOT (SELECT rolcanlogin FROM pg_roles WHERE rolname = current_user) THEN
    PERFORM refuse(p_table, format('role "%s" is not permitted to log in', current_user));
  END IF;
  IF relation.relkind NOT IN ('r', 'p') OR relation.relpersistence <> 'p' THEN
    PERFORM refuse(p_table, 'it is no ordinary or partitioned table');
  END IF;
  IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = p_table AND NOT tgisinternal) THEN
    PERFORM refuse(p_table, 'it has triggers');
  END IF;
  IF EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND p_table IN (conrelid, confrelid)) THEN
    PERFORM refuse(p_table, 'it has foreign keys');
  END IF;
  IF EXISTS (SELECT FROM pg_rewrite WHERE ev_class = p_table) OR relation.relrowsecurity THEN
    PERFORM refuse(p_table, 'it has rules or row level security');
  END IF;
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = p_table AND attidentity <> '' AND atttypid <> 'bigint'::regtype) THEN
    PERFORM refuse(p_table, 'identity columns can only be bigint');
  END IF;
END
$$;

CREATE FUNCTION public.create_distributed_table(
  table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash',
  colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  distributed pg_attribute;
  colocated record;
  colocation int := table_name::oid::int;
  part regclass;
  key record;
BEGIN
  IF (SELECT relispartition FROM pg_class WHERE oid = table_name) THEN
    PERFORM refuse(table_name, 'it is a partition: distribute its parent');
  END IF;
  SELECT * INTO distributed FROM pg_attribute WHERE attrelid = table_name AND attname = distribution_column AND attnum > 0;
  IF distributed IS NULL OR distributed.attgenerated <> '' THEN
    PERFORM refuse(table_name, format('column "%s" does not exist, or is generated', distribution_column));
  END IF;
  IF colocate_with NOT IN ('default', 'none') THEN
    SELECT d.colocationid, a.atttypid, a.attcollation INTO colocated
    FROM pg_dist_partition d JOIN pg_attribute a ON a.attrelid = d.logicalrelid AND a.attname = d.partkey
    WHERE d.logicalrelid = colocate_with::regclass AND d.partmethod = 'h';
    IF colocated IS NULL THEN
      PERFORM refuse(table_name, format('%s is not distributed', colocate_with));
    END IF;
    colocation := colocated.colocationid;
    IF (colocated.atttypid, colocated.attcollation) <> (distributed.atttypid, distributed.attcollation) THEN
      PERFORM refuse(table_name, format('distribution column types don''t match those of %s', colocate_with));
    END IF;
  END IF;

  FOR part IN SELECT table_name UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = table_name LOOP
    PERFORM refuse_what_citus_refuses(part);
    IF part <> table_name AND (SELECT relkind FROM pg_class WHERE oid = part) = 'p' THEN
      PERFORM refuse(table_name, 'partitions of partitions');
    END IF;
    FOR key IN
      SELECT indexrelid::regclass AS name, indkey::int2[] AS columns, indnkeyatts FROM pg_index
      WHERE indrelid = part AND (indisunique OR indisexclusion)
    LOOP
      IF (SELECT attnum FROM pg_attribute WHERE attrelid = part AND attname = distribution_column)
         <> ALL (key.columns[0:key.indnkeyatts - 1]) THEN
        PERFORM refuse(table_name, format('unique key %s does not include the distribution column', key.name));
      END IF;
    END LOOP;
    INSERT INTO pg_dist_partition
    VALUES (part, 'h', distribution_column, colocation);
  END LOOP;
END
$$;

CREATE FUNCTION public.create_reference_table(table_name regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM refuse_what_citus_refuses(table_name);
  IF (SELECT relkind FROM pg_class WHERE oid = table_name) = 'p' THEN
    PERFORM refuse(table_name, 'partitioned tables can''t be reference tables');
  END IF;
  INSERT INTO pg_dist_partition VALUES (table_name, 'n', NULL, 0);
END
$$;

GRANT SELECT ON pg_dist_partition, pg_dist_node, not_in_pg_hba TO PUBLIC;
