"""Bronze: the exchange's responses, exactly as received."""

from typing import Any

import sqlalchemy as sa
from dagster import AssetExecutionContext, Config, Failure, MaterializeResult, TimeWindow, asset
from pydantic import Field

from upbit_assets.assets import common_asset_args, missing_trades, selection, snapshots
from upbit_assets.assets.history import TRADE_DAYS, PagedHistory
from upbit_assets.assets.pages import candle_pages, trade_pages
from upbit_assets.assets.silver import CANDLE, TRADE
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import MILLISECOND, MINUTE, Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Records, stored_in
from upbit_assets.settings import SettingError
from upbit_assets.upbit import UpbitClient


def bronze(axis: Axis, source: str, table: sa.Table) -> dict[str, Any]:
    """The arguments that bronze assets share."""
    return common_asset_args(axis, source, {"upbit", "bronze"}, stored_in(table, write="append"))


@asset(**bronze(windows, "ticker", tables.bronze_ticker_raw))
def bronze_ticker_raw(context: AssetExecutionContext, exchange: Exchange, database: Database) -> Load | None:
    """One row per market and snapshot: the ticker as the exchange sent it, never changed.

    Materializing the current window appends a snapshot and, once per window, the market list in `bronze.market_raw`.
    A past window keeps its rows; if it has none it fails, because tickers have no history.
    """

    def once_per_window(client: UpbitClient, window: TimeWindow) -> dict[sa.Table, Records]:
        with database.connect() as connection:
            return snapshots.market_list(context.log, connection, client, window)

    return snapshots.collect(
        context, exchange, database, tables.bronze_ticker_raw, snapshots.all_tickers, extra=once_per_window
    )


@asset(**bronze(windows, "orderbook", tables.bronze_orderbook_raw))
def bronze_orderbook_raw(context: AssetExecutionContext, exchange: Exchange, database: Database) -> Load | None:
    """One row per market and snapshot: the order book (호가) as the exchange sent it, 30 levels a side, never changed.

    For the markets in UPBIT_ORDERBOOK_MARKETS (unset: the 30 largest turnovers). Like tickers, books have no history:
    the current window gets one more snapshot, a past window keeps its rows.
    """

    def prepare(connection: sa.Connection) -> snapshots.Orderbooks:
        try:
            return snapshots.chosen_orderbooks(connection)
        except (selection.NoRankingError, SettingError) as error:
            raise Failure(str(error), allow_retries=False) from error

    return snapshots.collect(context, exchange, database, tables.bronze_orderbook_raw, prepare)


CANDLES = PagedHistory(
    tables.bronze_candle_raw,
    tables.bronze_candle_page,
    CANDLE,
    "candle_acc_trade_volume",
    (tables.silver_candle, tables.silver_candle_rejected, tables.gold_market_daily),
    selection.candles,
    candle_pages,
    grain=MINUTE,
)
TRADES = PagedHistory(
    tables.bronze_trade_raw,
    tables.bronze_trade_page,
    TRADE,
    "trade_volume",
    (tables.silver_trade, tables.silver_trade_rejected, tables.gold_market_daily),
    selection.trades,
    trade_pages,
    grain=MILLISECOND,
    available_days=TRADE_DAYS,
)


class CollectConfig(Config):
    """Run configuration for candles and trades."""

    full_refresh: bool = Field(
        default=False,
        description="Request the whole days again, even what was already collected. Rows that differ from the stored "
        "ones are appended and take precedence.",
    )


@asset(**bronze(days, "candle", tables.bronze_candle_raw))
def bronze_candle_raw(
    context: AssetExecutionContext, config: CollectConfig, exchange: Exchange, database: Database
) -> MaterializeResult:
    """One row per market and minute with trades: the candle (분봉) as the exchange sent it.

    By the exchange's day, which begins at 09:00 KST, for the markets in UPBIT_CANDLE_MARKETS (unset: the 10 largest
    turnovers of the day). Any past day can be materialized; only missing intervals are requested. An unfinished candle
    is not stored. `bronze.candle_page` records the requested intervals.
    """
    return CANDLES.collect(context, exchange, database, full_refresh=config.full_refresh)


@asset(**bronze(days, "trade", tables.bronze_trade_raw))
def bronze_trade_raw(
    context: AssetExecutionContext, config: CollectConfig, exchange: Exchange, database: Database
) -> MaterializeResult:
    """One row per trade (체결) as the exchange sent it, by the exchange's day, which begins at 09:00 KST.

    For the markets in UPBIT_TRADE_MARKETS (unset: the 10 largest turnovers of the day). The exchange serves the last
    seven days; for today, new trades are appended. `bronze.trade_page` records the requested intervals.
    """
    return TRADES.collect(context, exchange, database, full_refresh=config.full_refresh)


@asset(**bronze(windows, "trade_stream", tables.bronze_trade_stream_raw))
def bronze_trade_stream_raw(
    context: AssetExecutionContext, exchange: Exchange, database: Database
) -> MaterializeResult:
    """One row per trade of any market as the exchange's WebSocket sent it, by the time of the trade.

    The process `upbit-assets stream` collects them. Materializing a window compares its trades with the exchange's day
    counters, in the snapshots before, in and after it, and requests over REST exactly what is missing, up to seven days
    back; `bronze.trade_stream_page` records the requested pages.
    """
    return missing_trades.collect(context, exchange, database)
