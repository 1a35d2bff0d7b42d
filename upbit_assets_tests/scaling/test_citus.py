"""Distributing the tables, against a strict stand-in for Citus on a real PostgreSQL: citus.sql."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from dagster import DagsterInstance, Failure, TimeWindow
from starlette.datastructures import QueryParams

from upbit_assets import day_checks
from upbit_assets.assets import gold, silver
from upbit_assets.assets.selection import NoRankingError
from upbit_assets.automation import changed_windows, missing_days, missing_trades
from upbit_assets.check_results import delete_dropped_results
from upbit_assets.cli import main
from upbit_assets.dashboard.endpoints import ENDPOINTS
from upbit_assets.dashboard.parameters import RequestError, parse
from upbit_assets.feeds import FEEDS, GOLD_TABLES, Feed
from upbit_assets.metabase import declared
from upbit_assets.monitoring.status import report
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres.citus import VIEWS
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.origin import OriginError, claim_origin
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets.postgres.tables import metadata
from upbit_assets.retention import require_kept
from upbit_assets.stale import collected, stale
from upbit_assets_tests.conftest import copy_of_upbit
from upbit_assets_tests.pipeline import compute
from upbit_assets_tests.scaling.refusals import kinds, reads_distributed, refusing, requires_merge, tree_of, walk

CARDS = Path(declared.__file__).with_name("cards")
ASSETS = (
    *(
        silver.silver_ticker,
        silver.silver_orderbook,
        silver.silver_candle,
        silver.silver_trade,
        silver.silver_trade_stream,
    ),
    *(gold.gold_market_stats, gold.gold_orderbook_stats, gold.gold_market_daily, gold.gold_trade_stats),
)
STAND_IN = Path(__file__).with_name("citus.sql").read_text()
ROLES = ("upbit_pipeline", "upbit_reader")
BY_MARKET = {table.fullname for table in metadata.sorted_tables if "market" in table.c and table.schema != "live"}
TRIGGERED = "FOR EACH STATEMENT EXECUTE FUNCTION tsvector_update_trigger()"
WHOLE = {table.fullname for table in metadata.sorted_tables if table.schema != "live"} - BY_MARKET


@pytest.fixture(scope="module")
def cluster(server: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database with the stand-in, which has what `distribute` requires."""
    with copy_of_upbit(server, "cluster") as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(STAND_IN.encode())
        connection.execute("ALTER DATABASE cluster SET citus.multi_shard_modify_mode = 'sequential'")
        for role in ROLES:
            connection.execute(f"ALTER ROLE {role} LOGIN".encode())
        yield url
        for role in ROLES:
            connection.execute(f"ALTER ROLE {role} NOLOGIN".encode())


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


def test_readers_views_of_raw_rows_read_with_the_owners_privileges(citus: psycopg.Connection[Any]):
    assert distribute().exit_code == 0
    unreadable = citus.execute(VIEWS.replace(":reader", "'upbit_reader'").encode()).fetchall()
    assert not unreadable
    citus.execute("SET ROLE upbit_reader")
    for view in ("bronze.newest_ticker", "bronze.newest_trade", "silver.failing_check", "silver.archive_day"):
        citus.execute(f"SELECT * FROM {view}".encode())
    citus.execute("RESET ROLE")


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


@pytest.mark.parametrize(
    ("change", "undo", "printed"),
    [
        *(
            (
                f"ALTER ROLE {role} NOLOGIN",
                f"ALTER ROLE {role} LOGIN",
                f"_propagation = off;\n  ALTER ROLE {role} LOGIN;",
            )
            for role in ROLES
        ),
        (
            "REVOKE CONNECT ON DATABASE cluster FROM PUBLIC",
            "GRANT CONNECT ON DATABASE cluster TO PUBLIC",
            "GRANT CONNECT ON DATABASE cluster TO upbit_reader;",
        ),
        (
            "ALTER DATABASE cluster RESET citus.multi_shard_modify_mode",
            "ALTER DATABASE cluster SET citus.multi_shard_modify_mode = 'sequential'",
            "here:\n  ALTER DATABASE cluster SET citus.multi_shard_modify_mode = 'sequential';",
        ),
        *(
            (
                f"INSERT INTO not_in_pg_hba VALUES (2, '{role}')",
                "DELETE FROM not_in_pg_hba",
                "in pg_hba.conf of worker:5432, before other lines, then SELECT pg_reload_conf() there:\n  host cl",
            )
            for role in ROLES
        ),
        (
            "DELETE FROM pg_dist_node WHERE groupid > 0",
            "INSERT INTO pg_dist_node VALUES (2, 1, 'worker', 5432)",
            "SELECT citus_add_node(",
        ),
    ],
)
def test_what_the_cluster_lacks_is_printed_before_anything_changes(
    citus: psycopg.Connection[Any], change: str, undo: str, printed: str
):
    citus.execute(change.encode())
    try:
        result = distribute()
    finally:
        citus.execute(undo.encode())
    assert result.exit_code == 1
    assert printed in result.output
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


@pytest.fixture
def refusing_queries(citus: psycopg.Connection[Any], cluster: str) -> Iterator[list[str]]:
    """The distributed database, in which queries are refused as by Citus; the queries that were parsed."""
    citus.execute("TRUNCATE bronze.origin, bronze.retention")
    assert distribute().exit_code == 0
    with refusing(cluster) as parsed:
        yield parsed
    citus.execute("TRUNCATE bronze.origin, bronze.retention, bronze.trade_stream_raw")
    engine_for(cluster).dispose()


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (
            "SELECT each.start FROM unnest(ARRAY[now()]) AS each (start) "
            "WHERE EXISTS (SELECT 1 FROM bronze.ticker_raw WHERE ingested_at >= each.start)",
            "correlated subqueries are not supported when the FROM clause contains a set returning function",
        ),
        (
            "SELECT window_start FROM silver.ticker_build AS build WHERE bronze_rows > "
            "(SELECT count(*) FROM bronze.ticker_raw WHERE ingested_at >= build.window_start)",
            "correlated subqueries are not supported when the FROM clause contains a reference table",
        ),
        (
            "SELECT day FROM bronze.candle_page AS page WHERE NOT EXISTS (SELECT 1 FROM bronze.retention AS dropped "
            "WHERE page.day < kept_from AND NOT EXISTS (SELECT 1 FROM bronze.restored WHERE day = page.day))",
            "correlated subqueries are not supported when the FROM clause contains a reference table",
        ),
        (
            "SELECT rows FROM unnest(ARRAY[now()]) AS each (start) CROSS JOIN LATERAL "
            "(SELECT count(*) AS rows FROM bronze.ticker_raw WHERE ingested_at >= each.start) AS counted",
            "cannot push down this subquery",
        ),
        (
            "SELECT there FROM generate_series(now(), now(), interval '1 day') AS each (start) LEFT JOIN LATERAL "
            "(SELECT true AS there FROM silver.trade_coverage WHERE window_start = each.start LIMIT 1) AS row ON true",
            "cannot perform a lateral outer join when a distributed subquery references a set returning function",
        ),
        (
            "SELECT EXISTS (SELECT FROM silver.ticker_default WHERE ingested_at > now())",
            'a column definition list is required for functions returning "record"',
        ),
        (
            "SELECT 1 FROM bronze.ticker_raw WHERE written_in < (pg_snapshot_xmax(pg_current_snapshot())::text)::int8",
            "each machine has its own transactions and snapshots",
        ),
        (
            "INSERT INTO bronze.origin (simulated) VALUES (true) ON CONFLICT DO NOTHING",
            "permission denied for table origin",
        ),
        (
            "DELETE FROM silver.check_result USING bronze.retention WHERE table_name = asset",
            "permission denied for table retention",
        ),
    ],
)
def test_the_stand_in_refuses_the_queries_that_citus_refuses(
    refusing_queries: list[str], cluster: str, query: str, why: str
):
    with engine_for(cluster).connect() as connection, pytest.raises(psycopg.errors.FeatureNotSupported, match=why):
        connection.execute(sa.text(query.replace("::", "\\:\\:")))


@pytest.mark.parametrize("feed", FEEDS, ids=attrgetter("name"))
def test_silver_is_computed_on_the_machines_that_have_the_raw_rows(
    refusing_queries: list[str], cluster: str, feed: Feed
):
    """For a limit, and for a window function over several markets, Citus would first copy them to the coordinator."""
    refinement = feed.refinement
    rows = refinement.validated(sa.select(refinement.bronze).subquery("bronze"))
    compiled: Any = rows.compile(engine_for(cluster), compile_kwargs={"render_postcompile": True})
    with psycopg.connect(cluster) as owner:
        query = psycopg.ClientCursor(owner).mogrify(str(compiled), compiled.params)
        relations, tree = kinds(owner), tree_of(owner, query)
    read = [each for each, _ in walk(tree) if each["node"] == "QUERY" and reads_distributed(each, relations)]
    assert len(read) > 3
    assert not any(map(requires_merge, read))
    assert "market" in refinement.identity, "by which row_number is partitioned"


def queries(connection: sa.Connection) -> Iterator[Callable[[], object]]:
    """Each query of the sensors, checks and board, and what it needs to be executed."""
    moment, instance = datetime.now(UTC), DagsterInstance.ephemeral()
    for of in GOLD_TABLES:
        start = of.axis.at(moment).start
        yield partial(stale, connection, of, {start, start - of.axis.length})
        yield partial(collected, connection, of, TimeWindow(start, start + of.axis.length))
    yield partial(changed_windows.find_stale_windows, connection, {}, moment)
    yield partial(missing_trades.incomplete_windows, connection, moment)
    yield partial(missing_days.missing_days, connection, {}, moment)
    for feed in FEEDS:
        span = feed.axis.at(moment - feed.axis.length)
        yield partial(require_kept, connection, feed.refinement.silver, span)
        yield partial(require_kept, connection, feed.refinement.bronze, span)
    for check in (day_checks.trades_and_candles_agree, day_checks.candles_and_tickers_agree):
        yield partial(check.function, connection, days.at(moment))
    for endpoint in ENDPOINTS:
        path = {"market": "KRW-BTC"} if "{market}" in endpoint.path else {}
        yield partial(endpoint.answer, connection, parse(endpoint.parameters, path, QueryParams()))
    yield partial(connection.exec_driver_sql, (CARDS / "volatility_rank.sql").read_text())
    yield partial(report, connection, instance, "1", moment)
    yield partial(delete_dropped_results, connection)
    for asset in ASSETS:
        yield partial(compute, Database(), asset, moment - DAY)


def test_it_accepts_those_of_the_project(refusing_queries: list[str], cluster: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPBIT_CANDLE_MARKETS", "KRW-BTC")
    monkeypatch.setenv("UPBIT_TRADE_MARKETS", "KRW-BTC")
    with engine_for(cluster).begin() as connection:
        claim_origin(connection, "here", simulated=True)
        with pytest.raises(OriginError):
            claim_origin(connection, "here", simulated=False)
    tomorrow = datetime.now(UTC) + DAY
    with psycopg.connect(cluster, autocommit=True) as owner:
        for table in metadata.tables:
            owner.execute("INSERT INTO bronze.retention VALUES (%s, %s, now())", [table, tomorrow])
        owner.execute(
            "INSERT INTO bronze.trade_stream_raw (market, raw_data, ingested_at, traded_at, key, connection) "
            "VALUES ('KRW-BTC', '{}', now(), now() - interval '1 hour', '1', '1')"
        )
    with Database().connect() as connection:
        for query in queries(connection):
            with suppress(Failure, RequestError, NoRankingError):  # there is no data
                query()
    assert len(refusing_queries) > 100
