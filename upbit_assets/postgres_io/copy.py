"""Rows from Python into a table through COPY, in the transaction of the connection at hand."""

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

# how jsonb refuses a text: not JSON, not storable, nested too deeply
REFUSALS = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


@dataclass(frozen=True)
class Records:
    """Rows as tuples. The value of a JSONB column is a document's text, which is stored without being parsed here.

    A text that jsonb refuses (NaN, \\u0000, a number without bounds) is stored as a JSON string of that text, so
    that it neither gets lost nor sinks the rows around it.

    Args:
        form: makes a tuple of each of the rows, while the server takes in those before it.
    """

    columns: tuple[str, ...]
    rows: Collection[Any]
    form: Callable[[Any], tuple[Any, ...]] = tuple

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return map(self.form, self.rows)


class Document(Dumper):
    """A document's text in jsonb's binary form: a version, and the text."""

    oid = psycopg.adapters.types["jsonb"].oid
    format = Format.BINARY

    def dump(self, obj: str) -> bytes:
        return b"\1" + obj.encode()


def copy_records(connection: sa.Connection, table: sa.Table, records: Records) -> int:
    """Binary COPY; returns the number of rows.

    Raises:
        REFUSALS: jsonb refuses a document, and the transaction is lost; `storable` records go through in another.
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
    """Their types' names, without a length."""
    names = (table.c[name].type.compile(postgresql.dialect()) for name in columns)
    return [name.partition("(")[0].lower() for name in names]


def storable(connection: sa.Connection, table: sa.Table, records: Records) -> Records:
    """The records with each document that jsonb refuses as a JSON string of its text."""
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
        # a character that PostgreSQL's text can't hold is spelled as JSON spells it
        return json.dumps(text.replace("\0", r"\u0000"))
    return text


def known(table: sa.Table, columns: Iterable[str]) -> list[str]:
    columns = list(columns)
    if strange := [name for name in columns if name not in table.c]:
        raise ValueError(f"{table.fullname} has no column {', '.join(strange)}; it has {', '.join(table.c.keys())}")
    return columns


def copy_statement(table: sa.Table, columns: Iterable[str], form: str) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
        sql.Identifier(*([table.schema] if table.schema else []), table.name),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(form),
    )


def cursor(connection: sa.Connection) -> psycopg.Cursor[Any]:
    """The driver's own.

    Raises:
        ValueError: the driver is another one.
    """
    if connection.dialect.driver != "psycopg":
        raise ValueError(f"COPY goes through psycopg 3, not {connection.dialect.driver}: use postgresql+psycopg://")
    return cast(psycopg.Cursor[Any], connection.connection.cursor())
