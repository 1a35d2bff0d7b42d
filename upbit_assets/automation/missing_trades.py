"""The sensor that asks for the windows of which the stream missed trades."""

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
from upbit_assets.postgres.resource import Database

AT_ONCE, LATER = {PRIORITY: "9"}, {PRIORITY: "-10"}
COMPUTED = timedelta(minutes=5)  # after its end, a window is by then
RECENT = timedelta(minutes=15)

# when the stream last heard of a market, and since when it had heard of none for ten seconds before it heard again
HEARD = sa.text("""
SELECT max(heard_at) AS heard_at,
       max(heard_at) FILTER (WHERE was_silent) AS heard_again_at,
       min(silent_since) FILTER (WHERE was_silent) AS silent_since
FROM (
  SELECT *, heard_at - silent_since > interval '10 seconds' AS was_silent
  FROM (
    SELECT heard_at, lag(heard_at, 1, CAST(:since AS timestamptz)) OVER (ORDER BY heard_at) AS silent_since
    FROM (
      SELECT DISTINCT date_trunc('second', ingested_at) AS heard_at
      FROM bronze.trade_stream_raw
      -- the key is by the exchange's clock
      WHERE traded_at >= CAST(:since AS timestamptz) - interval '1 minute'
        AND ingested_at >= :since AND connection <> 'rest'
    ) AS second
  ) AS each
) AS each
""")

# windows with missing trades that the exchange still tells, and those since the stream began that nobody looked at
LACKING = sa.text("""
SELECT window_start, md5(string_agg(concat_ws(' ', market, missing), ',' ORDER BY market)) AS lack
FROM silver.trade_coverage
WHERE missing IS NOT NULL AND window_start >= :told_from AND window_start < :over
GROUP BY window_start
UNION ALL
SELECT each.start, 'not looked at'
FROM generate_series(
  greatest(
    date_bin('10 minutes', (SELECT min(traded_at) FROM bronze.trade_stream_raw), '2000-01-01 00:00+09'),
    CAST(:since AS timestamptz),
    (SELECT max(kept_from) FROM bronze.retention
     WHERE table_name IN ('bronze.trade_stream_raw', 'silver.trade_stream', 'silver.trade_coverage'))
  ),
  CAST(:computed AS timestamptz) - interval '10 minutes',
  interval '10 minutes'
) AS each (start)
-- LIMIT keeps it one index probe a window: joined, all rows of a month would be read every ten seconds
LEFT JOIN LATERAL (
  SELECT true AS there FROM silver.trade_coverage WHERE window_start = each.start LIMIT 1
) AS coverage ON true
WHERE EXISTS (SELECT FROM bronze.trade_stream_raw)
  AND there IS NULL
ORDER BY 1 DESC
""")


@sensor(
    job=repair_trades,
    minimum_interval_seconds=10,
    default_status=DefaultSensorStatus.RUNNING,
    description="Asks over REST for trades that the stream missed: at once when it hears again, and where they don't "
    "add up to the exchange's counters, newest first",
)
def close_trade_gaps(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Asks for the windows in which the stream heard nothing for a while, once it hears again, and for those whose
    coverage has something missing that the exchange still tells: newest first, a stretch at a time.

    What stays missing although it was asked for is asked for again at growing intervals, a few times.
    """
    now, cursor = datetime.now(UTC), json.loads(context.cursor or "{}")
    # each tick reads only what was heard since the one before
    heard_before = datetime.fromisoformat(cursor.get("heard_at", (now - RECENT).isoformat()))
    since = max(heard_before, now - RECENT, windows.partitions.start)
    with database.connect() as connection:
        heard = connection.execute(HEARD, {"since": since}).one()
        lacking = lacking_windows(connection, now)
    requests = list[RunRequest]()
    if heard.heard_at:
        cursor["heard_at"] = heard.heard_at.isoformat()
    if heard.silent_since:
        silence = TimeWindow(windows.at(heard.silent_since).start, windows.at(heard.heard_again_at).end)
        requests.append(request(windows.starts_in(silence), now, AT_ONCE))
    due = due_windows(lacking, cursor, now, busy={start for _, start in busy_windows(context.instance)})
    if not requests and unfinished(context.instance, job_name=repair_trades.name, tags=LATER):
        return SensorResult(skip_reason=STILL_COLLECTING, cursor=json.dumps(cursor))
    if not requests and due:
        for start in due:
            key = windows.key_of(start)
            cursor["waiting"][key] = astuple(Attempt(*cursor["waiting"][key]).next(now))
        requests.append(request(due, now, LATER))
    nothing = f"{len(lacking)} windows stay as they are for now" if lacking else "Nothing is missing"
    return SensorResult(
        run_requests=requests, cursor=json.dumps(cursor), skip_reason=None if requests else SkipReason(nothing)
    )


def lacking_windows(connection: sa.Connection, now: datetime) -> dict[datetime, str]:
    """{start: what is missing, in a word that changes with it}, newest first."""
    values = {
        "told_from": max(days.at(now).start - TRADE_DAYS * DAY, windows.partitions.start),
        "over": windows.at(now - SETTLED).start,
        "since": max(windows.at(now - FAR).start, windows.partitions.start),
        "computed": windows.at(now - COMPUTED).start,
    }
    return dict(connection.execute(LACKING, values).tuples().all())


def due_windows(
    lacking: dict[datetime, str], cursor: dict[str, Any], now: datetime, busy: set[datetime]
) -> list[datetime]:
    """The newest neighbouring windows that may be asked for now; notes in the cursor how often each was."""
    waiting = cursor.get("waiting", {})
    attempts = {start: Attempt.of(waiting.get(windows.key_of(start)), lack) for start, lack in lacking.items()}
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
