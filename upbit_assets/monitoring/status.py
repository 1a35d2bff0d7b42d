"""What runs, how fresh and complete each feed is, and the current problems: `upbit-assets status`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from upbit_assets.automation.jobs import UNFINISHED
from upbit_assets.feeds import FEEDS, Feed
from upbit_assets.monitoring.problems import RECENT, Problem, find_problems
from upbit_assets.partitions import DAY, days, windows
from upbit_assets.postgres import tables

DAYS_SHOWN = 7


@dataclass(frozen=True)
class FeedStatus:
    """The state of a feed.

    Args:
        newest: when its newest raw rows were received; None if that was before yesterday.
        partitions: finished windows of the last 24 hours, or days of the last week, since the first one collected.
        collected: how many of them have silver.
        rejected_rows: the rejected raw rows in them.
    """

    name: str
    newest: datetime | None
    partitions: int
    collected: int
    rejected_rows: int


@dataclass(frozen=True)
class Report:
    """The state of the pipeline."""

    at: datetime
    version: str
    simulated: bool | None
    runs_queued_or_running: int
    runs_failed: int
    feeds: list[FeedStatus]
    failing_windows: int
    problems: list[Problem]

    def lines(self) -> Iterator[str]:
        data = {True: "simulated data", False: "real data", None: "no data yet"}[self.simulated]
        yield f"upbit-assets {self.version}, {data}"
        runs = f"{self.runs_queued_or_running} queued or running, {self.runs_failed} failed in the last day"
        yield f"runs          {runs}"
        for feed in self.feeds:
            age = f"newest {in_words(self.at - feed.newest)} ago" if feed.newest else "nothing since yesterday"
            unit = "days" if feed.name in DAILY else "windows"
            rejected = f", {feed.rejected_rows:,} rows rejected" if feed.rejected_rows else ""
            yield f"{feed.name:<14}{age}, {feed.collected} of {feed.partitions} {unit} collected{rejected}"
        yield f"checks        {self.failing_windows} windows fail" + (
            "; see silver.check_result" if self.failing_windows else ""
        )
        yield "Everything is well." if not self.problems else f"{len(self.problems)} problem(s):"
        yield from (f"* {problem.english}" for problem in self.problems)


DAILY = {feed.name for feed in FEEDS if feed.axis is days}


def report(connection: sa.Connection, instance: DagsterInstance, version: str, now: datetime) -> Report:
    """The state of the pipeline.

    Args:
        connection: to the market database, with the pipeline's role.
    """
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=now - RECENT)
    results = tables.silver_check_result
    return Report(
        at=now,
        version=version,
        simulated=connection.scalar(sa.select(tables.bronze_origin.c.simulated)),
        runs_queued_or_running=instance.get_runs_count(RunsFilter(statuses=UNFINISHED)),
        runs_failed=instance.get_runs_count(failed),
        feeds=[feed_status(connection, feed, now) for feed in FEEDS],
        failing_windows=connection.scalar(sa.select(sa.func.count()).where(~results.c.passed)) or 0,
        problems=find_problems(connection, instance, now),
    )


def feed_status(connection: sa.Connection, feed: Feed, now: datetime) -> FeedStatus:
    raw = feed.refinement.bronze
    window = raw.c[raw.info["window"]]
    newest = connection.scalar(sa.select(sa.func.max(raw.c.ingested_at)).where(window >= feed.axis.at(now - DAY).start))
    built = built_windows(connection, feed, now)
    return FeedStatus(feed.name, newest, built.finished, built.collected, built.rows["rejected"])


@dataclass(frozen=True)
class BuiltWindows:
    """The finished windows of the last 24 hours, or days of the last week, since the first one collected.

    Args:
        collected: how many of them have silver.
        rows: their raw rows by what silver made of them: stored, rejected, duplicate.
    """

    finished: int
    collected: int
    rows: Mapping[str, int]


ROWS = {"stored": "silver_rows", "rejected": "rejected_rows", "duplicate": "duplicate_rows"}


def built_windows(connection: sa.Connection, feed: Feed, now: datetime) -> BuiltWindows:
    build, length, end = feed.refinement.build, feed.axis.length, feed.axis.at(now).start
    first = connection.scalar(sa.select(sa.func.min(build.c.window_start)))
    since = max(first or end, end - (DAY if feed.axis is windows else DAYS_SHOWN * DAY))
    sums = (sa.func.coalesce(sa.func.sum(build.c[column]), 0) for column in ROWS.values())
    counts = sa.select(sa.func.count(), *sums).where(build.c.window_start >= since, build.c.window_start < end)
    collected, *rows = connection.execute(counts).one()
    return BuiltWindows((end - since) // length, collected, dict(zip(ROWS, map(int, rows), strict=True)))


def in_words(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    if seconds < 120:
        return f"{max(seconds, 0)} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
