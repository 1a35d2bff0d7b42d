"""What runs by itself: collecting every minute, and computing again what changed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetKey,
    AssetSelection,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    OpExecutionContext,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    TimeWindow,
    define_asset_job,
    job,
    op,
    schedule,
    sensor,
)

from upbit_assets.checks import newest_window_is_fresh
from upbit_assets.partitions import SEOUL, WINDOW, key_of, window_at, window_of, windows, windows_in, windows_with_rows
from upbit_assets.postgres.migrate import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import bronze_ticker_raw
from upbit_assets.stale import DAY, Stale, changed_since, horizon, oldest_collected, stale

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
UNFINISHED = [
    status
    for status in DagsterRunStatus
    if status not in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
]
LATE = timedelta(minutes=1)
FIRST_RETRY, LAST_RETRY = timedelta(seconds=30), timedelta(hours=1)

collect = define_asset_job(
    "collect",
    AssetSelection.assets("bronze_ticker_raw"),
    description="One more snapshot of every ticker into the window now open",
)
refresh = define_asset_job(
    "refresh",
    AssetSelection.assets("silver_ticker", "gold_market_stats"),
    description="Silver and gold of some windows, computed again from bronze",
)
watch = define_asset_job(
    "watch",
    AssetSelection.checks(newest_window_is_fresh),
    description="Whether data still come in, asked even when nothing runs",
)


@schedule(
    cron_schedule="* * * * *",
    job=collect,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Collects the open window; a missed minute stays missed",
)
def collect_every_minute(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
    """Collects the open window. A missed minute stays missed: yesterday's tickers can't be asked for."""
    now, planned = datetime.now(UTC), context.scheduled_execution_time
    if now - planned > LATE:
        return SkipReason(f"The tick of {planned:%H:%M} came too late; a past snapshot can't be taken.")
    return RunRequest(run_key=planned.isoformat(), partition_key=key_of(window_at(now).start))


@op(description="Daily and monthly partitions of the tables for the next two weeks")
def partitions_ahead(context: OpExecutionContext, database: Database) -> None:
    with database.connect() as connection:
        context.log.info(f"{make_partitions(connection)} partitions made")


@job(description="Makes the tables' partitions before they are needed")
def make_table_partitions() -> None:
    partitions_ahead()


@schedule(
    cron_schedule="20 3 * * *",
    job=make_table_partitions,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Makes the tables' partitions for the next two weeks",
)
def make_table_partitions_daily() -> RunRequest:
    return RunRequest()


@schedule(
    cron_schedule="*/5 * * * *",
    job=watch,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Asks every five minutes whether data still come in",
)
def watch_freshness() -> RunRequest:
    return RunRequest()


@sensor(
    job=refresh,
    minimum_interval_seconds=10,
    default_status=DefaultSensorStatus.RUNNING,
    description="Asks for silver and gold of exactly the windows whose raw rows changed since silver was built",
)
def refresh_changed_windows(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Asks for silver and gold of exactly the windows whose raw rows changed since silver was built.

    Late rows, rows from other processes, what came in while this was off, and windows whose last run failed: these
    are asked for again, at growing intervals.
    """
    now = datetime.now(UTC)
    cursor = json.loads(context.cursor or "{}")
    with database.connect("REPEATABLE READ") as connection:
        candidates = look(connection, cursor, now)
        found = stale(connection, candidates)
    waiting, busy, due = cursor.get("waiting", {}), busy_windows(context.instance), []
    # a stale window stays in the cursor until it is found whole
    cursor["waiting"] = {}
    for window in found:
        key = key_of(window.start)
        attempt = Attempt.of(waiting.get(key), window.sources)
        if now.timestamp() >= attempt.not_before and window.start not in busy:
            due.append(window)
            attempt = attempt.next(now)
        cursor["waiting"][key] = astuple(attempt)
    nothing = f"{len(found)} changed windows wait for their run" if found else "Nothing changed"
    return SensorResult(
        run_requests=list(run_requests(due, now)),
        cursor=json.dumps(cursor),
        skip_reason=None if due else SkipReason(nothing),
    )


def look(connection: sa.Connection, cursor: dict[str, Any], now: datetime) -> set[datetime]:
    """The windows worth a look; moves the cursor past what need not be looked at again.

    On a database not seen before, the past is looked through too, a day a tick and the newest first.
    """
    database, settled = horizon(connection)
    if cursor.get("database") != database:
        cursor.update(database=database, seen=settled, past=(window_at(now).start + WINDOW).isoformat())
    candidates = changed_since(connection, cursor["seen"])
    candidates |= {window_of(key) for key in cursor.get("waiting", {})}
    if past := cursor.get("past"):
        last = datetime.fromisoformat(past)
        candidates |= windows_with_rows(connection, bronze_ticker_raw, windows_in(TimeWindow(last - DAY, last)))
        oldest = oldest_collected(connection)
        cursor["past"] = (last - DAY).isoformat() if oldest and oldest < last - DAY else None
    cursor["seen"] = settled
    # a row from before the first partition belongs to none, and asking for it would fail the whole tick
    return {start for start in candidates if windows.start <= start <= now}


@dataclass(frozen=True)
class Attempt:
    """How often a window was asked for in one state of its sources, and when it may be again (epoch seconds)."""

    sources: str
    times: int = 0
    not_before: float = 0

    @classmethod
    def of(cls, stored: list[Any] | None, sources: str) -> "Attempt":
        """The stored attempt, or a new one where the sources have changed since."""
        return cls(*stored) if stored and stored[0] == sources else cls(sources)

    def next(self, now: datetime) -> "Attempt":
        wait = min(FIRST_RETRY * 2**self.times, LAST_RETRY)
        return replace(self, times=self.times + 1, not_before=(now + wait).timestamp())


def busy_windows(instance: DagsterInstance) -> set[datetime]:
    """The windows that unfinished runs are about."""
    busy = set()
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        first, last = (run.tags.get(end) or run.tags.get(PARTITION) for end in (RANGE_START, RANGE_END))
        if run.job_name != collect.name and first and last and windows.has_partition_key(first):
            busy.update(windows_in(TimeWindow(window_of(first), window_of(last) + WINDOW)))
    return busy


def run_requests(due: Sequence[Stale], now: datetime) -> Iterator[RunRequest]:
    """A run for each row of neighbouring windows, at most a day long; newest first."""
    runs: list[list[Stale]] = []
    for window in sorted(due, key=lambda window: window.start):
        neighbours = runs and runs[-1][-1].start + WINDOW == window.start and runs[-1][-1].silver == window.silver
        if neighbours and len(runs[-1]) < DAY // WINDOW:
            runs[-1].append(window)
        else:
            runs.append([window])
    for run in reversed(runs):
        first, last = key_of(run[0].start), key_of(run[-1].start)
        one = first == last
        yield RunRequest(
            run_key=f"{first}/{len(run)}/{now.isoformat()}",
            partition_key=first if one else None,
            tags={} if one else {RANGE_START: first, RANGE_END: last},
            asset_selection=None if run[0].silver else [AssetKey("gold_market_stats")],
        )
