"""The whole stack as a new user starts it: webserver, daemon, schedule, sensor, exchange and database, all real."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from upbit_assets.partitions import windows
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets_tests import http
from upbit_assets_tests.pipeline import now, ticker

COMMAND = Path(sys.executable).parent / "upbit-assets"
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:1")
UNSET = ("UPBIT_START", "UPBIT_POSTGRES_URL", "DAGSTER_POSTGRES_URL", "UPBIT_API_URL", "DAGSTER_HOME")


class Stack:
    """A running `upbit-assets demo`, its output, and its UI's API."""

    def __init__(self, process: "subprocess.Popen[bytes]", home: Path, output: Path) -> None:
        self.process, self.home, self.output = process, home, output

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def ui(self) -> str:
        return next(word for word in self.said.split("Dagster:    http")[1].split()).replace("://", "http://", 1)

    def graphql(self, query: str, **variables: Any) -> Any:
        reply = http.post(self.ui + "/graphql", json={"query": query, "variables": variables}, timeout=30).json()
        assert "errors" not in reply, reply
        return reply["data"]

    def runs(self, job: str) -> list[str]:
        """The states of a job's runs."""
        query = (
            "query($job: String!) { runsOrError(filter: {pipelineName: $job}) { ... on Runs { results { status } } } }"
        )
        return [run["status"] for run in self.graphql(query, job=job)["runsOrError"]["results"]]

    def query(self, statement: str, *parameters: Any) -> list[Any]:
        url = EmbeddedPostgres(self.home / ".postgres").url("upbit")
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description else []

    def processes(self) -> list[psutil.Process]:
        """All running processes of this stack."""
        return [p for p in psutil.process_iter() if belongs(p, str(self.home)) and p.pid != os.getpid()]


def belongs(process: psutil.Process, home: str) -> bool:
    try:
        return home in " ".join(process.cmdline()) or process.environ().get("DAGSTER_HOME") == home
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@contextmanager
def demo(home: Path, output: Path, **more: str) -> Iterator[Stack]:
    environment = {name: value for name, value in os.environ.items() if name not in UNSET} | more
    with output.open("wb") as file:
        process = subprocess.Popen([COMMAND, "demo", "--home", home], env=environment, stdout=file, stderr=file)
    try:
        yield Stack(process, home, output)
    finally:
        process.terminate()
        process.wait(60)


def until(what: Callable[[], Any], seconds: float = 240) -> Any:
    """The first truthy result of `what`, which is polled."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.5)
    pytest.fail(f"not true within {seconds} s: {what.__doc__ or what}")


@pytest.mark.timeout(600)
@pytest.mark.long
def test_the_demo_collects_ranks_repairs_and_leaves_nothing_running(tmp_path: Path):
    yesterday = windows.key_of(windows.at(now() - timedelta(days=1)).start)
    with demo(tmp_path / "home", tmp_path / "first.txt", UPBIT_START=yesterday) as stack:
        until(lambda: "Collecting every minute" in stack.said or stack.process.poll() is not None)
        assert "거래대금 상위 10" in stack.said
        assert "KRW-BTC" in stack.said
        assert stack.query("SELECT count(*) FROM gold.turnover_top10") == [(10,)]
        board = stack.said.split("Board:      ")[1].split()[0]
        assert len(http.get(board + "/api/markets?limit=10", timeout=30).json()["rows"]) == 10
        assert http.get(board + "/api/status", timeout=30).json()["dagster"] == stack.ui

        late = windows.at(now() - timedelta(hours=3)).start
        stack.query(
            "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at) VALUES ('KRW-BTC', %s, %s)",
            ticker("KRW-BTC"),
            late + timedelta(minutes=1),
        )
        until(lambda: stack.query("SELECT 1 FROM gold.market_stats WHERE window_start = %s", late))

        stack.query(
            "DELETE FROM silver.ticker WHERE ingested_at >= %s AND ingested_at < %s", late, late + timedelta(minutes=10)
        )
        backfill = stack.graphql(
            """mutation($windows: [String!]!) { launchPartitionBackfill(backfillParams: {
                 assetSelection: [{path: ["silver_ticker"]}, {path: ["gold_market_stats"]}], partitionNames: $windows
               }) { __typename ... on LaunchBackfillSuccess { backfillId } } }""",
            windows=[windows.key_of(late)],
        )
        assert backfill["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", backfill
        until(lambda: stack.query("SELECT 1 FROM silver.ticker WHERE ingested_at < %s", late + timedelta(minutes=10)))

        more = "SELECT 1 FROM live.snapshot JOIN bronze.ticker_raw ON ingested_at = taken_at LIMIT 1"
        until(lambda: stack.query(more))  # by the stream, so no run
        assert "FAILURE" not in stack.runs("collect") + stack.runs("refresh")

        second = subprocess.run([COMMAND, "demo", "--home", stack.home], capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"already running: {stack.ui}" in second.stderr

        os.kill(stack.process.pid, signal.SIGTERM)
        until(lambda: "Stopping" in stack.said)
        for impatient in (signal.SIGTERM, signal.SIGINT):
            os.kill(stack.process.pid, impatient)
        assert stack.process.wait(60) == 0
        assert stack.said.endswith("Everything is stopped; the data is kept.\n")
        assert stack.processes() == []

    started = time.monotonic()
    # also if the environment has a proxy, which can't reach this machine
    with demo(tmp_path / "home", tmp_path / "second.txt", **PROXIES) as stack:
        until(lambda: "Collecting every minute" in stack.said)
        assert time.monotonic() - started < 60
        assert "거래대금 상위 10" in stack.said
        asked = '{ assetNodeOrError(assetKey: {path: ["silver_ticker"]}) { ... on AssetNode { partitionKeys } } }'
        first, *_ = stack.graphql(asked)["assetNodeOrError"]["partitionKeys"]
        assert first.endswith("-00:00"), "Dagster's first partition starts at the first day's midnight"
        assert windows.start_of(first) > now() - timedelta(days=1, minutes=10)
        os.kill(stack.process.pid, signal.SIGINT)
        assert stack.process.wait(60) == 0
        assert stack.processes() == []

    with demo(tmp_path / "home", tmp_path / "third.txt") as stack:
        until(lambda: "starting webserver" in stack.said)
        stack.process.kill()
        EmbeddedPostgres(stack.home / ".postgres").stop()  # it keeps running, as others may have attached
        until(lambda: stack.processes() == [])
