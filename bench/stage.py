"""A separate PostgreSQL server with fresh databases, and the benchmarks' data."""

import logging
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from dagster import AssetsDefinition, PartitionKeyRange, TimeWindow, build_output_context
from psycopg import sql

from upbit_assets import dagster_internals
from upbit_assets.definitions import MarketDataIOManager
from upbit_assets.partitions import SEOUL, WINDOW, Axis, windows
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets.postgres_io import Load, Rows, in_window, writer
from upbit_assets.sandbox import wire
from upbit_assets.sandbox.market import Market

MARKETS = 855
MINUTE = timedelta(minutes=1)
# yesterday in Seoul: the last day whose windows are all over, so that Dagster can materialize them
DAY = datetime.now(SEOUL).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
numbers = count()
log = logging.getLogger("bench")


@dataclass(frozen=True)
class Stage:
    """The server, a temporary folder, and the scale of the data: 1 is that of the targets."""

    server: EmbeddedPostgres
    folder: Path
    scale: float = 1

    def snapshots(self, rows: int) -> int:
        """The number of snapshots of all markets that have about so many rows."""
        return max(10, round(rows * self.scale / MARKETS))

    @contextmanager
    def database(self) -> Iterator["MarketData"]:
        """A fresh, migrated market database; UPBIT_POSTGRES_URL is set to it."""
        name = sql.Identifier(f"bench_{next(numbers)}")
        url = self.server.url(name.as_string().strip('"'))
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as maintenance:
            maintenance.execute(sql.SQL("CREATE DATABASE {} TEMPLATE upbit").format(name))
            maintenance.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Seoul'").format(name))
            with psycopg.connect(url, autocommit=True) as connection:
                market_data = MarketData(connection, url)
                market_data.use()
                yield market_data
            engine_for(url).dispose()
            maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@dataclass(frozen=True)
class MarketData:
    """A market database, and a superuser's connection to it."""

    connection: psycopg.Connection[Any]
    url: str

    def use(self) -> None:
        os.environ["UPBIT_POSTGRES_URL"] = self.url

    @property
    def engine(self) -> sa.Engine:
        return engine_for(self.url)

    def run(self, statement: str, **values: Any) -> int:
        return self.connection.execute(statement.encode(), values or None).rowcount

    def count(self, name: str) -> int:
        ((rows,),) = self.connection.execute(f"SELECT count(*) FROM {name}".encode())
        return rows

    def busy(self) -> float:
        """The server's own count of seconds spent executing statements in this database."""
        flush = "SELECT pg_stat_force_next_flush()"
        with self.engine.connect() as pooled:
            pooled.exec_driver_sql(flush)
        self.run(flush)
        ((milliseconds,),) = self.connection.execute(
            "SELECT active_time FROM pg_stat_database WHERE datname = current_database()"
        )
        return milliseconds / 1000

    def clear(self, *names: str) -> None:
        """Empty the tables, with a checkpoint so that no pending write slows the next contender."""
        self.run(f"TRUNCATE {', '.join(names)}")
        self.run("CHECKPOINT")

    def partitions(self, first: datetime, last: datetime) -> None:
        while self.connection.execute("SELECT bronze.make_partitions(%s, %s)", (first, last)).fetchone() != (0,):
            pass

    def write(self, asset: AssetsDefinition, window: TimeWindow, rows: "Load | Rows", axis: Axis = windows) -> float:
        """Store an asset's output through the IO manager; returns the `seconds` of its metadata."""
        self.use()
        context = build_output_context(
            asset_key=asset.key,
            definition_metadata=asset.metadata_by_key[asset.key],
            asset_partitions_def=axis.partitions,
            asset_partition_key_range=PartitionKeyRange(
                axis.key_of(window.start), axis.key_of(window.end - axis.length)
            ),
        )
        MarketDataIOManager(database=Database()).handle_output(context, rows)
        seconds: Any = context.get_logged_metadata()["seconds"]
        return float(seconds.value)

    def append(self, table: sa.Table, window: TimeWindow, loads: Iterable[Load], axis: Axis) -> None:
        """Store loads one by one, as the assets of history do."""
        self.use()
        keys = [axis.key_of(start) for start in axis.starts_in(window)]
        with Database().connect() as connection, writer(connection, table, keys, window, log) as out:
            for load in loads:
                out.append(load)

    def fill_bronze(self, first: datetime, snapshots: int, *, bad: bool = False) -> None:
        """A snapshot a minute of the offline exchange's tickers, each with different prices.

        `bad`: one row in a thousand is invalid, and one in a thousand a duplicate.
        """
        self.run("CREATE TABLE IF NOT EXISTS sample (nth int, market text, raw_data jsonb)")
        self.run("TRUNCATE sample")
        with self.connection.cursor() as cursor, cursor.copy("COPY sample FROM STDIN") as copy:
            for nth, (market, text) in enumerate(tickers(first)):
                copy.write_row((nth, market, text))
        self.partitions(first, first + snapshots * MINUTE)
        self.run(
            """
            INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at)
            SELECT market, raw_data || jsonb_build_object(
                     'trade_price', price,
                     'signed_change_rate', round(price / (raw_data->>'prev_closing_price')::numeric - 1, 10)),
                   %(first)s + snapshot * interval '1 minute'
            FROM generate_series(0, %(last)s) snapshot CROSS JOIN sample
                 CROSS JOIN LATERAL (SELECT CASE
                   WHEN %(bad)s AND (855 * snapshot + nth) %% 1000 = 0 THEN -1
                   ELSE round((raw_data->>'trade_price')::numeric * (1 + (nth + snapshot) %% 997 / 10000.0), 8) END
                 ) AS moved(price)
                 CROSS JOIN generate_series(
                   1, CASE WHEN %(bad)s AND (855 * snapshot + nth) %% 1000 = 500 THEN 2 ELSE 1 END)
            """,
            **{"first": first, "last": snapshots - 1, "bad": bad},
        )
        self.run("VACUUM ANALYZE bronze.ticker_raw")


def tickers(at: datetime) -> list[tuple[str, str]]:
    """(market, its ticker as JSON text) of every market of the offline exchange."""
    market = Market(count=MARKETS)
    return [(code, wire.array([wire.raw(market.ticker(code, at))])[1:-1]) for code in codes()]


@cache
def codes() -> tuple[str, ...]:
    """The markets of the offline exchange."""
    return tuple(listing.market for listing in Market(count=MARKETS).markets())


def span(first: datetime, snapshots: int) -> TimeWindow:
    """The windows of so many snapshots, one a minute."""
    return TimeWindow(first, first + -(-snapshots // 10) * WINDOW)


def output_of(asset: AssetsDefinition, window: TimeWindow, *sources: sa.Table) -> Load:
    """What the asset returns for the windows of its sources."""
    selects = (sa.select(source).where(in_window(source, window)) for source in sources)
    return dagster_internals.output_of(asset, window, **dict(zip(asset.keys_by_input_name, selects, strict=True)))


def psql(stage: Stage, market_data: MarketData, file: Path) -> None:
    command: list[str | Path] = [
        stage.server.binaries / "psql",
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-f",
        file,
        market_data.url,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
