"""A wrong clock is detected by the first reply; a clock that may be right never is."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upbit_assets.sandbox.clock import AdjustableClock
from upbit_assets.sandbox.server import running
from upbit_assets.upbit import CachedReplyError, ClockError, UpbitClient
from upbit_assets.upbit.clock import TOLERATED, clock_ahead
from upbit_assets_tests.upbit.conftest import Answer

SECONDS = st.floats(0, 20).map(lambda seconds: timedelta(seconds=seconds))
OFFSETS = st.floats(-86_400, 86_400).map(lambda seconds: timedelta(seconds=seconds))
MOMENTS = st.datetimes(datetime(2017, 10, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
GOOD = b'[{"market":"KRW-BTC"}]'


def exchange_at(ahead: timedelta):
    """An exchange by whose clock ours is `ahead`."""
    return running(market_count=3, clock=AdjustableClock(datetime.now(UTC) - ahead))


@given(MOMENTS, OFFSETS, SECONDS, SECONDS, st.one_of(st.none(), st.floats(0, 3600)))
def test_a_clock_offset_is_never_overestimated(written, ahead, way_there, way_back, age):
    """For any duration of the call, fraction of a second, and cache."""
    asked_at = written + timedelta(seconds=age or 0) - way_there + ahead
    answered_at = written + timedelta(seconds=age or 0) + way_back + ahead
    headers = {"Date": format_datetime(written, usegmt=True)} | ({"Age": str(int(age))} if age else {})
    said = clock_ahead(headers, asked_at, answered_at)
    assert (said > timedelta()) <= (ahead > timedelta())
    assert (said < timedelta()) <= (ahead < timedelta())
    assert abs(ahead) - way_there - way_back - timedelta(seconds=2) <= abs(said) <= abs(ahead)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Jul 2026 07:41:01 GMT"])
def test_a_reply_without_a_date_has_no_clock_offset(exchange, client, date):
    exchange.answers = [Answer(GOOD, headers={} if date is None else {"Date": date})]
    assert client.tickers().clock_ahead == timedelta()


@pytest.mark.parametrize("seconds", [-3.0, 0.0, 3.0])
def test_an_offset_explained_by_rounding_and_round_trip_is_tolerated(seconds: float):
    with exchange_at(timedelta(seconds=seconds)) as exchange, UpbitClient(exchange.url) as client:
        assert abs(client.tickers().clock_ahead) <= timedelta(seconds=abs(seconds))


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_wrong_clock_is_an_error_at_once(minutes: int):
    with (
        exchange_at(timedelta(minutes=minutes)) as exchange,
        UpbitClient(exchange.url) as client,
        pytest.raises(ClockError) as caught,
    ):
        client.tickers()
    assert abs(caught.value.ahead - timedelta(minutes=minutes)) <= timedelta(seconds=2)
    direction = "ahead of" if minutes > 0 else "behind"
    assert re.search(rf"machine's clock is 0:(19:5\d|20:00) \(h:mm:ss\) {direction} the exchange's", str(caught.value))
    assert "timedatectl" in str(caught.value)
    assert ("a cache is serving old responses" in str(caught.value)) == (minutes > 0)


def test_an_old_cached_reply_is_requested_again():
    with running(market_count=3) as exchange, UpbitClient(exchange.url, sleep=lambda _: None) as client:
        exchange.faults.add("/v1/ticker", "cached", seconds=1200, times=1)
        assert client.tickers().clock_ahead == timedelta()
        exchange.faults.add("/v1/ticker", "cached", seconds=1200)
        with pytest.raises(CachedReplyError, match="1200 seconds old: it comes from a cache"):
            client.tickers()


def test_a_fresh_cached_reply_has_no_clock_offset():
    with running(market_count=3) as exchange, UpbitClient(exchange.url) as client:
        exchange.faults.add("/v1/ticker", "cached", seconds=TOLERATED.seconds)
        assert client.tickers().clock_ahead == timedelta()


def test_requests_ask_caches_to_revalidate(exchange, client):
    exchange.answers = [Answer(GOOD)]
    client.tickers()
    assert exchange.requests[0].headers["cache-control"] == "no-cache"
