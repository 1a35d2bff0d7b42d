"""The feeds and what gold computes from them, each declared once.

Jobs, sensors, retention and progress messages are derived from this; `test_feeds.py` reports what a new feed lacks.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from upbit_assets.assets import bronze, selection, silver
from upbit_assets.assets.history import PagedHistory
from upbit_assets.assets.refine import Refinement
from upbit_assets.assets.selection import MarketSelection
from upbit_assets.partitions import DAY, Axis
from upbit_assets.postgres import tables


@dataclass(frozen=True, eq=False)
class Feed:
    """A kind of market data, from the exchange's reply to silver.

    Args:
        name: part of its assets' names.
        refinement: its tables and windows, and how raw rows become silver.
        markets: selection of the collected markets; None: all of them, or that of `history`.
        history: how past days are collected; None: the exchange serves only the current state.
        coverage: silver's table of what was collected, also for windows without rows; for a history, with the number
            of pages that silver was computed from.
        row_label: the name of silver's rows in progress messages; None: its gold's messages suffice.
        streamed: collected by a separate process instead of runs; a window is computed when it is over.
    """

    name: str
    refinement: Refinement
    markets: MarketSelection | None = None
    history: PagedHistory | None = None
    coverage: sa.Table | None = None
    row_label: str | None = None
    streamed: bool = False

    @property
    def axis(self) -> Axis:
        return self.refinement.axis

    @property
    def bronze_asset(self) -> str:
        return f"bronze_{self.name}_raw"

    @property
    def silver_asset(self) -> str:
        return f"silver_{self.name}"

    @property
    def computed_assets(self) -> list[str]:
        """The assets to recompute in a window whose raw rows have changed."""
        return [*([self.bronze_asset] if self.streamed else []), self.silver_asset]

    @property
    def rebuilt_assets(self) -> list[str]:
        """The assets to recompute in a past window; with the bronze of snapshots, as the stream may have written it."""
        return self.computed_assets if self.streamed or self.history else [self.bronze_asset, *self.computed_assets]

    @property
    def selection(self) -> MarketSelection | None:
        return self.history.selection if self.history else self.markets

    @property
    def pages(self) -> tuple[sa.Table, sa.Table] | None:
        """The table of pages, and the one with the number of pages that silver was computed from."""
        return (self.history.page, self.coverage) if self.history and self.coverage is not None else None


@dataclass(frozen=True)
class Source:
    """A feed that gold is computed from.

    Args:
        build_column: the column of gold's build with the silver build that was used.
        older: how much earlier the silver window is than gold's.
    """

    feed: Feed
    build_column: str
    older: timedelta = timedelta()

    @property
    def build(self) -> sa.Table:
        return self.feed.refinement.build


@dataclass(frozen=True)
class GoldTable:
    """Figures by window, computed from one or more feeds with the same axis.

    Args:
        build: when a window was computed, and from which silver.
        row_label: the name of its rows in progress messages.
    """

    table: sa.Table
    build: sa.Table
    sources: tuple[Source, ...]
    row_label: str

    @property
    def asset(self) -> str:
        return f"gold_{self.table.name}"

    @property
    def feeds(self) -> list[Feed]:
        return list(dict.fromkeys(source.feed for source in self.sources))

    @property
    def axis(self) -> Axis:
        return self.feeds[0].axis

    @property
    def bronze_assets(self) -> list[str]:
        return [feed.bronze_asset for feed in self.feeds]

    @property
    def computed_assets(self) -> list[str]:
        return [*(name for feed in self.feeds for name in feed.computed_assets), self.asset]

    @property
    def streamed(self) -> bool:
        return any(feed.streamed for feed in self.feeds)

    @property
    def collected_into(self) -> list[sa.Table]:
        """The tables in which a row means that a window was collected."""
        pages = [feed.pages[0] for feed in self.feeds if feed.pages]
        return [*(feed.refinement.bronze for feed in self.feeds), *pages]


TICKER = Feed("ticker", silver.TICKER)
ORDERBOOK = Feed("orderbook", silver.ORDERBOOK, markets=selection.orderbooks)
CANDLE = Feed(
    "candle",
    silver.CANDLE,
    history=bronze.CANDLES,
    coverage=tables.silver_candle_coverage,
    row_label="one-minute candles",
)
TRADE = Feed("trade", silver.TRADE, history=bronze.TRADES, row_label="trades")
TRADE_STREAM = Feed(
    "trade_stream",
    silver.TRADE_STREAM,
    coverage=tables.silver_trade_coverage,
    row_label="trades",
    streamed=True,
)
FEEDS: tuple[Feed, ...] = (TICKER, ORDERBOOK, CANDLE, TRADE, TRADE_STREAM)

MARKET_STATS = GoldTable(
    tables.gold_market_stats,
    tables.gold_market_stats_build,
    (Source(TICKER, "silver_computed_at"), Source(TICKER, "day_before_computed_at", older=DAY)),
    "markets ranked",
)
ORDERBOOK_STATS = GoldTable(
    tables.gold_orderbook_stats,
    tables.gold_orderbook_stats_build,
    (Source(ORDERBOOK, "silver_computed_at"),),
    "order books measured",
)
MARKET_DAILY = GoldTable(
    tables.gold_market_daily,
    tables.gold_market_daily_build,
    (Source(CANDLE, "candle_computed_at"), Source(TRADE, "trade_computed_at")),
    "markets of the day ranked",
)
TRADE_STATS = GoldTable(
    tables.gold_trade_stats,
    tables.gold_trade_stats_build,
    (Source(TRADE_STREAM, "silver_computed_at"),),
    "markets traded",
)
GOLD_TABLES: tuple[GoldTable, ...] = (MARKET_STATS, ORDERBOOK_STATS, MARKET_DAILY, TRADE_STATS)

# of each asset's partitions
AXES: dict[str, Axis] = {
    **{asset: feed.axis for feed in FEEDS for asset in (feed.bronze_asset, feed.silver_asset)},
    **{gold.asset: gold.axis for gold in GOLD_TABLES},
}
