"""Writes rows into locked windows, one transaction per write."""

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

# Freshly filled tables have no statistics, or those of an empty table, and are assumed to be tiny: a nested loop over a
# day takes minutes, and so may a merge join planned for one row. Hash joins don't degrade. JIT is off because the
# penalty on unavoidable nested loops would make PostgreSQL 15 compile the plan.
PLANNER = sa.text(
    "SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true), "
    "set_config('jit', 'off', true)"
)

# the channel notified when an asset's write is committed: {"table": …, "start": …, "end": …}
WRITE_CHANNEL = "asset_written"


@dataclass(frozen=True)
class Load:
    """Several tables written in one transaction, in this order; the asset's own table comes first.

    Args:
        tables: each table with its rows.
        describe: metadata for the materialization, queried after the write in the same transaction.
        staged: temporary tables of the transaction, for relations that several of the tables are computed from.
    """

    tables: Mapping[sa.Table, Rows]
    describe: Callable[[sa.Connection, TimeWindow], Metadata] = lambda _connection, _window: {}
    staged: Mapping[sa.TableClause, sa.Select[Any]] = field(default_factory=dict)

    def storable(self, connection: sa.Connection) -> "Load":
        """The same, with documents that jsonb rejects as strings."""
        with connection.begin():
            tables = {
                table: storable(connection, table, rows) if isinstance(rows, Records) else rows
                for table, rows in self.tables.items()
            }
        return replace(self, tables=tables)


def stage(name: str, rows: sa.Select[Any]) -> sa.TableClause:
    """A temporary table for these rows, for `Load.staged`."""
    columns = (sa.column(str(column.key), column.type) for column in rows.selected_columns)
    return sa.table(name, *columns, schema="pg_temp")  # independent of the search path


class CreateStage(sa.Executable, sa.ClauseElement):
    """CREATE TABLE … AS, which unlike INSERT can run in parallel."""

    inherit_cache = False

    def __init__(self, table: sa.TableClause, rows: sa.Select[Any]) -> None:
        self.table, self.rows = table, rows


@compiles(CreateStage)
def create_stage(element: CreateStage, compiler: Any, **options: Any) -> str:
    name = compiler.preparer.format_table(element.table)
    return f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {compiler.process(element.rows, **options)}"


def create_stages(connection: sa.Connection, staged: Mapping[sa.TableClause, sa.Select[Any]]) -> None:
    """Create temporary tables in the connection's transaction, and adapt the planner to missing statistics."""
    connection.execute(PLANNER)
    for each, rows in staged.items():
        connection.execute(CreateStage(each, rows))


def is_distributed(connection: sa.Connection) -> bool:
    """Whether the database is the coordinator of a Citus cluster."""
    return connection.scalar(sa.text("SELECT to_regclass('pg_dist_partition')")) is not None


@dataclass
class Writer:
    """Writes into locked windows. Each write is committed.

    Args:
        connection: the session that holds the locks.
        windows: the partition keys; None: the whole table.
        window: the span that all rows must be in.
        counts: the number of rows written so far, by table.
        seconds: the time spent writing.
    """

    connection: sa.Connection
    windows: Sequence[str] | None
    window: TimeWindow | None
    counts: Counter[sa.Table]
    seconds: float = 0.0

    def append(self, load: Load) -> None:
        self.write(load, "append")

    def write(self, load: Load, write: Write, notification: str | None = None) -> Metadata:
        """Write in one transaction, with a notification of listeners; returns the load's description.

        Raises:
            TypeError: the type of rows is not supported.
            ValueError: the table has no such column, binary floats for an exact column, or a row outside the window.
        """
        started = time.perf_counter()
        try:
            counts, described = self.transaction(load, write, notification)
        except REFUSALS:  # testing each document first, or a savepoint, would slow down every write
            counts, described = self.transaction(load.storable(self.connection), write, notification)
        self.counts.update(counts)
        self.seconds += time.perf_counter() - started
        return described

    def transaction(self, load: Load, write: Write, notification: str | None) -> tuple[dict[sa.Table, int], Metadata]:
        with self.connection.begin():
            counts = self.fill(load, write)
            described = load.describe(self.connection, self.window) if self.window else {}
            if notification:
                self.connection.execute(sa.select(sa.func.pg_notify(WRITE_CHANNEL, notification)))
        return counts, described

    def fill(self, load: Load, write: Write) -> dict[sa.Table, int]:
        """Write in the connection's transaction, without committing; returns the number of rows by table."""
        counts, connection, window, replaced = {}, self.connection, self.window, write == "replace"
        if any(isinstance(rows, sa.Select) for rows in load.tables.values()):
            create_stages(connection, load.staged)
        for target, rows in load.tables.items():
            if replaced:
                connection.execute(sa.delete(target).where(in_window(target, window)))
            counts[target] = insert(connection, target, rows, window, emptied=replaced)
        return counts

    def metadata(self) -> Metadata:
        """For the materialization: the rows written, for a single window also as Dagster's partition row count."""
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
    """A writer that holds the locks of these windows of a table; it may write further tables too.

    Args:
        windows: the partition keys; None: the whole table.
        window: their span.
    """
    started = time.perf_counter()
    with locked(connection, *locks(table, windows)) as locking:
        if (waited := time.perf_counter() - started) > 1:
            log.info(f"Waited {waited:.1f} s for another run writing the same windows.")
        writing = Writer(locking, windows, window, Counter({table: 0}))
        yield writing


def write_notification(table: sa.Table, window: TimeWindow | None) -> str:
    ends = {"start": window.start.isoformat(), "end": window.end.isoformat()} if window else {}
    return json.dumps({"table": table.fullname, **ends})


def in_window(table: sa.Table, window: TimeWindow | None) -> sa.ColumnElement[bool]:
    """SQL: whether a row is in `[start, end)`."""
    if window is None:
        return sa.true()
    column = moment_of(table)
    return sa.and_(column >= window.start, column < window.end)


def moment_of(table: sa.Table) -> sa.Column[Any]:
    """The column that determines a row's window.

    Raises:
        ValueError: the table doesn't declare one.
    """
    if (name := table.info.get("window")) is None:
        raise ValueError(f'{table.fullname} declares no window column: Table(..., info={{"window": "a column"}})')
    return table.c[name]


def insert(
    connection: sa.Connection, table: sa.Table, rows: Rows, window: TimeWindow | None, *, emptied: bool = False
) -> int:
    """Insert rows in the connection's transaction; returns the number. `emptied`: the window has no rows yet.

    Raises:
        TypeError: the type of rows is not supported.
        ValueError: the table has no such column, binary floats for an exact column, or a row outside the window.
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
    """Whether it is a pandas DataFrame, without importing pandas: if there is one, pandas has been imported."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def insert_select(
    connection: sa.Connection, table: sa.Table, rows: sa.Select[Any], window: TimeWindow | None, emptied: bool
) -> int:
    """INSERT … SELECT; returns the number of rows, and raises as `insert` does.

    Rows outside the window are detected by counting the window's rows before and after in the same snapshot, which
    costs a fraction of RETURNING each row's time.
    """
    names = known(table, rows.selected_columns.keys())
    statement = sa.insert(table).from_select(names, rows, include_defaults=False)
    row_count = sa.select(sa.func.count()).select_from(table).where(in_window(table, window))
    before = connection.execute(row_count).scalar_one() if window and not emptied else 0
    count = connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount
    if window and connection.execute(row_count).scalar_one() != before + count:
        column = rows.subquery().c[moment_of(table).name]
        first, last = connection.execute(sa.select(sa.func.min(column), sa.func.max(column))).one()
        raise out_of_window_error(first, last, table, window)
    return count


def checked_against_window(rows: Records, index: int, table: sa.Table, window: TimeWindow) -> Records:
    """The records, which raise an error at the first row outside the window. `index`: the column of its time."""
    # comparing times of different zones would take longer than everything else
    start, end = window.start.astimezone(UTC), window.end.astimezone(UTC)

    def form(row: Any) -> tuple[Any, ...]:
        formed = rows.form(row)
        if not start <= (moment := formed[index]) < end:
            raise out_of_window_error(moment, moment, table, window)
        return formed

    return replace(rows, form=form)


def out_of_window_error(first: datetime, last: datetime, table: sa.Table, window: TimeWindow) -> ValueError:
    return ValueError(
        f"{table.fullname}: rows from {first} to {last} are not all within [{window.start}, {window.end})"
    )
