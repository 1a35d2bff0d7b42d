"""Between layers, inside the database: a million rows, and a day's backfill."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pandas as pd
import psycopg
import sqlalchemy as sa
from dagster import TimeWindow

from bench.copying import SILVER, to_sql
from bench.measure import Contender, Result, interleaved
from bench.project import Project
from bench.stage import DAY, MARKETS, MINUTE, MarketData, Stage, output_of, psql, span
from upbit_assets.assets.gold import gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import Load, in_window
from upbit_assets.postgres_io.writer import PLANNER, CreateStage

BUILT = ("silver.ticker", "silver.ticker_rejected", "silver.ticker_build")
NUMBERS = ("trade_price", "acc_trade_volume_24h", "acc_trade_price_24h", "signed_change_rate")
COLUMNS = {
    "market": "market",
    "trade_date_kst": "trade_date",
    "trade_time_kst": "trade_time",
    "trade_price": "trade_price",
    "acc_trade_volume_24h": "acc_trade_volume",
    "ingested_at": "ingested_at",
    "acc_trade_price_24h": "acc_trade_price",
    "signed_change_rate": "change_rate",
    "traded_at": "traded_at",
}


def silver(stage: Stage) -> list[Result]:
    snapshots = stage.snapshots(1_000_000)
    window, few = span(DAY, snapshots), max(10, snapshots // 20)
    with stage.database() as market_data:
        market_data.fill_bronze(DAY, snapshots, bad=True)
        load = output_of(silver_ticker, window, tables.bronze_ticker_raw)
        market_data.write(silver_ticker, window, load)
        market_data.run(f"CREATE TABLE typed AS SELECT {SILVER} FROM silver.ticker")
        market_data.run("VACUUM ANALYZE typed")
        raw, taken = market_data.count("bronze.ticker_raw"), market_data.count("typed")
        clear = lambda: market_data.clear(*BUILT)  # noqa: E731
        plain = f"INSERT INTO silver.ticker ({SILVER}) SELECT * FROM typed"
        ours, typed, by_pandas = interleaved(
            Contender(lambda: market_data.write(silver_ticker, window, load), clear),
            Contender(lambda: market_data.run(plain), clear),
            Contender(lambda: round_trip(market_data, TimeWindow(DAY, DAY + few * MINUTE)), clear),
        )
    what = f"Bronze to silver: {raw:,} raw rows validated, {raw - taken:,} of them rejected or duplicates"
    return [
        Result(
            what,
            f"the same through pandas and `to_sql`, scaled from {few * MARKETS:,} rows",
            ours,
            by_pandas * snapshots / few,
            at_least=5,
        ),
        Result(what, "INSERT … SELECT of the silver rows from a typed table", ours, typed, at_least=0.4),
    ]


def round_trip(market_data: MarketData, window: TimeWindow) -> None:
    """Silver as usually written with pandas."""
    bronze = tables.bronze_ticker_raw
    text = sa.cast(bronze.c.raw_data, sa.Text).label("text")
    with market_data.engine.connect() as connection:
        raw = pd.read_sql(
            sa.select(bronze.c.id, bronze.c.ingested_at, text).where(in_window(bronze, window)), connection
        )
    fields = pd.DataFrame([json.loads(text, parse_float=Decimal) for text in raw["text"]])
    fields[["id", "ingested_at"]] = raw[["id", "ingested_at"]]
    price, volume, turnover, rate = (pd.to_numeric(fields[name], errors="coerce") for name in NUMBERS)
    fields["traded_at"] = pd.to_datetime(fields["trade_timestamp"], unit="ms", utc=True)
    good = (
        (price > 0) & (volume >= 0) & (turnover >= 0) & rate.notna()
        & fields["market"].str.fullmatch("[A-Z0-9]+-[A-Z0-9]+")
        & fields["trade_date_kst"].str.fullmatch("[0-9]{8}") & fields["trade_time_kst"].str.fullmatch("[0-9]{6}")
        & (fields["traded_at"] < fields["ingested_at"] + WINDOW)
    )  # fmt: skip
    latest = fields[good].sort_values("id").drop_duplicates(["ingested_at", "market"], keep="last")
    silver = latest[[*COLUMNS]].rename(columns=COLUMNS)
    to_sql(silver, market_data, tables.silver_ticker)
    rejected = fields.loc[~good, ["id", "market", "ingested_at"]].rename(columns={"id": "bronze_id"})
    rejected = rejected.assign(raw_data=raw["text"].map(json.loads), reason="impossible")
    to_sql(rejected, market_data, tables.silver_ticker_rejected)


def backfill(stage: Stage) -> list[Result]:
    """A day of windows with a snapshot every minute."""
    snapshots = stage.snapshots(1440 * MARKETS)
    window, project, file = span(DAY, snapshots), Project(stage), stage.folder / "backfill.sql"
    keys = f"{windows.key_of(window.start)}...{windows.key_of(window.end - WINDOW)}"
    with stage.database() as market_data:
        market_data.fill_bronze(DAY, snapshots, bad=True)
        loads = [
            output_of(silver_ticker, window, tables.bronze_ticker_raw),
            output_of(gold_market_stats, window, tables.silver_ticker),
        ]
        settings = f"BEGIN; {PLANNER.text};"
        file.write_text("\n".join([settings, *by_hand(market_data, loads, window), "COMMIT;"]))
        clear = lambda: market_data.clear(*BUILT, "gold.market_stats", "gold.market_stats_build")  # noqa: E731
        ours, hand = interleaved(
            Contender(lambda: project.materialize("silver_ticker,gold_market_stats", "--partition-range", keys), clear),
            Contender(lambda: psql(stage, market_data, file), clear),
        )
        raw = market_data.count("bronze.ticker_raw")
    count = len(windows.starts_in(window))
    what = f"Backfill of {count} windows of silver and gold, {raw:,} raw rows, in one run with its checks"
    return [Result(what, "the same statements in psql, in one transaction", ours, hand, at_most=1.5)]


def by_hand(market_data: MarketData, loads: list[Load], window: TimeWindow) -> Iterator[str]:
    """The IO manager's statements as text."""
    with psycopg.connect(market_data.url) as connection:
        for load in loads:
            for statement in statements(load, window):
                compiled: Any = statement.compile(market_data.engine)
                yield psycopg.ClientCursor(connection).mogrify(str(compiled), compiled.params) + ";"


def statements(load: Load, window: TimeWindow) -> Iterator[sa.ClauseElement]:
    for stage, staged in load.staged.items():
        yield CreateStage(stage, staged)
    for table, rows in load.tables.items():
        select: Any = rows
        yield sa.delete(table).where(in_window(table, window))
        yield sa.insert(table).from_select(list(select.selected_columns.keys()), select, include_defaults=False)
