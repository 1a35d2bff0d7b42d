"""A preview on gold's materializations takes the same time whichever window was written."""

from datetime import datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from upbit_assets.assets.preview import newest_ten
from upbit_assets.partitions import SEOUL, Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.pipeline import ask

FIRST = datetime(2035, 1, 29, 14, tzinfo=SEOUL)  # no other test creates partitions there
STATS, BOOKS, DAILY = tables.gold_market_stats, tables.gold_orderbook_stats, tables.gold_market_daily


def fill(url: str, table: sa.Table, axis: Axis, count: int) -> None:
    """A hundred markets in each of `count` windows from FIRST on, all in one partition."""
    values: dict[Any, str] = {sa.Numeric: "1", sa.Integer: "nth", sa.String: "'KRW-' || nth", sa.Text: "NULL"}
    columns = [column for column in table.columns if column.name not in ("id", "computed_at")]
    moments = sa.DateTime
    listed = ["at" if isinstance(column.type, moments) else values[type(column.type)] for column in columns]
    ask(
        url,
        f"INSERT INTO {table.fullname} ({', '.join(column.name for column in columns)}) SELECT {', '.join(listed)} "
        f"FROM generate_series(%s, %s, %s) at, generate_series(1, 100) nth",
        *(axis.at(FIRST).start, axis.at(FIRST).start + (count - 1) * axis.length, axis.length),
    )
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"VACUUM ANALYZE {table.fullname}".encode())  # independent of autovacuum


def pages_read(connection: sa.Connection, select: sa.Select[Any]) -> int:
    analyzed = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
    compiled = select.compile(connection.engine)
    ((plan,),) = connection.exec_driver_sql(analyzed + str(compiled), compiled.params).all()
    return plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


@pytest.mark.parametrize(
    ("table", "start", "order", "axis"),
    [
        (STATS, STATS.c.window_start, STATS.c.rank_volume, windows),
        (BOOKS, BOOKS.c.window_start, BOOKS.c.spread_bps, windows),
        (DAILY, DAILY.c.day, DAILY.c.rank_turnover, days),
    ],
)
def test_the_newest_rows_of_an_old_window_are_found_without_those_after_it(
    database: Database, market_url: str, table: sa.Table, start: Any, order: Any, axis: Axis
):
    def read_for(window: datetime) -> int:
        with database.connect() as connection:
            return pages_read(connection, newest_ten(table, start, axis.at(window), order))

    count = 1000
    fill(market_url, table, axis, count)
    assert read_for(FIRST) <= read_for(FIRST + (count - 1) * axis.length) + 5
