"""Distributing the tables, against a strict stand-in for Citus on a real PostgreSQL: citus.sql."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from upbit_assets.cli import main
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.tables import metadata
from upbit_assets_tests.conftest import copy_of_upbit

STAND_IN = Path(__file__).with_name("citus.sql").read_text()
BY_MARKET = {table.fullname for table in metadata.sorted_tables if "market" in table.c and table.schema != "live"}
TRIGGERED = "FOR EACH STATEMENT EXECUTE FUNCTION tsvector_update_trigger()"
WHOLE = {table.fullname for table in metadata.sorted_tables if table.schema != "live"} - BY_MARKET


@pytest.fixture(scope="module")
def cluster(server: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database with the stand-in, whose machines accept the pipeline's login."""
    with copy_of_upbit(server, "cluster") as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(STAND_IN.encode())
        connection.execute("ALTER ROLE upbit_pipeline LOGIN")
        yield url
        connection.execute("ALTER ROLE upbit_pipeline NOLOGIN")


@pytest.fixture
def citus(cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    """The owner of that database, which is UPBIT_POSTGRES_URL, before anything is distributed."""
    monkeypatch.setenv("UPBIT_POSTGRES_URL", cluster)
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute("DELETE FROM pg_dist_partition")
        yield connection


def distribute() -> Result:
    return CliRunner().invoke(main, ["distribute"])


def distributed(connection: psycopg.Connection[Any], method: str) -> set[str]:
    """The tables, without their partitions."""
    names = (
        "SELECT logicalrelid::text FROM pg_dist_partition JOIN pg_class ON oid = logicalrelid "
        "WHERE partmethod = %s AND NOT relispartition"
    )
    return {name for (name,) in connection.execute(names, [method])}


def number(connection: psycopg.Connection[Any], query: str) -> int:
    [(value,)] = connection.execute(query.encode())
    return value


def test_tables_are_distributed_by_market_or_replicated(citus: psycopg.Connection[Any]):
    result = distribute()
    assert result.exit_code == 0, result.output
    assert distributed(citus, "h") == BY_MARKET
    assert distributed(citus, "n") == WHOLE
    assert number(citus, "SELECT count(DISTINCT colocationid) FROM pg_dist_partition WHERE partmethod = 'h'") == 1
    partitions = "SELECT count(*) FROM pg_inherits JOIN pg_class ON oid = inhparent WHERE relkind = 'p'"
    assert number(citus, partitions) == number(
        citus, "SELECT count(*) FROM pg_dist_partition JOIN pg_class ON oid = logicalrelid WHERE relispartition"
    )


def test_repeating_it_changes_nothing_and_continues_an_interrupted_one(citus: psycopg.Connection[Any]):
    citus.execute(f"CREATE TRIGGER in_the_way BEFORE INSERT ON silver.trade {TRIGGERED}".encode())
    cut_off = distribute()
    assert cut_off.exit_code == 1
    assert "silver.trade: it has triggers" in cut_off.output
    before = distributed(citus, "h")
    assert before < BY_MARKET

    citus.execute("DROP TRIGGER in_the_way ON silver.trade")
    assert distribute().exit_code == 0
    assert distributed(citus, "h") == BY_MARKET
    again = distribute()
    assert again.exit_code == 0
    assert again.output.count("already distributed") == len(BY_MARKET | WHOLE)


def test_without_citus_it_says_what_to_do(market_url: str):
    result = distribute()
    assert result.exit_code == 1
    assert "CREATE EXTENSION citus" in result.output


def test_a_pipeline_without_login_is_reported_before_anything_changes(
    citus: psycopg.Connection[Any],
):
    citus.execute("ALTER ROLE upbit_pipeline NOLOGIN")
    result = distribute()
    citus.execute("ALTER ROLE upbit_pipeline LOGIN")
    assert result.exit_code == 1
    assert "ALTER ROLE upbit_pipeline LOGIN" in result.output
    assert number(citus, "SELECT count(*) FROM pg_dist_partition") == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("CREATE UNIQUE INDEX ON gold.market_daily (day, id)", "does not include the distribution column"),
        ("CREATE UNIQUE INDEX ON gold.market_daily_default (id)", "does not include the distribution column"),
        ("CREATE UNIQUE INDEX ON gold.market_daily (day) INCLUDE (market)", "does not include the distribution column"),
        (
            "ALTER TABLE gold.market_daily ADD FOREIGN KEY (day) REFERENCES gold.market_daily_build (window_start)",
            "it has foreign keys",
        ),
        ("ALTER TABLE gold.market_daily ALTER id TYPE int", "identity columns can only be bigint"),
        ("ALTER TABLE gold.market_daily ALTER market TYPE text", "types don't match"),
        (
            f"CREATE TRIGGER one BEFORE INSERT ON gold.market_daily {TRIGGERED}",
            "it has triggers",
        ),
    ],
)
def test_the_stand_in_rejects_what_citus_rejects(citus: psycopg.Connection[Any], change: str, why: str):
    distribute_one = "SELECT create_distributed_table('{}', 'market', colocate_with => '{}')"
    with citus.transaction(force_rollback=True):
        citus.execute(distribute_one.format("bronze.ticker_raw", "none").encode())
        citus.execute(change.encode())
        with pytest.raises(psycopg.errors.FeatureNotSupported, match=why):
            citus.execute(distribute_one.format("gold.market_daily", "bronze.ticker_raw").encode())
