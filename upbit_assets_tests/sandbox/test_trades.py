import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from datetime import time as clock

from hypothesis import given, settings
from hypothesis import strategies as st

from upbit_assets.sandbox.market import Market
from upbit_assets_tests.sandbox.history import figures_of_trades, trades

MARKET = Market(count=30)
AT = datetime(2026, 7, 30, 7, 41, 1, tzinfo=UTC)
CODES = [listing.market for listing in MARKET.markets(datetime(2018, 1, 1, tzinfo=UTC))]
QUIETER = [code for code in CODES if not code.startswith("KRW")]

times = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
few = settings(max_examples=30, deadline=None)
FIELDS = """
market trade_date_utc trade_time_utc timestamp trade_price trade_volume prev_closing_price change_price ask_bid
sequential_id
"""


@given(st.sampled_from(QUIETER), times)
@few
def test_the_trades_of_today_add_up_to_the_ticker(market, at):
    rows, ticker = trades(MARKET, market, at), MARKET.ticker(market, at)
    if not rows:
        assert ticker["acc_trade_volume"] == 0
        return
    names = ("opening_price", "high_price", "low_price", "trade_price", "acc_trade_price", "acc_trade_volume")
    assert figures_of_trades(rows) == tuple(ticker[name] for name in names)
    newest = rows[-1]
    assert (newest["timestamp"], newest["trade_volume"]) == (ticker["trade_timestamp"], ticker["trade_volume"])
    assert newest["prev_closing_price"] == ticker["prev_closing_price"]
    assert newest["change_price"] == ticker["signed_change_price"]


def test_trades_of_a_busy_market_add_up_too():
    at = AT.replace(hour=1)
    rows, ticker = trades(MARKET, "KRW-BTC", at), MARKET.ticker("KRW-BTC", at)
    assert len(rows) > 5000
    assert sum(row["trade_volume"] for row in rows) == ticker["acc_trade_volume"]
    assert sum(row["trade_volume"] * row["trade_price"] for row in rows) == ticker["acc_trade_price"]


def test_a_trade_has_the_real_fields_in_order():
    (row,) = MARKET.trades("KRW-BTC", AT)
    assert list(row) == FIELDS.split()
    made = datetime.fromtimestamp(row["timestamp"] // 1000, UTC)
    assert f"{row['trade_date_utc']} {row['trade_time_utc']}" == f"{made:%Y-%m-%d %H:%M:%S}"
    assert row["change_price"] == row["trade_price"] - row["prev_closing_price"]


@given(st.sampled_from(CODES), times, st.lists(st.integers(1, 90), min_size=1, max_size=8))
@few
def test_paging_by_cursor_loses_and_repeats_nothing(market, at, counts):
    whole, pages, cursor = MARKET.trades(market, at, count=500), [], None
    for count in counts:
        pages += MARKET.trades(market, at, count=count, cursor=cursor)
        cursor = pages[-1]["sequential_id"] if pages else None
    if whole:
        assert pages[:500] == whole[: len(pages)]
        assert [row["timestamp"] for row in pages] == sorted((row["timestamp"] for row in pages), reverse=True)


@given(st.sampled_from(CODES), times, st.timedeltas(timedelta(0), timedelta(days=6)))
@few
def test_the_same_trade_has_the_same_id_whenever_it_is_requested(market, at, later):
    first = MARKET.trades(market, at, count=500)
    days_ago = ((at + later).date() - at.date()).days
    cursor = first[0]["sequential_id"] if first else None
    again = Market(count=30).trades(market, at + later, days_ago=days_ago, cursor=cursor, count=500)
    if first:
        assert again[: len(first) - 1] == first[1:]


def test_ids_are_unique_long_and_in_no_order():
    rows = trades(MARKET, "KRW-BTC", AT.replace(hour=2))
    ids = [row["sequential_id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert {len(str(each)) for each in ids} == {17}
    assert [each // 10_000 for each in ids] == [row["timestamp"] for row in rows]
    assert ids != sorted(ids)


def test_some_trades_differ_only_in_their_ids():
    rows = MARKET.trades("KRW-BTC", AT, count=500)
    alike = Counter((row["timestamp"], row["trade_price"], row["trade_volume"], row["ask_bid"]) for row in rows)
    assert 5 < sum(count - 1 for count in alike.values()) < 60
    assert {row["ask_bid"] for row in rows} == {"ASK", "BID"}


@given(st.sampled_from(QUIETER), st.integers(1, 7), st.times())
@few
def test_days_before_end_at_a_time_of_day(market, days_ago, to):
    day = (AT - timedelta(days=days_ago)).date()
    to = to.replace(microsecond=0)
    rows, whole = MARKET.trades(market, AT, days_ago=days_ago, to=to, count=500), trades(MARKET, market, AT, days_ago)
    assert {row["trade_date_utc"] for row in whole} == {day.isoformat()}
    assert rows == [row for row in reversed(whole) if row["trade_time_utc"] < f"{to:%H:%M:%S}"][:500]


def test_today_begins_at_midnight_utc():
    midnight = AT.replace(hour=0, minute=0, second=0)
    assert MARKET.trades("KRW-BTC", midnight - timedelta(seconds=1))
    assert MARKET.trades("KRW-BTC", AT, to=clock(0)) == []
    assert {row["trade_date_utc"] for row in MARKET.trades("KRW-BTC", midnight + timedelta(seconds=9), count=500)} == {
        "2026-07-30"
    }


def test_an_unknown_cursor_is_taken_as_a_time():
    newest, older, *_ = MARKET.trades("BTC-ETH", AT, count=3)
    between = (newest["timestamp"] - 1) * 10_000 + 5000
    assert MARKET.trades("BTC-ETH", AT, cursor=between) == [older]
    assert MARKET.trades("BTC-ETH", AT, cursor=1) == []
    assert MARKET.trades("BTC-ETH", AT, cursor=10**18) == [newest]


def test_there_are_no_trades_before_a_markets_first_day():
    day = datetime(2017, 9, 25, 12, tzinfo=UTC)
    (row,) = MARKET.trades("KRW-BTC", day)
    first = trades(MARKET, "BTC-ETH", day)[0]
    assert first["prev_closing_price"] == first["trade_price"]
    assert row["prev_closing_price"] == MARKET.ticker("KRW-BTC", day)["opening_price"]
    assert MARKET.trades("KRW-BTC", day, days_ago=1) == []


def test_500_trades_come_in_milliseconds():
    MARKET.trades("KRW-BTC", AT)
    start = time.process_time()
    for _ in range(3):
        assert len(MARKET.trades("KRW-BTC", AT, count=500)) == 500
    assert time.process_time() - start < 0.5  # 8 ms each on an idle machine
