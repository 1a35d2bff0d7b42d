"""A table's days as one file for analysts, figures as decimals."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from dagster import TimeWindow
from psycopg import sql

from upbit_assets.archive.days import row_groups
from upbit_assets.archive.rows import ARROW, SESSION, batches_of, in_days, names
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import metadata
from upbit_assets.postgres_io import in_window
from upbit_assets.postgres_io.copy import cursor

WIDEST = 76  # digits of Arrow's decimals; wider figures are exported as text


class ExportError(ValueError):
    """There is no such table."""


def table_of(name: str) -> sa.Table:
    """A table by its full name, like gold.market_stats.

    Raises:
        ExportError: there is none.
    """
    if name not in metadata.tables:
        raise ExportError(f"There is no table {name}. There are {', '.join(sorted(metadata.tables))}.")
    return metadata.tables[name]


def export(database: Database, table: sa.Table, span: TimeWindow, file: Path, form: str) -> int:
    """Write the rows of a span, by the table's window column, to a new file; returns the number of rows.

    CSV has PostgreSQL's text. In Parquet, figures are decimals as wide as the widest of their column; arrays and JSON
    are text.

    Raises:
        FileExistsError: the file exists.
        DatabaseError: the database is unreachable or rejected the query.
    """
    partial = file.with_name(f".{file.name}.part")
    write: Callable[..., int] = {"csv": write_csv, "parquet": write_parquet}[form]
    if file.exists():
        raise FileExistsError(f"{file} already exists; name a new file.")
    try:
        with database.connect("REPEATABLE READ") as connection, connection.begin():
            connection.execute(SESSION)
            rows = write(connection, table, span, partial)
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def write_csv(connection: sa.Connection, table: sa.Table, span: TimeWindow, file: Path) -> int:
    columns = list(table.columns)
    statement = in_days(table, columns, ordered_by(table), span, "CSV, HEADER")
    with file.open("wb") as out, cursor(connection) as reading:
        with reading.copy(statement) as copy:
            for line in copy:
                out.write(line)
        return reading.rowcount


def write_parquet(connection: sa.Connection, table: sa.Table, span: TimeWindow, file: Path) -> int:
    columns = list(table.columns)
    schema = pa.schema([(column.name, arrow_type(connection, column, span)) for column in columns])
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        statement = in_days(table, columns, ordered_by(table), span, "CSV")
        for group in row_groups(batches_of(connection, statement, schema)):
            writer.write_table(group)
            rows += len(group)
    return rows


def ordered_by(table: sa.Table) -> sql.Composed:
    return names(column.name for column in list(table.primary_key) or table.columns)


def arrow_type(connection: sa.Connection, column: sa.Column[Any], span: TimeWindow) -> pa.DataType:
    if not isinstance(column.type, sa.Numeric):
        return next((ARROW[kind] for kind in type(column.type).mro() if kind in ARROW), pa.string())
    digits = sa.func.coalesce(sa.func.max(sa.func.length(sa.cast(sa.func.trunc(sa.func.abs(column)), sa.Text))), 1)
    scale = sa.func.coalesce(sa.func.max(sa.func.scale(column)), 0)
    before, after = connection.execute(sa.select(digits, scale).where(in_window(column.table, span))).one()
    if before + after > WIDEST:
        return pa.string()
    wide = pa.decimal128 if before + after <= 38 else pa.decimal256
    return wide(before + after, after)


def span_of(first: datetime, last: datetime) -> TimeWindow:
    """From a day in Seoul to another, inclusive."""
    from upbit_assets.partitions import DAY, SEOUL

    return TimeWindow(first.replace(tzinfo=SEOUL), last.replace(tzinfo=SEOUL) + DAY)
