"""Silver: every raw row is accepted exactly, rejected with a reason, or a duplicate."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets.assets.snapshots import storable_market
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Records
from upbit_assets_tests.pipeline import (
    IN_THE_FUTURE,
    PAST,
    ask,
    materialize,
    metadata_of,
    put_bronze,
    put_records,
    rows,
    run_errors,
    ticker,
)

on_real_database = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
PRICES = ["91200000.0", "1.16539E8", "9.9E-7", "0.00016456", "12345678901234567.123456789", "1e20", "1e-20"]
NO_PRICES = [
    None,
    "null",
    '"100"',
    "true",
    "{}",
    "0.0",
    "-1.0",
    "1.1e20",
    "9e-21",
    "1e400",
    "1e-400",
    "1e999999",
    "NaN",
]
AMOUNTS = ["0.0", "0", "10.25", "3.14159265358979323846264338", "5.485e-05"]
NO_AMOUNTS = ["null", '"10"', "-0.1", "1e400", "1e-400", "Infinity"]
MARKETS = ["KRW-BTC", "BTC-ETH", "USDT-BIGTIME"]
NO_MARKETS = [
    "",
    "KRW-\0",
    "KRW",
    "KRW-",
    "krw-btc",
    "KRW-BTC ",
    "KRW-비트코인",
    "'; DROP TABLE silver.ticker; --",
    "KRW-" + "X" * 40,
]


class Raw(NamedTuple):
    at: datetime
    market: str
    price: str | None
    volume: str
    good: bool

    @property
    def text(self) -> str:
        return ticker(self.market, trade_price=self.price, acc_trade_volume_24h=self.volume)


def raw_rows(good: bool) -> st.SearchStrategy[Raw]:
    # three windows, each with a snapshot at its start, in its middle and at its end
    offsets = (timedelta(0), timedelta(minutes=4, microseconds=1), WINDOW - timedelta(microseconds=1))
    moments = st.sampled_from([PAST + n * WINDOW + offset for n in range(3) for offset in offsets])
    kinds: list[Any] = [(MARKETS, PRICES, AMOUNTS)]
    if not good:
        kinds = [(NO_MARKETS, PRICES, AMOUNTS), (MARKETS, NO_PRICES, AMOUNTS), (MARKETS, PRICES, NO_AMOUNTS)]
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.builds(Raw, moments, *map(st.sampled_from, kind), good=st.just(good))
    )


snapshots = st.lists(st.booleans().flatmap(raw_rows), min_size=1, max_size=40)


def collect(database: Database, url: str, raws: Iterable[Raw]) -> None:
    """Put exactly these rows into bronze, in this order."""
    ask(url, "DELETE FROM bronze.ticker_raw; DELETE FROM silver.ticker")
    records = [(storable_market(raw.market), raw.text, raw.at) for raw in raws]
    put_records(database, tables.bronze_ticker_raw, Records(("market", "raw_data", "ingested_at"), records))


def build(*windows: int) -> None:
    first, last = PAST + windows[0] * WINDOW, PAST + windows[-1] * WINDOW
    result = materialize("silver_ticker", first=first, last=last if len(windows) > 1 else None)
    assert result.success, run_errors(result)


def last_of_each(raws: Iterable[Raw]) -> dict[tuple[datetime, str], Raw]:
    return {(raw.at, raw.market): raw for raw in raws if raw.good}


@on_real_database
@given(snapshots)
def test_every_raw_row_is_accepted_exactly_or_rejected_or_a_duplicate(market_url: str, database: Database, raws):
    collect(database, market_url, raws)
    build(0, 1, 2)

    wanted = last_of_each(raws)
    taken = ask(market_url, "SELECT ingested_at, market, trade_price, acc_trade_volume FROM silver.ticker")
    assert {(at, market): (price, volume) for at, market, price, volume in taken} == {
        key: (Decimal(str(raw.price)), Decimal(raw.volume)) for key, raw in wanted.items()
    }
    assert len(taken) == len(wanted)
    assert rejected_ids(market_url) == bronze_ids(market_url, [not raw.good for raw in raws])
    assert books(database) == expected_books(raws)


def bronze_ids(url: str, wanted: Sequence[bool]) -> list[int]:
    ids = ask(url, "SELECT id FROM bronze.ticker_raw ORDER BY id")
    return [id_ for (id_,), want in zip(ids, wanted, strict=True) if want]


def rejected_ids(url: str) -> list[int]:
    """The raw rows that were rejected with a reason and their exact bronze row."""
    found = ask(
        url,
        "SELECT b.id FROM silver.ticker_rejected r JOIN bronze.ticker_raw b ON b.id = r.bronze_id "
        "WHERE b.raw_data = r.raw_data AND b.market = r.market AND b.ingested_at = r.ingested_at "
        "AND r.reason ~ '^[a-z_0-9 ]+: .+' ORDER BY b.id",
    )
    return [id_ for (id_,) in found]


def books(database: Database) -> Any:
    return rows(database, tables.silver_ticker_build)


def expected_books(raws: Sequence[Raw]) -> list[tuple[Any, ...]]:
    found = []
    for start in sorted({windows.at(raw.at).start for raw in raws}):
        inside = [raw for raw in raws if windows.at(raw.at).start == start]
        good, silver = sum(raw.good for raw in inside), len(last_of_each(inside))
        found.append((start, len(inside), silver, len(inside) - good, good - silver))
    return sorted(found, key=repr)


@settings(on_real_database, max_examples=3)
@given(snapshots, st.permutations(range(3)))
def test_windows_rebuilt_separately_in_any_order_are_the_same(market_url: str, database: Database, raws, order):
    collect(database, market_url, raws)
    build(0, 1, 2)
    together = result_of_silver(database)
    collected = {windows.at(raw.at).start for raw in raws}
    for window in order:
        if PAST + window * WINDOW in collected:
            build(window)

    assert result_of_silver(database) == together


def result_of_silver(database: Database) -> list[Any]:
    return [
        rows(database, table)
        for table in (tables.silver_ticker, tables.silver_ticker_rejected, tables.silver_ticker_build)
    ]


def test_the_last_good_one_of_duplicates_wins(market_url: str, database: Database):
    prices = ["1.0", "2.0", "-3.0"]
    put_bronze(database, PAST, [("KRW-BTC", ticker("KRW-BTC", trade_price=price)) for price in prices])
    build(0)

    assert ask(market_url, "SELECT trade_price FROM silver.ticker") == [(Decimal("2.0"),)]
    assert ask(
        market_url, "SELECT bronze_rows, silver_rows, rejected_rows, duplicate_rows FROM silver.ticker_build"
    ) == [(3, 1, 1, 1)]


def test_every_figure_equals_its_field(market_url: str, database: Database):
    put_bronze(database, PAST, {"KRW-BTC": ticker("KRW-BTC", trade_timestamp="1769662799123")})
    build(0)

    columns = (
        "trade_date, trade_time, trade_price, acc_trade_volume, acc_trade_price, change_rate, traded_at, ingested_at"
    )
    assert ask(market_url, f"SELECT {columns} FROM silver.ticker") == [
        (
            *("20260129", "135959", Decimal("100.0"), Decimal("10.25"), Decimal("1000.5"), Decimal("-0.0123456789")),
            *(PAST - timedelta(milliseconds=877), PAST),
        )
    ]


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({"market": None}, "market: missing"),
    ({"market": '"KRW-ETH"'}, "market: longer than 30 characters, or not what bronze.market says"),
    ({"trade_price": None}, "trade_price: not a number"),
    ({"trade_price": "1e400"}, "trade_price: not positive, or out of range"),
    ({"acc_trade_volume_24h": '"1"'}, "acc_trade_volume_24h: not a number"),
    ({"acc_trade_price_24h": "-0.1"}, "acc_trade_price_24h: negative or out of range"),
    ({"signed_change_rate": "null"}, "signed_change_rate: not a number"),
    ({"signed_change_rate": "-1e400"}, "signed_change_rate: out of range"),
    ({"signed_change_rate": "-5"}, "signed_change_rate: out of range"),
    (
        {"signed_change_rate": "0.25", "prev_closing_price": "200.0"},
        "signed_change_rate: not the change from prev_closing_price to trade_price",
    ),
    ({"prev_closing_price": "1e131000"}, "prev_closing_price: negative or out of range"),
    ({"prev_closing_price": "-100.0"}, "prev_closing_price: negative or out of range"),
    ({"trade_timestamp": "0"}, "trade_timestamp: before Upbit opened"),
    ({"trade_timestamp": "1769663401000"}, f"trade_timestamp: {IN_THE_FUTURE}"),
    ({"trade_date_kst": '"20261301"'}, "trade_date_kst: not YYYYMMDD"),
    ({"trade_date_kst": '"2026-01-29"'}, "trade_date_kst: not YYYYMMDD"),
    ({"trade_time_kst": '"246060"'}, "trade_time_kst: not HHMMSS"),
    ({"trade_time_kst": '""'}, "trade_time_kst: not HHMMSS"),
    *(
        (wrong, "trade_date_kst, trade_time_kst: not the time that trade_timestamp says")
        for wrong in (
            {"trade_date_kst": '"20260231"'},
            {"trade_date_kst": '"19990129"'},
            {"trade_time_kst": '"140001"'},
            {"trade_time_kst": '"135959"'},
        )
    ),
    ({"trade_price": "NaN"}, "raw row: kept as text, jsonb refused it"),
]


def test_a_rejection_has_its_reason(market_url: str, database: Database):
    put_bronze(database, PAST, [(f"KRW-{n}", ticker(f"KRW-{n}", **fields)) for n, (fields, _) in enumerate(REJECTED)])
    build(0)

    reasons = ask(market_url, "SELECT reason FROM silver.ticker_rejected ORDER BY bronze_id")
    assert reasons == [(reason,) for _, reason in REJECTED]
    assert ask(market_url, "SELECT FROM silver.ticker") == []


PRICE = st.decimals("0.00000001", "1e9", places=8)


@settings(on_real_database, max_examples=4)
@given(st.lists(st.tuples(PRICE, PRICE, st.sampled_from([4, 8, 10])), min_size=1, max_size=50))
def test_a_rate_is_of_the_rows_own_prices_however_the_exchange_rounds_it(market_url: str, database: Database, quotes):
    """Rounded to ten decimals, as Upbit does, or to eight; to four is another rate unless it happens to be the same."""
    texts, right = [], []
    for price, previous, places in quotes:
        rate = (price - previous) / previous
        said_rate = round(rate, places)
        texts.append(
            ticker(
                "KRW-BTC", trade_price=f"{price}", prev_closing_price=f"{previous}", signed_change_rate=f"{said_rate:f}"
            )
        )
        right.append(abs(Fraction(said_rate) - (Fraction(price) / Fraction(previous) - 1)) <= Fraction(1, 10**6))
    ask(market_url, "DELETE FROM bronze.ticker_raw")
    put_bronze(database, PAST, [("KRW-BTC", text) for text in texts])
    build(0)

    assert rejected_ids(market_url) == bronze_ids(market_url, [not each for each in right])


@pytest.mark.parametrize("previous", [None, "null", "0.0", '"100"'])
def test_a_ticker_without_a_previous_price_has_no_rate_to_be_compared_with(
    market_url: str, database: Database, previous
):
    put_bronze(database, PAST, {"KRW-BTC": ticker("KRW-BTC", prev_closing_price=previous)})
    build(0)

    assert ask(market_url, "SELECT change_rate FROM silver.ticker") == [(Decimal("-0.0123456789"),)]


@pytest.mark.parametrize("row", ["null", "7", '"KRW-BTC"', "[]", '["market"]', "{}"])
def test_a_row_that_is_no_ticker_is_rejected(market_url: str, database: Database, row: str):
    put_bronze(database, PAST, [("", row), ("KRW-BTC", ticker("KRW-BTC"))])
    build(0)

    assert rejected_ids(market_url) == bronze_ids(market_url, [True, False])


def test_the_run_shows_row_counts_and_the_most_frequent_reasons(database: Database):
    put_bronze(database, PAST, [(m, ticker(m, trade_price=p)) for m, p in [("A-B", "0"), ("A-C", "0"), ("A-D", "1")]])
    shown = metadata_of(materialize("silver_ticker", first=PAST), "silver_ticker")

    assert (shown["bronze rows"], shown["silver rows"], shown["rejected rows"], shown["duplicate rows"]) == (3, 1, 2, 0)
    assert "| trade_price: not positive, or out of range | 2 | A-B |" in shown["rejected"]


def test_a_day_with_a_duplicate_in_every_window_is_built_in_a_few_seconds(database: Database):
    markets = [f"KRW-{n}" for n in range(100)]
    for n in range(144):
        put_bronze(database, PAST + n * WINDOW, [(market, ticker(market)) for market in [*markets, markets[0]]])
    result = materialize("silver_ticker", first=PAST, last=PAST + 143 * WINDOW)

    assert metadata_of(result, "silver_ticker")["duplicate rows"] == 144
    assert metadata_of(result, "silver_ticker")["seconds"] < 30  # 1 on an idle machine
