"""The sensor that asks for the days not fully collected."""

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
from upbit_assets.assets.coverage import REPORTING_DELAY, days_written_since, gaps, requested_market_days
from upbit_assets.assets.history import SETTLED
from upbit_assets.automation.attempts import Attempt
from upbit_assets.automation.jobs import HISTORY, PRIORITY, STILL_COLLECTING, collect_days, unfinished
from upbit_assets.feeds import FEEDS, GOLD_TABLES, Feed
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import settings
from upbit_assets.stale import (
    committed,
)

NOTHING_SEEN = "0:0:"  # a snapshot from before the first transaction


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
