"""Gold: figures per window or day, each table computed inside the database by its file in `sql`.

The files name the silver tables that they read. These are inputs of the assets nevertheless, because the IO manager
rejects windows of an input whose rows were dropped.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster import AssetExecutionContext, TimeWindow, asset

from upbit_assets.assets import common_asset_args, lineage
from upbit_assets.assets.preview import daily_top10, orderbook_spreads, turnover_top10
from upbit_assets.partitions import Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.tables import DEPTHS
from upbit_assets.postgres_io import Load, Metadata, stored_in

Input = sa.Select[Any]
Describe = Callable[[sa.Connection, TimeWindow], Metadata]
SQL = Path(__file__).parent / "sql"


def gold(axis: Axis, source: str, table: sa.Table, upstream: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that gold assets share. `columns`: each one's origin in the upstream asset."""
    return common_asset_args(
        axis, source, {"sql", "gold"}, stored_in(table, write="replace", lineage=lineage(upstream, columns))
    )


def figures(table: sa.Table, window: TimeWindow) -> sa.Select[Any]:
    """The rows that a table's SQL file computes for a span, bound to its `:start` and `:end`."""
    text = (SQL / f"{table.name}.sql").read_text(encoding="utf-8").rstrip().removesuffix(";")
    computed = [column for column in table.columns if column.identity is None and column.server_default is None]
    rows = sa.text(text).bindparams(start=window.start, end=window.end)
    return sa.select(rows.columns(*(sa.column(column.name, column.type) for column in computed)).subquery("figures"))


def nothing_more(_connection: sa.Connection, _window: TimeWindow) -> Metadata:
    return {}


def computed(context: AssetExecutionContext, *written: sa.Table, describe: Describe = nothing_more) -> Load:
    return Load({table: figures(table, context.partition_time_window) for table in written}, describe)


@asset(
    **gold(
        windows,
        "ticker",
        tables.gold_market_stats,
        "silver_ticker",
        {
            **{name: name for name in ("ingested_at", "market", "trade_price", "change_rate")},
            "daily_volume": "acc_trade_volume",
            "quote_currency": "market",
            "turnover": "acc_trade_price",
            "window_start": "ingested_at",
            **dict.fromkeys(("turnover_krw", "rank_volume"), "acc_trade_price trade_price market"),
            **dict.fromkeys(("window_high", "window_low", "volatility", "rank_volatility"), "trade_price"),
            "change_rate_24h": "trade_price ingested_at",
            "vwap": "day_turnover day_volume",
        },
    )
)
def gold_market_stats(context: AssetExecutionContext, silver_ticker: Input) -> Load:
    """One row per market and window: its last snapshot's figures, ranked by turnover (거래대금) and by volatility.

    Turnover is compared in KRW; BTC- and USDT-markets are converted at KRW-BTC and KRW-USDT of the same snapshot. If
    that snapshot lacks the rate, the window's newest is used and `rank_note` says so; without any, the market ranks
    last.
    """
    return computed(context, tables.gold_market_stats, tables.gold_market_stats_build, describe=turnover_top10)


@asset(
    **gold(
        windows,
        "orderbook",
        tables.gold_orderbook_stats,
        "silver_orderbook",
        {
            **{name: name for name in ("ingested_at", "market")},
            "quote_currency": "market",
            "window_start": "ingested_at",
            "best_bid": "bid_prices",
            "best_ask": "ask_prices",
            **dict.fromkeys(("mid_price", "spread_bps", "spread_bps_mean"), "bid_prices ask_prices"),
            **dict.fromkeys(("reach", "bid_reach", "ask_reach"), "bid_prices ask_prices"),
            **{f"{side}_depth_{name}": f"{side}_prices {side}_sizes" for side in ("bid", "ask") for name in DEPTHS},
            "imbalance": "bid_prices bid_sizes ask_prices ask_sizes",
        },
    )
)
def gold_orderbook_stats(context: AssetExecutionContext, silver_orderbook: Input) -> Load:
    """One row per market and window: spread, depth and imbalance of its last order book, and the window's mean spread.

    If a book has no bids or no asks, the figures that need both sides are NULL.
    """
    return computed(context, tables.gold_orderbook_stats, tables.gold_orderbook_stats_build, describe=orderbook_spreads)


@asset(
    **gold(
        days,
        "daily",
        tables.gold_market_daily,
        "silver_candle",
        {
            "market": "market",
            "quote_currency": "market",
            "day": "started_at",
            **{
                name: name
                for name in ("opening_price", "high_price", "low_price", "closing_price", "volume", "turnover")
            },
            **dict.fromkeys(("turnover_krw", "rank_turnover"), "turnover volume market"),
            "vwap": "turnover volume",
            **dict.fromkeys(
                ("realized_volatility", "rank_volatility", "log_volatility", "annualized_volatility"), "closing_price"
            ),
            "parkinson_volatility": "high_price low_price",
            "garman_klass_volatility": "opening_price high_price low_price closing_price",
            **dict.fromkeys(("minutes_traded", "minutes_silent", "minutes_missing"), "started_at"),
        },
    )
)
def gold_market_daily(context: AssetExecutionContext, silver_candle: Input, silver_trade: Input) -> Load:
    """One row per market and exchange's day (from 09:00 KST): prices, turnover, VWAP and realized volatility, ranked.

    For the markets whose candles are collected. Volume, turnover and VWAP come from the trades if all of the day were
    collected, else from the candles; `vwap_source` says which. Ranks are among the collected markets.
    """
    return computed(context, tables.gold_market_daily, tables.gold_market_daily_build, describe=daily_top10)


@asset(
    **gold(
        windows,
        "trade_stream",
        tables.gold_trade_stats,
        "silver_trade_stream",
        {
            "market": "market",
            "quote_currency": "market",
            "window_start": "traded_at",
            "trades": "trade_id",
            **dict.fromkeys(("opening_price", "closing_price"), "price traded_at trade_id"),
            **dict.fromkeys(("high_price", "low_price"), "price"),
            "volume": "volume",
            **dict.fromkeys(("turnover", "vwap", "largest_trade"), "price volume"),
            **dict.fromkeys(("turnover_krw", "rank_turnover"), "price volume market"),
            **dict.fromkeys(("buy_volume", "sell_volume", "strength"), "volume taker"),
            "rank_trades": "trade_id",
        },
    )
)
def gold_trade_stats(context: AssetExecutionContext, silver_trade_stream: Input) -> Load:
    """One row per market and window with trades: OHLC, turnover, VWAP, buy and sell volume, ranked.

    From all trades that the stream collected; 체결강도 is `strength`.
    """
    return computed(context, tables.gold_trade_stats, tables.gold_trade_stats_build)
