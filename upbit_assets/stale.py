"""Which windows' silver or gold no longer follows from what lies below: asked of the database, not of Dagster.

Bronze is append-only, so a window has changed exactly when its number of raw rows has, or that of the pages by which
they were asked for: one without rows tells that nobody traded. Which windows to count is told by the transaction that
wrote each row: a look remembers PostgreSQL's snapshot, and the next one takes up what was committed since, however late
or out of order, and however long some other transaction stays open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets.coverage import not_dropped
from upbit_assets.feeds import GoldTable
from upbit_assets.partitions import each_of
from upbit_assets.postgres import tables

MOST_TOGETHER = 144  # windows counted in one statement, which locks the partitions from the first to the last


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
    connection: sa.Connection, gold: GoldTable, snapshot: str, within: TimeWindow | None = None
) -> set[datetime]:
    """The windows that got raw rows since `snapshot`: those of a span, in whose partitions alone is looked, or all."""
    found = set[datetime]()
    # each in a transaction of its own, as all of a table's partitions may be locked
    for table in (feed.refinement.bronze for feed in gold.feeds):
        moment = table.c[table.info["window"]]
        rows = sa.select(gold.axis.floor(moment)).where(tables.written_after(table, snapshot)).distinct()
        found.update(connection.scalars(rows.where(moment >= within.start, moment < within.end) if within else rows))
    return found


def computed_since(connection: sa.Connection, gold: GoldTable, snapshot: str) -> set[datetime]:
    """The windows of which a page was asked for, or silver computed, since then, and those that gold compares with."""
    pages = [
        sa.select(feed.pages[0].c.day).where(tables.written_after(feed.pages[0], snapshot))
        for feed in gold.feeds
        if feed.pages
    ]
    builds = [
        sa.select(source.build.c.window_start + source.older).where(tables.written_after(source.build, snapshot))
        for source in gold.sources
    ]
    return set(connection.scalars(sa.union(*pages, *builds)))


def oldest(connection: sa.Connection, gold: GoldTable) -> datetime | None:
    """The first moment of which there are raw rows or pages."""
    first = [
        connection.scalar(sa.select(table.c[table.info["window"]]).order_by(table.c[table.info["window"]]).limit(1))
        for table in gold.collected_into
    ]
    return min((moment for moment in first if moment), default=None)


def collected(connection: sa.Connection, gold: GoldTable, span: TimeWindow) -> set[datetime]:
    """The windows of a span that have raw rows or pages."""
    starts = gold.axis.starts_in(span)
    return set().union(*(gold.axis.with_rows(connection, table, starts) for table in gold.collected_into))


def stale(connection: sa.Connection, gold: GoldTable, candidates: set[datetime]) -> list[Stale]:
    """Those of the windows that have to be computed again, newest first."""
    block = MOST_TOGETHER * gold.axis.length
    together = groupby(sorted(candidates, reverse=True), key=lambda start: (start - gold.axis.origin) // block)
    return [each for _, starts in together for each in stale_of(connection, gold, list(starts))]


def stale_of(connection: sa.Connection, gold: GoldTable, candidates: Sequence[datetime]) -> list[Stale]:
    """The same of a few windows, whose span is all of the tables that is opened."""
    each = each_of(candidates)
    start, computed = each.c.start, gold.build
    relation: sa.FromClause = each
    states: list[sa.ColumnElement[object]] = []
    columns: list[sa.ColumnElement[bool]] = []
    for feed in gold.feeds:
        bronze, built = feed.refinement.bronze, feed.refinement.build.alias()
        moment = bronze.c[bronze.info["window"]]
        raw = (
            sa.select(sa.func.count().label("rows"))
            .where(moment >= start, moment < start + gold.axis.length, gold.axis.span_of(candidates, moment))
            .lateral(f"raw_{bronze.name}")
        )
        relation = relation.join(raw, sa.true()).outerjoin(built, built.c.window_start == start)
        changed = raw.c.rows != sa.func.coalesce(built.c.bronze_rows, 0)
        states.append(raw.c.rows)
        if feed.pages:
            page, coverage = feed.pages
            asked = sa.select(sa.func.count()).where(page.c.day == start, not_dropped(page, bronze)).scalar_subquery()
            known = sa.select(sa.func.sum(coverage.c.pages)).where(coverage.c.day == start).scalar_subquery()
            changed |= asked != sa.func.coalesce(known, 0)
            states.append(asked)
        # what retention dropped in part must not replace what was computed from the whole: a person decides on that
        kept = sa.func.coalesce(start >= tables.kept_from(bronze), True)
        columns.append(kept & changed)
    relation = relation.outerjoin(computed, computed.c.window_start == start)
    differs, built_at = [], []
    for source in gold.sources:
        noted = source.build.alias()
        relation = relation.outerjoin(noted, noted.c.window_start == start - source.older)
        differs.append(computed.c[source.noted].is_distinct_from(noted.c.computed_at))
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
    return [Stale(at, frozenset([*changed_assets(gold, wrongs), gold.asset]), state) for at, state, *wrongs in found]


def changed_assets(gold: GoldTable, wrongs: Sequence[bool]) -> list[str]:
    changed = (feed for feed, wrong in zip(gold.feeds, wrongs, strict=False) if wrong)
    return [name for feed in changed for name in feed.computed_assets]
