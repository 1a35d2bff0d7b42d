"""What a year of data slows down: a filled instance and database compared with small ones."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from bench.history import fill_gold
from bench.measure import Contender, Result, interleaved, readable
from bench.project import ROOT, Project
from bench.stage import DAY, MARKETS, MINUTE, MarketData, Stage, output_of, span
from bench.webui import Page, webserver
from upbit_assets.assets.gold import gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.automation.changed_windows import find_stale_windows
from upbit_assets.automation.missing_trades import incomplete_windows
from upbit_assets.dagster_internals import prune
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.retention import LAYERS, drop, partitioned
from upbit_assets.sandbox.server import Handle
from upbit_assets.sandbox.server import running as exchange_running

YEAR, TWO_YEARS, KEPT = 365, 730, 381  # days of windows; of partitions; of partitions after retention
LOG_DAYS, GOLD_DAYS = 60, 60  # days of runs; of gold
SMALL_DAYS = 1
ASSETS = (
    *("bronze_ticker_raw", "silver_ticker", "gold_market_stats"),
    *("bronze_orderbook_raw", "silver_orderbook", "gold_orderbook_stats"),
)
EACH = [{"assetKey": {"path": [asset]}} for asset in ASSETS[:3]]
# the page, its query, the variables of each of its requests, and the limit in seconds for all of them
PAGES: tuple[tuple[str, str, list[dict[str, Any]], float], ...] = (
    (
        "The graph, and what the page of each asset polls",
        "AssetGraphLiveQuery",
        [{"assetKeys": [key["assetKey"] for key in EACH]}],
        3,
    ),
    ("The catalog", "AssetCatalogTableQuery", [{"limit": 1000}], 3),
    ("An asset's page", "AssetViewDefinitionQuery", EACH[:1], 3),
    ("An asset's checks", "AssetChecksQuery", EACH[1:2], 3),
    ("The backfill dialogue of three assets, and an asset's partitions", "PartitionHealthQuery", EACH, 5),
)


def pages(stage: Stage) -> Iterator[Result]:
    """Dagster's pages, and retention of its event log."""
    with instances(stage) as (large, small), ExitStack() as running:
        large_days = max(SMALL_DAYS + 1, round(LOG_DAYS * stage.scale))
        counts = [filled(large, YEAR, large_days), filled(small, SMALL_DAYS, SMALL_DAYS)]
        there, here = (
            running.enter_context(webserver(home_of(stage, url), DAGSTER_POSTGRES_URL=url, UPBIT_START=start(days)))
            for url, days in ((large, YEAR), (small, SMALL_DAYS))
        )
        what = f"{counts[0][0]:,} windows, {counts[0][1]:,} runs and {counts[0][2]:,} events"
        for each in PAGES:
            yield page(*each, (large, there), (small, here), what)
        running.close()
        yield pruned(large, small)


def page(
    name: str,
    query: str,
    requests: list[dict[str, Any]],
    most: float,
    large: tuple[str, Page],
    small: tuple[str, Page],
    what: str,
) -> Result:
    """A page's requests, each time after another materialization, as there is one every minute."""
    began = time.perf_counter()
    size = sum(large[1].query(query, **variables) for variables in requests)
    first = time.perf_counter() - began

    def contender(url: str, of: Page) -> Contender:
        return Contender(
            lambda: [of.query(query, **variables) for variables in requests], lambda: materialize_again(url)
        )

    ours, theirs = interleaved(contender(*large), contender(*small), rounds=5)
    return Result(
        f"{name} (`{query}`, {size / 1e6:,.2f} MB), with {what}; the first load after a start took {readable(first)}",
        f"{most:g} seconds; with a day of windows it takes {readable(theirs)}",
        ours,
        most,
        at_most=1,
    )


AGAIN = """
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition FROM (
  SELECT * FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' ORDER BY id DESC LIMIT 6
) AS last
"""


def materialize_again(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(AGAIN.encode())


@contextmanager
def instances(stage: Stage) -> Iterator[tuple[str, str]]:
    """Two Dagster databases, each with one run."""
    project = Project(stage)
    with stage.database(), exchange_running(MARKETS) as exchange:
        collect(project, exchange)
        names = ("dagster_large", "dagster_small")
        with psycopg.connect(stage.server.url("postgres"), autocommit=True) as connection:
            for name in names:
                clone = sql.SQL("CREATE DATABASE {} TEMPLATE dagster").format(sql.Identifier(name))
                connection.execute(clone)
                connection.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'UTC'").format(sql.Identifier(name)))
            large, small = (stage.server.url(name) for name in names)
            yield large, small
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def collect(project: Project, exchange: Handle) -> None:
    """One run from bronze to gold; order books are selected by the ranking, so it must exist first."""
    os.environ["UPBIT_API_URL"] = exchange.url
    for assets in (ASSETS[:3], ASSETS):
        left = windows.at(datetime.now(UTC)).end - datetime.now(UTC)
        if left < MINUTE:
            time.sleep(left.total_seconds() + 1)
        project.materialize(",".join(assets), "--partition", windows.key_of(windows.at(datetime.now(UTC)).start))


def home_of(stage: Stage, url: str) -> Path:
    home = stage.folder / url.partition("?")[0].rpartition("/")[2]
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    return home


def start(days: int) -> str:
    return windows.key_of(windows.at(datetime.now(UTC) - timedelta(days=days)).start)


# Copies the run and its log for each minute; older windows, whose runs were deleted, get only a materialization.
TEMPLATE = """
CREATE TEMP TABLE template_run AS SELECT * FROM runs ORDER BY id DESC LIMIT 1;
CREATE TEMP TABLE template AS SELECT * FROM event_logs WHERE run_id = (SELECT run_id FROM template_run) ORDER BY id;
CREATE TEMP TABLE template_tag AS
  SELECT asset_key, key, value FROM asset_event_tags WHERE event_id IN (SELECT id FROM template);
CREATE TEMP TABLE template_check AS
  SELECT * FROM asset_check_executions WHERE run_id = (SELECT run_id FROM template_run);
CREATE TEMP TABLE old AS SELECT run_id, (SELECT partition FROM template WHERE partition IS NOT NULL LIMIT 1) AS key
  FROM template_run;
CREATE TEMP TABLE new AS
  SELECT at, md5(at::text)::uuid::text AS run_id,
         to_char(date_bin('10 minutes', at, '2000-01-01 00:00Z') AT TIME ZONE 'Asia/Seoul', 'YYYY-MM-DD-HH24:MI') AS key
  FROM (SELECT generate_series(now() - {days} * interval '1 day', now() - {log_days} * interval '1 day', '10 minutes')
        UNION ALL
        SELECT generate_series(now() - {log_days} * interval '1 day' + interval '1 minute', now(), '1 minute')
       ) AS each (at);
ANALYZE new;
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
  SELECT new.run_id, replace(replace(event, old.run_id, new.run_id), old.key, new.key), dagster_event_type,
         at AT TIME ZONE 'UTC', step_key, asset_key, CASE WHEN partition IS NOT NULL THEN new.key END
  FROM new CROSS JOIN old CROSS JOIN template
  WHERE at > now() - {log_days} * interval '1 day' OR dagster_event_type = 'ASSET_MATERIALIZATION'
  ORDER BY at, template.id;
INSERT INTO asset_event_tags (asset_key, key, value, event_timestamp, event_id)
  SELECT event.asset_key, tag.key, tag.value, event.timestamp, event.id
  FROM event_logs AS event JOIN template_tag AS tag USING (asset_key)
  WHERE event.dagster_event_type = 'ASSET_MATERIALIZATION';
INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, partition, partition_set,
                  create_timestamp, update_timestamp, start_time, end_time)
  SELECT new.run_id, snapshot_id, pipeline_name, mode, status,
         replace(replace(run_body, old.run_id, new.run_id), old.key, new.key), new.key, partition_set,
         at AT TIME ZONE 'UTC', at AT TIME ZONE 'UTC', extract(epoch FROM at), extract(epoch FROM at) + 5
  FROM new CROSS JOIN old CROSS JOIN template_run WHERE at > now() - {log_days} * interval '1 day' ORDER BY at;
INSERT INTO run_tags (run_id, key, value)
  SELECT new.run_id, run_tags.key, CASE run_tags.key WHEN 'dagster/partition' THEN new.key ELSE value END
  FROM new CROSS JOIN old JOIN run_tags ON run_tags.run_id = old.run_id
  WHERE at > now() - {log_days} * interval '1 day';
INSERT INTO asset_check_executions (asset_key, check_name, run_id, execution_status, evaluation_event,
                                    evaluation_event_timestamp, materialization_event_storage_id)
  SELECT asset_key, check_name, new.run_id, execution_status, replace(evaluation_event, old.run_id, new.run_id),
         at AT TIME ZONE 'UTC', materialization_event_storage_id
  FROM new CROSS JOIN old CROSS JOIN template_check WHERE at > now() - {log_days} * interval '1 day' ORDER BY at;
"""
COUNTS = """
SELECT (SELECT count(DISTINCT partition) FROM event_logs), (SELECT count(*) FROM runs),
       (SELECT count(*) FROM event_logs)
"""


def filled(url: str, days: int, log_days: int) -> tuple[int, int, int]:
    """Fill an instance with windows and runs; returns its numbers of windows, runs and events."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in TEMPLATE.format(days=days, log_days=log_days).strip().split(";\n"):
            connection.execute(statement.encode())
        connection.execute("VACUUM ANALYZE")
        found: Any = connection.execute(COUNTS.encode()).fetchone()
    return found


def pruned(large: str, small: str) -> Result:
    """Retention that deletes all runs."""
    seconds, counts = [], []
    for url in (large, small):
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
        began = time.perf_counter()
        counts.append(prune(engine, datetime.now(UTC)))
        seconds.append((time.perf_counter() - began) / counts[-1])
    what = f"Retention of Dagster's event log, per run: {counts[0]:,} runs in {readable(seconds[0] * counts[0])}"
    return Result(what, f"the same of {counts[1]:,} runs", seconds[0], seconds[1], at_most=1.5)


def partitions(stage: Stage) -> Iterator[Result]:
    """Tables with years of partitions: making and dropping them, the sensor's look, a market's tickers, old windows."""
    with stage.database() as large, stage.database() as small:
        for data in (large, small):
            data.fill_bronze(DAY, 10)
        yield create_partitions(large, TWO_YEARS, small)
        yield drop_partitions(large, TWO_YEARS - KEPT, TWO_YEARS)
        yield find_stale(large, small, KEPT, everything=False)
        yield find_stale(large, small, KEPT, everything=True)
        yield find_missing_trades(large, small, KEPT)
        yield from by_market(large, small, KEPT)
        yield recompute_gold(large, max(28, round(GOLD_DAYS * stage.scale)))


def count_partitions(data: MarketData) -> int:
    return data.count("pg_class WHERE relispartition AND relkind = 'r'")


def create_partitions(large: MarketData, days: int, small: MarketData) -> Result:
    seconds, counts = [], []
    for data, of in ((large, days), (small, 14)):
        before, began = count_partitions(data), time.perf_counter()
        data.partitions(DAY - timedelta(days=of), DAY)
        taken = time.perf_counter() - began
        counts.append(count_partitions(data) - before)
        seconds.append(taken / counts[-1])
    what = f"Creating the partitions of {days} days, per partition: {counts[0]:,} in {readable(seconds[0] * counts[0])}"
    return Result(what, f"the same of 14 days: {counts[1]:,}", seconds[0], seconds[1], at_most=2)


def drop_partitions(data: MarketData, days: int, of: int) -> Result:
    """Retention that drops many days at once, compared with one of two days."""
    spans = []
    for before in (DAY - timedelta(days=of - days), DAY - timedelta(days=of - days - 2)):
        began, count = time.perf_counter(), 0
        with data.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for layer in LAYERS:
                for table in partitioned(connection, layer):
                    count += drop(connection, table, before)[0]
        spans.append((time.perf_counter() - began, count))
    (long, many), (short, few) = spans
    what = f"Dropping {days} days of partitions, per partition: {many:,} in {readable(long)}"
    return Result(what, f"the same of two days: {few:,}", long / many, short / few, at_most=2)


def find_stale(large: MarketData, small: MarketData, days: int, *, everything: bool) -> Result:
    def contender(data: MarketData) -> Contender:
        cursor: dict[str, Any] = {}
        data.use()
        with Database().connect() as connection:
            while cursor.get("past", True):
                find_stale_windows(connection, cursor, datetime.now(UTC))

        def once() -> None:
            data.use()
            if everything:
                cursor["everything_at"] = 0.0
            with Database().connect() as connection:
                find_stale_windows(connection, cursor, datetime.now(UTC))

        return Contender(once)

    ours, theirs = interleaved(contender(large), contender(small), rounds=10)
    of, most = ("all partitions, every ten minutes", 30) if everything else ("the newest, every ten seconds", 1.5)
    what = f"The sensor's query for stale windows in {of}, with {days} days of partitions"
    return Result(what, "the same with 14 days", ours, theirs, at_most=most)


def find_missing_trades(large: MarketData, small: MarketData, days: int) -> Result:
    """Coverage of the last 28 days, which is as far as it is searched, and of one day; all but an hour of it."""

    def contender(data: MarketData, covered: int) -> Contender:
        first, last = DAY - timedelta(days=covered), DAY - timedelta(hours=1)
        data.run(
            "INSERT INTO bronze.trade_stream_raw (market, raw_data, ingested_at, traded_at, key, connection) "
            "VALUES ('KRW-BTC', '{}', %(first)s, %(first)s, '1', '1')",
            first=first,
        )
        data.run(
            "INSERT INTO silver.trade_coverage (window_start, market, state) SELECT at, market, 'proved' "
            "FROM generate_series(%(first)s, %(last)s, interval '10 minutes') at, "
            "(SELECT DISTINCT market FROM bronze.ticker_raw) AS each",
            first=first,
            last=last,
        )
        data.run("VACUUM ANALYZE silver.trade_coverage")

        def once() -> None:
            data.use()
            with Database().connect() as connection:
                incomplete_windows(connection, DAY)

        return Contender(once)

    ours, theirs = interleaved(contender(large, 28), contender(small, 1), rounds=10)
    what = f"The sensor's query for missing trades, every ten seconds, with 28 days of trades and {days} of partitions"
    return Result(what, "the same with one day of trades and 14 of partitions", ours, theirs, at_most=10)


def by_market(large: MarketData, small: MarketData, days: int) -> Iterator[Result]:
    newest = "SELECT * FROM silver.ticker WHERE market = 'KRW-BTC' {} ORDER BY ingested_at DESC LIMIT 1"

    def contender(data: MarketData, bound: str) -> Contender:
        def read() -> None:
            for _ in range(20):
                data.connection.execute(newest.format(bound).encode()).fetchall()

        return Contender(read)

    day = "AND ingested_at > now() - interval '1 day'"
    ours, theirs = interleaved(contender(large, day), contender(small, day), rounds=10)
    what = f"A market's newest ticker by a query with a time range, with {days} days of partitions"
    yield Result(what, "the same with 14 days", ours / 20, theirs / 20, at_most=1.5)
    ours, theirs = interleaved(contender(large, ""), contender(large, day), rounds=10)
    yield Result("The same without a time range", "with a time range", ours / 20, theirs / 20, at_most=100)


def recompute_gold(data: MarketData, days: int) -> Result:
    """Recomputing a window at the start of a month's partition of gold, compared with the newest window."""
    last = DAY - WINDOW
    first = (last - timedelta(days=days)).replace(hour=0, minute=0)
    fill_gold(data, first, last)
    month = max(first, last.replace(day=1, hour=0, minute=0) if last.day > 20 else first)
    rows = data.count("gold.market_stats")

    def rebuild(at: datetime) -> Contender:
        window = span(at, 10)
        data.fill_bronze(at, 10)
        data.write(silver_ticker, window, output_of(silver_ticker, window, tables.bronze_ticker_raw))
        load = output_of(gold_market_stats, window, tables.silver_ticker)
        return Contender(lambda: data.write(gold_market_stats, window, load))

    ours, theirs = interleaved(rebuild(windows.at(month).start), rebuild(windows.at(last).start), rounds=10)
    what = f"Gold of a window {(last - month).days} days old recomputed, in {rows:,} rows"
    return Result(what, "the newest window", ours, theirs, at_most=1.5)


def year(stage: Stage) -> Iterator[Result]:
    yield from pages(stage)
    yield from partitions(stage)


TEXT = """# After a year

Written by `make bench-year`, on {machine}, with the windows of a whole year, the
partitions of two years, and runs and gold of 60 days × {scale:g}.

Each line compares with the same on a day of windows and runs, or on two weeks of partitions; pages compare with a limit
in seconds. The contenders took turns (A B A B …); the times are the medians of all rounds.

{table}
"""
