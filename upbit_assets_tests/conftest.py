"""A real PostgreSQL, started once per session, and an empty migrated database per test."""

import atexit
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg
import pytest
from dagster import DagsterInstance

os.environ["UPBIT_START"] = "2026-01-01-00:00"  # tests import the assets without a database

from upbit_assets.postgres.embedded import SETTINGS, EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets.postgres.tables import metadata
from upbit_assets.sandbox.clock import real_time
from upbit_assets.sandbox.server import Handle, running
from upbit_assets_tests.dagster_internals import events_in_memory, runs_in_memory

T = TypeVar("T")
# the folder of another PostgreSQL's initdb and pg_ctl, to run the tests on that version
BINARIES = os.environ.get("UPBIT_TEST_POSTGRES_BIN")
# the superuser's URL of a Citus coordinator with a distributed database of tests: see docs/scaling.md
CITUS = os.environ.get("UPBIT_TEST_CITUS")
# tests need no durability
SETTINGS.update(fsync="off", full_page_writes="off")
# inherited by the workers
if "UPBIT_TEST_CLUSTER" not in os.environ:
    os.environ["UPBIT_TEST_CLUSTER"] = tempfile.mkdtemp(prefix="upbit-tests-")
    atexit.register(shutil.rmtree, os.environ["UPBIT_TEST_CLUSTER"])
# a tenth of the time of a separate database per test
EMPTYING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    *(f"DELETE FROM {table.fullname}" for table in metadata.sorted_tables),
)


def required(found: T | None, advice: str) -> T:
    """What a test needs of this machine: without it the test is skipped, but fails in CI, where all must run."""
    if not found:
        if os.environ.get("CI"):
            pytest.fail(advice)
        pytest.skip(advice)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest test first, so that it doesn't run last on a single worker."""
    items.sort(key=lambda item: item.path.name != "test_demo.py")


@pytest.fixture(autouse=True)
def _own_limits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't share rate limit state with other tests, whose port may be reused, or with a real run."""
    monkeypatch.setenv("UPBIT_LIMITS_DIR", str(tmp_path_factory.mktemp("limits")))


@pytest.fixture(scope="session", autouse=True)
def _never_the_projects_own_database() -> Iterator[None]:
    """Threads that outlive their test must not start the project's own database."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UPBIT_POSTGRES_URL", "postgresql://127.0.0.1:1/none")
        yield


@pytest.fixture(scope="session", autouse=True)
def _instances_without_revision() -> Iterator[None]:
    """Don't stamp in-memory instances with a schema revision, which takes longer than their single run."""
    with pytest.MonkeyPatch.context() as patch:
        for storage in (events_in_memory, runs_in_memory):
            patch.setattr(storage, "stamp_alembic_rev", lambda *_: None)
        yield


def migrated_cluster() -> Path:
    """The folder of a stopped server with a migrated market database, created once for all workers."""
    folder = Path(os.environ["UPBIT_TEST_CLUSTER"])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = EmbeddedPostgres(folder / "cluster", Path(BINARIES) if BINARIES else None)
        if not server.data.exists():
            server.start(prepare=lambda: migrate(server.url("upbit")))
            server.stop()
    return server.folder


@contextmanager
def a_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL with a migrated market database."""
    with tempfile.TemporaryDirectory(prefix="upbit-tests-") as folder:
        subprocess.run(["cp", "-a", migrated_cluster(), folder], check=True)
        server = EmbeddedPostgres(Path(folder) / "cluster", Path(BINARIES) if BINARIES else None)
        server.start()
        yield server
        # its data isn't needed any more, so skip the checkpoint
        psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0])).send_signal(signal.SIGQUIT)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    with a_server() as server:
        yield server


@functools.cache
def sweeper(url: str) -> psycopg.Connection[Any]:
    """A session that has cached the tables: a new one would first look up hundreds of partitions."""
    connection = psycopg.connect(url, autocommit=True)
    atexit.register(connection.close)
    return connection


def empty(url: str) -> None:
    """End all sessions of a market database and delete all of its rows."""
    engine_for(url).dispose()
    for statement in EMPTYING:
        sweeper(url).execute(statement)


@contextmanager
def copy_of_upbit(server: EmbeddedPostgres, name: str) -> Iterator[str]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE upbit")
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Seoul'")
        yield server.url(name)
        engine_for(server.url(name)).dispose()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def market_database(request: pytest.FixtureRequest) -> Iterator[str]:
    if CITUS:
        yield CITUS
        return
    with copy_of_upbit(request.getfixturevalue("server"), "market") as url:
        yield url


@pytest.fixture
def market_url(market_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a migrated and empty market database, which is also UPBIT_POSTGRES_URL."""
    empty(market_database)
    monkeypatch.setenv("UPBIT_POSTGRES_URL", market_database)
    return market_database


@pytest.fixture
def another_url(server: EmbeddedPostgres) -> Iterator[str]:
    """The URL of another empty market database on the same server."""
    with copy_of_upbit(server, "another") as url:
        yield url


@pytest.fixture
def database(market_url: str) -> Database:
    return Database()


@pytest.fixture(scope="session")
def empty_instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unused Dagster instance; copying it is ten times faster than creating one."""
    folder = tmp_path_factory.mktemp("instance")
    with DagsterInstance.local_temp(str(folder)) as instance:
        instance.get_runs(limit=1)
    return folder


@pytest.fixture
def instance(empty_instance: Path, tmp_path: Path) -> Iterator[DagsterInstance]:
    """A Dagster instance that can be passed to a schedule, unlike an ephemeral one."""
    shutil.copytree(empty_instance, tmp_path / "instance")
    with DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        yield instance


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """The offline exchange over real HTTP, which is also UPBIT_API_URL."""
    with running(market_count=30) as handle:
        monkeypatch.setenv("UPBIT_API_URL", handle.url)
        yield handle


@pytest.fixture
def frozen_exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """The same with its market's clock stopped, so that repeated requests give the same reply."""
    moment = datetime.now(UTC)
    with running(market_count=30, clock=lambda: moment, date=real_time) as handle:
        monkeypatch.setenv("UPBIT_API_URL", handle.url)
        yield handle
