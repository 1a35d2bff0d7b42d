"""Finds the windows whose silver or gold is out of date with the layer below, in the database rather than in Dagster.

Bronze is append-only, so a window has changed if and only if its number of raw rows or pages has; a page without rows
means that nobody traded. The windows to count are found by the transaction id in each row: each poll stores
PostgreSQL's snapshot, and the next one finds all rows committed since, even if they were committed late, out of order,
or while other transactions stayed open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets.coverage import not_dropped
from upbit_assets.feeds import GoldTable
from upbit_assets.partitions import each_of
from upbit_assets.postgres import tables

MAX_WINDOWS_PER_STATEMENT = 144  # a statement locks all partitions between its first and last window


@dataclass(frozen=True)
class Stale:
    """A window to recompute, the assets concerned, and the state of their sources."""

    start: datetime
    assets: frozenset[str]
    sources: str


def committed(connection: sa.Connection) -> tuple[str, str]:
    """(the database's identity, its current pg_snapshot as text).

    A database that was restored to an earlier point has another identity.
    """
    now = sa.text(
        "SELECT concat_ws('/', system_identifier, timeline_id, oid), pg_current_snapshot()::text "
        "FROM pg_control_system(), pg_control_checkpoint(), pg_database WHERE datname = current_database()"
    )
    database, snapshot = connection.execute(now).one()
    return database, snapshot


def collected_between(
    connection: sa.Connection, gold: GoldTable, since: str, until: str, within: TimeWindow | None = None
) -> set[datetime]:
    """The windows that got raw rows between two snapshots; with `within`, only its partitions are scanned."""
    found = set[datetime]()
    # one transaction per table, because each may lock all of the table's partitions
    for table in (feed.refinement.bronze for feed in gold.feeds):
        moment = table.c[table.info["window"]]
        rows = sa.select(gold.axis.floor(moment)).where(tables.written_between(table, since, until)).distinct()
        found.update(connection.scalars(rows.where(moment >= within.start, moment < within.end) if within else rows))
    return found


def computed_between(connection: sa.Connection, gold: GoldTable, since: str, until: str) -> set[datetime]:
    """The windows of gold whose pages or silver were written between two snapshots."""
    pages = [
        sa.select(feed.pages[0].c.day).where(tables.written_between(feed.pages[0], since, until))
        for feed in gold.feeds
        if feed.pages
    ]
    builds = [
        sa.select(source.build.c.window_start + source.older).where(tables.written_between(source.build, since, until))
        for source in gold.sources
    ]
    return set(connection.scalars(sa.union(*pages, *builds)))


def oldest(connection: sa.Connection, gold: GoldTable) -> datetime | None:
    """The time of the first raw row or page."""
    first = [
        connection.scalar(sa.select(table.c[table.info["window"]]).order_by(table.c[table.info["window"]]).limit(1))
        for table in gold.collected_into
    ]
    return min((moment for moment in first if moment), default=None)


def collected(connection: sa.Connection, gold: GoldTable, span: TimeWindow) -> set[datetime]:
    """The windows of a span with raw rows or pages."""
    starts = gold.axis.starts_in(span)
    return set().union(*(gold.axis.with_rows(connection, table, starts) for table in gold.collected_into))


def stale(connection: sa.Connection, gold: GoldTable, candidates: set[datetime]) -> list[Stale]:
    """The candidates that have to be recomputed, newest first."""
    spans = [*gold.axis.spans(sorted(candidates), MAX_WINDOWS_PER_STATEMENT)]
    return [each for span in reversed(spans) for each in stale_of(connection, gold, gold.axis.starts_in(span))]


def stale_of(connection: sa.Connection, gold: GoldTable, candidates: Sequence[datetime]) -> list[Stale]:
    """The same for a few adjacent windows, reading only the rows of their span."""
    each, axis = each_of(candidates), gold.axis
    start, computed = each.c.start, gold.build
    relation: sa.FromClause = each
    states: list[sa.ColumnElement[Any]] = []
    columns: list[sa.ColumnElement[bool]] = []

    def of_each(
        window: sa.ColumnElement[datetime], figure: sa.ColumnElement[int], *which: sa.ColumnElement[bool]
    ) -> sa.ColumnElement[int]:
        """A figure of each window, 0 without rows. Joined, as Citus supports no correlated subquery here."""
        nonlocal relation
        rows = sa.select(window.label("window_start"), figure.label("figure")).where(*which).group_by(window).subquery()
        relation = relation.outerjoin(rows, rows.c.window_start == start)
        return sa.func.coalesce(rows.c.figure, 0)

    for feed in gold.feeds:
        bronze, built = feed.refinement.bronze, feed.refinement.build.alias()
        moment = bronze.c[bronze.info["window"]]
        raw = of_each(axis.floor(moment), sa.func.count(), axis.span_of(candidates, moment))
        relation = relation.outerjoin(built, built.c.window_start == start)
        changed = raw != sa.func.coalesce(built.c.bronze_rows, 0)
        states.append(raw)
        if feed.pages:
            page, coverage = feed.pages
            of_span = (axis.span_of(candidates, page.c.day), not_dropped(page, bronze))
            pages = of_each(page.c.day, sa.func.count(), *of_span)
            known = of_each(coverage.c.day, sa.func.sum(coverage.c.pages), axis.span_of(candidates, coverage.c.day))
            changed |= pages != known
            states.append(pages)
        # never replace results by those of partially dropped rows; that is a manual decision
        kept = sa.func.coalesce(start >= tables.kept_from(bronze), True)
        columns.append(kept & changed)
    relation = relation.outerjoin(computed, computed.c.window_start == start)
    differs, built_at = [], []
    for source in gold.sources:
        build = source.build.alias()
        relation = relation.outerjoin(build, build.c.window_start == start - source.older)
        differs.append(computed.c[source.build_column].is_distinct_from(build.c.computed_at))
        states.append(build.c.computed_at)
        if not source.older:
            built_at.append(build.c.computed_at)
    columns.append(sa.func.coalesce(built_at[0].is_not(None) & sa.or_(*differs), False))
    found = connection.execute(
        sa.select(start, sa.func.concat_ws("/", *states), *columns)
        .select_from(relation)
        .where(sa.or_(*columns))
        .order_by(start.desc())
    )
    return [Stale(at, frozenset([*changed_assets(gold, changes), gold.asset]), state) for at, state, *changes in found]


def changed_assets(gold: GoldTable, changes: Sequence[bool]) -> list[str]:
    feeds = (feed for feed, changed in zip(gold.feeds, changes, strict=False) if changed)
    return [name for feed in feeds for name in feed.computed_assets]
