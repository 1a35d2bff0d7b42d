"""Dagster's own database must have the time zone UTC."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.instance import InstanceStorage
from upbit_assets.settings import SettingError

OPEN: tuple[None, dict[str, Any]] = (None, {})


@pytest.fixture
def owner(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator["psycopg.Connection[tuple[str]]"]:
    """A login to the server, with an empty database for Dagster in Seoul's time zone."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute('CREATE DATABASE "For Dagster"')
        connection.execute("""ALTER DATABASE "For Dagster" SET timezone = 'Asia/Seoul'""")
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url("For Dagster"))
        yield connection
        connection.execute('DROP DATABASE "For Dagster" WITH (FORCE)')


def test_another_zone_is_an_error_whose_statement_fixes_it(owner: "psycopg.Connection[tuple[str]]"):
    with pytest.raises(
        SettingError, match=r"DAGSTER_POSTGRES_URL has the time zone Asia/Seoul \(set by: database"
    ) as error:
        InstanceStorage.from_config_value(*OPEN)
    statement = str(error.value).partition("then: ")[2]
    assert statement == """ALTER DATABASE "For Dagster" SET timezone = 'UTC';"""
    owner.execute(statement.encode())
    InstanceStorage.from_config_value(*OPEN)


def test_a_logins_zone_is_an_error_too(owner: "psycopg.Connection[tuple[str]]", server: EmbeddedPostgres):
    owner.execute("""ALTER DATABASE "For Dagster" SET timezone = 'UTC'""")
    owner.execute("ALTER ROLE postgres SET timezone = 'America/New_York'")
    try:
        with pytest.raises(SettingError, match=r"time zone America/New_York \(set by: user") as error:
            InstanceStorage.from_config_value(*OPEN)
        with psycopg.connect(server.url("For Dagster")) as connection:
            connection.execute(str(error.value).partition("then: ")[2].encode())
        InstanceStorage.from_config_value(*OPEN)
    finally:
        owner.execute("ALTER ROLE postgres RESET timezone")


def test_a_zone_of_the_environment_is_an_error_too(
    owner: "psycopg.Connection[tuple[str]]", monkeypatch: pytest.MonkeyPatch
):
    owner.execute("""ALTER DATABASE "For Dagster" SET timezone = 'UTC'""")
    monkeypatch.setenv("PGTZ", "Asia/Seoul")
    with pytest.raises(SettingError, match=r"time zone Asia/Seoul \(set by: client.* unset PGTZ"):
        InstanceStorage.from_config_value(*OPEN)


@pytest.mark.parametrize("zone", ["UTC", "Etc/UTC", "GMT"])
def test_every_name_of_utc_is_accepted(owner: "psycopg.Connection[tuple[str]]", zone: str):
    owner.execute(f"""ALTER DATABASE "For Dagster" SET timezone = '{zone}'""".encode())
    InstanceStorage.from_config_value(*OPEN)


def test_london_is_not_utc_in_summer(owner: "psycopg.Connection[tuple[str]]"):
    owner.execute("""ALTER DATABASE "For Dagster" SET timezone = 'Europe/London'""")
    with pytest.raises(SettingError, match="Europe/London"):
        InstanceStorage.from_config_value(*OPEN)
