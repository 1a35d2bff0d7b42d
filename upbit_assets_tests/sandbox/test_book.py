from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upbit_assets.sandbox.market import Market

MARKET = Market(count=60)
AT = datetime(2026, 7, 30, 7, 41, 1, tzinfo=UTC)
CODES = [listing.market for listing in MARKET.markets(datetime(2018, 1, 1, tzinfo=UTC))]

markets = st.sampled_from(CODES)
times = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
few = settings(max_examples=30, deadline=None)


def book_of(market, at, exchange=MARKET, **options):
    book = exchange.orderbook(market, at, **options)
    assert book
    return book


def orders(book, side):
    """Prices and sizes of a side without padding."""
    units = [(unit[f"{side}_price"], unit[f"{side}_size"]) for unit in book["orderbook_units"]]
    return [unit for unit in units if unit != (0, 0)]


def levels(market, at):
    return [Decimal(level) for level in MARKET.instrument(market, at)["supported_levels"]]


@given(markets, times, st.data())
@few
def test_a_book_is_around_the_last_trade(market, at, data):
    level = data.draw(st.sampled_from(levels(market, at)))
    book, ticker = book_of(market, at, level=level), MARKET.ticker(market, at)
    asks, bids = orders(book, "ask"), orders(book, "bid")
    assert bids[0][0] <= ticker["trade_price"] <= asks[0][0] if bids else asks
    assert not bids or bids[0][0] < asks[0][0]
    for side, descending in ((asks, False), (bids, True)):
        prices = [price for price, _ in side]
        assert prices == sorted(set(prices), reverse=descending)
        assert all(size > 0 for _, size in side)
    assert all(price % (level or Decimal("1e-8")) == 0 for price, _ in asks + bids)
    assert (book["total_ask_size"], book["total_bid_size"]) == tuple(sum(s for _, s in side) for side in (asks, bids))
    assert ticker["trade_timestamp"] <= book["timestamp"] <= at.timestamp() * 1000


@given(markets, times)
@few
def test_the_last_trade_was_with_the_best_of_the_other_side(market, at):
    trades = MARKET.trades(market, at)
    if trades:
        best = book_of(market, at, count=1)["orderbook_units"][0]
        assert best["ask_price" if trades[0]["ask_bid"] == "BID" else "bid_price"] == trades[0]["trade_price"]


@given(st.sampled_from([code for code in CODES if code.startswith("KRW")]), times)
@few
def test_prices_are_on_the_tick_grid_of_their_range(market, at):
    steps = """
    1000000:1000 500000:500 100000:100 50000:50 10000:10 5000:5 100:1 10:.1 1:.01 .1:.001 .01:.0001 .001:.00001
    """
    ticks = [[Decimal(number) for number in step.split(":")] for step in steps.split()]
    book = book_of(market, at)
    for price, _ in orders(book, "ask") + orders(book, "bid"):
        assert price % next(tick for low, tick in ticks if price >= low) == 0


@given(st.sampled_from([code for code in CODES if code.startswith("KRW")]), times, st.data())
@few
def test_grouped_levels_sum_up_their_orders(market, at, data):
    level = data.draw(st.sampled_from(levels(market, at)[1:]))
    fine, coarse = book_of(market, at), book_of(market, at, level=level)
    assert coarse["level"] == level
    for side, rounding in (("ask", ROUND_CEILING), ("bid", ROUND_FLOOR)):
        groups: dict[Decimal, Decimal] = {}
        for price, size in orders(fine, side):
            group = (price / level).to_integral_value(rounding) * level
            groups[group] = groups.get(group, 0) + size
        told = dict(orders(coarse, side))
        # The last group may contain orders beyond the ungrouped book
        for group in list(groups)[:-1]:
            assert told[group] == groups[group]


@given(markets, times)
@few
def test_repeated_requests_give_the_same_book(market, at):
    assert book_of(market, at, Market(count=60)) == book_of(market, at)


@pytest.mark.parametrize("count", [1, 7, 30])
def test_there_are_as_many_units_as_requested_and_the_totals_are_the_same(count):
    for market in CODES:
        book, whole = book_of(market, AT, count=count), book_of(market, AT)
        assert book["orderbook_units"] == whole["orderbook_units"][:count]
        assert len(book["orderbook_units"]) == count
        assert {name: book[name] for name in ("total_ask_size", "total_bid_size")}.items() <= whole.items()


def test_thin_sides_are_padded_with_zeros():
    books = [book_of(market, AT) for market in CODES if market.startswith("BTC")]
    thin = [book for book in books if min(len(orders(book, side)) for side in ("ask", "bid")) < 30]
    assert len(books) * 0.4 < len(thin) < len(books)
    assert all(len(book["orderbook_units"]) == 30 for book in books)
    assert all(len(orders(book_of(code, AT), "ask")) == 30 for code in CODES if code.startswith("KRW"))


def test_a_busy_book_changes_every_100_ms_and_a_quiet_one_stays():
    steps = [AT + timedelta(milliseconds=100 * n) for n in range(20)]
    busy = [book_of("KRW-BTC", at) for at in steps]
    assert len({book["timestamp"] for book in busy}) >= 20
    assert len({str(book["orderbook_units"]) for book in busy}) > 10
    quiet = [book_of(CODES[-1], at) for at in steps]
    assert len({str(book) for book in quiet}) == 1


def test_fields_have_the_real_names_and_order():
    book = book_of("KRW-BTC", AT)
    assert " ".join(book) == "market timestamp total_ask_size total_bid_size orderbook_units level"
    assert list(book["orderbook_units"][0]) == ["bid_price", "bid_size", "ask_price", "ask_size"]


def test_instruments_tell_the_tick_and_the_levels():
    assert MARKET.instrument("KRW-BTC", AT) == {
        "market": "KRW-BTC",
        "quote_currency": "KRW",
        "tick_size": "1000",
        "supported_levels": ["0", "10000", "100000", "1000000", "10000000"],
    }
    thin = MARKET.instrument("BTC-ETH", AT)
    assert (thin["tick_size"], thin["supported_levels"]) == ("0.00000001", ["0"])


@pytest.mark.parametrize(("market", "level"), [("KRW-BTC", "7"), ("KRW-BTC", "0.5"), ("BTC-ETH", "100")])
def test_an_unsupported_level_has_no_book(market, level):
    assert MARKET.orderbook(market, AT, level=Decimal(level)) is None


def test_every_market_has_a_book():
    exchange = Market(1)
    for listing in exchange.markets():
        asks = orders(book_of(listing.market, AT, exchange), "ask")
        assert 0 < asks[0][0] < asks[-1][0]
