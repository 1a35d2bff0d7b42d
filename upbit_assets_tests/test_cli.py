"""The project's own commands."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from psycopg import conninfo

from upbit_assets import cli, stack
from upbit_assets.cli import main


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The program that a command executes in its place, with its environment."""
    found: list[Any] = []
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(os, "execv", lambda _path, arguments: found.extend([arguments, dict(os.environ)]))
    return found


@pytest.fixture
def demo_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The home of a running demo."""
    monkeypatch.setattr(cli, "home_of", lambda *, demo: tmp_path / ("demo" if demo else "live"))
    (tmp_path / "demo").mkdir()
    with stack.lock_home(tmp_path / "demo") as note:
        note({"pid": "1"})
        yield tmp_path / "demo"


class TestPsql:
    def test_a_password_is_never_a_process_argument(self, executed: list[Any], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_POSTGRES_URL", "postgresql://me:top%20secret@127.0.0.1:1/upbit?sslmode=disable")
        assert CliRunner().invoke(main, ["psql", "-c", "SELECT 1"]).exit_code == 0
        arguments, environment = executed
        psql, address, *rest = arguments
        assert (psql, rest) == ("psql", ["-c", "SELECT 1"])
        assert conninfo.conninfo_to_dict(address) == {
            "user": "me",
            "host": "127.0.0.1",
            "port": "1",
            "dbname": "upbit",
            "sslmode": "disable",
        }
        assert environment["PGPASSWORD"] == "top secret"

    def test_it_uses_the_demo_if_that_runs(self, executed: list[Any], monkeypatch: pytest.MonkeyPatch, demo_home: Path):
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        monkeypatch.setenv("UPBIT_POSTGRES_URL", "postgresql://127.0.0.1:1/upbit")
        assert CliRunner().invoke(main, ["psql"]).exit_code == 0
        assert executed[1]["DAGSTER_HOME"] == str(demo_home)


def test_down_stops_what_it_can_despite_a_running_stack(monkeypatch: pytest.MonkeyPatch, demo_home: Path):
    stopped: list[Path] = []
    monkeypatch.setattr("upbit_assets.cli.EmbeddedPostgres.stop", lambda server: stopped.append(server.folder))
    result = CliRunner().invoke(main, ["down"])
    assert result.exit_code == 1
    assert f"{demo_home} is in use by process 1" in result.output
    assert stopped == [demo_home.parent / "live" / ".postgres"]


@pytest.mark.parametrize("command", ["exchange", "board"])
def test_a_taken_port_is_reported_instead_of_listening(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPBIT_READER_URL", "postgresql://127.0.0.1:1/none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, [command, "--port", str(port)])
    assert result.exit_code == 1
    assert re.fullmatch(rf"Error: the .+ can't listen on 127.0.0.1:{port}: Address already in use\n", result.output)
