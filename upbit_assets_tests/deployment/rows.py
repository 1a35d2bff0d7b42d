"""Rows for every table of a database of any version, and reading all rows back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

TABLES = (
    "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
    "AND relnamespace IN ('bronze'::regnamespace, 'silver'::regnamespace, 'gold'::regnamespace) ORDER BY 1"
)
COLUMNS = (
    "SELECT attname, atttypid::regtype::text, atttypmod - 4 FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity = '' AND NOT attisdropped ORDER BY attnum"
)
LAST_YEAR, TODAY, NEXT_YEAR = (datetime.now(UTC) + timedelta(days=days) for days in (-365, 0, 365))
SAMPLES: dict[str, list[Any]] = {
    "bigint": [1, 2, 2**62],
    "integer": [1, 2, 2**31 - 1],
    "boolean": [True],
    "jsonb": ['{"price": 9.90E-7}', '{"price": 116539000.00000000000000001}', "[]"],
    "numeric": ["0.00000000000000000001", "99999999999999999999", "1.50"],
    "numeric[]": ["{1.50,2}", "{}", "{0.00000000000000000001}"],
    "text": ["", "한글", "'"],
    "text[]": ["{KRW-BTC}", "{}", '{한글,"a b"}'],
    "character varying": ["KRW-BTC", "USDT-BIGTIME", ""],
    "timestamp with time zone": [LAST_YEAR, TODAY, NEXT_YEAR],
    "tstzrange": ["[2026-01-01,2026-01-02)", "empty", "(,)"],
    "tstzmultirange": ["{[2026-01-01,2026-01-02)}", "{}", "{[2026-01-01,2026-01-02),[2026-01-03,2026-01-04)}"],
}


def fill(url: str) -> None:
    """Rows of a year ago, of today and of a year ahead into every table; a table that allows only one row gets one."""
    with psycopg.connect(url, autocommit=True) as connection:
        for (table,) in connection.execute(TABLES).fetchall():
            columns = connection.execute(COLUMNS, [table]).fetchall()
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
                sql.SQL(table),
                sql.SQL(", ").join(sql.Identifier(name) for name, _, _ in columns),
                sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            )
            for place in range(1 if any(kind == "boolean" for _, kind, _ in columns) else 3):
                connection.execute(statement, [sample(kind, length, place) for _, kind, length in columns])


def sample(kind: str, length: int, place: int) -> Any:
    value = SAMPLES[kind][place]
    return value[:length] if kind == "character varying" else value


def contents(url: str) -> dict[str, list[str]]:
    """Every row of every table (not of single partitions) as JSON."""
    with psycopg.connect(url) as connection:
        query = "SELECT to_jsonb(t)::text FROM {} t ORDER BY 1"
        return {
            table: [row for (row,) in connection.execute(sql.SQL(query).format(sql.SQL(table)))]
            for (table,) in connection.execute(TABLES.replace("AND NOT relispartition", "")).fetchall()
        }
