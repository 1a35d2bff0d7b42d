"""What the running stack needs a day apart from its data: Dagster's database, files, CPU and memory."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench.stage import MARKETS, Stage
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.sandbox.server import running as exchange_running
from upbit_assets.settings import settings

WARM_UP, MEASURED = 600, 600  # seconds: the collection of the day so far; one period of all schedules
EVERY = 10  # seconds between two readings of the memory
DAY, MONTH, YEAR = 86400, 30, 365
MB, GB = 1e6, 1e9
PARTS = ("Dagster and its runs", "PostgreSQL", "the board", "the stream")
# the tables that runs add rows to; the rows of the others are updated in place, and autovacuum keeps their size
LOG = """
sum(pg_total_relation_size(relid))::bigint FROM pg_stat_user_tables
WHERE relname NOT IN ('job_ticks', 'jobs', 'instigators', 'asset_keys', 'daemon_heartbeats')
"""
TICKS = "pg_total_relation_size('job_ticks')"
# bytes of a window's last materialization, which stays when its run is deleted
KEPT = """
SELECT avg(pg_column_size(event.*) + 250)  -- 250: five index entries, and half-filled pages
FROM event_logs AS event WHERE dagster_event_type = 'ASSET_MATERIALIZATION'
"""


@dataclass(frozen=True)
class Reading:
    """The stack's cumulated figures at a moment."""

    at: float
    cpu: dict[str, float]
    log: int
    ticks: int
    events: int
    runs: int
    files: int
    bytes_in_files: int


def report(stage: Stage) -> Iterator[str]:
    """The lines of docs/capacity.md about the running stack."""
    for stream, name in ((True, "with the stream"), (False, "without the stream")):
        yield from ("", f"Apart from the data, {name}:", "")
        yield from measured(stage, name, stream=stream)


def measured(stage: Stage, name: str, *, stream: bool) -> Iterator[str]:
    with the_stack(stage.folder / name.replace(" ", "-"), stream=stream) as (home, server, process):
        time.sleep(WARM_UP * stage.scale)
        first, memory = read(home, server, process), []
        while time.monotonic() < first.at + MEASURED * stage.scale:
            memory.append(sum(map(proportional, processes(server, process))))
            time.sleep(EVERY)
        last = read(home, server, process)
        with psycopg.connect(server.url("dagster")) as connection:
            kept = (
                float(value(connection, KEPT))
                * 144
                * value(connection, "SELECT count(DISTINCT asset_key) FROM event_logs")
            )
    a_day = DAY / (last.at - first.at)

    def grown(name: str) -> float:
        return (getattr(last, name) - getattr(first, name)) * a_day

    log = grown("log")
    days = settings.UPBIT_KEEP_DAGSTER_DAYS
    cpu = {name: (seconds - first.cpu[name]) * a_day / 3600 for name, seconds in last.cpu.items()}
    yield f"| {name} | a day | a month | a year |"
    yield "|---|---:|---:|---:|"
    yield line(f"Dagster's database: {grown('runs'):,.0f} runs and {grown('events'):,.0f} events a day, all kept", log)
    if days:
        kept_for = f"the same with runs kept {days} days (the default), each window's last materialization forever"
        yield line(kept_for, log, log * min(MONTH, days), log * days + kept * (YEAR - days))
    ticks = grown("ticks")
    yield line("ticks of schedules and sensors, kept for one to seven days", ticks, ticks * 7, ticks * 7)
    yield line(f"logs, {grown('files'):,.0f} new files a day", grown("bytes_in_files"))
    hours = sum(cpu.values())
    yield f"| CPU-hours | {hours:,.1f} | {hours * MONTH:,.0f} | {hours * YEAR:,.0f} |"
    yield ""
    share = ", ".join(f"{part} {each:,.1f}" for part, each in cpu.items() if each)
    yield f"CPU-hours of a day: {share}. Memory, each shared page once:"
    yield f"{sum(memory) / len(memory) / GB:,.2f} GB on average, {max(memory) / GB:,.2f} GB at most."


def line(what: str, a_day: float, a_month: float | None = None, a_year: float | None = None) -> str:
    month, year = (a_day * MONTH if a_month is None else a_month), (a_day * YEAR if a_year is None else a_year)
    return f"| {what} | {a_day / MB:,.0f} MB | {month / GB:,.2f} GB | {year / GB:,.1f} GB |"


@contextmanager
def the_stack(home: Path, *, stream: bool) -> Iterator[tuple[Path, EmbeddedPostgres, psutil.Process]]:
    """What `make up` runs, collecting from an offline exchange whose resources aren't counted."""
    home.mkdir()
    with exchange_running(MARKETS) as exchange, (home / "stack.log").open("wb") as log:
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith(("UPBIT_", "DAGSTER_"))
        } | {"UPBIT_API_URL": exchange.url, "UPBIT_DAYS_BACK": "0", "UPBIT_LIMITS_DIR": str(home / "limits")}
        command = [str(Path(sys.executable).parent / "upbit-assets"), "up", "--home", str(home)]
        command += [] if stream else ["--no-stream"]
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield home, EmbeddedPostgres(home / ".postgres"), psutil.Process(child.pid)
            if child.poll() is not None:
                raise RuntimeError((home / "stack.log").read_text()[-4000:])
        finally:
            child.terminate()
            child.wait(120)


def processes(server: EmbeddedPostgres, stack: psutil.Process) -> list[psutil.Process]:
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().splitlines()[0]))
    return [stack, *stack.children(recursive=True), postmaster, *postmaster.children(recursive=True)]


def proportional(process: psutil.Process) -> int:
    """Its proportional set size (PSS): memory shared with other processes counts in part."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended
        return 0


def seconds(process: psutil.Process) -> float:
    """CPU seconds of the process and of its children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.Error:
        return 0


def part_of(process: psutil.Process) -> str:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return PARTS[0]
    if "postgres" in words.partition(" ")[0]:
        return "PostgreSQL"
    return next((f"the {name}" for name in ("board", "stream") if f"upbit-assets {name}" in words), PARTS[0])


def read(home: Path, server: EmbeddedPostgres, stack: psutil.Process) -> Reading:
    at, cpu = time.monotonic(), dict.fromkeys(PARTS, 0.0)
    for process in processes(server, stack):
        cpu[part_of(process)] += seconds(process)
    with psycopg.connect(server.url("dagster")) as connection:
        log, ticks, events, runs = (
            value(connection, f"SELECT {figure}")
            for figure in (
                LOG,
                TICKS,
                "count(*) FROM event_logs",
                "count(*) FROM runs",
            )
        )
    files = [file for file in home.rglob("*") if file.is_file() and ".postgres" not in file.parts]
    return Reading(at, cpu, log, ticks, events, runs, len(files), sum(file.stat().st_size for file in files))


def value(connection: psycopg.Connection[Any], query: str) -> Any:
    ((found,),) = connection.execute(query.encode())
    return found
