"""The embedded PostgreSQL, in separate folders."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import psycopg
import pytest

from upbit_assets.postgres.embedded import (
    DATABASES,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    as_ordinary_user,
    ordinary_user,
)
from upbit_assets_tests.conftest import BINARIES
from upbit_assets_tests.postgres.lab import PATIENCE, until

pytestmark = pytest.mark.long

OTHER_BINARIES = Path(BINARIES) if BINARIES else None


def embedded(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, OTHER_BINARIES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server whose data folder is created once, as that takes longest."""
    server = embedded(tmp_path_factory.mktemp("made"))
    server.start()
    yield server
    end(server)


@pytest.fixture
def up(made: EmbeddedPostgres) -> EmbeddedPostgres:
    made.start()
    return made


@pytest.fixture
def down(made: EmbeddedPostgres) -> EmbeddedPostgres:
    made.stop()
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = embedded(tmp_path / "postgres")
    yield server
    end(server)


def end(server: EmbeddedPostgres) -> None:
    server.stop()
    if server.socket != server.data and server.socket.exists():
        server.socket.rmdir()


def postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


def servers_on(server: EmbeddedPostgres) -> set[int]:
    """The postmasters on this folder: at most one."""
    found = set()
    for process in psutil.process_iter(["cmdline", "cwd"]):
        started_as = process.info["cmdline"] or []
        if process.info["cwd"] == str(server.data) and "-D" in started_as:
            found.add(process.pid)
    return found


@contextmanager
def starter(folder: Path, *, prepare_for: int = 0) -> Iterator["subprocess.Popen[str]"]:
    """Another process that starts the server; it prints when it prepares and whether it started it."""
    arguments = [folder, OTHER_BINARIES or "", str(prepare_for)]
    command = [sys.executable, "-c", STARTER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


STARTER = """
import sys, time
from pathlib import Path
from upbit_assets.postgres.embedded import EmbeddedPostgres

def prepare():
    print("prepares", flush=True)
    time.sleep(int(sys.argv[3]))

print(EmbeddedPostgres(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None).start(prepare))
"""


def killed_while_it_prepares(folder: Path) -> None:
    with starter(folder, prepare_for=PATIENCE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "prepares\n"
        process.kill()


def test_of_several_processes_at_once_one_starts_the_server_and_the_others_attach(fresh: EmbeddedPostgres):
    with ExitStack() as running:
        processes = [running.enter_context(starter(fresh.folder)) for _ in range(4)]
        said = sorted(process.communicate(timeout=PATIENCE)[0] for process in processes)

    assert said == ["False\n"] * 3 + ["prepares\nTrue\n"]
    assert servers_on(fresh) == {postmaster(fresh)}


def test_it_has_its_databases(up: EmbeddedPostgres):
    for name in DATABASES:
        with psycopg.connect(up.url(name)) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == (name,)


def test_a_later_process_attaches_without_preparing(up: EmbeddedPostgres):
    prepared: list[str] = []

    assert up.start(prepare=lambda: prepared.append("full_refresh")) is False
    assert prepared == []


def test_a_running_server_is_asked_once_in_a_while_whether_it_answers(
    up: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
):
    asked = Mock(wraps=up.answers)
    monkeypatch.setattr(up, "answers", asked)
    assert [up.start() for _ in range(20)] == [False] * 20
    assert asked.call_count <= 1
    asked.reset_mock()
    monkeypatch.setattr("upbit_assets.postgres.embedded.ASK_EVERY", 0)
    assert not up.start()
    assert asked.call_count >= 1


def test_it_does_not_listen_on_tcp(up: EmbeddedPostgres):
    assert psutil.Process(postmaster(up)).net_connections("inet") == []


def test_its_files_are_for_its_own_user_only(up: EmbeddedPostgres):
    for path in (up.data, up.socket):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((up.data / ".s.PGSQL.5432").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as whoever it is, there is nothing to drop")
def test_as_root_it_runs_as_an_ordinary_user_with_files_of_that_user(up: EmbeddedPostgres):
    process = psutil.Process(postmaster(up))

    assert set(process.uids()) == {ordinary_user().pw_uid} != {0}
    assert up.data.stat().st_uid == ordinary_user().pw_uid


def test_the_next_start_recovers_a_killed_server_with_its_data(up: EmbeddedPostgres):
    with psycopg.connect(up.url("upbit"), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        # its session exists for a moment longer, as do those of other processes
        killed = psutil.Process(postmaster(up))
        killed.kill()
        until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, "its end")

        assert up.start() is True
    with psycopg.connect(up.url("upbit")) as connection:
        assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]


def test_a_server_outlives_the_process_that_started_it_and_was_killed(down: EmbeddedPostgres):
    killed_while_it_prepares(down.folder)

    assert down.answers()


def test_the_next_start_prepares_what_a_killed_one_had_not(down: EmbeddedPostgres):
    killed_while_it_prepares(down.folder)
    prepared: list[str] = []

    assert down.start(prepare=lambda: prepared.append("once")) is False
    assert down.start(prepare=lambda: prepared.append("twice")) is False
    assert prepared == ["once"]


def test_preparing_that_failed_is_tried_again(down: EmbeddedPostgres):
    def fail() -> None:
        raise LookupError

    prepared: list[str] = []
    with pytest.raises(LookupError):
        down.start(prepare=fail)
    down.start(prepare=lambda: prepared.append("now"))

    assert prepared == ["now"]


def test_half_made_data_of_a_killed_initdb_is_recreated(fresh: EmbeddedPostgres):
    left_behind = fresh.folder / "data.new"
    left_behind.mkdir(parents=True)
    (left_behind / "PG_VERSION").write_text("18\n")

    assert fresh.start() is True
    assert not list(fresh.folder.glob("data.new*"))


def test_a_still_running_initdb_of_a_killed_start_does_no_harm(fresh: EmbeddedPostgres):
    with starter(fresh.folder) as process:
        until(lambda: list(fresh.folder.glob("data.new*/PG_VERSION")), "initdb is at work")
        process.kill()

    assert fresh.start() is True


def test_stop_stops_it_and_returns_whether_it_ran(up: EmbeddedPostgres):
    process = psutil.Process(postmaster(up))

    assert up.stop() is True
    # in a container it may remain a zombie
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not up.answers()
    assert up.stop() is False


def test_stop_without_a_server_does_nothing(tmp_path: Path):
    assert embedded(tmp_path / "none").stop() is False
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "name",
    ['한글 it\'s "quoted", $HOME `id` ' + "x" * 150, 'o\'b "c" 한 $(exit 1)'],
    ids=["too long for a socket", "short"],
)
def test_any_project_path_works(short_folder: Path, name: str):
    server = embedded(short_folder / name)
    server.start()
    try:
        with psycopg.connect(server.url("upbit")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        end(server)


@pytest.mark.parametrize("folder", ["/a,b", "/" + "x" * 100], ids=["a comma", "too long"])
def test_a_path_too_long_for_the_socket_uses_another(folder: str):
    socket = embedded(Path(folder)).socket

    assert socket.parent == Path(tempfile.gettempdir())
    assert socket != embedded(Path(folder + "2")).socket


@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/New_York"])
def test_the_machines_zone_is_neither_databases(fresh: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, zone: str):
    monkeypatch.setenv("TZ", zone)
    fresh.start()

    assert zones(fresh) == DATABASES


@pytest.mark.parametrize(("zone", "hours"), [("Asia/Seoul", 9), ("America/New_York", -5)])
def test_a_database_of_an_earlier_version_gets_its_zone_and_its_runs_their_times(
    fresh: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, zone: str, hours: int
):
    fresh.start()
    for database in DATABASES:
        alter(fresh, database, f"ALTER DATABASE {database} RESET timezone")
    (fresh.data / "postgresql.auto.conf").write_text(f"timezone = '{zone}'\n")
    fresh.stop()
    monkeypatch.setattr(EmbeddedPostgres, "create_databases", lambda _: None)
    fresh.start()
    assert set(zones(fresh).values()) == {zone}
    moment = datetime(2026, 1, 29, 12, tzinfo=UTC).replace(tzinfo=None)
    run = "INSERT INTO runs VALUES (%s, %s)"
    alter(fresh, "dagster", "CREATE TABLE runs (create_timestamp timestamp, update_timestamp timestamp)")
    alter(fresh, "dagster", run, moment + timedelta(hours=hours), moment + timedelta(hours=hours))

    monkeypatch.undo()
    for _ in range(2):
        fresh.stop()
        fresh.start()
        assert zones(fresh) == DATABASES
        with psycopg.connect(fresh.url("dagster")) as connection:
            assert connection.execute("SELECT * FROM runs").fetchall() == [(moment, moment)]


def test_a_version_that_prepares_otherwise_prepares_a_server_that_runs(
    up: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(DATABASES, "upbit", "UTC")
    prepared: list[str] = []

    assert up.start(prepare=lambda: prepared.append("anew")) is False
    assert prepared == ["anew"]
    assert zones(up)["upbit"] == "UTC"
    monkeypatch.undo()
    up.start()


def zones(server: EmbeddedPostgres) -> dict[str, str]:
    """The time zone of a new session in each database."""
    found = {}
    for database in DATABASES:
        with psycopg.connect(server.url(database)) as connection:
            [found[database]] = connection.execute("SHOW timezone").fetchone() or [""]
    return found


def alter(server: EmbeddedPostgres, database: str, statement: str, *parameters: Any) -> None:
    with psycopg.connect(server.url(database)) as connection:
        connection.execute(statement, parameters)


def test_libpqs_variables_for_other_servers_are_ignored(fresh: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch):
    others = {
        "PGPORT": "5999",
        "PGHOST": "elsewhere.example",
        "PGHOSTADDR": "192.0.2.1",
        "PGUSER": "someone",
        "PGDATABASE": "else",
        "PGSERVICE": "none",
        "PGTZ": "Asia/Seoul",
        "PGDATESTYLE": "german",
        "PGCLIENTENCODING": "EUC_KR",
        "PGOPTIONS": "-c timezone=Asia/Seoul",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGTARGETSESSIONATTRS": "standby",
        "PGSSLMODE": "verify-full",
        "PGPASSWORD": "secret",
    }
    for name, value in others.items():
        monkeypatch.setenv(name, value)

    assert fresh.start() is True
    assert zones(fresh) == DATABASES
    with psycopg.connect(fresh.url("upbit")) as connection:
        assert connection.execute("SHOW datestyle").fetchone() == ("ISO, MDY",)
        assert connection.execute("SHOW client_encoding").fetchone() == ("UTF8",)
    assert (fresh.socket / ".s.PGSQL.5432").exists()


@pytest.mark.parametrize("mask", [0o077, 0o000], ids=oct)
def test_data_and_log_are_private_whatever_the_umask(fresh: EmbeddedPostgres, mask: int):
    old = os.umask(mask)
    try:
        fresh.start()
    finally:
        os.umask(old)
    assert stat.S_IMODE(fresh.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(fresh.log.stat().st_mode) == 0o600


def test_a_reused_pid_is_not_mistaken_for_a_server(down: EmbeddedPostgres):
    with subprocess.Popen([*as_ordinary_user(), "sleep", "60"], cwd="/") as other:
        for note in (down.data / "postmaster.pid", down.socket / ".s.PGSQL.5432.lock"):
            note.write_text(f"{other.pid}\n{down.data}\n1700000000\n5432\n{down.socket}\n\n  123456    654321\nready\n")
            shutil.chown(note, down.data.stat().st_uid)
        started = time.monotonic()
        assert down.start() is True
        assert time.monotonic() - started < 15
        assert postmaster(down) != other.pid
        other.kill()


def test_an_empty_pid_file_does_not_keep_a_server_from_starting(down: EmbeddedPostgres):
    for note in (down.data / "postmaster.pid", down.socket / ".s.PGSQL.5432.lock"):
        note.write_text("")
        shutil.chown(note, down.data.stat().st_uid)
    assert down.start() is True


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for the server's socket."""
    with tempfile.TemporaryDirectory(prefix="e") as folder:
        yield Path(folder)


def test_a_server_that_can_not_start_says_why(down: EmbeddedPostgres):
    settings = down.data / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)pg_ctl .*unrecognized .*"no_such_setting"'):
        down.start()
    settings.write_text(good)

    assert down.start() is True


def test_data_that_became_unreadable_are_never_overwritten(fresh: EmbeddedPostgres):
    fresh.data.mkdir(parents=True)
    (fresh.data / "precious").write_text("rows")

    with pytest.raises(EmbeddedPostgresError):
        fresh.start()
    assert (fresh.data / "precious").read_text() == "rows"
