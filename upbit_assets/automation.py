"""What runs by itself: collecting, computing again what changed, and filling in what was not collected."""

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
    ScheduleDefinition,
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

from upbit_assets.assets import selection
from upbit_assets.assets.coverage import MINUTE, REPORTING_DELAY, days_written_since, gaps, requested_market_days
from upbit_assets.assets.history import SETTLED
from upbit_assets.check_results import evaluate_present
from upbit_assets.checks import FRESHNESS, LISTED
from upbit_assets.feeds import FEEDS, GOLD_TABLES, MARKET_STATS, TICKER, Feed, GoldTable
from upbit_assets.partitions import DAY, PARTITION, RANGE_END, RANGE_START, SEOUL, WINDOW, Axis, days, windows
from upbit_assets.postgres.migrate import make_partitions_ahead
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import settings
from upbit_assets.stale import (
    Stale,
    collected,
    collected_since,
    committed,
    computed_since,
    oldest,
    stale,
)

PRIORITY, HISTORY = "dagster/priority", "upbit_assets/history"
UNFINISHED = [
    status
    for status in DagsterRunStatus
    if status not in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
]
STILL_COLLECTING = "What was asked for before is still being collected"
LATE = timedelta(minutes=1)
FIRST_RETRY, LAST_RETRY = timedelta(seconds=30), timedelta(hours=1)
MOST_A_RUN = DAY // WINDOW
RECENT = 2 * DAY  # whose raw rows are looked at each time; those of all partitions, which takes long, every
EVERYTHING_EVERY = timedelta(minutes=10)
NOTHING_SEEN = "0:0:"  # a snapshot from before the first transaction


def assets_of(axis: Axis, *, collecting: bool) -> AssetSelection:
    """What is computed by these windows, and what is collected for it."""
    golds = [gold for gold in GOLD_TABLES if gold.axis is axis and not (collecting and gold.streamed)]
    names = [name for gold in golds for name in [*(gold.bronze_assets if collecting else []), *gold.computed_assets]]
    return AssetSelection.assets(*names)


collect = define_asset_job(
    "collect",
    assets_of(windows, collecting=True),
    description="One more snapshot of every ticker, and of the chosen order books, into the window now open; and the "
    "window's silver and gold",
    tags={PRIORITY: "10"},
)
refresh = define_asset_job(
    "refresh",
    assets_of(windows, collecting=False),
    description="Silver and gold of some windows, computed again from bronze",
    tags={PRIORITY: "5"},
)
collect_days = define_asset_job(
    "collect_days",
    assets_of(days, collecting=True),
    description="Candles and trades of some days, as far as they are missing, and what is computed from them",
)
refresh_days = define_asset_job(
    "refresh_days",
    assets_of(days, collecting=False),
    description="Silver and gold of some days, computed again from bronze",
    tags={PRIORITY: "5"},
)
REFRESHES = {windows: refresh, days: refresh_days}


@schedule(
    cron_schedule="* * * * *",
    job=collect,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Collects the open window and computes its silver and gold; a missed minute stays missed",
)
def collect_every_minute(context: ScheduleEvaluationContext, database: Database) -> RunRequest | SkipReason:
    """Collects the open window. A missed minute stays missed: yesterday's tickers can't be asked for."""
    now, planned = datetime.now(UTC), context.scheduled_execution_time
    if now - planned > LATE:
        return SkipReason(f"The tick of {planned:%H:%M} came too late; a past snapshot can't be taken.")
    by_run = [gold for gold in GOLD_TABLES if gold.axis is windows and not gold.streamed]
    golds = [gold for gold in by_run if markets_are_chosen(database, gold.feeds, now)]
    # what computes may be held up, what collects must not be: the sensor asks for what is left undone
    held_up = unfinished(context.instance, job_name=collect.name)
    names = [name for gold in golds for name in [*gold.bronze_assets, *([] if held_up else gold.computed_assets)]]
    return RunRequest(
        run_key=planned.isoformat(),
        partition_key=windows.key_of(windows.at(now).start),
        asset_selection=[AssetKey(name) for name in names],
    )


@schedule(
    cron_schedule="*/10 * * * *",
    job=collect_days,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Collects today's candles and trades, as far as they are new",
)
def collect_today(context: ScheduleEvaluationContext, database: Database) -> RunRequest | SkipReason:
    """Collects what is new of today's candles and trades. A missed tick needs no other: the next one finds it all."""
    now = datetime.now(UTC)
    if not markets_are_chosen(database, [feed for feed in FEEDS if feed.axis is days], now):
        return SkipReason("There is no turnover ranking yet to choose the markets by.")
    if days.at(now - SETTLED - MINUTE) != days.at(now):
        return SkipReason("The day has only begun: nothing of it is settled yet.")
    today = days.key_of(days.at(now).start)
    # more than one would wait for one another, in the places of the minutes' runs
    if unfinished(context.instance, job_name=collect_days.name, tags={PARTITION: today}):
        return SkipReason(STILL_COLLECTING)
    return RunRequest(run_key=context.scheduled_execution_time.isoformat(), partition_key=today, tags={PRIORITY: "5"})


def unfinished(instance: DagsterInstance, **which: Any) -> bool:
    """Whether one of these runs has not ended."""
    return bool(instance.get_runs(RunsFilter(statuses=UNFINISHED, **which), limit=1))


def markets_are_chosen(database: Database, feeds: Sequence[Feed], now: datetime) -> bool:
    """Whether there is something to choose the feeds' markets by."""
    with database.connect() as connection:
        try:
            for chosen in filter(None, (feed.selection for feed in feeds)):
                chosen.markets(connection, [days.at(now).start])
        except selection.NoRankingError:
            return False
    return True


@op(description="Daily and monthly partitions of the tables for the next two weeks")
def partitions_ahead(context: OpExecutionContext, database: Database) -> None:
    with database.connect() as connection:
        context.log.info(f"{make_partitions_ahead(connection)} partitions made")


@job(description="Makes the tables' partitions before they are needed")
def make_table_partitions() -> None:
    partitions_ahead()


make_table_partitions_daily = ScheduleDefinition(
    name="make_table_partitions_daily",
    cron_schedule="20 3 * * *",
    job=make_table_partitions,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Makes the tables' partitions for the next two weeks",
)


@sensor(
    minimum_interval_seconds=300,
    default_status=DefaultSensorStatus.RUNNING,
    description="Asks every five minutes whether data still come in, and of all named markets, also while nothing runs",
)
def check_freshness(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Checks whether the newest figures are fresh and the named markets listed, without a run: not worth a process."""
    with database.connect() as connection:
        fresh = evaluate_present(MARKET_STATS.asset, FRESHNESS, connection, context.instance)
        listed = evaluate_present(TICKER.bronze_asset, LISTED, connection, context.instance)
    return SensorResult(asset_events=[fresh, listed], skip_reason=fresh.description)


@dataclass(frozen=True)
class Attempt:
    """How often something was asked for in one state of its sources, and when it may be again (epoch seconds)."""

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

    def is_due(self, now: datetime) -> bool:
        return now.timestamp() >= self.not_before


@sensor(
    jobs=list(REFRESHES.values()),
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
    with database.connect() as connection:
        found = find_stale_windows(connection, cursor, now)
    waiting, busy, due = cursor.get("waiting", {}), busy_windows(context.instance), []
    # a stale window stays in the cursor until it is found whole
    cursor["waiting"] = {}
    for gold, window in found:
        key = waiting_key(gold, window.start)
        attempt = Attempt.of(waiting.get(key), window.sources)
        if computable(gold, window.start, now) and attempt.is_due(now) and (gold.axis, window.start) not in busy:
            due.append((gold.axis, window))
            attempt = attempt.next(now)
        cursor["waiting"][key] = astuple(attempt)
    nothing = f"{len(found)} changed windows wait for their run" if found else "Nothing changed"
    return SensorResult(
        run_requests=list(run_requests(due, now)),
        cursor=json.dumps(cursor),
        skip_reason=None if due else SkipReason(nothing),
    )


def computable(gold: GoldTable, start: datetime, now: datetime) -> bool:
    """Whether a window may be computed: what a stream brings changes all the time, until it is over.

    A window ahead of the clock, which may have been set back, has no partition yet.
    """
    return start <= now - (gold.axis.length + SETTLED if gold.streamed else timedelta())


def waiting_key(gold: GoldTable, start: datetime) -> str:
    return f"{gold.asset}/{gold.axis.key_of(start)}"


def find_stale_windows(
    connection: sa.Connection, cursor: dict[str, Any], now: datetime
) -> list[tuple[GoldTable, Stale]]:
    """The stale windows among those worth a look; moves the cursor past what need not be looked at again.

    Raw rows are looked for in the newest partitions, and every ten minutes in all. The cursor has a snapshot for each
    of the two, taken before anything is read, so that nothing falls between one look and the next. On a database not
    seen before, the past is looked through too, a stretch a tick and the newest first.
    """
    database, snapshot = committed(connection)
    first = {gold.asset: gold.axis.partitions.start.isoformat() for gold in GOLD_TABLES}
    # a version that knew other tables left another cursor
    if cursor.get("database") != database or cursor.get("first", {}).keys() != first.keys():
        cursor.update(database=database, waiting={}, past=past(connection, now))
        cursor.update(recent=snapshot, everything=snapshot, everything_at=now.timestamp())
    else:
        for gold in GOLD_TABLES:
            reach_back(gold, cursor)
    cursor["first"] = first
    # a clock that was ahead must not keep everything from being looked at until then
    everything = not 0 <= now.timestamp() - cursor["everything_at"] < EVERYTHING_EVERY.total_seconds()
    newest = None if everything else TimeWindow(now - RECENT, now + DAY)
    found = []
    for gold in GOLD_TABLES:
        candidates = collected_since(connection, gold, cursor["everything" if everything else "recent"], newest)
        candidates |= computed_since(connection, gold, cursor["recent"])
        waiting = (key.split("/") for key in cursor.get("waiting", {}))
        candidates |= {gold.axis.start_of(key) for asset, key in waiting if asset == gold.asset}
        candidates |= next_stretch(connection, gold, cursor["past"])
        # a row from before the first partition belongs to none, and asking for it would fail the whole tick
        known = {start for start in candidates if gold.axis.partitions.start <= start}
        found += [(gold, window) for window in stale(connection, gold, known)]
    cursor["recent"] = snapshot
    if everything:
        cursor.update(everything=snapshot, everything_at=now.timestamp())
        connection.invalidate()  # the session remembers each partition that it has opened, which is most of its memory
    return found


def past(connection: sa.Connection, now: datetime) -> dict[str, tuple[str, str]]:
    """What there is to be looked through: from the first moment that has rows to the end of the open window."""
    return {
        gold.asset: (first.isoformat(), gold.axis.at(now).end.isoformat())
        for gold in GOLD_TABLES
        if (first := oldest(connection, gold))
    }


def reach_back(gold: GoldTable, cursor: dict[str, Any]) -> None:
    """Puts ahead what the snapshots were moved past without a look: windows before what was the first partition."""
    first, former = gold.axis.partitions.start, datetime.fromisoformat(cursor["first"][gold.asset])
    if first < former:
        ends = map(datetime.fromisoformat, cursor["past"].get(gold.asset, ()))
        within = (first, former, *ends)
        cursor["past"][gold.asset] = (min(within).isoformat(), max(within).isoformat())


def next_stretch(connection: sa.Connection, gold: GoldTable, ahead: dict[str, tuple[str, str]]) -> set[datetime]:
    """The windows with rows of the newest stretch that is still to be looked through; takes it from what is ahead."""
    if gold.asset not in ahead:
        return set()
    first, end = map(datetime.fromisoformat, ahead.pop(gold.asset))
    start = gold.axis.at(max(end - gold.axis.stride, first)).start
    if first < start:
        ahead[gold.asset] = (first.isoformat(), start.isoformat())
    return collected(connection, gold, TimeWindow(start, end))


def busy_windows(instance: DagsterInstance) -> set[tuple[Axis, datetime]]:
    """The windows that unfinished runs are about."""
    busy: set[tuple[Axis, datetime]] = set()
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        busy.update((axis, start) for axis in REFRESHES for start in axis.of_run(run.tags))
    return busy


def run_requests(due: Sequence[tuple[Axis, Stale]], now: datetime) -> Iterator[RunRequest]:
    """A run for each row of neighbouring windows that need the same, at most MOST_A_RUN of them; newest first."""
    for axis, refresher in REFRESHES.items():
        needed: dict[datetime, frozenset[str]] = {}
        for of, window in due:
            if of is axis:
                needed[window.start] = needed.get(window.start, frozenset()) | window.assets
        runs: list[list[datetime]] = []
        for start in sorted(needed):
            last = runs[-1][-1] if runs else None
            if last and last + axis.length == start and needed[last] == needed[start] and len(runs[-1]) < MOST_A_RUN:
                runs[-1].append(start)
            else:
                runs.append([start])
        for run in reversed(runs):
            yield range_run_request(axis, run, refresher.name, needed[run[0]], f"{len(run)}/{now.isoformat()}")


def range_run_request(
    axis: Axis, starts: Sequence[datetime], job_name: str, assets: frozenset[str], key: str
) -> RunRequest:
    """A run over neighbouring windows."""
    first, last = axis.key_of(starts[0]), axis.key_of(starts[-1])
    return RunRequest(
        run_key=f"{first}/{key}",
        job_name=job_name,
        partition_key=first if first == last else None,
        tags={} if first == last else {RANGE_START: first, RANGE_END: last},
        asset_selection=[AssetKey(name) for name in sorted(assets)],
    )


@sensor(
    job=collect_days,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Asks for the candles, then the trades, of the newest past day that lacks some, one day at a time",
)
def close_gaps(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Asks for exactly the days not fully collected, one at a time and newest first: the last seven, and any begun.

    A day that stays as it is although it was asked for is asked for again at growing intervals.
    """
    now, cursor = datetime.now(UTC), json.loads(context.cursor or "{}")
    if unfinished(context.instance, tags={HISTORY: "true"}):
        return SensorResult(skip_reason=STILL_COLLECTING, cursor=context.cursor)
    try:
        with database.connect("REPEATABLE READ") as connection:
            missing = missing_days(connection, cursor, now)
    except selection.NoRankingError as error:
        return SensorResult(skip_reason=str(error), cursor=context.cursor)
    waiting, request = cursor.get("waiting", {}), None
    cursor["waiting"] = {}
    for day, feed in sorted(missing, key=lambda lack: (-lack[0].timestamp(), lack[1].name)):
        key = f"{feed.name}/{days.key_of(day)}"
        attempt = Attempt.of(waiting.get(key), str(missing[day, feed]))
        if request is None and attempt.is_due(now):
            request, attempt = backfill_request(day, feed, now), attempt.next(now)
        cursor["waiting"][key] = astuple(attempt)
    nothing = f"{len(missing)} days wait for another try" if missing else "Nothing is missing"
    return SensorResult(
        run_requests=[request] if request else [],
        cursor=json.dumps(cursor),
        skip_reason=None if request else nothing,
    )


def backfill_request(day: datetime, feed: Feed, now: datetime) -> RunRequest:
    """The run that collects what a day lacks; whatever is of the present goes before it."""
    assets = [feed.bronze_asset, feed.silver_asset, *(gold.asset for gold in GOLD_TABLES if feed in gold.feeds)]
    return RunRequest(
        run_key=f"{feed.name}/{days.key_of(day)}/{now.isoformat()}",
        partition_key=days.key_of(day),
        asset_selection=[AssetKey(name) for name in assets],
        tags={HISTORY: "true", PRIORITY: "-10"},
    )


def missing_days(
    connection: sa.Connection, cursor: dict[str, Any], now: datetime
) -> dict[tuple[datetime, Feed], timedelta]:
    """The past days not fully collected: {(day, feed): how much is missing, all its markets together}. Nothing where
    all is covered, and not yet proved.

    Looked at are the last days, those that something was asked for of since the last look, those that were not over
    yet then, and those that wait.
    """
    database, snapshot = committed(connection)
    if cursor.get("database") != database:
        cursor.update(database=database, seen=NOTHING_SEEN, waiting={})
    today = days.at(now - SETTLED - REPORTING_DELAY).start
    known, not_over = [key.split("/") for key in (*cursor["waiting"], *cursor.get("not_over", []))], list[str]()
    last = {today - back * DAY for back in range(1, settings.UPBIT_DAYS_BACK + 1)}
    missing: dict[tuple[datetime, Feed], timedelta] = {}
    for feed in FEEDS:
        if not (history := feed.history):
            continue
        looked_at = last | days_written_since(connection, history.page, cursor["seen"])
        looked_at |= {days.start_of(key) for name, key in known if name == feed.name}
        not_over += [f"{feed.name}/{days.key_of(day)}" for day in looked_at if day >= today]
        oldest = today - history.available_days * DAY if history.available_days else days.partitions.start
        past = {day for day in looked_at if oldest <= day < today}
        wanted = [
            *history.selection.markets(connection, sorted(last & past)),
            *requested_market_days(connection, history.page, past),
        ]
        for gap in gaps(connection, history.page, wanted, history.settled(now), include_unavailable=False):
            missing[gap.day, feed] = missing.get((gap.day, feed), timedelta()) + (gap.end - gap.start)
    cursor.update(seen=snapshot, not_over=not_over)
    return missing
