"""Distributes the market data over several machines with Citus, by market."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from upbit_assets.postgres.resource import PIPELINE_ROLE, READER_ROLE
from upbit_assets.postgres.tables import bronze_ticker_raw, metadata
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.postgres_io import is_distributed

IS_DISTRIBUTED = "SELECT count(*) > 0 FROM pg_dist_partition WHERE logicalrelid = CAST(:table AS regclass)"
# all tables are colocated: a market's rows are on the same machine
DISTRIBUTE = "SELECT create_distributed_table(CAST(:table AS regclass), 'market', colocate_with => :colocated)"
# small tables without a market are replicated to every machine
REFERENCE = "SELECT create_reference_table(CAST(:table AS regclass))"
# the functions that queries call on the machines; Citus itself copies those made after it was installed
FUNCTION = "SELECT create_distributed_function(CAST('gold.quotient(numeric, numeric, integer)' AS regprocedure))"
# A cluster reads a view's tables with the privileges of the querying role. Those that read what readers may not become
# functions with the owner's.
VIEWS = """
SELECT format('%I.%I', nspname, relname) AS name,
       format('%I.%I', nspname, relname || '_rows') AS function,
       rtrim(pg_get_viewdef(view.oid), ';') AS query,
       (SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = view.oid AND attnum > 0) AS columns
FROM pg_class AS view JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'v' AND nspname IN ('bronze', 'silver', 'gold') AND has_table_privilege(:reader, view.oid, 'SELECT')
  AND EXISTS (
    SELECT FROM pg_rewrite AS rule
    JOIN pg_depend ON classid = CAST('pg_rewrite' AS regclass) AND objid = rule.oid
    JOIN pg_class AS read ON refclassid = CAST('pg_class' AS regclass) AND read.oid = refobjid
    WHERE ev_class = view.oid AND read.relkind IN ('r', 'p') AND NOT has_table_privilege(:reader, read.oid, 'SELECT'))
"""
AS_OWNER = """
CREATE OR REPLACE FUNCTION {function}() RETURNS TABLE ({columns})
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $_$ {query} $_$;
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {function}() TO {pipeline}, {reader};
CREATE OR REPLACE VIEW {name} AS SELECT * FROM {function}();
"""

# Citus connects to the machines as the session's current role: ours, and each login that reads without taking one
ROLES = """
SELECT rolname FROM pg_roles
WHERE rolname IN (current_user, :pipeline, :reader)
   OR rolcanlogin AND NOT rolsuper AND rolname NOT LIKE 'pg\\_%' AND pg_has_role(oid, CAST(:reader AS name), 'MEMBER')
ORDER BY rolname
"""
NODES = "SELECT nodeid, nodename, nodeport FROM pg_dist_node WHERE isactive ORDER BY groupid"
# a statement on several shards of a machine must not use several connections, as others of its transaction use one
MODIFY_MODE = "SELECT current_setting('citus.multi_shard_modify_mode', true)"
ON_EVERY_NODE = "SELECT nodeid, success, result FROM run_command_on_all_nodes(:command)"
# what a machine says of itself; its answer is one text
STATE = """
SELECT CAST(json_build_object(
  'client', host(inet_client_addr()),
  'timezone', current_setting('timezone'),
  'locale', concat_ws(' ', pg_encoding_to_char(encoding), datcollate, datctype),
  'logins', (SELECT json_object_agg(rolname, rolcanlogin) FROM pg_roles),
  'connect', (SELECT json_object_agg(rolname, has_database_privilege(oid, current_database(), 'CONNECT')) FROM pg_roles)
) AS text)
FROM pg_database WHERE datname = current_database()
"""


class CitusError(RuntimeError):
    """Citus is not installed or not set up; the message says what to do."""


def distribute(url: str, say: Callable[[str], None]) -> None:
    """Distribute the tables by market, and replicate those without one; safe to repeat.

    Each table is distributed in its own transaction, locked against writes. Tables in `live` stay on the coordinator.
    The login must own the tables.

    Raises:
        CitusError: the cluster lacks something; nothing was changed.
    """
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        require_citus(connection)
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtextextended('upbit_assets.migrate', 0))"))
        first = bronze_ticker_raw
        for table in (first, *(table for table in metadata.sorted_tables if table is not first)):
            if table.schema == "live":  # small, stays on the coordinator
                continue
            name = table.fullname
            if connection.scalar(sa.text(IS_DISTRIBUTED), {"table": name}):
                say(f"{name}: already distributed")
            elif "market" in table.c:
                colocated = "none" if table is first else first.fullname
                connection.execute(sa.text(DISTRIBUTE), {"table": name, "colocated": colocated})
                say(f"{name}: distributed by market")
            else:
                connection.execute(sa.text(REFERENCE), {"table": name})
                say(f"{name}: replicated to every machine")
        connection.execute(sa.text(FUNCTION))
        roles = {"pipeline": PIPELINE_ROLE, "reader": READER_ROLE}
        for view in connection.execute(sa.text(VIEWS), roles).mappings().all():
            # no parameters: a query may have percent signs
            connection.connection.driver_connection.execute(AS_OWNER.format(**view, **roles))  # type: ignore[union-attr]
            say(f"{view['name']}: reads with its owner's privileges")


def require_citus(connection: sa.Connection) -> None:
    """Raise CitusError with everything that the cluster lacks, as statements and lines to copy."""
    if not is_distributed(connection):
        raise CitusError(
            "This database has no Citus. Install it on every machine, then run here: CREATE EXTENSION citus; "
            "SELECT citus_set_coordinator_host(…); SELECT citus_add_node(…)"
        )
    nodes = {node: f"{name}:{port}" for node, name, port in connection.execute(sa.text(NODES))}
    if len(nodes) < 2:
        raise CitusError(
            "Citus knows no other machine. As a superuser, execute here: SELECT citus_set_coordinator_host('this "
            "machine'); SELECT citus_add_node('another machine', 5432)"
        )
    lacking = defaultdict[str, list[str]](list)
    for place, line in missing_requirements(connection, nodes):
        lacking[place].append(line)
    if lacking:
        parts = [f"{place}\n" + "\n".join(f"  {line}" for line in lines) for place, lines in lacking.items()]
        raise CitusError(
            "The cluster lacks the following; nothing was changed. Execute it as a superuser, then run this again.\n"
            + "\n".join(parts)
        )


def missing_requirements(connection: sa.Connection, nodes: dict[int, str]) -> Iterator[tuple[str, str]]:
    """What has to be added: (where, the statement or line)."""
    database = quoted(connection, str(connection.scalar(sa.text("SELECT current_database()"))))
    roles = list(connection.scalars(sa.text(ROLES), {"pipeline": PIPELINE_ROLE, "reader": READER_ROLE}))
    own = json.loads(str(connection.scalar(sa.text(STATE))))
    if connection.scalar(sa.text(MODIFY_MODE)) != "sequential":
        yield "here:", f"ALTER DATABASE {database} SET citus.multi_shard_modify_mode = 'sequential';"
    states, refused = dict[int, Any](), defaultdict[str, dict[str, list[str]]](dict)
    for node, answer, error in on_every_node(connection, STATE):
        if error:
            refused[nodes[node]][error] = roles
            continue
        states[node] = json.loads(answer)
        if lines := list(missing_on(connection, database, states[node], own, roles)):
            # else Citus would refuse them on a worker, and repeat those of the coordinator on all machines
            for line in ("SET citus.enable_ddl_propagation = off;", *lines):
                yield f"on {nodes[node]}, in the database {database}:", line
    for role in (PIPELINE_ROLE, READER_ROLE):
        connection.execute(sa.text(f"SET ROLE {quoted(connection, role)}"))
        for node, _, error in on_every_node(connection, "SELECT 1"):
            if error and node in states and states[node]["logins"].get(role) and states[node]["connect"].get(role):
                refused[nodes[node]].setdefault(error, []).append(role)
        connection.execute(sa.text("RESET ROLE"))
    clients = [state["client"] for state in states.values() if state["client"]] or ["ADDRESS-OF-THE-COORDINATOR"]
    client = f"{clients[-1]}/{128 if ':' in clients[-1] else 32}"
    for machine, errors in refused.items():
        place = f"in pg_hba.conf of {machine}, before other lines, then SELECT pg_reload_conf() there:"
        yield place, f"host {database} {','.join(roles)} {client} trust"
        for error, of in errors.items():
            yield place, f"# {', '.join(of)}: {error}"


def missing_on(connection: sa.Connection, database: str, state: Any, own: Any, roles: list[str]) -> Iterator[str]:
    """What a machine lacks, by its state and that of the coordinator."""
    if state["locale"] != own["locale"]:
        encoding, collation, _ = own["locale"].split()
        made = f"CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LOCALE '{collation}';"
        yield f"-- it has {state['locale']}, and would sort differently: make it again by\n  {made}"
    if state["timezone"] != own["timezone"]:
        yield f"ALTER DATABASE {database} SET timezone = '{own['timezone']}';"
    for role in roles:
        name = quoted(connection, role)
        if role not in state["logins"]:
            yield f"CREATE ROLE {name} LOGIN;"
        elif not state["logins"][role]:
            yield f"ALTER ROLE {name} LOGIN;"
        if not state["connect"].get(role):
            yield f"GRANT CONNECT ON DATABASE {database} TO {name};"


def on_every_node(connection: sa.Connection, command: str) -> list[tuple[int, str, str | None]]:
    """(node, result, error) of a command, executed on each machine as the session's current role."""
    answers = connection.execute(sa.text(ON_EVERY_NODE), {"command": command})
    return [(node, result, None if success else " ".join(result.split())) for node, success, result in answers]


def quoted(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
