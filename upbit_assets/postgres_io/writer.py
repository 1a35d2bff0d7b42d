"""Rows into the tables of locked windows, a transaction a write."""

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

import sqlalchemy as sa
from dagster import MetadataValue, TimeWindow
from sqlalchemy.ext.compiler import compiles

from .copy import REFUSALS, Records, copy_records, known, storable
from .locks import locked, locks

if TYPE_CHECKING:
    import pandas as pd

Write = Literal["append", "replace"]
Rows: TypeAlias = "sa.Select[Any] | pd.DataFrame | Records"
Metadata = Mapping[str, Any]

# Tables filled a moment ago have no statistics, or those of an empty table, and pass for tiny: nested loops over a day
# of them take minutes, and a merge join that thinks it has one row repeats itself as often. Hash joins stay sane.
# Where there is no other way than a nested loop, its price must not make PostgreSQL compile the plan, as 15 would.
PLANNER = sa.text(
    "SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true), "
    "set_config('jit', 'off', true)"
)

# the channel on which an asset's write is told, when it is committed: {"table": …, "start": …, "end": …}
WRITE_CHANNEL = "asset_written"


@dataclass(frozen=True)
class Load:
    """Several tables written in one transaction, in this order; the asset's own table comes first.

    Args:
        tables: each table with its rows.
        describe: metadata for the materialization, read after the write in its transaction.
        staged: what several of the tables are made from, computed once: temporary tables of the transaction.
    """

    tables: Mapping[sa.Table, Rows]
    describe: Callable[[sa.Connection, TimeWindow], Metadata] = lambda _connection, _window: {}
    staged: Mapping[sa.TableClause, sa.Select[Any]] = field(default_factory=dict)

    def storable(self, connection: sa.Connection) -> "Load":
        """The same with those documents as texts that jsonb refuses."""
        with connection.begin():
            tables = {
                table: storable(connection, table, rows) if isinstance(rows, Records) else rows
                for table, rows in self.tables.items()
            }
        return replace(self, tables=tables)


def stage(name: str, rows: sa.Select[Any]) -> sa.TableClause:
    """A temporary table of these rows, for `Load.staged`."""
    columns = (sa.column(str(column.key), column.type) for column in rows.selected_columns)
    return sa.table(name, *columns, schema="pg_temp")  # found there only, whatever the search path is


class CreateStage(sa.Executable, sa.ClauseElement):
    """CREATE TABLE … AS, which PostgreSQL, other than an INSERT, can compute in parallel."""

    inherit_cache = False

    def __init__(self, table: sa.TableClause, rows: sa.Select[Any]) -> None:
        self.table, self.rows = table, rows


@compiles(CreateStage)
def create_stage(element: CreateStage, compiler: Any, **options: Any) -> str:
    name = compiler.preparer.format_table(element.table)
    return f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {compiler.process(element.rows, **options)}"


@dataclass
class Writer:
    """Writes into windows that are locked. What is written stays, whatever comes after.

    Args:
        connection: the session that holds the locks.
        windows: their partition keys; None: the table as a whole.
        window: their span, of which every row must be.
        counts: how many rows each table got so far.
        seconds: that this took.
    """

    connection: sa.Connection
    windows: Sequence[str] | None
    window: TimeWindow | None
    counts: Counter[sa.Table]
    seconds: float = 0.0

    def append(self, load: Load) -> None:
        self.write(load, "append")

    def write(self, load: Load, write: Write, tell: str | None = None) -> Metadata:
        """One transaction, at whose end listeners are told; returns the load's description.

        Raises:
            TypeError: a kind of rows that can't be written.
            ValueError: a column that the table hasn't, binary floats for exact numbers, a row outside of the window.
        """
        started = time.perf_counter()
        try:
            counts, described = self.transaction(load, write, tell)
        except REFUSALS:  # no cheaper test than jsonb's own is sure, and a savepoint costs every write
            counts, described = self.transaction(load.storable(self.connection), write, tell)
        self.counts.update(counts)
        self.seconds += time.perf_counter() - started
        return described

    def transaction(self, load: Load, write: Write, tell: str | None) -> tuple[dict[sa.Table, int], Metadata]:
        with self.connection.begin():
            counts = self.fill(load, write)
            described = load.describe(self.connection, self.window) if self.window else {}
            if tell:
                self.connection.execute(sa.select(sa.func.pg_notify(WRITE_CHANNEL, tell)))
        return counts, described

    def fill(self, load: Load, write: Write) -> dict[sa.Table, int]:
        """The same in the connection's transaction, which is left open; returns how many rows each table got."""
        counts, connection, window, replaced = {}, self.connection, self.window, write == "replace"
        if any(isinstance(rows, sa.Select) for rows in load.tables.values()):
            connection.execute(PLANNER)
        for staged, select in load.staged.items():
            connection.execute(CreateStage(staged, select))
        for target, rows in load.tables.items():
            if replaced:
                connection.execute(sa.delete(target).where(in_window(target, window)))
            counts[target] = insert(connection, target, rows, window, emptied=replaced)
        return counts

    def metadata(self) -> Metadata:
        """For the materialization: what was written; of a single window, Dagster knows the number of rows as well."""
        table = next(iter(self.counts))
        return {
            **({"dagster/partition_row_count": self.counts[table]} if self.windows and len(self.windows) == 1 else {}),
            **{f"rows in {target.fullname}": count for target, count in self.counts.items()},
            "seconds": MetadataValue.float(round(self.seconds, 3)),
            "rows per second": round(self.counts.total() / max(self.seconds, 0.001)),
        }


@contextmanager
def writer(
    connection: sa.Connection,
    table: sa.Table,
    windows: Sequence[str] | None,
    window: TimeWindow | None,
    log: logging.Logger,
) -> Iterator[Writer]:
    """What writes into these windows of a table, and into others beside it, while nobody else does.

    Args:
        windows: their partition keys; None: the whole table.
        window: their span.
    """
    started = time.perf_counter()
    with locked(connection, *locks(table, windows)) as locking:
        if (waited := time.perf_counter() - started) > 1:
            log.info(f"Waited {waited:.1f} s for another run that wrote the same windows.")
        writing = Writer(locking, windows, window, Counter({table: 0}))
        yield writing
    for target, count in writing.counts.items():
        log.info(f"{target.fullname}: {count:,} rows written")


def write_notification(table: sa.Table, window: TimeWindow | None) -> str:
    ends = {"start": window.start.isoformat(), "end": window.end.isoformat()} if window else {}
    return json.dumps({"table": table.fullname, **ends})


def in_window(table: sa.Table, window: TimeWindow | None) -> sa.ColumnElement[bool]:
    """The rows of `[start, end)`."""
    if window is None:
        return sa.true()
    column = moment_of(table)
    return sa.and_(column >= window.start, column < window.end)


def moment_of(table: sa.Table) -> sa.Column[Any]:
    """The column by which a row belongs to a window.

    Raises:
        ValueError: the table doesn't name one.
    """
    if (name := table.info.get("window")) is None:
        raise ValueError(f'{table.fullname} names no column of its windows: Table(..., info={{"window": "a column"}})')
    return table.c[name]


def insert(
    connection: sa.Connection, table: sa.Table, rows: Rows, window: TimeWindow | None, *, emptied: bool = False
) -> int:
    """Add rows to a table in the connection's transaction; returns how many. `emptied`: the window has no rows yet.

    Raises:
        TypeError: a kind of rows that can't be written.
        ValueError: a column that the table hasn't, binary floats for exact numbers, a row outside of the window.
    """
    match rows:
        case sa.Select():
            return insert_select(connection, table, rows, window, emptied)
        case _ if is_frame(rows):
            from .frames import copy_frame

            if window and (moment := moment_of(table).name) in rows and not rows.empty:
                first, last = rows[moment].min(), rows[moment].max()
                if not (window.start <= first and last < window.end):
                    raise out_of_window_error(first, last, table, window)
            return copy_frame(connection, table, rows)
        case Records():
            if window and (moment := moment_of(table).name) in rows.columns:
                rows = checked_against_window(rows, rows.columns.index(moment), table, window)
            return copy_records(connection, table, rows)
        case _:
            raise TypeError(
                f"{table.fullname} can be written from sqlalchemy.Select, pandas.DataFrame or Records, "
                f"not from {type(rows).__name__}"
            )


def is_frame(rows: object) -> TypeGuard["pd.DataFrame"]:
    """Whether it is a pandas DataFrame, without loading pandas: who made one has."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def insert_select(
    connection: sa.Connection, table: sa.Table, rows: sa.Select[Any], window: TimeWindow | None, emptied: bool
) -> int:
    """INSERT … SELECT; returns the number of rows, and raises as `insert` does.

    In one snapshot, the window holds as many rows more as were written unless some lie outside of it. To count is a
    fraction of the cost of RETURNING each row's moment.
    """
    names = known(table, rows.selected_columns.keys())
    statement = sa.insert(table).from_select(names, rows, include_defaults=False)
    held = sa.select(sa.func.count()).select_from(table).where(in_window(table, window))
    before = connection.execute(held).scalar_one() if window and not emptied else 0
    count = connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount
    if window and connection.execute(held).scalar_one() != before + count:
        column = rows.subquery().c[moment_of(table).name]
        first, last = connection.execute(sa.select(sa.func.min(column), sa.func.max(column))).one()
        raise out_of_window_error(first, last, table, window)
    return count


def checked_against_window(rows: Records, place: int, table: sa.Table, window: TimeWindow) -> Records:
    """The same, which refuse a moment outside of the window when they come to it."""
    # to compare times of two zones takes longer than all else about a row
    start, end = window.start.astimezone(UTC), window.end.astimezone(UTC)

    def form(row: Any) -> tuple[Any, ...]:
        formed = rows.form(row)
        if not start <= (moment := formed[place]) < end:
            raise out_of_window_error(moment, moment, table, window)
        return formed

    return replace(rows, form=form)


def out_of_window_error(first: datetime, last: datetime, table: sa.Table, window: TimeWindow) -> ValueError:
    return ValueError(
        f"{table.fullname}: rows from {first} to {last} are not all within [{window.start}, {window.end})"
    )
