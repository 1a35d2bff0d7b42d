"""How Dagster's assets are stored in, and read from, the tables of one SQLAlchemy `MetaData`.

What an asset returns decides how it is written: a SQLAlchemy `Select` runs inside the database as INSERT … SELECT,
a pandas DataFrame and `Records` go through COPY. A `Load` writes several tables in one transaction. The annotation of
an input decides how it is read: `Select` is the relation filtered by the partitions, `DataFrame` its rows.
The write mode is declared on the asset: `stored_in(table, write="append")` or `write="replace"`.

A write is one transaction under advisory locks on (table, window): a reader sees the old window or the new one, and
runs on the same window are serialized, however they were started.
"""

import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import sqlalchemy as sa
from dagster import (
    AssetExecutionContext,
    ConfigurableIOManager,
    DagsterExecutionInterruptedError,
    DagsterInvariantViolationError,
    Failure,
    InputContext,
    OutputContext,
    TableColumn,
    TableColumnConstraints,
    TableColumnLineage,
    TableSchema,
    TimeWindow,
)
from sqlalchemy.dialects import postgresql

from .writer import Load, Rows, Write, Writer, in_window, write_notification, writer


def stored_in(table: sa.Table, *, write: Write, lineage: TableColumnLineage | None = None) -> dict[str, Any]:
    """An asset's metadata: its table, write mode, column schema and column lineage."""
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
    """Stores assets; a subclass defines the tables and the connection.

    Each table declares the timestamp column of its windows: `Table(..., info={"window": "ingested_at"})`.
    """

    tables: ClassVar[sa.MetaData]

    @abstractmethod
    def connect(self) -> AbstractContextManager[sa.Connection]:
        """A psycopg connection without an open transaction."""

    def handle_output(self, context: OutputContext, obj: "Load | Rows | None") -> None:
        """Write the asset's return value; `None`: nothing to write.

        Raises:
            TypeError: the type of the value is not supported.
            DagsterInvariantViolationError: the asset doesn't declare its table or write mode.
            Exception: whatever `connect` raises; nothing was written.
        """
        window = time_window(context)
        if obj is None:
            return
        table, write = self.table_of(context), self.write_of(context)
        if write == "replace" and window is None:
            raise DagsterInvariantViolationError(f"{table.fullname}: replace needs a partitioned asset")
        windows = context.asset_partition_keys if context.has_asset_partitions else None
        load = obj if isinstance(obj, Load) else Load({table: obj})
        with (
            no_retry_on_interrupt(),
            self.connect() as connection,
            writer(connection, table, windows, window, context.log) as out,
        ):
            described = out.write(load, write, write_notification(table, window))
        context.add_output_metadata({**described, **out.metadata()})

    def load_input(self, context: InputContext) -> Any:
        """The upstream asset's partitions, as the annotated type."""
        table = self.table_of(context)
        window = time_window(context)
        select = sa.select(table) if window is None else sa.select(table).where(in_window(table, window))
        kind = context.dagster_type.typing_type
        if (pandas := sys.modules.get("pandas")) and kind is pandas.DataFrame:
            with self.connect() as connection:
                return pandas.read_sql(select, connection, coerce_float=False)
        if kind is sa.Select or getattr(kind, "__origin__", None) is sa.Select:
            return select
        raise TypeError(f"{table.fullname} can be read as sqlalchemy.Select or pandas.DataFrame, not as {kind}")

    def table_of(self, context: InputContext | OutputContext) -> sa.Table:
        """The table of an asset, or of an input."""
        output = context.upstream_output if isinstance(context, InputContext) else context
        name = output.definition_metadata.get("dagster/table_name") if output else None
        if name is None or name not in self.tables.tables:
            raise DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()} is not stored in a known table: "
                "declare it with metadata=stored_in(table, write=...)"
            )
        return self.tables.tables[name]

    def write_of(self, context: OutputContext) -> Write:
        write = context.definition_metadata.get("write")
        if write not in ("append", "replace"):
            raise DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()} doesn't declare its write mode: write='append' or 'replace'"
            )
        return write


@contextmanager
def asset_writer(context: AssetExecutionContext, connection: sa.Connection, table: sa.Table) -> Iterator[Writer]:
    """Locks the run's windows, for an asset that writes as it collects.

    The asset returns `MaterializeResult(metadata=out.metadata())`; the IO manager isn't involved.

    Raises:
        Failure: the range of partitions is reversed.
    """
    windows, window = None, None
    if context.has_partition_key or context.has_partition_key_range:
        window = forward(context.partition_time_window)
        windows = context.partition_keys
    with no_retry_on_interrupt(), writer(connection, table, windows, window, context.log) as out:
        yield out


@contextmanager
def no_retry_on_interrupt() -> Iterator[None]:
    """Makes a run stoppable: with a retry policy, Dagster would retry an interrupted step.

    Raises:
        Failure: the run was interrupted.
    """
    try:
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt) as interrupt:
        raise Failure("Interrupted: terminated, or its stack was stopped.", allow_retries=False) from interrupt


def time_window(context: InputContext | OutputContext) -> TimeWindow | None:
    """The half-open span of the run's partitions, or None for an unpartitioned asset.

    Raises:
        Failure: the range of partitions is reversed.
    """
    if not context.has_asset_partitions:
        return None
    window = None
    try:
        window = context.asset_partitions_time_window
    except Exception:  # of a private type, if there is no window; checking the keys first takes a second for a year
        if context.asset_partition_keys:
            raise
    return forward(window)


def forward(window: TimeWindow | None) -> TimeWindow:
    if window is None or window.end <= window.start:
        raise Failure(
            "The range of partitions is reversed: the first one must not be later than the last.", allow_retries=False
        )
    return window
