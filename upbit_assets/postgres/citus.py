"""Distributes the market data over several machines with Citus, by market."""

from collections.abc import Callable

import sqlalchemy as sa

from upbit_assets.postgres.tables import bronze_ticker_raw, metadata
from upbit_assets.postgres.url import sqlalchemy_url

PIPELINE_MAY_LOG_IN = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'upbit_pipeline'"
IS_DISTRIBUTED = "SELECT count(*) > 0 FROM pg_dist_partition WHERE logicalrelid = CAST(:table AS regclass)"
# all tables are colocated: a market's rows are on the same machine
DISTRIBUTE = "SELECT create_distributed_table(CAST(:table AS regclass), 'market', colocate_with => :colocated)"
# small tables without a market are replicated to every machine
REFERENCE = "SELECT create_reference_table(CAST(:table AS regclass))"


class CitusError(RuntimeError):
    """Citus is not installed or not set up; the message says what to do."""


def distribute(url: str, say: Callable[[str], None]) -> None:
    """Distribute the tables by market, and replicate those without one; safe to repeat.

    Each table is distributed in its own transaction, locked against writes. Tables in `live` stay on the coordinator.
    The login must own the tables.

    Raises:
        CitusError: the database has no Citus, or its workers don't accept the pipeline's login.
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


def require_citus(connection: sa.Connection) -> None:
    if connection.scalar(sa.text("SELECT to_regclass('pg_dist_partition')")) is None:
        raise CitusError(
            "This database has no Citus. Install it on every machine, then run here: CREATE EXTENSION citus; "
            "SELECT citus_set_coordinator_host(…); SELECT citus_add_node(…)"
        )
    if not connection.scalar(sa.text(PIPELINE_MAY_LOG_IN)):
        raise CitusError(
            "Runs use the role upbit_pipeline, with which Citus connects to the other machines. Allow it to log in, "
            "without a password: ALTER ROLE upbit_pipeline LOGIN; and accept it from the coordinator in each machine's "
            "pg_hba.conf."
        )
