"""The current problems and what to do about them, as printed by `upbit-assets status` and sent as alerts."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from upbit_assets.checks import FRESH
from upbit_assets.feeds import AXES
from upbit_assets.partitions import SEOUL, days
from upbit_assets.postgres.snapshot_source import computation_delay
from upbit_assets.settings import settings
from upbit_assets.stream.status import last

STREAM_SILENT = timedelta(minutes=2)
DAEMON_SILENT = timedelta(minutes=3)  # each of its threads writes a heartbeat twice a minute
LEAST_FREE = 0.10  # of the disk
# a daily job that failed is a problem until it succeeds the next day
RECENT = timedelta(hours=25)
LOOKED_BACK_DAYS = 8  # trades are available for seven
LONGEST_REASON = 300
BLOCKED = "blocked this IP address"


@dataclass(frozen=True)
class Problem:
    """A current problem.

    Args:
        key: constant as long as the problem lasts.
        korean, english: what it is, and what to do unless it resolves by itself.
        path: where in the Dagster UI to look.
    """

    key: str
    korean: str
    english: str
    path: str = ""


def find_problems(connection: sa.Connection, instance: DagsterInstance, now: datetime) -> list[Problem]:
    """All current problems.

    Args:
        connection: to the market database, with the pipeline's role.
    """
    newest = freshness(connection)
    return [
        *disk_problems(settings.DAGSTER_HOME),
        *daemon_problems(instance, now),
        *run_problems(instance, now),
        *freshness_problems(connection, newest, now),
        *stream_problems(newest, now),
        *check_problems(connection),
        *day_problems(connection, now),
    ]


def in_seoul(moment: datetime) -> str:
    return f"{moment.astimezone(SEOUL):%Y-%m-%d %H:%M:%S} KST"


def disk_usage(folder: Path) -> tuple[Path, "shutil._ntuple_diskusage"]:
    """The folder or its first parent that exists, and its disk's total, used and free bytes."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there, shutil.disk_usage(there)


def disk_problems(folder: Path) -> Iterator[Problem]:
    there, usage = disk_usage(folder)
    if usage.free < LEAST_FREE * usage.total:
        left = f"{usage.free / usage.total:.0%}"
        yield Problem(
            "disk",
            f"디스크 여유 공간이 {left}뿐입니다({there}). 공간을 확보하거나 UPBIT_KEEP_…_DAYS를 설정하세요.",
            f"Only {left} of the disk is free ({there}). Free some space, or set UPBIT_KEEP_…_DAYS.",
        )


def daemon_problems(instance: DagsterInstance, now: datetime) -> Iterator[Problem]:
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    if not beats or now.timestamp() - max(beats) > DAEMON_SILENT.total_seconds():
        yield Problem(
            "daemon",
            "Dagster 데몬이 동작하지 않아 스케줄과 센서가 멈췄습니다. 데몬을 다시 시작하세요.",
            "Dagster's daemon doesn't run, so schedules and sensors have stopped. Start it again.",
            "/deployment/daemons",
        )


def run_problems(instance: DagsterInstance, now: datetime) -> Iterator[Problem]:
    """Jobs whose last finished run failed; its steps were retried before."""
    failed = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=now - RECENT), limit=1000)
    for job in sorted({run.job_name for run in failed}):
        finished = RunsFilter(job_name=job, statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE])
        (run,) = instance.get_runs(finished, limit=1)
        if run.status is DagsterRunStatus.SUCCESS:
            continue
        reason = failure_of(instance, run)
        if BLOCKED in reason:
            yield Problem(
                "blocked",
                f"업비트가 이 IP 주소의 호출을 차단했습니다(418). {reason}",
                f"The exchange blocks this IP address (418). {reason}",
                f"/runs/{run.run_id}",
            )
        else:
            yield Problem(
                f"run/{job}",
                f"작업 {job}이(가) 재시도 후에도 실패했습니다: {reason}",
                f"The job {job} failed after its retries: {reason}",
                f"/runs/{run.run_id}",
            )


def failure_of(instance: DagsterInstance, run: DagsterRun) -> str:
    """The reason that a run failed: the error of its step, or else of the run."""
    reason = "see its log"
    for record in instance.get_records_for_run(run.run_id, limit=1000, ascending=False).records:
        event = record.event_log_entry.dagster_event
        if event and event.is_step_failure and (error := event.step_failure_data.error):
            cause = error.cause if error.cls_name == "DagsterExecutionStepExecutionError" and error.cause else error
            return " ".join(re.sub(r"^[\w.]+: ", "", cause.message).split())[:LONGEST_REASON]
        if event and event.is_failure and event.message:
            reason = event.message[:LONGEST_REASON]
    return reason


FRESHNESS = sa.text((Path(__file__).parent / "freshness.sql").read_text(encoding="utf-8"))


def freshness(connection: sa.Connection) -> sa.Row[Any]:
    """When the newest `snapshot`, `figures`, `frame` and `trade` were received; each may be None."""
    return connection.execute(FRESHNESS).one()


def freshness_problems(connection: sa.Connection, newest: sa.Row[Any], now: datetime) -> Iterator[Problem]:
    raw, figures, *_ = newest
    if raw is None or now - raw > FRESH:
        since_ko, since_en = (f"{in_seoul(raw)} 이후", f"since {in_seoul(raw)}") if raw else ("하루 동안", "for a day")
        yield Problem(
            "stale",
            f"{since_ko} 새 시세가 수집되지 않았습니다. 수집이 실행 중인지, 거래소에 연결되는지 확인하세요.",
            f"No ticker was collected {since_en}. Check whether collection runs and reaches the exchange.",
            "/assets/bronze_ticker_raw",
        )
    elif figures is None or now - figures > FRESH + computation_delay(connection, now):
        last = in_seoul(figures) if figures else "–"
        yield Problem(
            "late",
            f"시세는 수집되고 있으나 지표가 계산되지 않고 있습니다(마지막 지표: {last}). 대기 중인 실행을 확인하세요.",
            f"Tickers are collected, but no figures are computed (the last ones: {last}). Check the queued runs.",
            "/runs?view=queued",
        )


def stream_problems(newest: sa.Row[Any], now: datetime) -> Iterator[Problem]:
    """Problems of a stream that has collected within the last day; none where no stream runs."""
    *_, received, stored = newest
    if not stored:
        return
    if received is None or now - received > STREAM_SILENT:
        since, status = in_seoul(received or stored), last()
        reason = f" {status.problem}" if status and status.problem else ""  # e.g. that the exchange blocks it
        yield Problem(
            "stream",
            f"실시간 스트림이 {since} 이후 수신되지 않습니다. upbit-assets stream이 실행 중인지 확인하세요.{reason}",
            f"The stream has received nothing since {since}. Check that upbit-assets stream runs.{reason}",
            "/assets/bronze_trade_stream_raw",
        )
    elif now - stored > FRESH:
        yield Problem(
            "stream-behind",
            f"실시간 스트림이 체결을 {in_seoul(stored)} 이후 저장하지 못하고 있습니다. 스트림의 로그를 확인하세요.",
            f"The stream has stored no trade since {in_seoul(stored)}. See its log.",
            "/assets/bronze_trade_stream_raw",
        )


FAILING = sa.text(
    "SELECT asset, check_name, windows, newest, reason FROM silver.failing_check ORDER BY asset, check_name"
)


def check_problems(connection: sa.Connection) -> Iterator[Problem]:
    for asset, name, count, newest, reason in connection.execute(FAILING):
        key = AXES.get(asset, days).key_of(newest)
        yield Problem(
            f"check/{asset}/{name}",
            f"{asset}의 검사 {name}이(가) {count}개 구간에서 실패했습니다. 가장 최근 구간 {key}: {reason}",
            f"The check {name} of {asset} fails in {count} window(s), the newest {key}: {reason}",
            f"/assets/{asset}?view=partitions&partition={key.replace(':', '%3A')}",
        )


UNCOLLECTABLE = sa.text("""
SELECT day, count(*) AS markets, min(market) AS market, min(problem) AS problem
FROM silver.candle_coverage
WHERE day >= :since AND problem IS NOT NULL
GROUP BY day
ORDER BY day
""")


def day_problems(connection: sa.Connection, now: datetime) -> Iterator[Problem]:
    since = days.at(now - timedelta(days=LOOKED_BACK_DAYS)).start
    for day, markets, market, problem in connection.execute(UNCOLLECTABLE, {"since": since}):
        key = days.key_of(day)
        yield Problem(
            f"day/{key}",
            f"{key}의 캔들을 온전히 수집할 수 없습니다: {market} 등 {markets}개 종목, {problem}",
            f"The candles of {key} can't be collected completely: {market} and others, {markets} in all, {problem}",
            f"/assets/silver_candle?view=partitions&partition={key}",
        )
