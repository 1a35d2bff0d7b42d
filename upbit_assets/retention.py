"""Retention of each layer's data and of Dagster's runs; unlimited unless configured."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy as sa
from dagster import (
    AssetKey,
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
from upbit_assets.check_results import delete_dropped_results
from upbit_assets.dagster_internals import dagster_tables, prune, update_partition_statuses
from upbit_assets.feeds import AXES, FEEDS
from upbit_assets.partitions import SEOUL, Axis
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import kept_from, metadata
from upbit_assets.postgres_io import PostgresIOManager, in_window, time_window
from upbit_assets.settings import settings

LAYERS = ("bronze", "silver", "gold")
# the table is locked by a long write; rows were added after the comparison with the archive
RETRYABLE = (psycopg.errors.LockNotAvailable, psycopg.errors.SerializationFailure)


def days(what: str) -> int | None:
    """The retention of a layer, or of Dagster's runs, in days; None: unlimited."""
    return getattr(settings, f"UPBIT_KEEP_{what.upper()}_DAYS")


def partitioned(connection: sa.Connection, layer: str) -> Sequence[str]:
    """The layer's partitioned tables, quoted."""
    names = (
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'p' AND relnamespace = CAST(:layer AS regnamespace)"
    )
    return connection.scalars(sa.text(names), {"layer": layer}).all()


def drop(connection: sa.Connection, table: str, before: datetime, archived_rows: int | None = None) -> tuple[int, int]:
    """Drop a table's rows from before that day in Seoul; returns (dropped partitions, rows in the default partition).

    Each call of the SQL function drops a few partitions, in its own transaction if the connection autocommits.

    Args:
        archived_rows: the archive's row count before that day; the single call then fails if the table has more rows.
            None: drop regardless of the archive.
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
    """The same for a bronze table, partition by partition, after verifying that the archive has the same rows.

    Raises:
        ArchiveError: a day's archive differs; only older partitions are dropped.
    """
    from upbit_assets.archive.days import agreed_rows
    from upbit_assets.archive.store import Store

    store, dropped, stray_rows = Store(), 0, 0
    while (end := connection.scalar(OLDEST_END, {"table": table})) and end <= before:
        rows = agreed_rows(database, store, metadata.tables[table], end)
        partitions, others = drop(connection, table, end, rows)
        dropped, stray_rows = dropped + partitions, stray_rows + others
    return dropped, stray_rows


@op(description="Drops data older than UPBIT_KEEP_BRONZE_DAYS, _SILVER_DAYS, _GOLD_DAYS and _DAGSTER_DAYS")
def old_data_dropped(context: OpExecutionContext, database: Database) -> None:
    now, kept_longer = datetime.now(UTC), list[str]()
    for layer in LAYERS:
        if kept := days(layer):
            before = now - timedelta(days=kept)
            with database.connect() as connection:  # a transaction per table: none waits for another's locks
                for table in partitioned(connection, layer):
                    try:
                        if layer == "bronze" and archive.is_configured():
                            partitions, stray_rows = drop_archived(database, connection, table, before)
                        else:
                            partitions, stray_rows = drop(connection, table, before)
                    except sa.exc.OperationalError as error:
                        if not isinstance(error.orig, RETRYABLE):
                            raise
                        kept_longer.append(f"{table}: {error.orig}")
                        continue
                    except archive.ArchiveError as error:
                        kept_longer.append(f"{table}: {error}")
                        continue
                    context.log.info(f"{table}: {partitions} partitions and {stray_rows} stray rows dropped")
    with database.connect() as connection:
        context.log.info(f"{delete_dropped_results(connection)} check results of dropped windows deleted")
    if kept := days("dagster"):
        context.log.info(f"Dagster: {prune(dagster_tables(), now - timedelta(days=kept))} runs pruned")
    update_partition_statuses(context.instance, {AssetKey(name): axis.partitions for name, axis in AXES.items()})
    if kept_longer:
        raise Failure(f"Some data was not dropped; the next night's run retries. {'; '.join(kept_longer)}")


@job(description="Drops data older than the configured number of days")
def drop_old_data() -> None:
    old_data_dropped()


@schedule(
    cron_schedule="40 3 * * *",
    job=drop_old_data,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Drops data older than the configured number of days, and Dagster's old runs",
)
def drop_old_data_daily() -> RunRequest:
    return RunRequest()


# the build tables with the row counts of each table's windows when they were last used
BUILDS: dict[sa.Table, tuple[Axis, sa.Table]] = {
    table: (feed.axis, feed.refinement.build)
    for feed in FEEDS
    for table in (feed.refinement.bronze, feed.refinement.silver)
}


class RetainingIOManager(PostgresIOManager):
    """Rejects inputs whose rows were dropped: the result would be empty, and replace data that is still kept."""

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
    """Raise Failure if windows of the span have fewer rows than were used before, because they were dropped."""
    kept = connection.scalar(sa.select(kept_from(table)))
    if kept is None or span.start >= kept:
        return
    axis, build = BUILDS[table]
    rows_before = build.c.bronze_rows if table.schema == "bronze" else build.c.silver_rows
    start, window = build.c.window_start, axis.floor(table.c[table.info["window"]])
    before_kept = TimeWindow(span.start, min(span.end, axis.at(kept).end))
    rows = (
        sa.select(window.label("start"), sa.func.count().label("rows"))
        .where(in_window(table, before_kept))
        .group_by(window)
        .subquery("rows")
    )
    dropped = (
        sa.select(start)
        .outerjoin(rows, rows.c.start == start)
        .where(in_window(build, span), start < kept, sa.func.coalesce(rows.c.rows, 0) < rows_before)
        .order_by(start)
    )
    if lost := connection.scalars(dropped).all():
        raise Failure(
            f"{table.fullname} is kept from {kept.astimezone(SEOUL):%Y-%m-%d %H:%M} on; its rows in {axis.named(lost)} "
            "were dropped, so these windows can't be recomputed. Results computed before are left unchanged.",
            allow_retries=False,
        )
