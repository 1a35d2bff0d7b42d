"""Bronze rows as Arrow batches, from PostgreSQL and back, and their content hash."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import sqlalchemy as sa
from dagster import TimeWindow
from psycopg import sql
from sqlalchemy.dialects.postgresql import JSONB, TSTZRANGE

from upbit_assets.postgres_io.copy import copy_statement, cursor

BLOCK = 2**19  # bytes of CSV that are parsed at once
ARROW: dict[type[Any], pa.DataType] = {
    sa.Integer: pa.int64(),
    sa.Boolean: pa.bool_(),
    sa.DateTime: pa.timestamp("us", "UTC"),
    sa.String: pa.string(),
    JSONB: pa.string(),
    TSTZRANGE: pa.string(),
}
# the format of times; memory for sorting a day's rows
SESSION = sa.text(
    "SELECT set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO', true), "
    "set_config('work_mem', '64MB', true)"
)
RENAMED = {"day": "day_start"}  # Parquet readers derive a column `day` from the path


def columns_of(table: sa.Table) -> list[sa.Column[Any]]:
    """The archived columns: all but the transaction id, which is meaningless in another database."""
    return [column for column in table.columns if column.name != "written_in"]


def archived_name(column: sa.Column[Any]) -> str:
    return RENAMED.get(column.name, column.name)


def schema_of(table: sa.Table) -> pa.Schema:
    """The schema of its files; JSON is text."""
    return pa.schema(
        [
            (archived_name(column), next(ARROW[kind] for kind in type(column.type).mro() if kind in ARROW))
            for column in columns_of(table)
        ]
    )


def read_table(connection: sa.Connection, table: sa.Table, day: TimeWindow) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a day, by market and time, in the connection's transaction.

    Raises:
        psycopg.Error: the connection was lost.
    """
    connection.execute(SESSION)
    order = names(["market", *(column.name for column in table.primary_key if column.name != "market")])
    yield from batches_of(connection, in_days(table, columns_of(table), order, day, "CSV"), schema_of(table))


def in_days(
    table: sa.Table, columns: Iterable[sa.Column[Any]], order: sql.Composed, span: TimeWindow, form: str
) -> sql.Composed:
    """COPY of the rows of a span."""
    return sql.SQL(
        "COPY (SELECT {columns} FROM {table} WHERE {window} >= {start} AND {window} < {end} ORDER BY {order}) "
        "TO STDOUT (FORMAT {form})"
    ).format(
        columns=names(column.name for column in columns),
        table=sql.Identifier(str(table.schema), table.name),
        window=sql.Identifier(table.c[table.info["window"]].name),
        start=sql.Literal(span.start),
        end=sql.Literal(span.end),
        order=order,
        form=sql.SQL(form),
    )


def batches_of(connection: sa.Connection, statement: sql.Composed, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream the CSV of a COPY as batches."""
    convert = pyarrow.csv.ConvertOptions(
        column_types=schema,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["t"],
        false_values=["f"],
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with cursor(connection) as reading, reading.copy(statement) as copy:
        for block in blocks(copy):
            # not open_csv, which reads 32 blocks ahead
            read = pyarrow.csv.ReadOptions(column_names=schema.names, block_size=len(block) + 1, use_threads=False)
            yield from pyarrow.csv.read_csv(pa.py_buffer(block), read, parse, convert).to_batches()


def blocks(copy: psycopg.Copy) -> Iterator[bytes]:
    """The output of a COPY in blocks of whole rows: PostgreSQL sends one message per row."""
    rows, size = list[bytes](), 0
    for row in copy:
        rows.append(bytes(row))
        size += len(row)
        if size >= BLOCK:
            yield b"".join(rows)
            rows, size = [], 0
    if rows:
        yield b"".join(rows)


def names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def stored_names(table: sa.Table, schema: pa.Schema) -> list[str]:
    """The table's columns that a file has, in the file's order."""
    stored = {archived_name(column): column.name for column in columns_of(table)}
    return [stored[name] for name in schema.names]


def write_rows(
    connection: sa.Connection, table: sa.TableClause, columns: Sequence[str], batches: Iterable[pa.RecordBatch]
) -> None:
    """COPY of archived rows, with their ids."""
    with cursor(connection) as writing, writing.copy(copy_statement(table, columns, "CSV")) as copy:
        for batch in batches:
            copy.write(as_csv(batch))


def as_csv(batch: pa.RecordBatch) -> bytes:
    text = io.BytesIO()
    quoted = pyarrow.csv.WriteOptions(include_header=False, quoting_style="all_valid")  # "" is a text, nothing is NULL
    pyarrow.csv.write_csv(batch, text, quoted)
    return text.getvalue()


@dataclass(frozen=True)
class Content:
    """The row count, and a hash of column names and values in order."""

    rows: int
    hash: str


class Hashing:
    """Computes the content hash of batches passed through, independent of their sizes."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = self.bytes = 0
        self.columns = {name: (hashlib.sha256(), hashlib.sha256()) for name in schema.names}

    def passed(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.rows, self.bytes = self.rows + batch.num_rows, self.bytes + batch.nbytes
            for (shape, values), array in zip(self.columns.values(), batch.columns, strict=True):
                for digest, data in zip((shape, values), parts(array), strict=True):
                    digest.update(data)
            yield batch

    def content(self) -> Content:
        digests = [(name, shape.hexdigest(), values.hexdigest()) for name, (shape, values) in self.columns.items()]
        return Content(self.rows, hashlib.sha256(json.dumps(digests).encode()).hexdigest())


def parts(array: pa.Array) -> tuple[Any, Any]:
    """A column as bytes: NULL flags and lengths, and the concatenated values."""
    if pa.types.is_string(array.type):
        lengths = pc.fill_null(pc.binary_length(array), -1).to_numpy(zero_copy_only=False)
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset :][[0, len(array)]]
        return lengths.tobytes(), memoryview(data)[ends[0] : ends[1]] if data else b""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(array.cast(pa.int8() if pa.types.is_boolean(array.type) else pa.int64()), 0)
    return valid.tobytes(), numbers.to_numpy(zero_copy_only=False).tobytes()


def hashed(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Hashing:
    """The hash after consuming all batches."""
    hashing = Hashing(schema)
    for _ in hashing.passed(batches):
        pass
    return hashing
