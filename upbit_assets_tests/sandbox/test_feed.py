"""WebSocket and REST have the same data at the same time."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upbit_assets.sandbox import book
from upbit_assets.sandbox.clock import AdjustableClock
from upbit_assets.sandbox.market import Market, milliseconds, moment
from upbit_assets.sandbox.server import running
from upbit_assets.sandbox.subscription import CANDLES
from upbit_assets.sandbox.tape import Tape
from upbit_assets_tests import http
from upbit_assets_tests.sandbox.conftest import AT
from upbit_assets_tests.sandbox.streaming import Seconds, World, stepped_world, wanted

CODES = [listing.market for listing in Market(count=30).markets()]
MIDNIGHT = datetime(2026, 7, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def world():
    with stepped_world() as world:
        yield world


def rest(world, code, since):
    """A code's trades after a time (ms), from REST, by id."""
    now = world.clock()
    found: dict = {}
    for days_ago in (1, 0):
        rows = world.handle.market.trades(code, now, days_ago=days_ago, count=2_000)
        found |= {row["sequential_id"]: row for row in rows if row["timestamp"] > since}
    return found


TRADE = ("trade_price", "trade_volume", "ask_bid", "prev_closing_price")


@pytest.mark.parametrize("start", [AT, MIDNIGHT - timedelta(seconds=40)])
def test_every_trade_that_rest_has_is_a_frame_and_no_other(world, start):
    world.seconds.value += 1000
    world.clock.step((start - world.clock()).total_seconds())
    since = milliseconds(world.clock())
    with world.subscribed(wanted("trade", *CODES, is_only_realtime=True)) as client:
        told = [frame for step in (0.001, 0.5, 30, 7.3, 60, 0.05) for frame in client.due(step=step)]
        for code in CODES:
            truth = rest(world, code, since)
            frames = {frame["sequential_id"]: frame for frame in told if frame["code"] == code}
            assert frames.keys() == truth.keys()
            for key, frame in frames.items():
                assert frame["trade_timestamp"] == truth[key]["timestamp"]
                assert [frame[name] for name in TRADE] == [truth[key][name] for name in TRADE]
                assert frame["change_price"] == abs(truth[key]["change_price"])
    assert len(told) == len({(frame["code"], frame["sequential_id"]) for frame in told}) > 150


def test_day_counters_in_tickers_equal_rest_and_the_sum_of_trades(world):
    world.seconds.value += 1000
    types = (wanted("ticker", *CODES), wanted("trade", *CODES, is_only_realtime=True))
    with world.subscribed(*types) as client:
        told = {frame["code"]: frame for frame in client.snapshots}
        assert told.keys() == set(CODES)
        frames = client.due(step=90)
    trades = [frame for frame in frames if frame["type"] == "trade"]
    tickers = [frame for frame in frames if frame["type"] == "ticker"]
    assert len(tickers) > 50
    for ticker in tickers:
        truth = world.handle.market.ticker(ticker["code"], moment(ticker["trade_timestamp"]))
        same = ticker.keys() & truth.keys() - {"timestamp"}
        assert {name: ticker[name] for name in same} == {name: truth[name] for name in same}
        assert ticker["acc_ask_volume"] + ticker["acc_bid_volume"] == ticker["acc_trade_volume"]
        before = told[ticker["code"]]
        between = [
            trade
            for trade in trades
            if trade["code"] == ticker["code"]
            and before["trade_timestamp"] < trade["trade_timestamp"] <= ticker["trade_timestamp"]
        ]
        volume, bought, turnover = (
            sum((value(trade) for trade in between), Decimal(0))
            for value in (
                lambda trade: trade["trade_volume"],
                lambda trade: trade["trade_volume"] * (trade["ask_bid"] == "BID"),
                lambda trade: trade["trade_volume"] * trade["trade_price"],
            )
        )
        assert ticker["acc_trade_volume"] - before["acc_trade_volume"] == volume
        assert ticker["acc_bid_volume"] - before["acc_bid_volume"] == bought
        assert ticker["acc_trade_price"] - before["acc_trade_price"] == turnover
        told[ticker["code"]] = ticker


def test_snapshots_are_what_rest_has_now(world):
    world.seconds.value += 1000
    kinds = ("ticker", "trade", "orderbook", "candle.1m")
    with world.subscribed(*(wanted(kind, *CODES) for kind in kinds)) as client:
        told = {(frame["type"], frame["code"]): frame for frame in client.snapshots}
    now, market = world.clock(), world.handle.market
    assert len(told) == len(kinds) * len(CODES)
    for code in CODES:
        (last,) = market.trades(code, now) or [None]
        for kind, truth in (
            ("ticker", market.ticker(code, now)),
            ("orderbook", market.orderbook(code, now)),
            ("candle.1m", market.candles(code, now, "minutes/1")[0]),
            ("trade", {"sequential_id": last["sequential_id"]} if last else {}),
        ):
            same = told[kind, code].keys() & truth.keys()
            assert {name: told[kind, code][name] for name in same} == {name: truth[name] for name in same}


def test_a_book_is_rests_of_its_moment_and_comes_on_a_grid_of_100_ms(world):
    world.seconds.value += 1000
    with world.subscribed(wanted("orderbook", "KRW-BTC", "BTC-ETH")) as client:
        found = [(milliseconds(world.clock()), client.due(step=0.03)) for _ in range(100)]
    busy = [(at, frame) for at, frames in found for frame in frames if frame["code"] == "KRW-BTC"]
    assert 28 <= len(busy) <= 31
    for at, frame in busy:
        grid = (at + 30) // 100 * 100
        truth = world.handle.market.orderbook("KRW-BTC", moment(grid))
        assert [frame[name] for name in ("timestamp", "total_ask_size", "orderbook_units")] == [
            truth[name] for name in ("timestamp", "total_ask_size", "orderbook_units")
        ]


def test_the_best_prices_of_a_trade_are_those_of_rests_book_after_it(world):
    world.seconds.value += 1000
    with world.subscribed(wanted("trade", *CODES)) as client:
        told = client.snapshots + client.due(step=60)
    for frame in told:
        (unit,) = world.handle.market.orderbook(frame["code"], moment(frame["trade_timestamp"]), count=1)[
            "orderbook_units"
        ]
        assert {name: frame[f"best_{name}"] for name in unit} == unit


def test_candles_come_every_second_in_which_something_was_traded_and_the_last_is_rests(world):
    world.seconds.value += 1000
    start = milliseconds(world.clock())
    with world.subscribed(*(wanted(kind, "KRW-BTC", "BTC-ETH") for kind in CANDLES)) as client:
        told = client.due(step=130)
    market, now = world.handle.market, moment((milliseconds(world.clock()) // 1000) * 1000 - 1)
    for kind, unit in CANDLES.items():
        for code in ("KRW-BTC", "BTC-ETH"):
            last = {
                frame["candle_date_time_utc"]: frame for frame in told if (frame["type"], frame["code"]) == (kind, code)
            }
            rows = market.candles(code, now, unit, count=200)
            ended = [row for row in rows if row["timestamp"] >= start + 1000]
            assert ended
            for row in ended:
                frame = last[row["candle_date_time_utc"]]
                same = frame.keys() & row.keys() - {"timestamp"}
                assert {name: frame[name] for name in same} == {name: row[name] for name in same}


def test_a_clock_set_back_repeats_frames_and_one_set_forward_skips_none(world):
    world.seconds.value += 1000
    with world.subscribed(wanted("trade", "KRW-BTC", is_only_realtime=True)) as client:
        first, again, ahead = (client.due(step=step) for step in (5, 0, 5))
        world.step(-5)
        world.settle()
        repeated = client.due(step=5)
    ids = [[frame["sequential_id"] for frame in frames] for frames in (first, again, ahead, repeated)]
    assert ids[0]
    assert ids[1] == []
    assert ids[2] == ids[3]


def test_a_leaping_clock_skips_no_trades():
    clock, seconds = AdjustableClock(AT, speed=0), Seconds()
    with running(3, clock, seconds=seconds) as handle:
        world = World(handle, clock, seconds)
        with world.subscribed(wanted("trade", "KRW-BTC", is_only_realtime=True)) as client:
            since = milliseconds(clock())
            told = client.due(step=600)
            assert {frame["sequential_id"] for frame in told} == rest(world, "KRW-BTC", since).keys()


def test_a_running_clock_is_as_fast_as_configured():
    clock = AdjustableClock(AT, speed=100)
    first, second = clock(), clock()
    assert AT <= first <= second < AT + timedelta(hours=1)
    clock.step(-3600)
    assert clock() < AT


@given(
    st.integers(0, 29),
    st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
@settings(max_examples=40, deadline=None)
def test_the_best_price_is_the_first_of_its_side(nth, at):
    market = Market(count=30)
    one, now = market.order[nth], milliseconds(at)
    if not market.listed(one.listing.market, at):
        return
    last = market.last_trade(one, now)
    times = last.time + np.arange(6) * 137
    touched = np.arange(6) % 2 == 0
    for away in (1, -1):
        best = zip(*book.best(one, last.price, away, touched, times), strict=True)
        sides = [
            book.side(one, last.price, away, bool(touch), int(time), 0)[0]
            for touch, time in zip(touched, times, strict=True)
        ]
        assert list(best) == sides


def test_a_busier_market_has_more_trades_at_the_same_prices():
    usual, busy = Market(count=30), Market(count=30, activity=20)
    at = AT.replace(hour=0, minute=10)
    slot = milliseconds(at) // 15_000
    few, many = (len(Tape(market).slot(slot)) for market in (usual, busy))
    assert 15 * few < many < 25 * few
    rows = [market.ticker("KRW-ETH", at) for market in (usual, busy)]
    assert rows[0]["trade_price"] == rows[1]["trade_price"]
    assert Decimal("0.5") < rows[1]["acc_trade_price_24h"] / rows[0]["acc_trade_price_24h"] < 2


def codes_of(world):
    return {row["market"] for row in http.get(world.handle.url + "/v1/market/all", timeout=60).json()}


def test_a_market_is_listed_and_delisted_on_rest_and_websocket_alike():
    with stepped_world(10) as world:
        url = world.handle.url + "/_sandbox/listings"
        at = world.clock() + timedelta(seconds=30)
        code = http.post(url, json={"quote": "KRW", "at": at.isoformat()}, timeout=60).json()["market"]
        gone = {"market": "KRW-ETH", "at": (at + timedelta(seconds=60)).isoformat()}
        assert http.delete(url, json=gone, timeout=60).json() == {"market": "KRW-ETH", "at": gone["at"]}
        before = codes_of(world)
        assert "KRW-ETH" in before
        assert code not in before
        with world.subscribed(wanted("trade", code), wanted("ticker", "KRW-ETH")) as client:
            # Unknown when it was requested, so it gets no frames
            assert [frame["code"] for frame in client.snapshots] == ["KRW-ETH"]
            assert client.snapshots[0]["delisting_date"] == {"year": 2026, "month": 7, "day": 30}
            told = client.due(step=89)
            assert {frame["code"] for frame in told} == {"KRW-ETH"}
        since = milliseconds(at)
        world.step(3600)
        assert codes_of(world) == before - {"KRW-ETH"} | {code}
        assert http.get(world.handle.url + "/v1/ticker?markets=KRW-ETH", timeout=60).status_code == 404
        with world.subscribed(wanted("trade", code, "KRW-ETH"), wanted("ticker", code)) as client:
            assert [frame["code"] for frame in client.snapshots] == [code, code]
            told = client.due(step=7200)
            ticker = [frame for frame in told if frame["type"] == "ticker"][-1]
        trades = world.handle.market.trades(code, world.clock(), count=10_000)
        assert min(row["timestamp"] for row in trades) >= since
        assert ticker["acc_trade_volume"] == sum(row["trade_volume"] for row in trades)
        assert {frame["code"] for frame in told} == {code}
        row = http.get(world.handle.url + f"/v1/ticker?markets={code}", timeout=60).json()[0]
        assert row["acc_trade_volume_24h"] == row["acc_trade_volume"]


def test_an_invalid_listing_is_rejected():
    with stepped_world(3) as world:
        url = world.handle.url + "/_sandbox/listings"
        for call, body in (
            (http.post, {"quote": "XAU"}),
            (http.post, {"quote": "KRW", "at": "soon"}),
            (http.delete, {"market": "KRW-NOPE"}),
            (http.delete, []),
        ):
            assert call(url, json=body, timeout=60).status_code == 400
        assert len(codes_of(world)) == 3
