"""The Postgres IO manager: how assets are stored in, and read from, tables.

What an asset returns decides how it is written: a SQLAlchemy `Select` runs inside the database as INSERT … SELECT,
a pandas DataFrame and `Records` go through COPY. A `Load` writes several tables in one transaction, `Loads` one after
the other. The annotation of an input decides how it is read: `Select` is the relation narrowed to the partitions,
`DataFrame` its rows.
How a write lands is declared beside the asset: `stored_in(table, write="append")` or `write="replace"`.

One write is one transaction under an advisory lock on (table, window), so a reader sees the old window or the new
one, and runs on the same window queue up, whoever started them.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeGuard

import sqlalchemy as sa
from dagster import (
    ConfigurableIOManager,
    DagsterExecutionInterruptedError,
    DagsterInvariantViolationError,
    Failure,
    InputContext,
    MetadataValue,
    OutputContext,
    ResourceDependency,
    TableColumn,
    TableColumnConstraints,
    TableColumnLineage,
    TableSchema,
    TimeWindow,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles

from upbit_assets.postgres.copy import REFUSALS, Records, copy_records, known, storable
from upbit_assets.postgres.resource import Database

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

# the channel on which each write is told, when it is committed: {"table": …, "start": …, "end": …}. Not that of
# `Loads`, of which there may be many a second.
WRITE_CHANNEL = "asset_written"

# a wider range is locked as a whole: every lock takes a place in the server's shared memory
MOST_WINDOW_LOCKS = 1000


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


@dataclass(frozen=True)
class Loads:
    """Loads written as they come, each in a transaction of its own: what is written stays, whatever comes after.

    Args:
        each: the loads; nothing of it is evaluated before the windows are locked, and it is closed before they are
            let go.
        metadata: for the materialization, asked for at the end.
    """

    each: Generator[Load, None, None]
    metadata: Callable[[], Metadata] = dict


def alone(load: Load) -> Generator[Load, None, None]:
    yield load


def stored_in(table: sa.Table, *, write: Write, lineage: TableColumnLineage | None = None) -> dict[str, Any]:
    """An asset's metadata: its table, how a write lands there, the columns with their meaning, and their origin."""
    return {
        **({"dagster/column_lineage": lineage} if lineage else {}),
        "dagster/table_name": table.fullname,
        "dagster/column_schema": TableSchema(
            [
                TableColumn(
                    column.name,
                    column.type.compile(postgresql.dialect()).lower(),
                    column.comment,
                    TableColumnConstraints(nullable=bool(column.nullable)),
                )
                for column in table.columns
            ]
        ),
        "write": write,
    }


class PostgresIOManager(ConfigurableIOManager):
    """Stores assets in the tables of one SQLAlchemy `MetaData`; see the module's docstring.

    Each table names the timestamp column of its windows: `Table(..., info={"window": "ingested_at"})`.

    A subclass says which tables there are, and is otherwise used as it is.
    """

    tables: ClassVar[sa.MetaData]
    database: ResourceDependency[Database]

    def handle_output(self, context: OutputContext, obj: "Loads | Load | Rows | None") -> None:
        """Write what the asset returned; `None` means that the asset has nothing to write.

        Raises:
            TypeError: the value is of a kind that this IO manager can't write.
            DagsterInvariantViolationError: the asset doesn't declare its table or its way of writing.
            DatabaseError: nothing was written, and why.
        """
        window = time_window(context)
        if obj is None:
            return
        table, write = self._table_of(context), self._write_of(context)
        if write == "replace" and window is None:
            raise DagsterInvariantViolationError(f"{table.fullname}: only the windows of an asset can be replaced")
        if isinstance(obj, Loads) and write == "replace":
            raise DagsterInvariantViolationError(f"{table.fullname}: loads one after the other can only be appended")
        loads = obj if isinstance(obj, Loads) else Loads(alone(obj if isinstance(obj, Load) else Load({table: obj})))
        counts: Counter[sa.Table] = Counter({table: 0})
        described: dict[str, Any] = {}
        seconds = 0.0
        tell = None if isinstance(obj, Loads) else write_notification(table, window)
        with no_retry_on_interrupt(), self._locked(context, table) as connection, closing(loads.each) as each:
            for load in each:
                started = time.perf_counter()
                try:
                    rows, said = write_load(connection, load, write, window, tell)
                except REFUSALS:  # no cheaper test than jsonb's own is sure, and a savepoint costs every snapshot
                    rows, said = write_load(connection, load.storable(connection), write, window, tell)
                counts.update(rows)
                described |= said
                seconds += time.perf_counter() - started
        context.add_output_metadata(
            {
                **described,
                **loads.metadata(),
                **({"dagster/partition_row_count": counts[table]} if one_window(context) else {}),
                **{f"rows in {target.fullname}": count for target, count in counts.items()},
                "seconds": MetadataValue.float(round(seconds, 3)),
                "rows per second": round(counts.total() / max(seconds, 0.001)),
            }
        )

    def load_input(self, context: InputContext) -> Any:
        """The upstream asset's partitions, as the input's annotation says."""
        table = self._table_of(context)
        window = time_window(context)
        select = sa.select(table) if window is None else sa.select(table).where(in_window(table, window))
        kind = context.dagster_type.typing_type
        if (pandas := sys.modules.get("pandas")) and kind is pandas.DataFrame:
            with self.database.connect() as connection:
                return pandas.read_sql(select, connection, coerce_float=False)
        if kind is sa.Select or getattr(kind, "__origin__", None) is sa.Select:
            return select
        raise TypeError(f"{table.fullname} can be read as sqlalchemy.Select or pandas.DataFrame, not as {kind}")

    def _table_of(self, context: InputContext | OutputContext) -> sa.Table:
        output = context.upstream_output if isinstance(context, InputContext) else context
        name = output.definition_metadata.get("dagster/table_name") if output else None
        if name is None or name not in self.tables.tables:
            raise DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()} is not stored in a known table: "
                "declare it with metadata=stored_in(table, write=...)"
            )
        return self.tables.tables[name]

    def _write_of(self, context: OutputContext) -> Write:
        write = context.definition_metadata.get("write")
        if write not in ("append", "replace"):
            raise DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()} doesn't say how it is written: write='append' or 'replace'"
            )
        return write

    @contextmanager
    def _locked(self, context: OutputContext, table: sa.Table) -> Iterator[sa.Connection]:
        """A connection that holds the locks of the windows to be written.

        They are the session's, taken before the transaction, so that the transaction's snapshot of the other
        tables is younger than whatever it waited for. A dead session lets go of them by itself.
        """
        with self.database.connect() as connection:
            shared, exclusive = locks(table, context.asset_partition_keys if context.has_asset_partitions else None)
            started = time.perf_counter()
            try:
                if shared:
                    connection.execute(sa.select(sa.func.pg_advisory_lock_shared(shared)))
                each = sa.func.unnest(sa.cast(exclusive, sa.ARRAY(sa.BigInteger))).column_valued("key")
                connection.execute(sa.select(sa.func.pg_advisory_lock(each)))
                if (waited := time.perf_counter() - started) > 1:
                    context.log.info(f"Waited {waited:.1f} s for another run that wrote the same windows.")
                connection.commit()  # ends SQLAlchemy's transaction, which autocommit makes an empty one
                yield connection.execution_options(isolation_level="REPEATABLE READ")
            finally:
                release(connection)


@contextmanager
def no_retry_on_interrupt() -> Iterator[None]:
    """Lets a run be stopped: Dagster would try a step again that was interrupted, as it has a retry policy.

    Raises:
        Failure: somebody stopped the run.
    """
    try:
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt) as interrupt:
        raise Failure("Stopped: by hand, or with the stack that it ran in.", allow_retries=False) from interrupt


def write_load(
    connection: sa.Connection, load: Load, write: Write, window: TimeWindow | None, tell: str | None
) -> tuple[dict[sa.Table, int], Metadata]:
    """One transaction, at whose end listeners are told; returns how many rows each table got, and its description."""
    counts, replaced = {}, write == "replace"
    with connection.begin():
        if any(isinstance(rows, sa.Select) for rows in load.tables.values()):
            connection.execute(PLANNER)
        for staged, select in load.staged.items():
            connection.execute(CreateStage(staged, select))
        for target, rows in load.tables.items():
            if replaced:
                connection.execute(sa.delete(target).where(in_window(target, window)))
            counts[target] = insert(connection, target, rows, window, emptied=replaced)
        described = load.describe(connection, window) if window else {}
        if tell:
            connection.execute(sa.select(sa.func.pg_notify(WRITE_CHANNEL, tell)))
    return counts, described


def release(connection: sa.Connection) -> None:
    """Let go of the session's locks; a connection that can't is closed, which does the same."""
    try:
        connection.rollback()
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
    except sa.exc.DBAPIError:
        connection.invalidate()


def locks(table: sa.Table, windows: Sequence[str] | None) -> tuple[int | None, list[int]]:
    """The keys of the advisory locks of a write: (shared on the table, exclusive on each window in one order).

    A write of the whole table, or of very many windows, holds the table's lock exclusively instead.
    """
    whole = lock_key(table.fullname)
    if windows is None or len(windows) > MOST_WINDOW_LOCKS:
        return None, [whole]
    return whole, sorted(lock_key(f"{table.fullname}/{window}") for window in windows)


def lock_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def write_notification(table: sa.Table, window: TimeWindow | None) -> str:
    ends = {"start": window.start.isoformat(), "end": window.end.isoformat()} if window else {}
    return json.dumps({"table": table.fullname, **ends})


def time_window(context: InputContext | OutputContext) -> TimeWindow | None:
    """The half-open span of all the partitions of the run, or None for an asset without partitions.

    Raises:
        Failure: the range of partitions runs backwards.
    """
    if not context.has_asset_partitions:
        return None
    window = None
    try:
        window = context.asset_partitions_time_window
    except Exception:  # of a kind without public name where there is no window; to list a year's keys takes a second
        if context.asset_partition_keys:
            raise
    if window is None or window.end <= window.start:
        raise Failure(
            "There is no window in that range: it names its first window, then its last.", allow_retries=False
        )
    return window


def one_window(context: OutputContext) -> bool:
    return context.has_asset_partitions and len(context.asset_partition_keys) == 1


def in_window(table: sa.Table, window: TimeWindow | None) -> sa.ColumnElement[bool]:
    """The rows of `[start, end)`."""
    if window is None:
        return sa.true()
    column = table.c[table.info["window"]]
    return sa.and_(column >= window.start, column < window.end)


def insert(
    connection: sa.Connection, table: sa.Table, rows: Rows, window: TimeWindow | None, *, emptied: bool = False
) -> int:
    """Add rows to a table in the connection's transaction; returns how many. `emptied`: the window has no rows yet.

    Raises:
        TypeError: a kind of rows that can't be written.
        ValueError: a column that the table hasn't, binary floats for exact numbers, a row outside of the window.
    """
    moment = table.c[table.info["window"]]
    match rows:
        case sa.Select():
            return insert_select(connection, table, rows, window, emptied)
        case _ if is_frame(rows):
            from upbit_assets.postgres.frames import copy_frame

            if window and moment.name in rows and not rows.empty:
                first, last = rows[moment.name].min(), rows[moment.name].max()
                if not (window.start <= first and last < window.end):
                    raise out_of_window_error(first, last, table, window)
            return copy_frame(connection, table, rows)
        case Records():
            if window and moment.name in rows.columns:
                rows = checked_against_window(rows, rows.columns.index(moment.name), table, window)
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
        moment = rows.subquery().c[table.info["window"]]
        first, last = connection.execute(sa.select(sa.func.min(moment), sa.func.max(moment))).one()
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
