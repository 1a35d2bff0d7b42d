"""The size of a day of data and the rate at which it can be stored, for docs/capacity.md."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import exp
from typing import Any

import sqlalchemy as sa
from dagster import AssetsDefinition, TimeWindow
from psycopg.types.range import Range

from bench.stage import DAY, MARKETS, MINUTE, MarketData, Stage, output_of, span, tickers
from upbit_assets.assets.bronze import bronze_candle_raw, bronze_orderbook_raw, bronze_ticker_raw, bronze_trade_raw
from upbit_assets.assets.gold import gold_market_daily, gold_market_stats, gold_orderbook_stats
from upbit_assets.assets.silver import silver_candle, silver_orderbook, silver_ticker, silver_trade
from upbit_assets.partitions import Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import Load, Records
from upbit_assets.sandbox import wire
from upbit_assets.sandbox.market import Market, instruments

BOOKS, CANDLES, TRADES = 30, 10, 10  # markets, as configured by default
MINUTES_A_DAY, WINDOWS_A_DAY = 1440, 144
# the current window or day is recomputed after each collection: how often a row is computed, on average
RECOMPUTATIONS = {windows: (1 + 10) / 2, days: (1 + WINDOWS_A_DAY) / 2}
YEAR, GB = 365, 1e9
SIZE = """
SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(%s) WHERE isleaf AND pg_relation_size(relid) > 0
"""

Raw = Iterator[tuple[str, str, datetime, str]]  # market, text, moment, key


@dataclass(frozen=True)
class Kind:
    """One kind of data: its tables from bronze to gold, and its rows a day: (by default, of all markets)."""

    name: str
    axis: Axis
    bronze: AssetsDefinition
    raw: sa.Table
    silver: AssetsDefinition
    typed: sa.Table
    gold: tuple[AssetsDefinition, sa.Table, tuple[sa.Table, ...]]
    gold_a_day: tuple[float, float]
    raw_a_day: tuple[float, float]
    rows: Callable[[Market, TimeWindow, float], Raw]


def a_day(markets: int, of_each: float) -> tuple[float, float]:
    return markets * of_each, MARKETS * of_each


def report(stage: Stage) -> Iterator[str]:
    """The lines of docs/capacity.md."""
    with stage.database() as data:
        found = [(kind, *measured(data, kind, stage.scale)) for kind in kinds()]
    yield "| table | rows measured | bytes a row, with its indexes |"
    yield "|---|---:|---:|"
    sizes = {table: size for _, each, _ in found for table, size in each.items()}
    for table, (rows, size) in sizes.items():
        yield f"| `{table.fullname}` | {rows:,} | {size / rows:,.0f} |"
    yield ""
    yield "| raw rows to gold | a second | a day, by default | | a day, all markets | |"
    yield "|---|---:|---:|---:|---:|---:|"
    for kind, _, seconds in found:
        work = [f"{rows:,.0f} | {load(kind, seconds, rows):.1%} of a session" for rows in kind.raw_a_day]
        yield f"| {kind.name} | {1 / sum(seconds):,.0f} | {' | '.join(work)} |"
    shares = [sum(load(kind, seconds, kind.raw_a_day[of]) for kind, _, seconds in found) for of in (0, 1)]
    yield f"| together | | | {shares[0]:.1%} of a session | | {shares[1]:.1%} of a session |"
    yield ""
    yield "| disk | a day, by default | a year | a day, all markets | a year |"
    yield "|---|---:|---:|---:|---:|"
    for layer in ("bronze", "silver", "gold"):
        yield disk(layer, [stored(found, of, layer) for of in (0, 1)])
    yield disk("together", [sum(stored(found, of, layer) for layer in ("bronze", "silver", "gold")) for of in (0, 1)])


def disk(name: str, of: Iterable[float]) -> str:
    return f"| {name} | " + " | ".join(f"{size / GB:,.2f} GB | {size * YEAR / GB:,.0f} GB" for size in of) + " |"


def load(kind: Kind, seconds: tuple[float, float], rows: float) -> float:
    """The share of a day that one database session needs for so many raw rows, recomputation included."""
    once, again = seconds
    return rows * (once + again * RECOMPUTATIONS[kind.axis]) / (MINUTES_A_DAY * 60)


def stored(found: Iterable[Any], of: int, layer: str) -> float:
    """Bytes a day in a layer."""
    total = 0.0
    for kind, sizes, _ in found:
        for table, (rows, size) in sizes.items():
            if table.schema == layer:
                total += size / rows * (kind.gold_a_day if layer == "gold" else kind.raw_a_day)[of]
    return total


def measured(data: MarketData, kind: Kind, scale: float) -> tuple[dict[sa.Table, tuple[int, int]], tuple[float, float]]:
    """(each table's rows and bytes, seconds that a raw row takes to bronze and from bronze to gold)."""
    window = span(DAY, 60) if kind.axis is windows else days.at(datetime.now(UTC) - days.length)
    data.partitions(window.start, window.end)
    rows = list(kind.rows(Market(count=MARKETS), window, scale))
    day = {"day": window.start} if kind.axis is days else {}
    records = Records(
        ("market", "raw_data", "ingested_at", *(("day", "key") if day else ())),
        [(market, text, at, *((window.start, key) if day else ())) for market, text, at, key in rows],
    )
    pages = pages_of(kind, window, {market for market, *_ in rows}) if kind.axis is days else {}
    load = Load({kind.raw: records, **pages})
    once = data.write(kind.bronze, window, load, kind.axis)
    data.run(f"ANALYZE {kind.raw.fullname}")
    again = data.write(kind.silver, window, output_of(kind.silver, window, kind.raw), kind.axis)
    asset, table, sources = kind.gold
    again += data.write(asset, window, output_of(asset, window, *sources), kind.axis)
    multiply(data, table)
    sizes = {}
    for each in (kind.raw, kind.typed, table):
        data.run(f"VACUUM {each.fullname}")
        ((size,),) = data.connection.execute(SIZE, [each.fullname])
        sizes[each] = (data.count(each.fullname), int(size))
    return sizes, (once / len(rows), again / len(rows))


def multiply(data: MarketData, table: sa.Table, least: int = 5000) -> None:
    """Copy a table's rows to earlier days, so that half-filled pages don't distort the size."""
    names = [column.name for column in table.columns if column.name != "id"]
    earlier = [f"{name} - nth * interval '1 day'" if name == table.info["window"] else name for name in names]
    data.run(
        f"INSERT INTO {table.fullname} ({', '.join(names)}) SELECT {', '.join(earlier)} FROM {table.fullname} "
        "CROSS JOIN generate_series(1, %(times)s) nth",
        times=least // data.count(table.fullname),
    )


def pages_of(kind: Kind, window: TimeWindow, markets: Iterable[str]) -> dict[sa.Table, Records]:
    """Pages that cover the markets' whole day, without which it has no gold."""
    columns = ("market", "day", "covered", "rows", "problem", "ingested_at")
    covered = Range(window.start, window.end)
    page = tables.metadata.tables[kind.raw.fullname.replace("_raw", "_page")]
    return {page: Records(columns, [(market, window.start, covered, 0, None, window.end) for market in markets])}


def kinds() -> list[Kind]:
    rates = sorted((one.rate for one in instruments(0, MARKETS)), reverse=True)
    trades = float(sum(rates[:TRADES])), float(sum(rates))
    candles = float(sum(map(minutes, rates[:CANDLES]))), float(sum(map(minutes, rates)))
    return [
        Kind(
            "tickers",
            windows,
            bronze_ticker_raw,
            tables.bronze_ticker_raw,
            silver_ticker,
            tables.silver_ticker,
            (gold_market_stats, tables.gold_market_stats, (tables.silver_ticker,)),
            a_day(MARKETS, WINDOWS_A_DAY),
            a_day(MARKETS, MINUTES_A_DAY),
            snapshots,
        ),
        Kind(
            "order books",
            windows,
            bronze_orderbook_raw,
            tables.bronze_orderbook_raw,
            silver_orderbook,
            tables.silver_orderbook,
            (gold_orderbook_stats, tables.gold_orderbook_stats, (tables.silver_orderbook,)),
            a_day(BOOKS, WINDOWS_A_DAY),
            a_day(BOOKS, MINUTES_A_DAY),
            books,
        ),
        Kind(
            "candles",
            days,
            bronze_candle_raw,
            tables.bronze_candle_raw,
            silver_candle,
            tables.silver_candle,
            (gold_market_daily, tables.gold_market_daily, (tables.silver_candle, tables.silver_trade)),
            a_day(CANDLES, 1),
            candles,
            minute_candles,
        ),
        Kind(
            "trades",
            days,
            bronze_trade_raw,
            tables.bronze_trade_raw,
            silver_trade,
            tables.silver_trade,
            (gold_market_daily, tables.gold_market_daily, (tables.silver_candle, tables.silver_trade)),
            (0, 0),  # a day's candles and trades share one row
            trades,
            ticks,
        ),
    ]


def minutes(rate: int) -> float:
    """The expected number of minutes with trades in a day, for randomly distributed trades."""
    return MINUTES_A_DAY * (1 - exp(-rate / MINUTES_A_DAY))


def busiest(count: int) -> list[str]:
    found = sorted(instruments(0, MARKETS), key=lambda one: -one.rate)
    return [one.listing.market for one in found[:count]]


def text(row: Any) -> str:
    return wire.array([wire.raw(row)])[1:-1]


def snapshots(_market: Market, window: TimeWindow, scale: float) -> Raw:
    rows = tickers(window.start)
    for nth in range(max(10, round(60 * scale))):
        yield from ((code, row, window.start + nth * MINUTE, "") for code, row in rows)


def books(market: Market, window: TimeWindow, scale: float) -> Raw:
    for nth in range(max(10, round(60 * scale))):
        at = window.start + nth * MINUTE
        yield from ((code, text(market.orderbook(code, at)), at, "") for code in busiest(BOOKS))


def minute_candles(market: Market, window: TimeWindow, _scale: float) -> Raw:
    for code in busiest(CANDLES):
        for row in market.candles(code, window.end, "minutes/1", to=window.end, count=MINUTES_A_DAY):
            if str(row["candle_date_time_utc"]) >= f"{window.start.astimezone(UTC):%Y-%m-%dT%H:%M:%S}":
                yield code, text(row), window.end, str(row["candle_date_time_utc"])


def ticks(market: Market, window: TimeWindow, scale: float) -> Raw:
    for code in busiest(TRADES):
        for row in market.trades(code, window.end, days_ago=1, count=round(5000 * scale)):
            yield code, text(row), window.end, str(row["sequential_id"])


TEXT = """# The size of a day of data

Written by `python -m bench capacity`, on {machine}.

The rows are the offline exchange's, whose busiest market has 250,000 trades a day. "By default": every minute all 855
tickers and the books of 30 markets; candles and trades of 10 markets. "All markets": everything of all 855 markets,
regardless of the exchange's rate limits.

"Of a session" is the time one database session needs for a day's rows, including recomputation whenever a window
(tickers, books) or a day (candles, trades) gets more rows. Disk is the size of a day's tables and indexes; not included
are space not reclaimed by vacuum, the write-ahead log and the exchange's market list.

Everything other than the data is that of `make up` with default settings, without the offline exchange: ten minutes,
extrapolated to a day. A month has 30 days, a year 365. Sizes are the same on every machine; CPU-hours are not, and on
one and the same virtual machine they varied threefold, with what else its host did.

{table}
"""
