"""The sensor that requests incomplete days."""

import json
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetKey,
    DefaultSensorStatus,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from upbit_assets.assets import selection
from upbit_assets.assets.coverage import REPORTING_DELAY, days_written_between, gaps, requested_market_days
from upbit_assets.assets.history import SETTLED
from upbit_assets.automation.attempts import Attempt
from upbit_assets.automation.jobs import HISTORY, PRIORITY, STILL_COLLECTING, collect_days, unfinished
from upbit_assets.feeds import FEEDS, GOLD_TABLES, Feed
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import settings
from upbit_assets.stale import committed

NOTHING_SEEN = "0:0:"  # a snapshot from before the first transaction


@sensor(
    job=collect_days,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Requests the missing candles, then trades, of past days, one day at a time, newest first",
)
def close_gaps(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Requests exactly the incomplete days (the last UPBIT_DAYS_BACK, and any with pages), one by one, newest first.

    A day that stays incomplete is retried at growing intervals.
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
    nothing = f"{len(missing)} days wait for a retry" if missing else "Nothing is missing"
    return SensorResult(
        run_requests=[request] if request else [],
        cursor=json.dumps(cursor),
        skip_reason=None if request else nothing,
    )


def backfill_request(day: datetime, feed: Feed, now: datetime) -> RunRequest:
    """A run that collects a day's missing intervals, with a lower priority than current data."""
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
    """The incomplete past days: {(day, feed): the missing time, summed over its markets}, which is 0 if everything is
    covered but not proved yet.

    Candidates are the last UPBIT_DAYS_BACK days, those with new pages since the last tick, those that were not over
    then, and those waiting for a retry.
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
        looked_at = last | days_written_between(connection, history.page, cursor["seen"], snapshot)
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
