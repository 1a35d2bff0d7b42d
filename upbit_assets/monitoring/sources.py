"""Where the values of the metrics come from.

The SQL files beside this one name their columns as the metrics, so that a person can check a value with psql. A column
`name{value}` is a metric with that value of its last label.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa

from upbit_assets.checks import FRESH
from upbit_assets.dashboard.endpoints import newest
from upbit_assets.feeds import FEEDS
from upbit_assets.local_http import session_for
from upbit_assets.monitoring.metrics import Sample
from upbit_assets.monitoring.problems import FAILING, LOOKED_BACK_DAYS, RECENT, UNCOLLECTABLE, disk_usage, freshness
from upbit_assets.monitoring.status import built_windows
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres.snapshot_source import computation_delay
from upbit_assets.settings import settings

log = logging.getLogger(__name__)

DAGSTER_SECONDS = 5  # a request's timeout


@dataclass(frozen=True)
class Section:
    """Metrics that are read together, at most every `seconds`; in between, the same values are returned again."""

    name: str
    seconds: int
    read: Callable[[sa.Connection], Iterable[Sample]]


def from_sql(name: str, **values: Callable[[], Any]) -> Callable[[sa.Connection], Iterator[Sample]]:
    """The metrics of a file's columns; its other columns are their labels."""
    statement = sa.text((Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8"))

    def read(connection: sa.Connection) -> Iterator[Sample]:
        for row in connection.execute(statement, {name: value() for name, value in values.items()}).mappings():
            labels = [str(value) for column, value in row.items() if not column.startswith("upbit_")]
            for column, value in row.items():
                metric, _, label = column.rstrip("}").partition("{")
                if metric.startswith("upbit_"):
                    yield Sample(metric, value, (*labels, label) if label else tuple(labels))

    return read


TRADE_STATES = from_sql("completeness")
LAYERS = from_sql("storage")
ARCHIVE = from_sql("archive", after_days=lambda: settings.UPBIT_ARCHIVE_AFTER_DAYS)


def freshness_samples(connection: sa.Connection) -> Iterator[Sample]:
    newest_of, window = freshness(connection), connection.scalar(newest)
    yield at("upbit_newest_snapshot_timestamp_seconds", newest_of.snapshot)
    yield at("upbit_newest_figures_timestamp_seconds", newest_of.figures)
    yield at("upbit_newest_window_timestamp_seconds", window)
    yield at("upbit_newest_trade_timestamp_seconds", newest_of.trade)
    yield at("upbit_stream_newest_frame_timestamp_seconds", newest_of.frame)
    late_after = FRESH + computation_delay(connection, datetime.now(UTC))
    yield Sample("upbit_figures_late_after_seconds", late_after.total_seconds())


def at(name: str, moment: datetime | None) -> Sample:
    return Sample(name, moment.timestamp() if moment else None)


def completeness(connection: sa.Connection) -> Iterator[Sample]:
    now = datetime.now(UTC)
    for feed in FEEDS:
        built = built_windows(connection, feed, now)
        yield Sample("upbit_feed_windows", built.finished, (feed.name,))
        yield Sample("upbit_feed_missing_windows", built.finished - built.collected, (feed.name,))
        for result, rows in built.rows.items():
            yield Sample("upbit_feed_rows", rows, (feed.name, result))
    yield from TRADE_STATES(connection)
    for check in connection.execute(FAILING):
        yield Sample("upbit_check_failing_windows", check.windows, (check.asset, check.check_name))
    since = days.at(now - LOOKED_BACK_DAYS * DAY).start
    yield Sample("upbit_incomplete_candle_partitions", len(connection.execute(UNCOLLECTABLE, {"since": since}).all()))


def storage(connection: sa.Connection) -> Iterator[Sample]:
    yield from LAYERS(connection)
    yield Sample("upbit_dagster_database_bytes", connection.scalar(sa.select(sa.func.live.dagster_bytes())))
    yield from ARCHIVE(connection)


def disk() -> Iterator[Sample]:
    _, usage = disk_usage(settings.DAGSTER_HOME)
    yield Sample("upbit_disk_size_bytes", usage.total)
    yield Sample("upbit_disk_free_bytes", usage.free)


FINISHED, UNFINISHED = ("SUCCESS", "FAILURE", "CANCELED"), ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
COUNTS = "".join(
    f"{state}: runsOrError(filter: {{statuses: [{state}]{since}}}) {{ ... on Runs {{ count }} }}\n"
    for states, since in ((UNFINISHED, ""), (FINISHED, ", updatedAfter: $since"))
    for state in states
)
RUNS = f"""
query($since: Float!) {{
  {COUNTS}
  failed: runsOrError(filter: {{statuses: [FAILURE], updatedAfter: $since}}, limit: 1000) {{
    ... on Runs {{ results {{ jobName }} }}
  }}
  instance {{ daemonHealth {{ allDaemonStatuses {{ lastHeartbeatTime }} }} }}
}}
"""


def dagster() -> Iterator[Sample]:
    """What Dagster's webserver says, as the board has no login for Dagster's database."""
    try:
        found = list(runs())
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        log.warning("Dagster's webserver doesn't answer: %s", error)
        yield Sample("upbit_dagster_up", 0)
        return
    yield Sample("upbit_dagster_up", 1)
    yield from found


def runs() -> Iterator[Sample]:
    answer = ask_dagster(RUNS, since=(datetime.now(UTC) - RECENT).timestamp())
    for metric, states in (("upbit_dagster_runs", UNFINISHED), ("upbit_dagster_finished_runs", FINISHED)):
        for state in states:
            yield Sample(metric, answer[state]["count"], (state.lower(),))
    for job in sorted({run["jobName"] for run in answer["failed"]["results"]}):
        if last_run_failed(job):
            yield Sample("upbit_dagster_job_failed", 1, (job,))
    beats = [each["lastHeartbeatTime"] for each in answer["instance"]["daemonHealth"]["allDaemonStatuses"]]
    yield Sample("upbit_dagster_heartbeat_timestamp_seconds", max(filter(None, beats), default=None))


def last_run_failed(job: str) -> bool:
    query = (
        f"{{ last: runsOrError(filter: {{pipelineName: {json.dumps(job)}, statuses: [SUCCESS, FAILURE]}}, limit: 1) "
    )
    [run] = ask_dagster(query + "{ ... on Runs { results { status } } } }")["last"]["results"]
    return run["status"] == "FAILURE"


def ask_dagster(query: str, **variables: Any) -> Any:
    """The data of the answer to a GraphQL query.

    Raises:
        requests.RequestException, ValueError, LookupError: there is none.
    """
    url = settings.UPBIT_DAGSTER_INTERNAL_URL or settings.UPBIT_DAGSTER_URL
    with session_for(url) as session:
        request = {"query": query, "variables": variables}
        reply = session.post(f"{url}/graphql", json=request, timeout=DAGSTER_SECONDS)
    reply.raise_for_status()
    return reply.json()["data"]


DAGSTER_EVERY = 30  # seconds
SECTIONS = (
    Section("freshness", 0, freshness_samples),
    Section("stream", 0, from_sql("stream")),
    Section("exchange", 0, from_sql("exchange")),
    Section("completeness", 60, completeness),
    Section("storage", 600, storage),
)
