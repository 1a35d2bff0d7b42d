"""COPY of rows from Python into a table, in the connection's transaction."""

import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

# the errors of jsonb: invalid JSON, not storable, nested too deeply
REFUSALS = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


@dataclass(frozen=True)
class Records:
    """Rows as tuples. The value of a JSONB column is the document's text, which is not parsed here.

    A text that jsonb rejects (NaN, \\u0000, a huge number) is stored as a JSON string of that text, so that it is not
    lost and doesn't fail the other rows.

    Args:
        form: converts a row to a tuple; called while the server reads the rows before it.
    """

    columns: tuple[str, ...]
    rows: Collection[Any]
    form: Callable[[Any], tuple[Any, ...]] = tuple

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return map(self.form, self.rows)


class Document(Dumper):
    """Dumps a document's text in jsonb's binary format: a version byte and the text."""

    oid = psycopg.adapters.types["jsonb"].oid
    format = Format.BINARY

    def dump(self, obj: str) -> bytes:
        return b"\1" + obj.encode()


def copy_records(connection: sa.Connection, table: sa.Table, records: Records) -> int:
    """Binary COPY; returns the number of rows.

    Raises:
        REFUSALS: jsonb rejected a document, and the transaction is aborted; retry with `storable` records.
    """
    with cursor(connection) as writer:
        writer.adapters.register_dumper(str, Document)
        with writer.copy(copy_statement(table, known(table, records.columns), "BINARY")) as copy:
            copy.set_types(types_of(table, records.columns))
            for row in records:
                copy.write_row(row)
    return len(records.rows)


@functools.cache
def types_of(table: sa.Table, columns: tuple[str, ...]) -> list[str]:
    """The columns' type names, without lengths."""
    names = (table.c[name].type.compile(postgresql.dialect()) for name in columns)
    return [name.partition("(")[0].lower() for name in names]


def storable(connection: sa.Connection, table: sa.Table, records: Records) -> Records:
    """The records, with documents that jsonb rejects replaced by a JSON string of their text."""
    documents = [isinstance(table.c[name].type, JSONB) for name in records.columns]
    rows = [
        tuple(
            storable_text(connection, value) if document and value is not None else value
            for value, document in zip(row, documents, strict=True)
        )
        for row in records
    ]
    return Records(records.columns, rows)


def storable_text(connection: sa.Connection, text: str) -> str:
    try:
        with connection.begin_nested():
            connection.execute(sa.text("SELECT CAST(:document AS jsonb)"), {"document": text})
    except sa.exc.DBAPIError as error:
        if not isinstance(error.orig, REFUSALS):
            raise
        return as_string(text)
    return text


def as_string(text: str) -> str:
    """A JSON string of the text; NUL, which PostgreSQL's text can't hold, is escaped as in JSON."""
    return json.dumps(text.replace("\0", r"\u0000"))


def known(table: sa.Table, columns: Iterable[str]) -> list[str]:
    columns = list(columns)
    if unknown := [name for name in columns if name not in table.c]:
        raise ValueError(f"{table.fullname} has no column {', '.join(unknown)}; it has {', '.join(table.c.keys())}")
    return columns


def copy_statement(table: sa.TableClause, columns: Iterable[str], form: str) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
        sql.Identifier(*([table.schema] if table.schema else []), table.name),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(form),
    )


def cursor(connection: sa.Connection) -> psycopg.Cursor[Any]:
    """The driver's own cursor.

    Raises:
        ValueError: the driver isn't psycopg.
    """
    if connection.dialect.driver != "psycopg":
        raise ValueError(f"COPY goes through psycopg 3, not {connection.dialect.driver}: use postgresql+psycopg://")
    return cast(psycopg.Cursor[Any], connection.connection.cursor())
