"""A real PostgreSQL, started once a session, and a fresh migrated database a test."""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets.sandbox.server import Handle, running

# the folder of another PostgreSQL's initdb and pg_ctl, to run the tests on that version
BINARIES = os.environ.get("UPBIT_TEST_POSTGRES_BIN")
numbers = count()


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="upbit-tests-") as folder:
        server = EmbeddedPostgres(Path(folder), Path(BINARIES) if BINARIES else None)
        server.start(prepare=lambda: migrate(server.url("upbit")))
        yield server
        server.stop()


@pytest.fixture
def market_url(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a fresh, migrated and empty market database, which is also UPBIT_POSTGRES_URL."""
    name = f"test_{next(numbers)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE upbit").format(sql.Identifier(name)))
        connection.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Seoul'").format(sql.Identifier(name)))
        monkeypatch.setenv("UPBIT_POSTGRES_URL", server.url(name))
        yield server.url(name)
        engine_for(server.url(name)).dispose()
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(market_url: str) -> Database:
    return Database()


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """The offline exchange over real HTTP, which is also UPBIT_API_URL."""
    with running(market_count=30) as handle:
        monkeypatch.setenv("UPBIT_API_URL", handle.url)
        yield handle
