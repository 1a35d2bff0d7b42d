import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upbit_assets.sandbox.candles import UNITS
from upbit_assets.sandbox.market import Market
from upbit_assets_tests.sandbox.history import candles, figures, figures_of_candles, figures_of_trades, start_of, trades

MARKET = Market(count=60)
AT = datetime(2026, 7, 30, 7, 41, 1, 500_000, tzinfo=UTC)
DAY = timedelta(days=1)
LATE = "BTC-ADA"
CODES = ["KRW-BTC", "KRW-USDT", "KRW-XRP", "BTC-ETH", "USDT-BTC", MARKET.markets()[-1].market]
MINUTES = [unit for unit in UNITS if unit.startswith("minutes/")]
SHORT = ["seconds", *MINUTES, "days"]

markets = st.sampled_from(CODES)
times = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
few = settings(max_examples=20, deadline=None)
fewer = settings(max_examples=6, deadline=None)


def end_of(unit, candle):
    start = start_of(candle)
    if unit == "months":
        return (start + 31 * DAY).replace(day=1)
    if unit == "years":
        return start.replace(year=start.year + 1)
    kind, _, number = unit.partition("/")
    return start + timedelta(**{kind: int(number or 1)})


def last(market, at, unit, **options):
    return MARKET.candles(market, at, unit, **options)[0]


@given(markets, times, st.sampled_from([*MINUTES, "days"]))
@few
def test_a_candle_is_the_sum_of_its_minutes(market, at, unit):
    candle = last(market, at, unit)
    minutes = candles(MARKET, market, at, "minutes/1", start_of(candle), end_of(unit, candle))
    assert figures(candle) == figures_of_candles(minutes)
    assert candle["timestamp"] == minutes[-1]["timestamp"]


@given(st.sampled_from(CODES[3:]), times, st.sampled_from(["weeks", "months", "years"]))
@fewer
def test_a_long_candle_is_the_sum_of_its_days(market, at, unit):
    candle = last(market, at, unit)
    days = candles(MARKET, market, at, "days", start_of(candle), end_of(unit, candle))
    assert figures(candle) == figures_of_candles(days)
    assert candle["timestamp"] == days[-1]["timestamp"]


@given(markets, times, st.sampled_from(["seconds", "minutes/1", "minutes/3"]))
@few
def test_a_candle_is_the_sum_of_its_trades(market, at, unit):
    candle = last(market, at, unit, to=at)
    start, end = start_of(candle), end_of(unit, candle)
    days_ago, to = (at.date() - start.date()).days, end.time() if end.date() == start.date() else None
    rows = MARKET.trades(market, at, days_ago=days_ago, to=to, count=4000)
    inside = [row for row in rows if start.timestamp() <= row["timestamp"] / 1000 < end.timestamp()]
    assert figures(candle) == figures_of_trades(inside[::-1])
    assert 0 <= candle["timestamp"] - inside[0]["timestamp"] < 60


@given(markets, times)
@few
def test_todays_candle_equals_the_ticker(market, at):
    ticker, day = MARKET.ticker(market, at), last(market, at, "days")
    if ticker["acc_trade_volume"]:
        names = ("opening_price", "high_price", "low_price", "trade_price", "acc_trade_price", "acc_trade_volume")
        assert figures(day) == tuple(ticker[name] for name in names)
        assert start_of(day).date() == at.date()
    assert day["trade_price"] == ticker["trade_price"]
    if start_of(day).date() == at.date():
        assert day["prev_closing_price"] == ticker["prev_closing_price"]
        assert day["change_price"] == ticker["signed_change_price"]
        assert day["change_rate"] == ticker["signed_change_rate"]


@given(markets, times, st.sampled_from(SHORT), st.lists(st.integers(1, 60), min_size=1, max_size=6))
@few
def test_paging_by_the_oldest_start_loses_and_repeats_nothing(market, at, unit, counts):
    whole = MARKET.candles(market, at, unit, count=200)
    pages, to = [], None
    for count in counts:
        page = MARKET.candles(market, at, unit, to=to, count=count)
        pages += page
        if len(page) < count:  # the exchange's first candle
            break
        to = start_of(page[-1])
    assert pages[:200] == whole[: len(pages)]


@given(markets, times, times, st.sampled_from(SHORT[1:]), st.integers(1, 20))
@few
def test_past_candles_never_change(market, one, other, unit, count):
    early, late = sorted((one, other))
    to = early - end_distance(unit)
    first = MARKET.candles(market, early, unit, to=to, count=count)
    assert first == Market(count=60).candles(market, late, unit, to=to, count=count)
    assert all(row["timestamp"] <= early.timestamp() * 1000 for row in first)


def end_distance(unit):
    # The last candle may begin just before `to`, and its last trade be stored after its end
    kind, _, number = unit.partition("/")
    return timedelta(**{kind: int(number or 1)}) + timedelta(seconds=1)


@given(markets, times, st.sampled_from(list(UNITS)))
@fewer
def test_to_is_exclusive(market, at, unit):
    newer, older = MARKET.candles(market, at, unit, to=at, count=2)
    assert start_of(older) < start_of(newer) < at
    assert last(market, at, unit, to=start_of(newer)) == older
    assert last(market, at, unit, to=start_of(newer) + timedelta(seconds=1)) == newer


@given(markets, times, st.sampled_from(SHORT), st.timedeltas(timedelta(0), timedelta(days=1000)))
@few
def test_a_future_to_means_now(market, at, unit, ahead):
    assert MARKET.candles(market, at, unit, to=at + DAY + ahead, count=3) == MARKET.candles(market, at, unit, count=3)


@given(markets, times, st.sampled_from(SHORT))
@fewer
def test_periods_without_trades_have_no_candle(market, at, unit):
    rows = MARKET.candles(market, at, unit, count=200)
    starts = [start_of(row) for row in rows]
    assert starts == sorted(set(starts), reverse=True)
    assert all(row["candle_acc_trade_volume"] > 0 for row in rows)
    for row in rows:
        assert 0 < row["low_price"] <= min(row["opening_price"], row["trade_price"])
        assert max(row["opening_price"], row["trade_price"]) <= row["high_price"]
        assert start_of(row).timestamp() * 1000 <= row["timestamp"] < end_of(unit, row).timestamp() * 1000 + 60


def test_200_candles_of_a_quiet_market_go_far_back():
    rows = MARKET.candles(CODES[-1], AT, "minutes/1", count=200)
    assert len(rows) == 200
    assert AT - start_of(rows[-1]) > timedelta(hours=24)


def test_a_trade_can_be_stored_after_its_candle_has_ended():
    rows = MARKET.candles("KRW-BTC", AT, "seconds", count=200)
    late = sum(row["timestamp"] >= (start_of(row).timestamp() + 1) * 1000 for row in rows[1:])
    assert 0 < late < 60


def test_the_forming_candle_grows():
    volumes = [last("KRW-BTC", AT + timedelta(seconds=n), "minutes/1")["candle_acc_trade_volume"] for n in range(50)]
    assert volumes == sorted(volumes)
    assert len(set(volumes)) > 25


PERIODS = {"weeks": date(2026, 7, 27), "months": date(2026, 7, 1), "years": date(2026, 1, 1)}


@pytest.mark.parametrize(("unit", "first"), PERIODS.items())
def test_long_candles_begin_with_the_utc_week_month_or_year(unit, first):
    row = last("KRW-BTC", AT, unit)
    assert start_of(row) == datetime(first.year, first.month, first.day, tzinfo=UTC)
    assert row["first_day_of_period"] == first.isoformat()


def test_the_time_in_seoul_is_nine_hours_ahead():
    row = last("KRW-BTC", AT, "minutes/60")
    assert (row["candle_date_time_utc"], row["candle_date_time_kst"]) == ("2026-07-30T07:00:00", "2026-07-30T16:00:00")


COMMON = """
market candle_date_time_utc candle_date_time_kst opening_price high_price low_price trade_price timestamp
candle_acc_trade_price candle_acc_trade_volume
"""


@pytest.mark.parametrize(
    ("unit", "more"),
    [
        ("seconds", []),
        ("minutes/3", ["unit"]),
        ("days", ["prev_closing_price", "change_price", "change_rate"]),
        ("weeks", ["first_day_of_period"]),
        ("months", ["first_day_of_period"]),
        ("years", ["first_day_of_period"]),
    ],
)
def test_fields_have_the_real_names_and_order(unit, more):
    assert list(last("KRW-BTC", AT, unit)) == COMMON.split() + more


def test_days_follow_each_other():
    rows = MARKET.candles("BTC-ETH", AT, "days", count=50)
    for day, before in pairwise(rows):
        assert day["prev_closing_price"] == before["trade_price"]
        assert day["change_price"] == day["trade_price"] - before["trade_price"]
    assert {row["change_price"] > 0 for row in rows} == {True, False}


def test_prices_are_converted_at_the_days_rate():
    rows = MARKET.candles("BTC-ETH", AT, "days", count=30, converted=True)
    rates = MARKET.candles("KRW-BTC", AT, "days", count=30, converted=True)
    assert [row["converted_trade_price"] for row in rows] == [
        row["trade_price"] * rate["trade_price"] for row, rate in zip(rows, rates, strict=True)
    ]
    assert {row["converted_trade_price"] for row in rates} == {None}


def test_all_history_is_served_but_only_three_months_of_seconds():
    years = MARKET.candles(CODES[-1], AT, "years", count=200)
    assert [start_of(year).year for year in years] == list(range(2026, 2016, -1))
    opening = datetime(2017, 9, 25, tzinfo=UTC)
    (day,) = MARKET.candles("KRW-BTC", AT, "days", to=opening + DAY, count=200)
    assert start_of(day) == opening
    assert MARKET.candles("KRW-BTC", AT, "minutes/1", to=opening) == []
    assert MARKET.candles("KRW-BTC", AT, "seconds", to=AT - 85 * DAY)
    assert MARKET.candles("KRW-BTC", AT, "seconds", to=AT - 95 * DAY) == []


def test_a_market_has_no_candles_before_its_first_day():
    days = MARKET.candles(LATE, AT, "days", count=200)
    first = days[-1]
    assert len(days) < 200
    assert first["prev_closing_price"] == first["opening_price"]
    assert [start_of(year).year for year in MARKET.candles(LATE, AT, "years", count=200)] == [2026]
    for unit in SHORT:
        assert MARKET.candles(LATE, AT, unit, to=start_of(first)) == []
    assert MARKET.candles("KRW-ADA", AT, "days", to=start_of(first))


def test_a_year_of_the_busiest_market_does_not_overflow():
    busy = Market()
    year = busy.candles("KRW-PEPE", AT, "years")[0]
    days = busy.candles("KRW-PEPE", AT, "days", count=200)
    assert year["candle_acc_trade_price"] > sum(day["candle_acc_trade_price"] for day in days)


def test_pages_come_in_milliseconds():
    begun, end = AT.replace(hour=0, minute=0, second=0, microsecond=0) - 3 * DAY, AT - 2 * DAY
    MARKET.candles("KRW-BTC", AT, "minutes/1", to=end)
    start = time.process_time()
    for _ in range(3):
        MARKET.candles("KRW-BTC", AT, "minutes/1", to=end, count=200)
    assert time.process_time() - start < 0.5  # 5 ms a page on an idle machine
    start = time.process_time()
    minutes = candles(MARKET, "KRW-BTC", AT, "minutes/1", begun, begun + DAY)
    assert time.process_time() - start < 2
    assert 1430 < len(minutes) <= 1440


def test_trades_of_a_day_make_its_candle_and_its_minutes():
    rows = trades(MARKET, "BTC-ETH", AT, days_ago=2)
    day = AT.replace(hour=0, minute=0, second=0, microsecond=0) - 2 * DAY
    assert figures(last("BTC-ETH", AT, "days", to=day + DAY)) == figures_of_trades(rows)
    for candle in candles(MARKET, "BTC-ETH", AT, "minutes/1", day, day + DAY):
        begin = start_of(candle).timestamp() * 1000
        assert figures(candle) == figures_of_trades([row for row in rows if 0 <= row["timestamp"] - begin < 60_000])
