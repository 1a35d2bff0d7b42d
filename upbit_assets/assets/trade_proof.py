"""Whether a window's trades are complete, by the exchange's own counters: sql/trade_coverage.sql and its input.

It reads bronze as silver would, so it includes rows received since silver was computed, and the open window.
"""

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets.gold import figures
from upbit_assets.assets.refine import Refinement
from upbit_assets.partitions import DAY
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Metadata, create_stages, in_window, stage

STATES = PROVED, COLLECTED, MISSING = "proved", "collected", "missing"
# snapshots further away prove nothing; the SQL file doesn't compare snapshots so far apart that it would need trades
# from further away than NEAR
FAR, NEAR = 30 * DAY, timedelta(hours=2)
CLOCKS_DIFFER = timedelta(seconds=10)
BEFORE_A_SNAPSHOT = timedelta(minutes=2)  # for the other trades in the millisecond of its last trade


def with_coverage(load: Load, span: TimeWindow, ticker: Refinement, trade: Refinement) -> Load:
    """Silver's load with the coverage of its windows, and the number of markets by state in the metadata."""
    coverage = {tables.silver_trade_coverage: figures(tables.silver_trade_coverage, span)}
    staged = {**load.staged, **surroundings(span, ticker, trade)}

    def describe(connection: sa.Connection, window: TimeWindow) -> Metadata:
        counted = Counter[str]()
        for states in counted_states(connection, window).values():
            counted.update(states)
        return {**load.describe(connection, window), **{f"markets {state}": counted[state] for state in STATES}}

    return replace(load, tables={**load.tables, **coverage}, staged=staged, describe=describe)


def counted_states(connection: sa.Connection, span: TimeWindow) -> dict[datetime, dict[str, int]]:
    """How many markets of each window are in each state."""
    row = tables.silver_trade_coverage.c
    of = (row.window_start, row.state)
    found = defaultdict[datetime, dict[str, int]](dict)
    for start, state, markets in connection.execute(
        sa.select(*of, sa.func.count()).where(in_window(tables.silver_trade_coverage, span)).group_by(*of)
    ):
        found[start][state] = markets
    return found


def missing_trades(
    database: Database, span: TimeWindow, ticker: Refinement, trade: Refinement
) -> list[tuple[str, datetime, datetime]]:
    """(market, start, end) of the intervals with missing trades, by the coverage as computed now."""
    row = figures(tables.silver_trade_coverage, span).subquery("coverage").c
    part = sa.func.unnest(sa.func.range_agg(row.missing)).label("part")
    parts = sa.select(row.market, part).where(row.missing.is_not(None)).group_by(row.market).subquery()
    found = sa.select(parts.c.market, sa.func.lower(parts.c.part), sa.func.upper(parts.c.part))
    with database.connect("REPEATABLE READ") as connection:
        create_stages(connection, surroundings(span, ticker, trade))
        return list(connection.execute(found).tuples())


def surroundings(span: TimeWindow, ticker: Refinement, trade: Refinement) -> dict[sa.TableClause, sa.Select[Any]]:
    """The snapshots from the last one before a span to the first one after it, and the trades between the two."""
    first, last = first_and_last(span)
    snapshot, traded = snapshots(span, ticker, first, last), trades(span, trade, first, last)
    return {stage("snapshot", snapshot): snapshot, stage("trade", traded): traded}


def first_and_last(span: TimeWindow) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    def nearest(of: Any, at: sa.Column[Any], start: Any, end: Any) -> sa.ScalarSelect[Any]:
        return sa.select(of(at)).where(at >= start, at < end).scalar_subquery()

    silver, bronze = tables.silver_ticker.c.ingested_at, tables.bronze_ticker_raw.c.ingested_at
    before = (nearest(sa.func.max, each, span.start - FAR, span.start) for each in (silver, bronze))
    after = (nearest(sa.func.min, each, span.end, span.end + FAR) for each in (silver, bronze))
    return sa.func.coalesce(sa.func.greatest(*before), span.start), sa.func.coalesce(sa.func.least(*after), span.end)


def snapshots(
    span: TimeWindow, ticker: Refinement, first: sa.ColumnElement[Any], last: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    """Those of silver, and of bronze those before and after them."""
    names = ("market", "ingested_at", "traded_at", "day_volume", "day_turnover")
    silver, bronze = tables.silver_ticker, tables.bronze_ticker_raw
    at = silver.c.ingested_at
    near = (at >= span.start - FAR, at < span.end + FAR, at >= first, at <= last)
    newest, oldest = (sa.select(of(at)).where(*near).scalar_subquery() for of in (sa.func.max, sa.func.min))
    came = bronze.c.ingested_at
    others = sa.select(bronze).where(
        *(came >= span.start - FAR, came < span.end + FAR, came >= first, came <= last),
        sa.func.coalesce((came > newest) | (came < oldest), True),
    )
    rows = ticker.validated(others.subquery("bronze")).subquery("others")
    good = ticker.accepted_rows(rows).subquery("good")
    of_silver = sa.select(*(silver.c[name] for name in names)).where(*near)
    together = sa.union_all(of_silver, sa.select(*(good.c[name] for name in names))).subquery("snapshot")
    return sa.select(together)


def trades(
    span: TimeWindow, trade: Refinement, first: sa.ColumnElement[Any], last: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    at = trade.bronze.c.traded_at
    raw = sa.select(trade.bronze).where(
        *(at >= span.start - NEAR, at < span.end + NEAR),
        *(at >= first - BEFORE_A_SNAPSHOT, at <= last + CLOCKS_DIFFER),
    )
    row = trade.validated(raw.subquery("bronze")).subquery("row")
    good = trade.accepted_rows(row).subquery("good").c
    return sa.select(good.market, good.traded_at, good.trade_id, good.price, good.volume)
