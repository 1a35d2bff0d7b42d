"""How long data live: each layer's, and Dagster's own log. What nobody sets lives for ever."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy as sa
from dagster import (
    DefaultScheduleStatus,
    Failure,
    InputContext,
    OpExecutionContext,
    ResourceDependency,
    RunRequest,
    TimeWindow,
    job,
    op,
    schedule,
)
from sqlalchemy.dialects.postgresql import REGCLASS

from upbit_assets import archive
from upbit_assets.check_results import DROPPED
from upbit_assets.dagster_internals import dagster_tables, prune
from upbit_assets.feeds import FEEDS
from upbit_assets.partitions import SEOUL, Axis
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import kept_from, metadata
from upbit_assets.postgres_io import PostgresIOManager, in_window, time_window
from upbit_assets.settings import settings

LAYERS = ("bronze", "silver", "gold")
# a long write has the table locked; rows came after the archive was compared
REFUSED_FOR_NOW = (psycopg.errors.LockNotAvailable, psycopg.errors.SerializationFailure)


def days(what: str) -> int | None:
    """How many days `what` is kept; None is for ever."""
    return getattr(settings, f"UPBIT_KEEP_{what.upper()}_DAYS")


def partitioned(connection: sa.Connection, layer: str) -> Sequence[str]:
    """The layer's partitioned tables, quoted."""
    names = (
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'p' AND relnamespace = CAST(:layer AS regnamespace)"
    )
    return connection.scalars(sa.text(names), {"layer": layer}).all()


def drop(connection: sa.Connection, table: str, before: datetime, archived_rows: int | None = None) -> tuple[int, int]:
    """Drop what a table has from before that day in Seoul: (partitions, rows that were in none of their own).

    Each call of the function drops a few, in a transaction of its own where the connection commits by itself.

    Args:
        archived_rows: how many rows the archive has from before that day. There is one call, which refuses where the
            table has more; None: it does not matter.
    """
    function = sa.func.bronze.drop_partitions(sa.cast(table, REGCLASS), before, archived_rows)
    call = sa.select(function.table_valued("partitions", "stray_rows"))
    dropped, stray_rows = 0, 0
    while True:
        partitions, rows = connection.execute(call).one()
        dropped, stray_rows = dropped + partitions, stray_rows + rows
        if not partitions or archived_rows is not None:
            return dropped, stray_rows


OLDEST_END = sa.text("""
SELECT min((regexp_match(pg_get_expr(partition.relpartbound, partition.oid), 'TO \\(''(.+)''\\)'))[1]::timestamptz)
FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
WHERE inhparent = CAST(:table AS regclass)
""")


def drop_archived(database: Database, connection: sa.Connection, table: str, before: datetime) -> tuple[int, int]:
    """The same of a table of bronze, partition by partition, each once its archive was read back and agrees.

    Raises:
        ArchiveError: that of a day doesn't; what is older is dropped, and nothing else.
    """
    from upbit_assets.archive.days import agreed_rows
    from upbit_assets.archive.store import Store

    store, dropped, stray_rows = Store(), 0, 0
    while (end := connection.scalar(OLDEST_END, {"table": table})) and end <= before:
        rows = agreed_rows(database, store, metadata.tables[table], end)
        partitions, others = drop(connection, table, end, rows)
        dropped, stray_rows = dropped + partitions, stray_rows + others
    return dropped, stray_rows


@op(description="Drops what is older than UPBIT_KEEP_BRONZE_DAYS, _SILVER_, _GOLD_ and _DAGSTER_DAYS say")
def old_data_dropped(context: OpExecutionContext, database: Database) -> None:
    now, kept_longer = datetime.now(UTC), list[str]()
    for layer in LAYERS:
        if kept := days(layer):
            before = now - timedelta(days=kept)
            with database.connect() as connection:  # each table on its own, so that none waits for another's locks
                for table in partitioned(connection, layer):
                    try:
                        if layer == "bronze" and archive.is_configured():
                            partitions, stray_rows = drop_archived(database, connection, table, before)
                        else:
                            partitions, stray_rows = drop(connection, table, before)
                    except sa.exc.OperationalError as error:
                        if not isinstance(error.orig, REFUSED_FOR_NOW):
                            raise
                        kept_longer.append(f"{table}: {error.orig}")
                        continue
                    except archive.ArchiveError as error:
                        kept_longer.append(f"{table}: {error}")
                        continue
                    context.log.info(f"{table}: {partitions} partitions dropped, and {stray_rows} rows outside of them")
    with database.connect() as connection:
        context.log.info(f"{connection.execute(DROPPED).rowcount} results of checks dropped with their windows")
    if kept := days("dagster"):
        context.log.info(f"Dagster: {prune(dagster_tables(), now - timedelta(days=kept))} runs pruned")
    if kept_longer:
        raise Failure(f"The next night tries again what could not be dropped. {'; '.join(kept_longer)}")


@job(description="Drops data that are older than the configured number of days")
def drop_old_data() -> None:
    old_data_dropped()


@schedule(
    cron_schedule="40 3 * * *",
    job=drop_old_data,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Drops data that are older than the configured number of days, and Dagster's old runs",
)
def drop_old_data_daily() -> RunRequest:
    return RunRequest()


# how many rows each table's windows had when something was computed from them
BUILDS: dict[sa.Table, tuple[Axis, sa.Table]] = {
    table: (feed.axis, feed.refinement.build)
    for feed in FEEDS
    for table in (feed.refinement.bronze, feed.refinement.silver)
}


class RetainingIOManager(PostgresIOManager):
    """Refuses to compute from what was dropped: its result would be empty, and replace what is still kept."""

    database: ResourceDependency[Database]

    def connect(self) -> AbstractContextManager[sa.Connection]:
        return self.database.connect()

    def load_input(self, context: InputContext) -> Any:
        table, window = self.table_of(context), time_window(context)
        if window is not None:
            with self.connect() as connection:
                require_kept(connection, table, window)
        return super().load_input(context)


def require_kept(connection: sa.Connection, table: sa.Table, span: TimeWindow) -> None:
    """Raise Failure where a window's rows were dropped of which something was computed, unless all came back since."""
    kept = connection.scalar(sa.select(kept_from(table)))
    if kept is None or span.start >= kept:
        return
    axis, build, moment = *BUILDS[table], table.c[table.info["window"]]
    had = build.c.bronze_rows if table.schema == "bronze" else build.c.silver_rows
    start = build.c.window_start
    held = sa.select(sa.func.count()).where(moment >= start, moment < start + axis.length).scalar_subquery()
    dropped = sa.select(start).where(in_window(build, span), start < kept, held < had).order_by(start)
    if lost := connection.scalars(dropped).all():
        raise Failure(
            f"{table.fullname} is kept from {kept.astimezone(SEOUL):%Y-%m-%d %H:%M} on; what it held in "
            f"{axis.named(lost)} was dropped and can't be computed from any more. What was computed from it before is "
            "left as it is.",
            allow_retries=False,
        )
