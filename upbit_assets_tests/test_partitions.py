"""The time axes: every time has one window, every window one key, in Seoul time."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from dagster import TimeWindow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets.partitions import SEOUL, WINDOW, Axis, days, first_window, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import SettingError
from upbit_assets_tests.pipeline import PAST, ask, now, put_bronze, ticker

zones = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(2026, 1, 2), datetime(2040, 1, 1), timezones=zones)  # noqa: DTZ001 - as hypothesis wants


@pytest.mark.parametrize("axis", [windows, days])
@given(moment=moments)
def test_every_time_is_in_exactly_one_of_dagsters_windows(axis: Axis, moment: datetime):
    window = axis.at(moment)
    assert window.start <= moment < window.end == window.start + axis.length
    assert axis.partitions.time_window_for_partition_key(axis.key_of(window.start)) == window


@pytest.mark.parametrize(("axis", "form"), [(windows, "%Y-%m-%d-%H:%M"), (days, "%Y-%m-%d")])
@given(moment=moments)
def test_a_key_names_the_start_of_its_window_on_seouls_clock(axis: Axis, form: str, moment: datetime):
    start = axis.at(moment).start
    assert axis.key_of(start) == start.astimezone(SEOUL).strftime(form)
    assert axis.start_of(axis.key_of(start)) == start


def test_the_guides_window_has_the_guides_key():
    assert windows.key_of(datetime(2026, 1, 29, 5, 0, tzinfo=UTC)) == "2026-01-29-14:00"
    assert windows.at(PAST + WINDOW - timedelta(microseconds=1)).start == PAST
    assert windows.at(PAST + WINDOW).start == PAST + WINDOW


@given(moments)
def test_a_day_is_the_exchanges_which_is_utcs_and_begins_at_nine_in_seoul(moment: datetime):
    start = days.at(moment).start
    assert (start.hour, start.utcoffset()) == (9, timedelta(hours=9))
    assert start.astimezone(UTC).date() == moment.astimezone(UTC).date()


@pytest.mark.parametrize("axis", [windows, days])
def test_the_open_window_is_a_partition_and_the_next_is_not(axis: Axis):
    assert axis.partitions.get_last_partition_key() == axis.key_of(axis.at(now()).start)


def test_a_key_is_of_one_axis():
    assert windows.has("2026-01-29-14:00")
    assert days.has("2026-01-29")
    assert not windows.has("2026-01-29")
    assert not days.has("2026-01-29-14:00")


@pytest.mark.parametrize("axis", [windows, days])
@pytest.mark.parametrize("count", [0, 1, 144])
def test_a_span_has_its_windows(axis: Axis, count: int):
    first = axis.at(PAST).start
    span = TimeWindow(first, first + count * axis.length)
    assert axis.starts_in(span) == [first + n * axis.length for n in range(count)]


@pytest.mark.parametrize("axis", [windows, days])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=st.lists(moments, min_size=1, max_size=20))
def test_sql_and_python_agree_on_the_window(database: Database, axis: Axis, some: list[datetime]):
    each = sa.func.unnest(sa.cast(some, sa.ARRAY(sa.DateTime(timezone=True)))).column_valued("moment")
    with database.connect() as connection:
        starts = connection.scalars(sa.select(axis.floor(each))).all()
    assert starts == [axis.at(moment).start for moment in some]


def test_windows_with_rows_are_found_up_to_their_edges(database: Database):
    put_bronze(database, PAST + WINDOW - timedelta(microseconds=1), {"KRW-BTC": ticker("KRW-BTC")})
    put_bronze(database, PAST + 2 * WINDOW, {"KRW-BTC": ticker("KRW-BTC")})
    starts = [PAST + n * WINDOW for n in range(-1, 4)]
    with database.connect() as connection:
        found = windows.with_rows(connection, tables.bronze_ticker_raw, starts)
        assert found == {PAST, PAST + 2 * WINDOW}
        singly = [windows.with_rows(connection, tables.bronze_ticker_raw, [start]) for start in starts]
        assert set().union(*singly) == found
        assert windows.with_rows(connection, tables.bronze_ticker_raw, []) == set()
        assert days.with_rows(connection, tables.bronze_ticker_raw, [days.at(PAST).start]) == {days.at(PAST).start}


class TestFirstWindow:
    """The first window is that of the day on which the database was first started."""

    @pytest.fixture(autouse=True)
    def _nothing_is_set(self, market_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("UPBIT_START")

    def test_it_is_todays_midnight_in_a_new_database_and_stays(self, market_url: str):
        today = now().astimezone(SEOUL)
        migrate(market_url)
        assert first_window() == f"{today:%Y-%m-%d}-00:00"
        ask(market_url, "UPDATE bronze.collection_start SET starts_at = starts_at - interval '3 days'")
        migrate(market_url)
        assert first_window() == f"{today - timedelta(days=3):%Y-%m-%d}-00:00"

    def test_a_setting_comes_before_it(self, market_url: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_START", "2026-01-29-14:00")
        assert first_window() == "2026-01-29-14:00"

    @pytest.mark.parametrize("statement", ["", "ALTER TABLE bronze.collection_start RENAME TO unknown"])
    def test_without_a_first_day_in_the_database_the_error_says_what_to_do(
        self, another_url: str, statement: str, monkeypatch
    ):
        monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
        ask(another_url, "DELETE FROM bronze.collection_start; " + statement)
        with pytest.raises(SettingError, match="UPBIT_START is unset, and the database doesn't have the day"):
            first_window()
