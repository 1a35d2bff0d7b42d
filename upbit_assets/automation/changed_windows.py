"""The sensor that requests silver and gold of the windows whose raw rows have changed."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    TimeWindow,
    sensor,
)

from upbit_assets.assets.history import SETTLED
from upbit_assets.automation.attempts import Attempt
from upbit_assets.automation.jobs import REFRESHES, UNFINISHED
from upbit_assets.feeds import GOLD_TABLES, GoldTable
from upbit_assets.partitions import DAY, RANGE_END, RANGE_START, WINDOW, Axis, windows
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.snapshot_source import STREAM_SECOND, stream_takes_snapshots
from upbit_assets.stale import (
    Stale,
    collected,
    collected_between,
    committed,
    computed_between,
    oldest,
    stale,
)

MAX_WINDOWS_PER_RUN = DAY // WINDOW
RECENT = 2 * DAY  # raw rows scanned at each tick
EVERYTHING_EVERY = timedelta(minutes=10)  # scanning all partitions takes long


@sensor(
    jobs=list(REFRESHES.values()),
    minimum_interval_seconds=10,
    default_status=DefaultSensorStatus.RUNNING,
    description="Requests silver and gold of exactly the windows whose raw rows changed since silver was built",
)
def refresh_changed_windows(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Requests silver and gold of exactly the windows whose raw rows changed since silver was built.

    That includes late rows, rows from other processes, rows added while the sensor was off, and windows whose last run
    failed, which are retried at growing intervals.
    """
    now = datetime.now(UTC)
    cursor = json.loads(context.cursor or "{}")
    with database.connect() as connection:
        streaming = stream_takes_snapshots(connection, now)
        found = find_stale_windows(connection, cursor, now)
    waiting, busy, due = cursor.get("waiting", {}), busy_windows(context.instance), []
    # a stale window stays in the cursor until it is up to date
    cursor["waiting"] = {}
    for gold, window in found:
        key = waiting_key(gold, window.start)
        attempt = Attempt.of(waiting.get(key), window.sources)
        if (
            computable(gold, window.start, now, streaming=streaming)
            and attempt.is_due(now)
            and (gold.axis, window.start) not in busy
        ):
            due.append((gold.axis, with_bronze(gold, window, now)))
            attempt = attempt.next(now)
        cursor["waiting"][key] = astuple(attempt)
    nothing = f"{len(found)} changed windows wait for their run" if found else "Nothing changed"
    return SensorResult(
        run_requests=list(run_requests(due, now)),
        cursor=json.dumps(cursor),
        skip_reason=None if due else SkipReason(nothing),
    )


def computable(gold: GoldTable, start: datetime, now: datetime, *, streaming: bool = False) -> bool:
    """Whether a window may be computed: a streamed one changes constantly until it is over, and a future one (after the
    clock was set back) has no partition yet. `streaming`: the stream takes the snapshots too; then the first one after
    the window is awaited, as it proves the window's trades."""
    if streaming and gold.axis is windows:
        return start <= now - (WINDOW + timedelta(seconds=STREAM_SECOND) + SETTLED)
    return start <= now - (gold.axis.length + SETTLED if gold.streamed else timedelta())


def with_bronze(gold: GoldTable, window: Stale, now: datetime) -> Stale:
    """The window with its bronze assets if it is over, as the stream's snapshots are unknown to Dagster."""
    if window.start + gold.axis.length > now:
        return window
    rebuilt = (name for feed in gold.feeds if feed.silver_asset in window.assets for name in feed.rebuilt_assets)
    return replace(window, assets=window.assets.union(rebuilt))


def waiting_key(gold: GoldTable, start: datetime) -> str:
    return f"{gold.asset}/{gold.axis.key_of(start)}"


def find_stale_windows(
    connection: sa.Connection, cursor: dict[str, Any], now: datetime
) -> list[tuple[GoldTable, Stale]]:
    """The stale windows among the candidates; advances the cursor.

    Raw rows are searched in the newest partitions, and every ten minutes in all. The cursor has a snapshot for each of
    the two, taken before reading, so that no row is missed between two polls. For a new database, all of the past is
    scanned too, one stride per tick, newest first.
    """
    database, snapshot = committed(connection)
    first = {gold.asset: gold.axis.partitions.start.isoformat() for gold in GOLD_TABLES}
    # the cursor of a version with other tables is discarded
    if cursor.get("database") != database or cursor.get("first", {}).keys() != first.keys():
        cursor.update(database=database, waiting={}, past=all_of_the_past(connection, now))
        cursor.update(recent=snapshot, everything=snapshot, everything_at=now.timestamp())
    else:
        for gold in GOLD_TABLES:
            extend_past(gold, cursor)
    cursor["first"] = first
    # negative if the clock was ahead before
    everything = not 0 <= now.timestamp() - cursor["everything_at"] < EVERYTHING_EVERY.total_seconds()
    newest = None if everything else TimeWindow(now - RECENT, now + DAY)
    found = []
    for gold in GOLD_TABLES:
        since = cursor["everything" if everything else "recent"]
        candidates = collected_between(connection, gold, since, snapshot, newest)
        candidates |= computed_between(connection, gold, cursor["recent"], snapshot)
        waiting = (key.split("/") for key in cursor.get("waiting", {}))
        candidates |= {gold.axis.start_of(key) for asset, key in waiting if asset == gold.asset}
        candidates |= next_stride(connection, gold, cursor["past"])
        # rows from before the first partition belong to none, and requesting one would fail the whole tick
        known = {start for start in candidates if gold.axis.partitions.start <= start}
        found += [(gold, window) for window in stale(connection, gold, known)]
    cursor["recent"] = snapshot
    if everything:
        cursor.update(everything=snapshot, everything_at=now.timestamp())
        connection.invalidate()  # frees the session's cache of all partitions, which is most of its memory
    return found


def all_of_the_past(connection: sa.Connection, now: datetime) -> dict[str, tuple[str, str]]:
    """The span to scan, by gold asset: from the first row to the end of the current window."""
    return {
        gold.asset: (first.isoformat(), gold.axis.at(now).end.isoformat())
        for gold in GOLD_TABLES
        if (first := oldest(connection, gold))
    }


def extend_past(gold: GoldTable, cursor: dict[str, Any]) -> None:
    """If the first partition is now earlier, add the windows before the former one to the span to scan."""
    first, former = gold.axis.partitions.start, datetime.fromisoformat(cursor["first"][gold.asset])
    if first < former:
        ends = map(datetime.fromisoformat, cursor["past"].get(gold.asset, ()))
        within = (first, former, *ends)
        cursor["past"][gold.asset] = (min(within).isoformat(), max(within).isoformat())


def next_stride(connection: sa.Connection, gold: GoldTable, past: dict[str, tuple[str, str]]) -> set[datetime]:
    """The windows with rows in the newest stride of the span to scan, which is shortened by it."""
    if gold.asset not in past:
        return set()
    first, end = map(datetime.fromisoformat, past.pop(gold.asset))
    start = gold.axis.at(max(end - gold.axis.stride, first)).start
    if first < start:
        past[gold.asset] = (first.isoformat(), start.isoformat())
    return collected(connection, gold, TimeWindow(start, end))


def busy_windows(instance: DagsterInstance) -> set[tuple[Axis, datetime]]:
    """The windows of unfinished runs."""
    busy: set[tuple[Axis, datetime]] = set()
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        busy.update((axis, start) for axis in REFRESHES for start in axis.of_run(run.tags))
    return busy


def run_requests(due: Sequence[tuple[Axis, Stale]], now: datetime) -> Iterator[RunRequest]:
    """A run for each range of adjacent windows that need the same assets, newest first."""
    for axis, refresher in REFRESHES.items():
        needed: dict[datetime, frozenset[str]] = {}
        for of, window in due:
            if of is axis:
                needed[window.start] = needed.get(window.start, frozenset()) | window.assets
        runs: list[list[datetime]] = []
        for start in sorted(needed):
            last = runs[-1][-1] if runs else None
            if (
                last
                and last + axis.length == start
                and needed[last] == needed[start]
                and len(runs[-1]) < MAX_WINDOWS_PER_RUN
            ):
                runs[-1].append(start)
            else:
                runs.append([start])
        for run in reversed(runs):
            yield range_run_request(axis, run, refresher.name, needed[run[0]], f"{len(run)}/{now.isoformat()}")


def range_run_request(
    axis: Axis, starts: Sequence[datetime], job_name: str, assets: Iterable[str], key: str, **tags: str
) -> RunRequest:
    """A run over adjacent windows."""
    first, last = axis.key_of(starts[0]), axis.key_of(starts[-1])
    return RunRequest(
        run_key=f"{first}/{key}",
        job_name=job_name,
        partition_key=first if first == last else None,
        tags=tags if first == last else {RANGE_START: first, RANGE_END: last, **tags},
        asset_selection=[AssetKey(name) for name in sorted(assets)],
    )
