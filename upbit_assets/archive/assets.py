"""Each bronze table's archive as an asset, partitioned by day, with a check that compares it with the table."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from dagster import (
    AssetChecksDefinition,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSelection,
    BackfillPolicy,
    DefaultScheduleStatus,
    Failure,
    MetadataValue,
    RunRequest,
    ScheduleEvaluationContext,
    SkipReason,
    TimeWindow,
    asset,
    define_asset_job,
    schedule,
)

from upbit_assets.archive import ArchiveError
from upbit_assets.archive.days import (
    TABLES,
    Archived,
    archive_day,
    count,
    disagreement,
    due,
    is_dropped,
    newest_record,
    path_of,
    read_back,
    seoul_days,
)
from upbit_assets.archive.store import Store
from upbit_assets.assets import RETRY
from upbit_assets.automation.changed_windows import range_run_request
from upbit_assets.automation.jobs import unfinished
from upbit_assets.check_results import Result, Results, WindowCheck, checks_of, window_check
from upbit_assets.feeds import FEEDS
from upbit_assets.partitions import DAY, SEOUL
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import no_retry_on_interrupt

MAX_WINDOWS_PER_RUN = 7  # days; its check reads all of them in one transaction
COLLECTED_BY = {
    table: feed.bronze_asset
    for feed in FEEDS
    for table in (feed.refinement.bronze, *([feed.history.page] if feed.history else []))
}


def asset_of(table: sa.Table) -> str:
    return f"archive_{table.name}"


def archive_of(table: sa.Table) -> AssetsDefinition:
    @asset(
        name=asset_of(table),
        description=f"A day of `{table.fullname}` as a Parquet file, with the JSON as text, exactly as in PostgreSQL. "
        "It is written, read back and compared. A day without rows has no file.",
        deps=[COLLECTED_BY[table]] if table in COLLECTED_BY else [],
        owners=["team:upbit_assets"],
        group_name="archive",
        kinds={"parquet", "bronze"},
        partitions_def=seoul_days.partitions,
        backfill_policy=BackfillPolicy.single_run(),
        retry_policy=RETRY,
    )
    def archive(context: AssetExecutionContext, database: Database) -> None:
        try:
            store = Store()
            for start in seoul_days.starts_in(context.partition_time_window):
                with no_retry_on_interrupt():
                    archived = archive_day(database, store, table, TimeWindow(start, start + DAY))
                describe(context, seoul_days.key_of(start), archived)
        except ArchiveError as error:
            raise Failure(str(error)) from error

    return archive


def describe(context: AssetExecutionContext, key: str, archived: Archived | None) -> None:
    if archived is None:
        context.log.info(f"{key}: there are no rows.")
        context.add_asset_metadata({"dagster/partition_row_count": 0}, partition_key=key)
        return
    packed = archived.unpacked / archived.bytes
    context.log.info(f"{key}: {archived.content.rows:,} rows in {archived.bytes:,} bytes, {packed:.0f} times smaller.")
    context.add_asset_metadata(
        {
            "dagster/partition_row_count": archived.content.rows,
            "file": archived.path,
            "bytes": archived.bytes,
            "bytes per row": round(archived.bytes / archived.content.rows, 1),
            "times smaller than its text": MetadataValue.float(round(packed, 1)),
            "content hash (SHA-256)": archived.content.hash,
            "origin": "simulated" if archived.simulated else "real",
            "schema": archived.revision,
        },
        partition_key=key,
    )


def agreement(table: sa.Table) -> WindowCheck:
    @window_check()
    def archive_agrees_with_the_table(connection: sa.Connection, span: TimeWindow) -> Results:
        """The file, read back, has the table's row count and content hash."""
        days = [TimeWindow(start, start + DAY) for start in seoul_days.starts_in(span)]
        return {day.start: agrees(connection, Store(), table, day) for day in days}

    return archive_agrees_with_the_table


def agrees(connection: sa.Connection, store: Store, table: sa.Table, day: TimeWindow) -> Result:
    try:
        if is_dropped(connection, table, day):
            return agrees_with_its_record(connection, store, table, day)
        if not count(connection, table, day):
            return Result(True, {"rows": 0}, "There are no rows.")
        rows, reason = disagreement(connection, store, table, day)
    except ArchiveError as error:
        return Result(False, note=str(error))
    return Result(reason is None, {"rows": rows}, reason)


def agrees_with_its_record(connection: sa.Connection, store: Store, table: sa.Table, day: TimeWindow) -> Result:
    """For a day dropped by retention: compares the file with the record of its verification."""
    if (newest := newest_record(connection, table, day)) is None:
        return Result(True, note="It was dropped without having been archived.")
    archived = read_back(store, table, day)
    if archived is None:
        return Result(False, note=f"It was dropped, and {path_of(table, day)} is missing: restore a copy of the file.")
    archived.require_whole()
    same = archived.content.hash == newest.content_hash
    note = "It was dropped; the file is " + ("as verified before." if same else "another version.")
    return Result(same, {"rows": archived.content.rows}, note)


assets = [archive_of(table) for table in TABLES]
all_checks: list[AssetChecksDefinition] = [
    checks_of(asset_of(table), seoul_days, agreement(table), table=table) for table in TABLES
]
archive = define_asset_job(
    "archive",
    AssetSelection.assets(*assets),
    description="Archives days of bronze; the files are read back and compared",
)


@schedule(
    cron_schedule="30 1 * * *",
    job=archive,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Archives days UPBIT_ARCHIVE_AFTER_DAYS after their end, and again if they get late rows",
)
def archive_daily(context: ScheduleEvaluationContext, database: Database) -> list[RunRequest] | SkipReason:
    """Requests the days whose archive is missing or out of date. A failed run is requested again the next night."""
    now = datetime.now(UTC)
    if unfinished(context.instance, job_name=archive.name):
        return SkipReason("An earlier run is still archiving")
    needed: dict[datetime, frozenset[str]] = defaultdict(frozenset)
    with database.connect() as connection:
        for table in TABLES:
            for day in due(connection, table, now):
                needed[day] |= {asset_of(table)}
    return list(run_requests(needed, now)) or SkipReason("Every day is archived")


def run_requests(needed: dict[datetime, frozenset[str]], now: datetime) -> Iterator[RunRequest]:
    """A run for each range of adjacent days that need the same assets."""
    for names in sorted(set(needed.values()), key=sorted):
        days = sorted(day for day in needed if needed[day] == names)
        for span in seoul_days.spans(days, MAX_WINDOWS_PER_RUN):
            key = f"{'+'.join(sorted(names))}/{now.isoformat()}"
            yield range_run_request(seoul_days, seoul_days.starts_in(span), archive.name, names, key)
