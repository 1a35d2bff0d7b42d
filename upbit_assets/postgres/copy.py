"""Rows from Python into a table through COPY, in the transaction of the connection at hand."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy.dialects.postgresql import JSONB

# how jsonb refuses a text: not JSON, not storable, nested too deeply
REFUSALS = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


@dataclass(frozen=True)
class Records:
    """Rows as tuples. The value of a JSONB column is a document's text, which is stored without being parsed here.

    A text that jsonb refuses (NaN, \\u0000, a number without bounds) is stored as a JSON string of that text, so
    that it neither gets lost nor sinks the rows around it.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


class Document(Dumper):
    """A document's text in jsonb's binary form: a version, and the text."""

    oid = psycopg.adapters.types["jsonb"].oid
    format = Format.BINARY

    def dump(self, obj: str) -> bytes:
        return b"\1" + obj.encode()


def copy_records(connection: sa.Connection, table: sa.Table, records: Records) -> int:
    """Binary COPY; returns the number of rows."""
    if not any(isinstance(table.c[name].type, JSONB) for name in known(table, records.columns)):  # nothing to refuse
        write_rows(connection, table, records.columns, records.rows)
        return len(records.rows)
    # without a RELEASE, as the transaction's end does that and each round trip counts in a snapshot
    connection.exec_driver_sql("SAVEPOINT without_rows")
    try:
        write_rows(connection, table, records.columns, records.rows)
    except REFUSALS:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT without_rows")
        # only now, because no cheaper test than jsonb's own is sure
        write_rows(connection, table, records.columns, storable_rows(connection, table, records))
    return len(records.rows)


def write_rows(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    types = [table.c[name].type.compile(connection.dialect) for name in known(table, columns)]
    with cursor(connection) as writer:
        writer.adapters.register_dumper(str, Document)
        with writer.copy(copy_statement(table, columns, "BINARY")) as copy:
            copy.set_types([name.partition("(")[0].lower() for name in types])
            for row in rows:
                copy.write_row(row)


def storable_rows(connection: sa.Connection, table: sa.Table, records: Records) -> list[list[Any]]:
    """Made before their COPY, which lets nothing else through the connection."""
    documents = [isinstance(table.c[name].type, JSONB) for name in records.columns]
    return [
        [
            storable(connection, value) if document and value is not None else value
            for value, document in zip(row, documents, strict=True)
        ]
        for row in records.rows
    ]


def storable(connection: sa.Connection, text: str) -> str:
    """The document itself, or where jsonb refuses it, a JSON string of its text."""
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
    return cast(psycopg.Cursor[Any], connection.connection.cursor())
