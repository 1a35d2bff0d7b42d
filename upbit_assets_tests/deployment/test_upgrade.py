"""A database with an earlier version's data is upgraded to this version."""

import json
from collections.abc import Iterator
from typing import Any

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from upbit_assets.postgres import migrate as migrations
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import alembic_config, migrate
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets_tests.deployment.conftest import url_as
from upbit_assets_tests.deployment.rows import contents, fill


def earlier_versions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", migrations.__file__.replace("migrate.py", "migrations"))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][1:]


@pytest.fixture
def database(deployed: EmbeddedPostgres) -> Iterator[str]:
    """An empty database of the owner's, as its URL."""
    with psycopg.connect(deployed.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE earlier OWNER owner")
        yield url_as(deployed, "owner", "earlier")
        connection.execute("DROP DATABASE earlier WITH (FORCE)")


def some_quick(versions: list[str]) -> list[Any]:
    """Each fifth, and the others as long tests."""
    return [
        pytest.param(version, marks=[pytest.mark.long] if place % 5 else []) for place, version in enumerate(versions)
    ]


@pytest.mark.parametrize("version", some_quick(earlier_versions()))
def test_every_row_of_an_earlier_version_is_there_after_the_migrations(database: str, version: str):
    engine = sa.create_engine(sqlalchemy_url(database), poolclass=sa.NullPool)
    with engine.begin() as connection:
        alembic.command.upgrade(alembic_config(connection), version)
        connection.execute(sa.text("SELECT bronze.make_partitions(now(), now())"))
    fill(database)
    before = contents(database)
    assert all(before[table] for table in ("bronze.ticker_raw", "silver.ticker", "gold.market_stats"))

    migrate(database)

    after = contents(database)
    for table, rows in before.items():
        known = json.loads(rows[0]).keys() if rows else ()
        assert sorted(json.dumps({name: json.loads(row)[name] for name in known}) for row in after[table]) == sorted(
            json.dumps(json.loads(row)) for row in rows
        )
