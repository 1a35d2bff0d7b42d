"""The sensor that requests the windows in which the stream missed trades."""

import json
from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    TimeWindow,
    sensor,
)

from upbit_assets.assets.history import MAX_VERIFICATIONS, SETTLED, TRADE_DAYS
from upbit_assets.assets.trade_proof import FAR
from upbit_assets.automation.attempts import Attempt
from upbit_assets.automation.changed_windows import MAX_WINDOWS_PER_RUN, busy_windows, range_run_request
from upbit_assets.automation.jobs import PRIORITY, STILL_COLLECTING, repair_trades, unfinished
from upbit_assets.feeds import TRADE_STATS
from upbit_assets.partitions import DAY, WINDOW, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database

AT_ONCE, LATER = {PRIORITY: "9"}, {PRIORITY: "-10"}
COMPUTED = timedelta(minutes=5)  # a window is computed this long after its end
RECENT = timedelta(minutes=15)

# when the stream last received a trade, and the silence of at least ten seconds before it received one again
RECEIVED = sa.text("""
SELECT max(received_at) AS received_at,
       max(received_at) FILTER (WHERE was_silent) AS resumed_at,
       min(silent_since) FILTER (WHERE was_silent) AS silent_since
FROM (
  SELECT *, received_at - silent_since > interval '10 seconds' AS was_silent
  FROM (
    SELECT received_at, lag(received_at, 1, CAST(:since AS timestamptz)) OVER (ORDER BY received_at) AS silent_since
    FROM (
      SELECT DISTINCT date_trunc('second', ingested_at) AS received_at
      FROM bronze.trade_stream_raw
      -- traded_at, which the index is on, is by the exchange's clock
      WHERE traded_at >= CAST(:since AS timestamptz) - interval '1 minute'
        AND ingested_at >= :since AND connection <> 'rest'
    ) AS second
  ) AS each
) AS each
""")

# windows with missing trades that the exchange still has
WITH_MISSING_TRADES = sa.text("""
SELECT window_start, md5(string_agg(concat_ws(' ', market, missing), ',' ORDER BY market)) AS digest
FROM silver.trade_coverage
WHERE missing IS NOT NULL AND window_start >= :available_from AND window_start < :settled
GROUP BY window_start
""")
# since when windows can be verified: since the stream began, as far as rows are kept
VERIFIABLE_FROM = (
    sa.text("SELECT min(traded_at) FROM bronze.trade_stream_raw"),
    sa.text("""
SELECT max(kept_from) FROM bronze.retention
WHERE table_name IN ('bronze.trade_stream_raw', 'silver.trade_stream', 'silver.trade_coverage')
"""),
)
# windows with the market that is always listed; it has an index of its own
WITH_KRW_BTC = sa.text("""
SELECT window_start FROM silver.trade_coverage
WHERE market = 'KRW-BTC' AND window_start >= :since AND window_start < :computed
""")


@sensor(
    job=repair_trades,
    minimum_interval_seconds=10,
    default_status=DefaultSensorStatus.RUNNING,
    description="Requests trades that the stream missed over REST: at once when it receives data again, and where the "
    "trades don't add up to the exchange's counters, newest first",
)
def close_trade_gaps(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Requests the windows of a silence of the stream once it receives data again, and the windows with missing trades
    that the exchange still has: newest first, one range of neighbouring windows at a time.

    Trades that stay missing are requested again at growing intervals, a few times.
    """
    now, cursor = datetime.now(UTC), json.loads(context.cursor or "{}")
    # each tick reads only the trades received since the previous one
    received_before = datetime.fromisoformat(cursor.get("received_at", (now - RECENT).isoformat()))
    since = max(received_before, now - RECENT, windows.partitions.start)
    with database.connect() as connection:
        received = connection.execute(RECEIVED, {"since": since}).one()
        incomplete = incomplete_windows(connection, now)
    requests = list[RunRequest]()
    if received.received_at:
        cursor["received_at"] = received.received_at.isoformat()
    if received.silent_since:
        silence = TimeWindow(windows.at(received.silent_since).start, windows.at(received.resumed_at).end)
        requests.append(request(windows.starts_in(silence), now, AT_ONCE))
    due = due_windows(incomplete, cursor, now, busy={start for _, start in busy_windows(context.instance)})
    if not requests and unfinished(context.instance, job_name=repair_trades.name, tags=LATER):
        return SensorResult(skip_reason=STILL_COLLECTING, cursor=json.dumps(cursor))
    if not requests and due:
        for start in due:
            key = windows.key_of(start)
            cursor["waiting"][key] = astuple(Attempt(*cursor["waiting"][key]).next(now))
        requests.append(request(due, now, LATER))
    nothing = f"{len(incomplete)} windows are incomplete, none is due" if incomplete else "Nothing is missing"
    return SensorResult(
        run_requests=requests, cursor=json.dumps(cursor), skip_reason=None if requests else SkipReason(nothing)
    )


def incomplete_windows(connection: sa.Connection, now: datetime) -> dict[datetime, str]:
    """{start: a hash of what is missing, or that the window was never verified}, newest first."""
    first = windows.partitions.start
    span = {
        "available_from": max(days.at(now).start - TRADE_DAYS * DAY, first),
        "settled": windows.at(now - SETTLED).start,
    }
    found = dict(connection.execute(WITH_MISSING_TRADES, span).tuples().all())
    found |= dict.fromkeys(unverified_windows(connection, max(windows.at(now - FAR).start, first), now), "not verified")
    return dict(sorted(found.items(), reverse=True))


def unverified_windows(connection: sa.Connection, since: datetime, now: datetime) -> set[datetime]:
    """The computed windows since the stream began without any row in `silver.trade_coverage`."""
    begun, kept_from = (connection.scalar(query) for query in VERIFIABLE_FROM)
    if begun is None:
        return set()
    since = max(since, windows.at(begun).start, kept_from or since)
    computed = windows.at(now - COMPUTED).start
    found = set(connection.scalars(WITH_KRW_BTC, {"since": since, "computed": computed}))
    lacking = [start for start in windows.starts_in(TimeWindow(since, computed)) if start not in found]
    return set(lacking) - windows.with_rows(connection, tables.silver_trade_coverage, lacking)


def due_windows(
    incomplete: dict[datetime, str], cursor: dict[str, Any], now: datetime, busy: set[datetime]
) -> list[datetime]:
    """The newest neighbouring windows that are due; the cursor keeps how often each was requested."""
    waiting = cursor.get("waiting", {})
    attempts = {start: Attempt.of(waiting.get(windows.key_of(start)), digest) for start, digest in incomplete.items()}
    cursor["waiting"] = {windows.key_of(start): astuple(attempt) for start, attempt in attempts.items()}
    found = list[datetime]()
    for start, attempt in attempts.items():
        if found and (len(found) == MAX_WINDOWS_PER_RUN or start + WINDOW != found[-1]):
            break
        if attempt.times < MAX_VERIFICATIONS and attempt.is_due(now) and start not in busy:
            found.append(start)
    return sorted(found)


def request(starts: Sequence[datetime], now: datetime, tags: dict[str, str]) -> RunRequest:
    assets = TRADE_STATS.computed_assets
    return range_run_request(windows, starts, repair_trades.name, assets, f"{len(starts)}/{now.isoformat()}", **tags)
