"""The sensor that asks for silver and gold of the windows whose raw rows changed since."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple
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
from upbit_assets.partitions import DAY, RANGE_END, RANGE_START, WINDOW, Axis
from upbit_assets.postgres.resource import Database
from upbit_assets.stale import (
    Stale,
    collected,
    collected_since,
    committed,
    computed_since,
    oldest,
    stale,
)

MOST_A_RUN = DAY // WINDOW
RECENT = 2 * DAY  # whose raw rows are looked at each time; those of all partitions, which takes long, every
EVERYTHING_EVERY = timedelta(minutes=10)


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
