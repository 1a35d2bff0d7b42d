"""The market data over several machines: Citus, which spreads tables by market."""

from collections.abc import Callable

import sqlalchemy as sa

from upbit_assets.postgres.tables import bronze_ticker_raw, metadata
from upbit_assets.postgres.url import sqlalchemy_url

PIPELINE_MAY_LOG_IN = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'upbit_pipeline'"
IS_DISTRIBUTED = "SELECT count(*) > 0 FROM pg_dist_partition WHERE logicalrelid = CAST(:table AS regclass)"
# rows of one market are on one machine, whatever the table
DISTRIBUTE = "SELECT create_distributed_table(CAST(:table AS regclass), 'market', colocate_with => :colocated)"
# on every machine: books of a window, which have no market, and few rows
REFERENCE = "SELECT create_reference_table(CAST(:table AS regclass))"


class CitusError(RuntimeError):
    """Citus is not there, or not ready; the message says what to do."""


def distribute(url: str, say: Callable[[str], None]) -> None:
    """Distribute every table that has a market by it, but `live`, and put the others on every machine; safe to repeat.

    Each table is a transaction of its own, and is locked against writes while its rows move. The login must be the
    tables' owner.

    Raises:
        CitusError: the database has no Citus, or its workers would not let the pipeline in.
    """
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        require_citus(connection)
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtextextended('upbit_assets.migrate', 0))"))
        first = bronze_ticker_raw
        for table in (first, *(table for table in metadata.sorted_tables if table is not first)):
            if table.schema == "live":  # of the last minutes, small, and stays on the coordinator
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
                say(f"{name}: on every machine")


def require_citus(connection: sa.Connection) -> None:
    if connection.scalar(sa.text("SELECT to_regclass('pg_dist_partition')")) is None:
        raise CitusError(
            "This database has no Citus. Install it on every machine, then here: CREATE EXTENSION citus; "
            "SELECT citus_set_coordinator_host(…); SELECT citus_add_node(…)"
        )
    if not connection.scalar(sa.text(PIPELINE_MAY_LOG_IN)):
        raise CitusError(
            "The runs work as upbit_pipeline, and as that Citus connects to the machines. Let it, without a password: "
            "ALTER ROLE upbit_pipeline LOGIN; and let it in from the coordinator in each machine's pg_hba.conf."
        )
