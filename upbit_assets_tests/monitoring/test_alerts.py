"""Alerts reach real listeners: once when a problem begins, once when it is over."""

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance

from upbit_assets import cli, health
from upbit_assets.monitoring import alerts
from upbit_assets.monitoring.alerts import SETTLED, Alerts
from upbit_assets.monitoring.notify import AlertError, Channel
from upbit_assets.monitoring.problems import Problem
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import PROJECT
from upbit_assets_tests.conftest import BINARIES
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.postgres.lab import until

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PROBLEM = Problem("run/collect", "작업이 실패했습니다", "A job failed", "/runs/abc")


@contextmanager
def listening(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What an HTTP listener was sent, at the address that UPBIT_ALERT_URLS names."""
    messages: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # as people set it: a proxy can't reach this machine
    with listening(HTTPServer(("127.0.0.1", 0), Hook)) as port:
        monkeypatch.setenv("UPBIT_ALERT_URLS", f"json://127.0.0.1:{port}/hook")
        yield messages


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a message takes."""

    def handle(self) -> None:
        received: list[str] = self.server.received  # type: ignore[attr-defined]
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                received.append("\n".join(lines))
            self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 ok\r\n")
            if line.upper() == "QUIT":
                return


@pytest.fixture
def found(database: Database, posted: list[Any]) -> Callable[[datetime, list[Problem]], None]:
    """Reports that these problems were found."""
    watch = Alerts(Channel(), database)

    def report(now: datetime, problems: list[Problem]) -> None:
        with database.connect() as connection:
            watch.report(connection, problems, now)

    return report


def test_one_message_when_it_begins_and_one_when_it_is_over(
    found: Callable[[datetime, list[Problem]], None], posted: list[Any]
):
    for minute in range(20):
        found(NOW + minute * MINUTE, [PROBLEM])
    assert len(posted) == 1
    assert "작업이 실패했습니다\nhttp://127.0.0.1:3000/runs/abc" in posted[0]["message"]
    found(NOW + 20 * MINUTE, [])
    assert len(posted) == 1, "it may come back"
    found(NOW + 19 * MINUTE + SETTLED, [])
    assert len(posted) == 2
    assert "해결" in posted[1]["title"]
    assert "19분" in posted[1]["message"]


def test_a_problem_found_only_once_is_not_reported(found: Callable[[datetime, list[Problem]], None], posted: list[Any]):
    found(NOW, [PROBLEM])
    found(NOW + MINUTE, [])
    found(NOW + 2 * MINUTE, [PROBLEM])
    assert posted == []


def test_a_restart_repeats_no_message(database: Database, posted: list[Any]):
    for _ in range(2):
        watch = Alerts(Channel(), database)
        with database.connect() as connection:
            for minute in range(3):
                watch.report(connection, [PROBLEM], NOW + minute * MINUTE)
    assert len(posted) == 1


def test_a_message_that_could_not_be_sent_is_sent_later(
    database: Database, market_url: str, monkeypatch: pytest.MonkeyPatch, posted: list[Any]
):
    watch = Alerts(Channel(urls=("json://127.0.0.1:1/",)), database)
    with database.connect() as connection:
        for minute in range(3):
            watch.report(connection, [PROBLEM], NOW + minute * MINUTE)
    assert ask(market_url, "SELECT * FROM silver.alert") == []
    watch.channel = Channel()
    with database.connect() as connection:
        watch.report(connection, [PROBLEM], NOW + 3 * MINUTE)
    assert len(posted) == 1


def test_an_unreachable_database_is_reported_and_that_it_is_back(
    database: Database, market_url: str, monkeypatch: pytest.MonkeyPatch, posted: list[Any]
):
    watch = Alerts(Channel(language="en"), database, DagsterInstance.ephemeral)
    monkeypatch.setattr(alerts, "find_problems", lambda *_: [])
    monkeypatch.setenv("UPBIT_POSTGRES_URL", "postgresql://127.0.0.1:1/none")
    for minute in range(4):
        watch.check(NOW + minute * MINUTE)
    assert [message["title"] for message in posted] == ["upbit-assets: Something is wrong"]
    monkeypatch.setenv("UPBIT_POSTGRES_URL", market_url)
    watch.check(NOW + 4 * MINUTE)
    assert "It lasted 4 min." in posted[1]["message"]


@pytest.mark.long
def test_a_real_outage_is_reported_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, posted: list[Any]):
    """Of PostgreSQL, by the process that users run, which looks every half minute."""
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)
    server = EmbeddedPostgres(tmp_path / "server", Path(BINARIES) if BINARIES else None)
    server.start(prepare=lambda: migrate(server.url("upbit")))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("UPBIT_POSTGRES_URL", server.url("upbit"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url("dagster"))

    def told(text: str) -> bool:
        return any(text in message["message"] and "PostgreSQL" in message["message"] for message in posted)

    with subprocess.Popen([Path(sys.executable).parent / "upbit-assets", "alerts"], cwd=tmp_path) as process:
        try:
            until(lambda: posted, "what an empty database lacks", 180)
            server.stop()
            until(lambda: told("데이터베이스를 사용할 수 없습니다"), "the beginning", 180)
            server.start()
            until(lambda: told("지속 시간"), "the end", 180)
        finally:
            process.kill()
            server.stop()


def test_the_health_check_notices_a_process_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    heartbeat = tmp_path / "heartbeat"
    monkeypatch.setattr("upbit_assets.settings.ALERTS_HEARTBEAT", heartbeat)
    assert health.alerts() is not None
    heartbeat.touch()
    assert health.alerts() is None
    os.utime(heartbeat, (0, 0))
    assert health.alerts() is not None


def test_mail_arrives(monkeypatch: pytest.MonkeyPatch):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    server.received = []  # type: ignore[attr-defined]
    with listening(server) as port:
        url = f"mailto://127.0.0.1:{port}?from=board@example.com&to=me@example.com&mode=insecure"
        monkeypatch.setenv("UPBIT_ALERT_URLS", url)
        result = CliRunner().invoke(cli.main, ["alert-test"])
    assert result.exit_code == 0, result.output
    (mail,) = server.received  # type: ignore[attr-defined]
    assert "To: me@example.com" in mail


def test_a_test_that_reaches_nobody_fails_and_no_message_has_the_addresses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPBIT_ALERT_URLS", "json://user:hush@127.0.0.1:1/hush")
    result = CliRunner().invoke(cli.main, ["alert-test"])
    assert result.exit_code == 1
    assert "No address of UPBIT_ALERT_URLS accepted" in result.output
    assert "hush" not in result.output
    with pytest.raises(AlertError, match=r"^UPBIT_ALERT_URLS has a nosuch:// URL that Apprise can't read.$"):
        Channel(urls=("nosuch://hush",))
    monkeypatch.setenv("UPBIT_ALERT_URLS", "SLACK://hush")
    assert "hush" not in CliRunner().invoke(cli.main, ["alert-test"]).output
    monkeypatch.delenv("UPBIT_ALERT_URLS")
    assert "UPBIT_ALERT_URLS is not set" in CliRunner().invoke(cli.main, ["alert-test"]).output
