"""Rows for every table of bronze, with the nastiest possible values."""

from datetime import datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.archive.days import TABLES, seoul_days
from upbit_assets_tests.pipeline import ask

PAST = seoul_days.at(datetime.fromisoformat("2026-01-29T14:00:00.123456+09:00"))
DOCUMENTS = [
    '{"market": "KRW-BTC", "trade_price": 1.16539E+8, "dust": 9.9e-7, "digits": 12345678901234567.123456789012345678}',
    '{"한글": "쉼표, \\"따옴표\\" \\\\ 역슬래시", "lines": "a\\nb\\r\\tc", "empty": "", "nothing": null}',
    '"{\\"market\\": NaN, \\"text that jsonb refused\\": \\"\\\\u0000\\"}"',
    "[]",
    "1e-400",
]
MARKETS = ["KRW-BTC", "", "M" * 30, 'a,"b', "두\n줄"]


def value(column: sa.Column[Any], nth: int, moment: datetime) -> Any:
    match column.name:
        case "market":
            return MARKETS[nth % len(MARKETS)]
        case "raw_data" | "day_candle":
            return None if column.nullable and nth % 2 else DOCUMENTS[nth % len(DOCUMENTS)]
        case "day":
            return moment.replace(hour=9, minute=0, second=0, microsecond=0)
        case "covered":
            return f"[{moment.isoformat()},)" if nth % 2 else "empty"
        case "rows":
            return nth
        case "proved":
            return [True, False, None][nth % 3]
        case "problem":
            return [None, "", "it says: no"][nth % 3]
        case "key" | "connection":
            return str(nth)
        case _:
            return moment + timedelta(microseconds=nth)


def put_rows(url: str, table: sa.Table, day: TimeWindow = PAST, *, count: int = 30, first: int = 0) -> None:
    columns = [column for column in table.columns if column.name not in ("id", "written_in")]
    moment = day.start + timedelta(hours=14, microseconds=1)
    names, places = ", ".join(column.name for column in columns), ", ".join(["%s"] * len(columns))
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table.fullname} ({names}) VALUES ({places})".encode(),
            [[value(column, nth, moment) for column in columns] for nth in range(first, first + count)],
        )


def put_everywhere(url: str, day: TimeWindow = PAST) -> None:
    for table in TABLES:
        put_rows(url, table, day)


def texts(url: str, table: sa.Table) -> list[tuple[Any, ...]]:
    """All rows without their transaction ids, as PostgreSQL's text."""
    columns = ", ".join(f"{column.name}::text" for column in table.columns if column.name != "written_in")
    return ask(url, f"SELECT {columns} FROM {table.fullname} ORDER BY id")
