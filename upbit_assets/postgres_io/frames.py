"""COPY of data frames into a table. A separate module, as importing pandas takes longer than most runs."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import sqlalchemy as sa
from psycopg.copy import QueuedLibpqWriter

from .copy import copy_statement, cursor, known

join = pyarrow.compute.binary_join_element_wise

ROWS_A_BLOCK = 8_192  # small, so that the server starts early


class BinaryFloatsError(ValueError):
    """Binary floats for an exact column: they may differ from the intended decimals."""

    def __init__(self, column: sa.Column[Any]) -> None:
        super().__init__(
            f"{column.table.fullname}.{column.name} is exact, but the frame's column has binary floats: use Decimals"
        )


def copy_frame(connection: sa.Connection, table: sa.Table, frame: pd.DataFrame) -> int:
    """COPY in text format, made by Arrow in blocks; returns the number of rows.

    Raises:
        ValueError: the table has no such column, or binary floats for an exact column.
    """
    columns = [table.c[name] for name in known(table, [str(name) for name in frame.columns])]
    if frame.empty:
        return 0  # the columns of an empty frame may be missing or have the wrong type
    with cursor(connection) as writer:
        # sent in a thread, so that the server works while the next block is made
        sender = QueuedLibpqWriter(writer)
        with writer.copy(copy_statement(table, [column.name for column in columns], "TEXT"), writer=sender) as copy:
            for block in text_blocks(frame, columns):
                copy.write(block)
    return len(frame)


def text_blocks(frame: pd.DataFrame, columns: Sequence[sa.Column[Any]]) -> Iterator[pa.Buffer]:
    """The frame in COPY's text format, in blocks of rows to bound memory.

    Unlike CSV it needs no quotes, which makes it smaller, and faster on both sides.
    """
    for start in range(0, len(frame), ROWS_A_BLOCK):
        block = frame.iloc[start : start + ROWS_A_BLOCK]
        *fields, last = (field(block[name], column) for name, column in zip(frame.columns, columns, strict=True))
        lines = join(*fields, join(last, "\n", ""), "\t")
        yield lines.buffers()[2]  # the concatenated bytes of the lines


def field(series: "pd.Series[Any]", column: sa.Column[Any]) -> pa.Array:
    """A column in COPY's text format."""
    return arrow_array(series, column).cast(pa.string()).fill_null(r"\N")


def arrow_array(series: "pd.Series[Any]", column: sa.Column[Any]) -> pa.Array:
    if series.dtype == object:
        array = decimals(series)
        return escaped(texts(series, column)) if array is None else array
    if is_exact(column) and series.dtype.kind == "f":
        raise BinaryFloatsError(column)
    array = pa.array(series, from_pandas=True)
    if isinstance(array, pa.ChunkedArray):  # from Arrow-backed string columns
        array = array.combine_chunks()
    if pa.types.is_timestamp(array.type) and array.type.tz:
        return utc_text(array)
    return escaped(array) if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else array


def escaped(texts: pa.Array) -> pa.Array:
    for character, escape in (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r")):
        texts = pyarrow.compute.replace_substring(texts, character, escape)
    return texts


def decimals(series: "pd.Series[Any]") -> pa.Array | None:
    """The texts of Decimals, exact at any length and ten times faster than Arrow's decimals; None if there are other
    or missing values."""
    try:
        array = pa.array(list(map(Decimal.__str__, series.tolist())), pa.string())
    except TypeError:
        return None
    return None if pyarrow.compute.any(pyarrow.compute.match_substring(array, "NaN")).as_py() else array


def texts(series: "pd.Series[Any]", column: sa.Column[Any]) -> pa.Array:
    missing = series.isna()
    if is_exact(column) and any(isinstance(value, float) for value in series[~missing]):
        raise BinaryFloatsError(column)
    return pa.array(list(map(str, series)), pa.string(), mask=missing.to_numpy())


def is_exact(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Numeric) and not isinstance(column.type, sa.Float)


def utc_text(moments: pa.Array) -> pa.Array:
    """Timestamps as text in UTC. Without a zone this is 20 times faster: Arrow looks the zone up for each value."""
    naive = moments.cast(pa.timestamp(moments.type.unit))
    return join(naive.cast(pa.string()), "Z", "")
