import re
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upbit_assets.sandbox import wire
from upbit_assets.sandbox.market import Market
from upbit_assets_tests.sandbox.history import candles, start_of

MARKET = Market(count=60)
CODES = [listing.market for listing in MARKET.markets(datetime(2018, 1, 1, tzinfo=UTC))]
AT = datetime(2026, 7, 30, 7, 41, 1, tzinfo=UTC)
MIDNIGHT = datetime(2026, 7, 30, tzinfo=UTC)
MOMENT = timedelta(milliseconds=1)

markets = st.sampled_from(CODES)
times = st.datetimes(datetime(2018, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
few = settings(max_examples=30, deadline=None)


@pytest.fixture(scope="module")
def whole():
    return Market()


@given(markets, times)
@few
def test_repeated_requests_give_the_same_ticker(market, at):
    assert Market(count=60).ticker(market, at) == MARKET.ticker(market, at)


def test_the_order_of_requests_does_not_matter():
    asked = [(market, AT + timedelta(hours=7 * n)) for n, market in enumerate(CODES)]
    forth = {each: Market(count=60).ticker(*each) for each in asked}
    late = Market(count=60)
    assert {each: late.ticker(*each) for each in reversed(asked)} == forth


def test_another_process_gives_the_same_ticker():
    code = (
        "from datetime import *; from upbit_assets.sandbox.market import Market; from upbit_assets.sandbox import wire;"
        f"print(wire.array([wire.raw(Market(7, 5).ticker('KRW-BTC', {AT.timestamp()!r} * timedelta(seconds=1)"
        " + datetime(1970, 1, 1, tzinfo=UTC)))]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == wire.array([wire.raw(Market(7, 5).ticker("KRW-BTC", AT))])


def test_a_market_does_not_depend_on_the_number_of_markets():
    assert Market(count=3).ticker("KRW-BTC", AT) == MARKET.ticker("KRW-BTC", AT)


def test_another_seed_is_another_market():
    assert Market(1, 3).ticker("KRW-BTC", AT) != Market(2, 3).ticker("KRW-BTC", AT)


@pytest.mark.parametrize("count", [3, 4, 5, 10, 100, 855, 2000])
def test_there_are_as_many_markets_as_requested_and_always_the_rates(count):
    codes = [listing.market for listing in Market(count=count).markets()]
    assert len(codes) == len(set(codes)) == count
    assert {"KRW-BTC", "KRW-USDT"} < set(codes)


def test_fewer_than_three_markets_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        Market(count=2)


def test_codes_and_names_look_like_the_exchanges(whole):
    listings = whole.markets()
    assert Counter(listing.quote for listing in listings) == {"KRW": 289, "BTC": 328, "USDT": 238}
    assert all(re.fullmatch("[A-Z]{3,4}-[A-Z0-9]+", listing.market) for listing in listings)
    assert all(listing.korean_name and listing.english_name for listing in listings)
    names = {listing.market: listing.korean_name for listing in listings}
    assert (names["KRW-BTC"], names["USDT-ETH"]) == ("비트코인", "이더리움")
    assert {"KRW-W", "KRW-T", "KRW-0G", "KRW-1INCH", "KRW-PIEVERSE", "USDT-BIGTIME"} < set(names)


@given(markets, times)
@few
def test_a_ticker_satisfies_the_identities_of_real_ones(market, at):
    row = MARKET.ticker(market, at)
    change = row["trade_price"] - row["prev_closing_price"]
    rate = (change / row["prev_closing_price"]).quantize(Decimal("1e-10"), ROUND_HALF_UP)
    assert row["change"] == ("RISE" if change > 0 else "FALL" if change < 0 else "EVEN")
    assert (row["signed_change_price"], row["change_price"]) == (change, abs(change))
    assert (row["signed_change_rate"], row["change_rate"]) == (rate, abs(rate))
    prices = [row[f"{name}_price"] for name in ("lowest_52_week", "low", "trade", "high", "highest_52_week")]
    assert prices == sorted(prices)
    assert 0 < row["low_price"] <= row["opening_price"] <= row["high_price"]
    assert row["trade_volume"] > 0
    assert 0 <= row["acc_trade_price"] <= row["acc_trade_price_24h"]
    assert 0 <= row["acc_trade_volume"] <= row["acc_trade_volume_24h"]
    assert row["trade_timestamp"] <= row["timestamp"] <= at.timestamp() * 1000
    assert row["acc_trade_volume"] * row["low_price"] <= row["acc_trade_price"]
    assert row["acc_trade_price"] <= row["acc_trade_volume"] * row["high_price"]


@given(markets, times)
@few
def test_the_time_in_seoul_is_nine_hours_ahead(market, at):
    row = MARKET.ticker(market, at)
    utc, seoul = (
        datetime.strptime(row[f"trade_date{zone}"] + row[f"trade_time{zone}"], "%Y%m%d%H%M%S")  # noqa: DTZ007
        for zone in ("", "_kst")
    )
    assert seoul - utc == timedelta(hours=9)
    assert utc.replace(tzinfo=UTC).timestamp() == row["trade_timestamp"] // 1000


@given(markets, st.lists(st.timedeltas(timedelta(0), timedelta(days=1) - MOMENT), min_size=2, max_size=12))
@few
def test_accumulated_figures_never_go_down_within_a_utc_day(market, offsets):
    rows = [MARKET.ticker(market, MIDNIGHT + offset) for offset in sorted(offsets)]
    for name in ("acc_trade_volume", "acc_trade_price", "high_price", "trade_timestamp", "timestamp"):
        if name != "high_price" or rows[0]["acc_trade_volume"]:
            assert [row[name] for row in rows] == sorted(row[name] for row in rows)


def test_trades_of_the_open_minute_show_up_one_by_one():
    steps = [MARKET.ticker("KRW-BTC", AT + timedelta(milliseconds=100 * n))["acc_trade_volume"] for n in range(100)]
    assert steps == sorted(steps)
    assert len(set(steps)) > 10


def test_figures_of_the_day_start_over_at_midnight_utc():
    last, first = (MARKET.ticker("KRW-BTC", at) for at in (MIDNIGHT - MOMENT, MIDNIGHT))
    assert first["prev_closing_price"] == last["trade_price"]
    assert first["acc_trade_volume"] < last["acc_trade_volume"]
    assert first["acc_trade_volume_24h"] >= last["acc_trade_volume"]


@given(markets, times)
@few
def test_rolling_figures_are_those_of_the_last_24_hours(market, at):
    at = at.replace(second=0, microsecond=0)
    # A trade at the very boundary counts to the moment, a minute begins with it: look just before
    row = MARKET.ticker(market, at - MOMENT)
    minutes = candles(MARKET, market, at, "minutes/1", at - timedelta(days=1), at)
    assert row["acc_trade_volume_24h"] == sum(minute["candle_acc_trade_volume"] for minute in minutes)
    assert row["acc_trade_price_24h"] == sum(minute["candle_acc_trade_price"] for minute in minutes)


@given(markets, times)
@settings(max_examples=4, deadline=None)
def test_the_52_week_range_is_that_of_its_days(market, at):
    row = MARKET.ticker(market, at)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    days = candles(MARKET, market, at, "days", midnight - timedelta(days=363), midnight)
    assert row["highest_52_week_price"] == max(row["high_price"], *(day["high_price"] for day in days))
    assert row["lowest_52_week_price"] == min(row["low_price"], *(day["low_price"] for day in days))


LATE = [listing.market for listing in MARKET.markets() if listing.market not in CODES]


@pytest.mark.parametrize("market", LATE)
def test_a_late_market_does_not_exist_before_its_first_trade(market):
    first = candles(MARKET, market, AT, "days", datetime(2017, 1, 1, tzinfo=UTC))[0]
    midnight = start_of(first)
    opened = start_of(candles(MARKET, market, midnight + timedelta(days=1), "seconds", midnight)[0])
    for at, listed in ((opened - MOMENT, False), (opened + timedelta(seconds=1), True)):
        assert MARKET.listed(market, at) is listed
        assert (market in {listing.market for listing in MARKET.markets(at)}) is listed
    row = MARKET.ticker(market, opened + timedelta(seconds=1))
    assert row["prev_closing_price"] == row["opening_price"] == first["opening_price"]
    assert row["acc_trade_volume_24h"] == row["acc_trade_volume"]
    assert row["highest_52_week_price"] == row["high_price"]
    with pytest.raises(KeyError):
        MARKET.ticker(market, opened - MOMENT)


def test_a_few_markets_are_late_but_never_the_currency_rates(whole):
    early = whole.markets(datetime(2018, 1, 1, tzinfo=UTC))
    assert 5 < len(whole.markets()) - len(early) < 40
    assert whole.markets(AT) == whole.markets()
    assert LATE
    assert {"KRW-BTC", "KRW-USDT"} < {listing.market for listing in early}


@given(st.sampled_from([code for code in CODES if code.startswith("KRW")]), times)
@few
def test_krw_prices_are_on_the_tick_grid(market, at):
    steps = """
    1000000:1000 500000:500 100000:100 50000:50 10000:10 5000:5 100:1 10:.1 1:.01 .1:.001 .01:.0001 .001:.00001
    """
    ticks = [[Decimal(number) for number in step.split(":")] for step in steps.split()]
    row = MARKET.ticker(market, at)
    for name in ("opening_price", "high_price", "low_price", "trade_price", "prev_closing_price"):
        price = row[name]
        tick = next(tick for low, tick in ticks if price >= low)
        assert price % tick == 0


@given(times)
@few
def test_a_coin_costs_about_the_same_in_every_currency(at):
    coins = ("ETH", "SOL")
    codes = ["KRW-BTC", "KRW-USDT", *(f"{quote}-{coin}" for quote in ("KRW", "BTC", "USDT") for coin in coins)]
    price = {code: MARKET.ticker(code, at)["trade_price"] for code in codes}
    for coin in coins:
        krw = price[f"KRW-{coin}"]
        assert abs(price[f"BTC-{coin}"] * price["KRW-BTC"] / krw - 1) < Decimal("0.015")
        assert abs(price[f"USDT-{coin}"] * price["KRW-USDT"] / krw - 1) < Decimal("0.015")


def test_a_few_markets_make_most_of_the_turnover_and_some_sleep_for_hours(whole):
    rows = [whole.ticker(listing.market, AT) for listing in whole.markets() if listing.quote == "KRW"]
    turnover = sorted((row["acc_trade_price_24h"] for row in rows), reverse=True)
    assert sum(turnover[:29]) > sum(turnover) * Decimal("0.6")
    assert turnover[-1] > 0
    quiet = whole.markets()[289 + 327].market
    later = {str(whole.ticker(quiet, AT + timedelta(minutes=n))["trade_timestamp"]) for n in range(0, 180, 10)}
    assert len(later) < 10


def test_all_855_tickers_take_well_under_a_second(whole):
    codes = [listing.market for listing in whole.markets()]
    for code in codes:
        whole.ticker(code, AT)
    best = min(_seconds(whole, codes) for _ in range(3))
    assert best < 1  # 0.2 s on an idle machine


def _seconds(market, codes):
    start = time.perf_counter()
    wire.array(wire.raw(market.ticker(code, AT)) for code in codes)
    return time.perf_counter() - start


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        MARKET.ticker("KRW-BTC", datetime(2026, 7, 30))  # noqa: DTZ001


def test_an_unknown_market_is_a_key_error():
    with pytest.raises(KeyError):
        MARKET.ticker("KRW-NOPE", AT)
