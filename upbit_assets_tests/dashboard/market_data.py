"""Silver and gold as computed by the pipeline, from the offline exchange's figures."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import sqlalchemy as sa

from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.tables import DEPTHS
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.sandbox.instrument import Listing
from upbit_assets.sandbox.market import Market

Row = dict[str, Any]
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
PLACES = Decimal(1).scaleb(-10)


def put(url: str, contents: Mapping[sa.Table, Sequence[Row]]) -> None:
    """Insert rows into several tables in one transaction, as their owner."""
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table, rows in contents.items():
            if rows:
                connection.execute(sa.insert(table), rows)


def notify(connection: psycopg.Connection[Any], table: str, start: datetime) -> None:
    """The notification that the IO manager sends in a write's transaction."""
    connection.execute(
        "SELECT pg_notify('asset_written', json_build_object('table', %s::text, 'start', %s::timestamptz, "
        "'end', %s::timestamptz)::text)",
        (table, start, start + WINDOW),
    )


def figures(market: Market, codes: Iterable[str], at: datetime) -> list[Row]:
    """Rows of gold.market_stats of the window that contains `at`, the time of its last snapshot."""
    start = windows.at(at).start
    rates = {quote: market.ticker(f"KRW-{quote}", at)["trade_price"] for quote in ("BTC", "USDT")} | {"KRW": Decimal(1)}
    rows = [one_figure(market, code, start, at, rates) for code in codes]
    for rank, by in (("rank_volume", "turnover_krw"), ("rank_volatility", "volatility")):
        order = sorted((row[by] for row in rows), reverse=True)
        for row in rows:
            row[rank] = order.index(row[by]) + 1
    return rows


def one_figure(market: Market, code: str, start: datetime, at: datetime, rates: Mapping[str, Decimal]) -> Row:
    ticker, before = market.ticker(code, at), market.ticker(code, at - DAY)
    traded = [candle for candle in market.candles(code, at, "minutes/1", count=10) if start_of(candle) >= start]
    prices = [ticker["trade_price"], *(candle["trade_price"] for candle in traded)]
    volume = sum(candle["candle_acc_trade_volume"] for candle in traded)
    quote = code.split("-")[0]
    return {
        "ingested_at": at,
        "market": code,
        "trade_price": ticker["trade_price"],
        "daily_volume": ticker["acc_trade_volume_24h"],
        "quote_currency": quote,
        "turnover": ticker["acc_trade_price_24h"],
        "turnover_krw": ticker["acc_trade_price_24h"] * rates[quote],
        "change_rate": ticker["signed_change_rate"],
        "change_rate_24h": (ticker["trade_price"] / before["trade_price"] - 1).quantize(PLACES),
        "window_high": max(prices),
        "window_low": min(prices),
        "volatility": ((max(prices) - min(prices)) / min(prices)).quantize(PLACES),
        "window_start": start,
        "vwap": sum(candle["candle_acc_trade_price"] for candle in traded) / volume if volume else None,
    }


def books_of(starts: Iterable[datetime], markets: int) -> dict[sa.Table, list[Row]]:
    """The windows' builds, from ten snapshots each."""
    starts = list(starts)
    counts = {"bronze_rows": 10 * markets, "silver_rows": 10 * markets, "rejected_rows": 0, "duplicate_rows": 0}
    return {
        tables.silver_ticker_build: [{"window_start": start, **counts} for start in starts],
        tables.gold_market_stats_build: [{"window_start": start, "gold_rows": markets} for start in starts],
    }


def start_of(candle: Row) -> datetime:
    return datetime.fromisoformat(candle["candle_date_time_utc"]).replace(tzinfo=UTC)


def candles(market: Market, code: str, first: datetime, at: datetime) -> list[Row]:
    """Rows of silver.candle from `first` to `at`."""
    found = market.candles(code, at, "minutes/1", count=(at - first) // MINUTE)
    prices = {name: name for name in ("opening_price", "high_price", "low_price")} | {"closing_price": "trade_price"}
    return [
        {
            "market": code,
            "started_at": start_of(candle),
            **{column: candle[field] for column, field in prices.items()},
            "volume": candle["candle_acc_trade_volume"],
            "turnover": candle["candle_acc_trade_price"],
            "last_traded_at": start_of(candle),
            "ingested_at": at,
        }
        for candle in found
        if start_of(candle) >= first
    ]


def orderbook(market: Market, code: str, at: datetime) -> dict[sa.Table, list[Row]]:
    """A market's row of silver.orderbook, and of gold.orderbook_stats."""
    book = market.orderbook(code, at)
    assert book is not None
    sides = {
        side: [(level[f"{side}_price"], level[f"{side}_size"]) for level in book["orderbook_units"]]
        for side in ("ask", "bid")
    }
    sides = {side: [level for level in levels if level[0]] for side, levels in sides.items()}
    best_ask, best_bid = sides["ask"][0][0], sides["bid"][0][0]
    mid = (best_ask + best_bid) / 2
    depths = {
        f"{side}_depth_{name}": sum(
            price * size for price, size in levels if abs(price - mid) <= mid * Decimal(percent) / 100
        )
        for name, percent in DEPTHS.items()
        for side, levels in sides.items()
    }
    spread = ((best_ask - best_bid) / mid * 10_000).quantize(PLACES)
    bids, asks = depths["bid_depth_1"], depths["ask_depth_1"]
    stats = {
        "ingested_at": at,
        "market": code,
        "quote_currency": code.split("-")[0],
        "best_bid": best_bid,
        "best_ask": best_ask,
        "mid_price": mid,
        "spread_bps": spread,
        "spread_bps_mean": spread,
        **depths,
        "imbalance": ((bids - asks) / (bids + asks)).quantize(PLACES) if bids + asks else Decimal(0),
        "reach": min(abs(levels[-1][0] - mid) / mid for levels in sides.values()).quantize(PLACES),
        "window_start": windows.at(at).start,
    }
    silver = {
        "market": code,
        "total_ask_size": book["total_ask_size"],
        "total_bid_size": book["total_bid_size"],
        **{f"{side}_prices": [price for price, _ in levels] for side, levels in sides.items()},
        **{f"{side}_sizes": [size for _, size in levels] for side, levels in sides.items()},
        "ingested_at": at,
        "changed_at": datetime.fromtimestamp(book["timestamp"] / 1000, UTC),
    }
    return {tables.silver_orderbook: [silver], tables.gold_orderbook_stats: [stats]}


def named(market: Market, listing: Listing, at: datetime) -> Row:
    """A row of silver.market."""
    event: Row = market.event(listing.market, at)
    return {
        "market": listing.market,
        "korean_name": listing.korean_name,
        "english_name": listing.english_name,
        "warning": event["warning"],
        "cautions": sorted(name for name, there in event["caution"].items() if there),
        "first_seen_at": at - DAY,
        "last_seen_at": at,
    }


def fill(url: str, market: Market, at: datetime, followed: Sequence[str], missing: Iterable[datetime] = ()) -> None:
    """A day until `at`: the newest window of every market, and all windows, candles and books of the followed ones."""
    codes = [listing.market for listing in market.markets(at)]
    starts = [windows.at(at).start - back * WINDOW for back in range(144)]
    there = [start for start in starts if start not in set(missing)]
    put(url, {tables.bronze_origin: [{"simulated": True}], **books_of(there, len(codes))})
    put(url, {tables.silver_market: [named(market, listing, at) for listing in market.markets(at)]})
    put(url, {tables.gold_market_stats: figures(market, codes, at)})
    for start in there[1:]:
        put(url, {tables.gold_market_stats: figures(market, followed, start + 9 * MINUTE)})
    for code in followed:
        put(url, {tables.silver_candle: candles(market, code, at - DAY, at), **orderbook(market, code, at)})
