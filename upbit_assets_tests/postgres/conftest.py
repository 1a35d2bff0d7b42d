"""The lab's tables along with the schema's, emptied for each test, which is faster than a database each."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets_tests.postgres.lab import lab, make_tables


@pytest.fixture(scope="session")
def lab_in_place(server: EmbeddedPostgres) -> Iterator[str]:
    url = server.url("lab")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE lab TEMPLATE upbit")
    make_tables(url)
    yield url
    engine_for(url).dispose()


@pytest.fixture
def lab_url(lab_in_place: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database with the lab's empty tables, which is also UPBIT_POSTGRES_URL."""
    with psycopg.connect(lab_in_place) as connection:
        names = sql.SQL(", ").join(sql.Identifier(str(table.schema), table.name) for table in lab.sorted_tables)
        connection.execute(sql.SQL("TRUNCATE {}").format(names))
    monkeypatch.setenv("UPBIT_POSTGRES_URL", lab_in_place)
    return lab_in_place


@pytest.fixture
def lab_database(lab_url: str) -> Database:
    return Database()
