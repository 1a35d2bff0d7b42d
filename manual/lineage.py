"""The origin of each table and column, as far as possible from the code that computes it."""

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from dagster import AssetKey, TableColumnLineage
from sqlalchemy.sql import visitors

from upbit_assets.assets.gold import SQL
from upbit_assets.assets.refine import Refinement, first_name
from upbit_assets.definitions import defs
from upbit_assets.feeds import FEEDS, GOLD_TABLES, Feed
from upbit_assets.partitions import Axis, windows
from upbit_assets.postgres import tables

READ = re.compile(r"\b(?:FROM|JOIN) ((?:bronze|silver|gold)\.\w+)")


def tables_of(feed: Feed) -> Iterator[sa.Table]:
    refinement = feed.refinement
    yield from (refinement.bronze, refinement.silver, refinement.rejected, refinement.build)
    yield from () if feed.coverage is None else (feed.coverage,)
    yield from () if feed.history is None else (feed.history.page,)


AXES: dict[str, Axis] = {
    **{table.fullname: feed.axis for feed in FEEDS for table in tables_of(feed)},
    **{table.fullname: gold.axis for gold in GOLD_TABLES for table in (gold.table, gold.build)},
    **{table.fullname: windows for table in (tables.bronze_market_raw, tables.bronze_trade_stream_page)},
}
# of tables that no feed declares, with the exchange's endpoints and this project's commands; a test compares the views'
SOURCES = {
    "bronze.ticker_raw": ["GET /v1/ticker/all"],
    "bronze.market_raw": ["GET /v1/market/all"],
    "bronze.orderbook_raw": ["GET /v1/orderbook"],
    "bronze.candle_raw": ["GET /v1/candles/minutes/1"],
    "bronze.candle_page": ["GET /v1/candles/minutes/1", "GET /v1/candles/days"],
    "bronze.trade_raw": ["GET /v1/trades/ticks"],
    "bronze.trade_page": ["GET /v1/trades/ticks", "GET /v1/candles/days"],
    "bronze.trade_stream_raw": ["WebSocket trade", "GET /v1/trades/ticks"],
    "bronze.trade_stream_page": ["GET /v1/trades/ticks"],
    "bronze.origin": ["upbit-assets stream", "bronze_*"],
    "bronze.collection_start": ["upbit-assets migrate"],
    "bronze.retention": ["drop_old_data"],
    "bronze.archive": ["archive_*"],
    "bronze.restored": ["bronze_*", "upbit-assets restore-archive"],
    "silver.market": ["bronze.market_raw"],
    "silver.candle_coverage": ["bronze.candle_raw", "bronze.candle_page"],
    "silver.trade_coverage": ["bronze.trade_stream_raw", "bronze.trade_stream_page", "bronze.ticker_raw"],
    "silver.check_result": ["asset checks"],
    "silver.alert": ["upbit-assets alerts"],
    "live.ticker": ["WebSocket ticker"],
    "live.orderbook": ["WebSocket orderbook"],
    "live.trade": ["WebSocket trade"],
    "live.snapshot": ["upbit-assets stream"],
    "live.stream": ["upbit-assets stream"],
    "live.exchange_calls": ["upbit-assets stream", "bronze_*"],
    "bronze.newest_ticker": ["bronze.ticker_raw"],
    "bronze.newest_trade": ["bronze.trade_stream_raw"],
    "silver.failing_check": ["silver.check_result", "bronze.retention"],
    "silver.archive_day": [
        *("bronze.archive", "bronze.retention"),
        *(feed.refinement.build.fullname for feed in FEEDS),
    ],
    "silver.all_trades": ["silver.trade_stream", "silver.trade"],
    "silver.trade_coverage_by_window": ["silver.trade_coverage"],
    "gold.turnover_top10": ["gold.market_stats", "gold.market_stats_build", "silver.market"],
    "live.market": ["live.ticker"],
    "live.turnover_top10": ["live.market"],
    "live.candle": ["live.trade"],
}


def sources(table: sa.Table) -> list[str]:
    """The tables that a table is computed from; or else the exchange's endpoints, commands or assets that write it."""
    if table.fullname in SOURCES:
        return SOURCES[table.fullname]
    for feed in FEEDS:
        if table in tables_of(feed):
            return [feed.refinement.bronze.fullname]
    text = re.sub("--.*", "", (SQL / f"{table.name}.sql").read_text(encoding="utf-8"))
    read = dict.fromkeys(READ.findall(text))
    return [name for name in read if name != tables.bronze_retention.fullname]


def origin(column: sa.Column[Any]) -> str:
    """Where a column's value is from: columns of the table's sources, fields of the exchange's JSON, or a default.

    The table's sources if it isn't known more exactly.
    """
    table = column.table
    if column.identity is not None:
        return "identity"
    if column.server_default is not None:
        return str(column.server_default.arg)  # type: ignore[attr-defined]
    if view_source := column.info.get("origin"):
        return view_source if len(SOURCES[table.fullname]) > 1 else view_source.rpartition(".")[2]
    known = COLUMN_ORIGINS.get(table.fullname, {}).get(column.name)
    return known or ", ".join(sources(table))


class AcceptedRow:
    """Stands for the validated rows that silver is selected from."""

    def __getattr__(self, name: str) -> sa.ColumnClause[Any]:
        return sa.column(name)


def fields(refinement: Refinement) -> dict[str, str]:
    """Of each silver column, the columns of bronze and the fields of `raw_data` that it is computed from."""
    names = dict(refinement.texts) | {first_name(name): name for name in (*refinement.numbers, *refinement.documents)}
    levels = refinement.documents[0] if refinement.documents else ""

    def named(name: str) -> str:
        if name in refinement.bronze.c and name not in names:
            return name
        return f"raw_data.{names.get(name, levels)}".replace("|", " / ")

    return {
        column.key or "": ", ".join(
            dict.fromkeys(named(part.name) for part in visitors.iterate(column) if isinstance(part, sa.ColumnClause))
        )
        for column in refinement.columns(AcceptedRow())
    }


def of_asset(name: str) -> dict[str, str]:
    """An asset's column lineage as declared for Dagster's UI."""
    lineage: TableColumnLineage = defs.resolve_asset_graph().get(AssetKey(name)).metadata["dagster/column_lineage"]
    return {column: ", ".join(dep.column_name for dep in deps) for column, deps in lineage.deps_by_column.items()}


COLUMN_ORIGINS = {
    **{feed.refinement.silver.fullname: fields(feed.refinement) for feed in FEEDS},
    **{gold.table.fullname: of_asset(gold.asset) for gold in GOLD_TABLES},
}
