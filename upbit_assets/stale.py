"""Which windows' silver or gold no longer follows from what lies below: asked of the database, not of Dagster.

Bronze is append-only, so a window has changed exactly when its number of raw rows has, or that of the pages by which
they were asked for: one without rows tells that nobody traded. Which windows to count is told by the transaction that
wrote each row: a look remembers PostgreSQL's snapshot, and the next one takes up what was committed since, however late
or out of order, and however long some other transaction stays open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets.coverage import held
from upbit_assets.partitions import DAY, Axis, days, each_of, windows
from upbit_assets.postgres import tables

NONE = timedelta()
MOST_TOGETHER = 144  # windows counted in one statement, which locks the partitions from the first to the last


@dataclass(frozen=True)
class Source:
    """Silver that gold is computed from: its books, where gold notes which it was, and how much older its window is."""

    build: sa.Table
    noted: str
    older: timedelta = NONE


@dataclass(frozen=True)
class Chain:
    """From bronze to gold: assets, each with the table that tells when a window of it was computed, and from what.

    Args:
        pages: of the silver that tells what was asked for: the pages, and the table that notes how many it knew.
    """

    axis: Axis
    silver: Mapping[str, tuple[sa.Table, sa.Table]]  # asset: (bronze, silver's books)
    gold: str
    gold_build: sa.Table
    sources: tuple[Source, ...]
    pages: Mapping[str, tuple[sa.Table, sa.Table]] = field(default_factory=dict)

    @property
    def raw(self) -> list[sa.Table]:
        return [bronze for bronze, _ in self.silver.values()]

    @property
    def collected_into(self) -> list[sa.Table]:
        return [*self.raw, *(page for page, _ in self.pages.values())]


TICKER = Chain(
    windows,
    {"silver_ticker": (tables.bronze_ticker_raw, tables.silver_ticker_build)},
    "gold_market_stats",
    tables.gold_market_stats_build,
    (
        Source(tables.silver_ticker_build, "silver_computed_at"),
        Source(tables.silver_ticker_build, "day_before_computed_at", older=DAY),
    ),
)
ORDERBOOK = Chain(
    windows,
    {"silver_orderbook": (tables.bronze_orderbook_raw, tables.silver_orderbook_build)},
    "gold_orderbook_stats",
    tables.gold_orderbook_stats_build,
    (Source(tables.silver_orderbook_build, "silver_computed_at"),),
)
DAILY = Chain(
    days,
    {
        "silver_candle": (tables.bronze_candle_raw, tables.silver_candle_build),
        "silver_trade": (tables.bronze_trade_raw, tables.silver_trade_build),
    },
    "gold_market_daily",
    tables.gold_market_daily_build,
    (
        Source(tables.silver_candle_build, "candle_computed_at"),
        Source(tables.silver_trade_build, "trade_computed_at"),
    ),
    {"silver_candle": (tables.bronze_candle_page, tables.silver_candle_coverage)},
)
CHAINS = (TICKER, ORDERBOOK, DAILY)


@dataclass(frozen=True)
class Stale:
    """A window to compute again, the assets that need it, and the state of their sources that asks for it."""

    start: datetime
    assets: frozenset[str]
    sources: str


def committed(connection: sa.Connection) -> tuple[str, str]:
    """(the database's identity, what is committed in it by now: a pg_snapshot's text).

    A database that was put back to an earlier moment is another one.
    """
    now = sa.text(
        "SELECT concat_ws('/', system_identifier, timeline_id, oid), pg_current_snapshot()::text "
        "FROM pg_control_system(), pg_control_checkpoint(), pg_database WHERE datname = current_database()"
    )
    database, snapshot = connection.execute(now).one()
    return database, snapshot


def collected_since(
    connection: sa.Connection, chain: Chain, snapshot: str, within: TimeWindow | None = None
) -> set[datetime]:
    """The windows that got raw rows since `snapshot`: those of a span, in whose partitions alone is looked, or all."""
    found = set[datetime]()
    for table in chain.raw:  # each in a transaction of its own, as all of a table's partitions may be locked
        moment = table.c[table.info["window"]]
        rows = sa.select(chain.axis.floor(moment)).where(tables.written_after(table, snapshot)).distinct()
        found.update(connection.scalars(rows.where(moment >= within.start, moment < within.end) if within else rows))
    return found


def computed_since(connection: sa.Connection, chain: Chain, snapshot: str) -> set[datetime]:
    """The windows of which a page was asked for, or silver computed, since then, and those that gold compares with."""
    pages = [sa.select(page.c.day).where(tables.written_after(page, snapshot)) for page, _ in chain.pages.values()]
    builds = [
        sa.select(source.build.c.window_start + source.older).where(tables.written_after(source.build, snapshot))
        for source in chain.sources
    ]
    return set(connection.scalars(sa.union(*pages, *builds)))


def oldest(connection: sa.Connection, chain: Chain) -> datetime | None:
    """The first moment of which there are raw rows or pages."""
    first = [
        connection.scalar(sa.select(table.c[table.info["window"]]).order_by(table.c[table.info["window"]]).limit(1))
        for table in chain.collected_into
    ]
    return min((moment for moment in first if moment), default=None)


def collected(connection: sa.Connection, chain: Chain, span: TimeWindow) -> set[datetime]:
    """The windows of a span that have raw rows or pages."""
    starts = chain.axis.starts_in(span)
    return set().union(*(chain.axis.with_rows(connection, table, starts) for table in chain.collected_into))


def stale(connection: sa.Connection, chain: Chain, candidates: set[datetime]) -> list[Stale]:
    """Those of the windows that have to be computed again, newest first."""
    block = MOST_TOGETHER * chain.axis.length
    together = groupby(sorted(candidates, reverse=True), key=lambda start: (start - chain.axis.origin) // block)
    return [each for _, starts in together for each in stale_of(connection, chain, list(starts))]


def stale_of(connection: sa.Connection, chain: Chain, candidates: Sequence[datetime]) -> list[Stale]:
    """The same of a few windows, whose span is all of the tables that is opened."""
    each = each_of(candidates)
    start, gold = each.c.start, chain.gold_build
    relation: sa.FromClause = each
    states: list[sa.ColumnElement[object]] = []
    columns: list[sa.ColumnElement[bool]] = []
    for name, (bronze, build) in chain.silver.items():
        moment, built = bronze.c[bronze.info["window"]], build.alias()
        raw = (
            sa.select(sa.func.count().label("rows"))
            .where(moment >= start, moment < start + chain.axis.length, chain.axis.span_of(candidates, moment))
            .lateral(f"raw_{bronze.name}")
        )
        relation = relation.join(raw, sa.true()).outerjoin(built, built.c.window_start == start)
        changed = raw.c.rows != sa.func.coalesce(built.c.bronze_rows, 0)
        states.append(raw.c.rows)
        if name in chain.pages:
            page, coverage = chain.pages[name]
            asked = sa.select(sa.func.count()).where(page.c.day == start, held(page, bronze)).scalar_subquery()
            known = sa.select(sa.func.sum(coverage.c.pages)).where(coverage.c.day == start).scalar_subquery()
            changed |= asked != sa.func.coalesce(known, 0)
            states.append(asked)
        # what retention dropped in part must not replace what was computed from the whole: a person decides on that
        kept = sa.func.coalesce(start >= tables.kept_from(bronze), True)
        columns.append(kept & changed)
    relation = relation.outerjoin(gold, gold.c.window_start == start)
    differs, built_at = [], []
    for source in chain.sources:
        noted = source.build.alias()
        relation = relation.outerjoin(noted, noted.c.window_start == start - source.older)
        differs.append(gold.c[source.noted].is_distinct_from(noted.c.computed_at))
        states.append(noted.c.computed_at)
        if not source.older:
            built_at.append(noted.c.computed_at)
    columns.append(sa.func.coalesce(built_at[0].is_not(None) & sa.or_(*differs), False))
    found = connection.execute(
        sa.select(start, sa.func.concat_ws("/", *states), *columns)
        .select_from(relation)
        .where(sa.or_(*columns))
        .order_by(start.desc())
    )
    return [
        Stale(
            at,
            frozenset(name for name, wrong in zip(chain.silver, wrongs, strict=False) if wrong) | {chain.gold},
            state,
        )
        for at, state, *wrongs in found
    ]
