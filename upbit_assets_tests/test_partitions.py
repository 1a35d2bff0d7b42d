"""The time axis: every moment has one window, every window one key, on Seoul's clock."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from dagster import TimeWindow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets.partitions import (
    SEOUL,
    WINDOW,
    key_of,
    window_at,
    window_of,
    window_start,
    windows,
    windows_in,
    windows_with_rows,
)
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.pipeline import PAST, now, put_bronze, ticker

zones = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(2026, 1, 2), datetime(2040, 1, 1), timezones=zones)  # noqa: DTZ001 - as hypothesis wants


@given(moments)
def test_a_moment_lies_in_exactly_one_window_that_dagster_knows(moment: datetime):
    window = window_at(moment)
    assert window.start <= moment < window.end == window.start + WINDOW
    assert windows.time_window_for_partition_key(key_of(window.start)) == window


@given(moments)
def test_a_key_names_the_start_of_its_window_on_seouls_clock(moment: datetime):
    start = window_at(moment).start
    assert key_of(start) == start.astimezone(SEOUL).strftime("%Y-%m-%d-%H:%M")
    assert window_of(key_of(start)) == start


def test_the_guides_window_has_the_guides_key():
    assert key_of(datetime(2026, 1, 29, 5, 0, tzinfo=UTC)) == "2026-01-29-14:00"
    assert window_at(PAST + WINDOW - timedelta(microseconds=1)).start == PAST
    assert window_at(PAST + WINDOW).start == PAST + WINDOW


def test_the_open_window_is_a_partition_and_the_next_is_not():
    assert windows.get_last_partition_key() == key_of(window_at(now()).start)


@pytest.mark.parametrize("count", [0, 1, 144])
def test_a_span_has_its_windows(count: int):
    assert windows_in(TimeWindow(PAST, PAST + count * WINDOW)) == [PAST + n * WINDOW for n in range(count)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(moments, min_size=1, max_size=20))
def test_sql_and_python_agree_on_the_window(database: Database, some: list[datetime]):
    each = sa.func.unnest(sa.cast(some, sa.ARRAY(sa.DateTime(timezone=True)))).column_valued("moment")
    with database.connect() as connection:
        starts = connection.scalars(sa.select(window_start(each))).all()
    assert starts == [window_at(moment).start for moment in some]


def test_windows_with_rows_are_found_up_to_their_edges(database: Database):
    put_bronze(database, PAST + WINDOW - timedelta(microseconds=1), {"KRW-BTC": ticker("KRW-BTC")})
    put_bronze(database, PAST + 2 * WINDOW, {"KRW-BTC": ticker("KRW-BTC")})
    starts = [PAST + n * WINDOW for n in range(-1, 4)]
    with database.connect() as connection:
        assert windows_with_rows(connection, tables.bronze_ticker_raw, starts) == {PAST, PAST + 2 * WINDOW}
        assert windows_with_rows(connection, tables.bronze_ticker_raw, []) == set()
