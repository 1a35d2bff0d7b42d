"""What a write would change in the windows of a table, compared in the database to the last digit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from .writer import CreateStage, Load, Writer, in_window, moment_of, stage

EXAMPLES = 3  # of each column
ADDED, REMOVED = "row added", "row removed"
Floor = Callable[[sa.ColumnElement[Any]], sa.ColumnElement[datetime]]


@dataclass(frozen=True)
class WindowDiff:
    """Row counts of a window: before and after the write, added, removed and changed; changed rows of each column."""

    table: sa.Table
    start: datetime
    before: int
    after: int
    added: int
    removed: int
    changed: int
    columns: Mapping[str, int]

    @property
    def differs(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class Difference:
    """A value that would change, or a row that would be added or removed.

    Args:
        column: or "row added", "row removed".
        before, after: None for NULL.
        share: |after - before| as a fraction of the larger absolute value; None where either is NULL or no number.
    """

    table: sa.Table
    column: str
    key: Mapping[str, Any]
    before: str | None
    after: str | None
    share: Any


def compare(
    writer: Writer, load: Load, floor: Floor, ignored: Callable[[sa.Column[Any]], bool]
) -> tuple[list[WindowDiff], list[Difference]]:
    """Replace the writer's windows within its connection's transaction, and compare them with the rows before.

    Args:
        floor: the start of the window that contains a timestamp.
        ignored: whether a column differs after every computation.
    """
    connection, window = writer.connection, writer.window
    compared = {table: [column for column in table.columns if not ignored(column)] for table in load.tables}
    before = {table: copy_rows(connection, table, columns, window) for table, columns in compared.items()}
    writer.fill(load, "replace")
    diffs, examples = list[WindowDiff](), list[Difference]()
    for table, columns in compared.items():
        joined = Joined.of(table, columns, before[table], window)
        found = joined.by_window(connection, floor)
        diffs += found
        if any(each.differs for each in found):
            examples += joined.examples(connection)
    for staged in (*load.staged, *before.values()):  # the transaction's next load may use the same names
        connection.execute(sa.text(f"DROP TABLE {connection.dialect.identifier_preparer.format_table(staged)}"))
    return diffs, examples


def copy_rows(
    connection: sa.Connection, table: sa.Table, columns: Sequence[sa.Column[Any]], window: TimeWindow | None
) -> sa.TableClause:
    rows = sa.select(*columns).where(in_window(table, window))
    before = stage(f"before_{table.schema}_{table.name}", rows)
    connection.execute(CreateStage(before, rows))
    return before


@dataclass(frozen=True)
class Joined:
    """A table's rows before and after the write, joined on the primary key."""

    table: sa.Table
    columns: Sequence[str]  # without the key
    before: sa.FromClause
    after: sa.FromClause
    rows: sa.FromClause

    @classmethod
    def of(
        cls, table: sa.Table, columns: Sequence[sa.Column[Any]], before: sa.FromClause, window: TimeWindow | None
    ) -> "Joined":
        after = sa.select(*columns).where(in_window(table, window)).subquery("after")
        same = sa.and_(*(before.c[column.name] == after.c[column.name] for column in table.primary_key))
        others = [column.name for column in columns if column not in set(table.primary_key)]
        return cls(table, others, before, after, before.join(after, same, full=True))

    @property
    def added(self) -> sa.ColumnElement[bool]:
        return self.before.c[moment_of(self.table).name].is_(None)

    @property
    def removed(self) -> sa.ColumnElement[bool]:
        return self.after.c[moment_of(self.table).name].is_(None)

    def key(self, name: str) -> sa.ColumnElement[Any]:
        return sa.func.coalesce(self.after.c[name], self.before.c[name])

    def differs(self, name: str) -> sa.ColumnElement[bool]:
        return ~self.added & ~self.removed & self.before.c[name].is_distinct_from(self.after.c[name])

    def by_window(self, connection: sa.Connection, floor: Floor) -> list[WindowDiff]:
        start, rows = floor(self.key(moment_of(self.table).name)).label("start"), sa.func.count()
        changed = sa.or_(sa.false(), *map(self.differs, self.columns))
        counts = [
            rows.filter(~self.added),
            rows.filter(~self.removed),
            rows.filter(self.added),
            rows.filter(self.removed),
        ]
        counts += [rows.filter(changed), *(rows.filter(self.differs(name)) for name in self.columns)]
        labelled = [count.label(f"count_{nth}") for nth, count in enumerate(counts)]
        found = connection.execute(
            sa.select(start, *labelled).select_from(self.rows).group_by(start).order_by(start)
        ).all()
        diffs = []
        for begin, before, after, added, removed, any_changed, *each in found:
            columns = {name: count for name, count in zip(self.columns, each, strict=True) if count}
            diffs.append(WindowDiff(self.table, begin, before, after, added, removed, any_changed, columns))
        return diffs

    def examples(self, connection: sa.Connection) -> list[Difference]:
        """The largest differences of each column; one between NULL and a value ranks first."""
        null = sa.null()
        each = (
            sa.values(
                sa.column("column", sa.Text),
                sa.column("before", sa.Text),
                sa.column("after", sa.Text),
                sa.column("differs", sa.Boolean),
                sa.column("share", sa.Numeric),
                name="each",
            )
            .data(
                [
                    (sa.literal(ADDED), sa.cast(null, sa.Text), null, self.added, sa.cast(null, sa.Numeric)),
                    (sa.literal(REMOVED), null, null, self.removed, null),
                    *(self.values_of(name) for name in self.columns),
                ]
            )
            .lateral()
        )
        keys = [self.key(column.name).label(f"key_{column.name}") for column in self.table.primary_key]
        order = (each.c.share.desc().nulls_first(), *keys)
        nth = sa.func.row_number().over(partition_by=each.c.column, order_by=order).label("nth")
        found = (
            sa.select(each.c.column, each.c.before, each.c.after, each.c.share, *keys, nth)
            .select_from(self.rows.join(each, sa.true()))
            .where(each.c.differs)
            .subquery()
        )
        first = sa.select(found).where(found.c.nth <= EXAMPLES).order_by(found.c.column, found.c.nth)
        names = [column.name for column in self.table.primary_key]
        return [
            Difference(self.table, column, dict(zip(names, key, strict=True)), before, after, share)
            for column, before, after, share, *key, _ in connection.execute(first)
        ]

    def values_of(self, name: str) -> tuple[sa.ColumnElement[Any], ...]:
        before, after = self.before.c[name], self.after.c[name]
        share: sa.ColumnElement[Any] = sa.null()
        if isinstance(before.type, sa.Numeric | sa.Integer):
            larger = sa.func.greatest(sa.func.abs(before), sa.func.abs(after))
            share = sa.func.abs(sa.cast(after, sa.Numeric) - before) / sa.func.nullif(larger, 0)
        return sa.literal(name), sa.cast(before, sa.Text), sa.cast(after, sa.Text), self.differs(name), share
