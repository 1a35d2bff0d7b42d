"""Each check of books and days fails exactly the wrong window and names the markets."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity

from upbit_assets import day_checks
from upbit_assets.assets.gold import gold_market_daily, gold_orderbook_stats
from upbit_assets.assets.silver import silver_candle, silver_orderbook, silver_ticker, silver_trade
from upbit_assets.partitions import DAY, MINUTE, WINDOW, Axis, days, windows
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox import wire
from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.assets import test_orderbook as books
from upbit_assets_tests.assets.test_candles_and_trades import TODAY, cover, milliseconds
from upbit_assets_tests.assets.test_market_daily import Candle, Trade, put_candles, put_trades
from upbit_assets_tests.pipeline import (
    PAST,
    ask,
    compute,
    evaluate,
    final_day,
    materialize,
    now,
    put_bronze,
    run_errors,
    ticker,
)

TOMORROW = TODAY + DAY
MARKETS = [f"KRW-{nth}" for nth in range(9)]
# minute, price, volume: each day's trades of each market
TRADED = [(0, "100", "1"), (0, "101", "2"), (1, "105", "0.5"), (3, "95", "1.5"), (5, "98", "2")]
ASKED = timedelta(minutes=5, seconds=30)


Asked = tuple[AssetCheckEvaluation, list[bool]]


def evaluated(check: tuple[str, str], first: datetime, axis: Axis) -> Asked:
    """The evaluation of two windows in one run, and whether each passes."""
    evaluation = evaluate(*check, first, first + axis.length, axis)
    passed = "SELECT passed FROM silver.check_result WHERE (asset, check_name) = (%s, %s) ORDER BY window_start DESC"
    second, one = ask(os.environ["UPBIT_POSTGRES_URL"], passed + " LIMIT 2", *check)
    return evaluation, [*one, *second]


def shown(evaluation: AssetCheckEvaluation) -> Mapping[str, Any]:
    return {name: getattr(entry, "value", entry) for name, entry in evaluation.metadata.items()}


def reason(culprits: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in culprits.items() if value != "")


@pytest.fixture
def two_days(market_url: str, database: Database) -> str:
    """Two days of some markets with consistent candles, trades and tickers."""
    for day in (TODAY, TOMORROW):
        trades = [Trade(m, day + n * MINUTE, price, volume) for m in MARKETS for n, price, volume in TRADED]
        put_trades(database, trades)
        put_candles(database, candles(trades))
        for market in MARKETS:
            for kind in ("candle", "trade"):
                cover(database, kind, market, day, day + DAY)
        fields = {"opening_price": "100", "high_price": "105", "low_price": "95", "acc_trade_volume": "7.0"}
        fields["trade_timestamp"] = milliseconds(day + 5 * MINUTE)
        put_bronze(database, day + ASKED, {market: ticker(market, **fields) for market in MARKETS})
        compute(database, silver_ticker, day + ASKED)
    for asset in (silver_candle, silver_trade, gold_market_daily):
        compute(database, asset, TODAY, TOMORROW)
    return market_url


def candles(trades: list[Trade]) -> list[Candle]:
    """These trades as candles."""
    found = []
    for market, start in sorted({(each.market, each.at) for each in trades}):
        inside = [each for each in trades if (each.market, each.at) == (market, start)]
        prices = [each.price for each in inside]
        volume = sum(Decimal(each.volume) for each in inside)
        turnover = sum(Decimal(each.price) * Decimal(each.volume) for each in inside)
        found.append(
            Candle(market, start, (prices[0], max(prices), min(prices), prices[-1]), str(volume), str(turnover))
        )
    return found


DAILY, COVERAGE = "gold_market_daily", ("silver_candle", "every_minute_was_collected")
RANKS, TRADES, TICKERS = (
    (DAILY, name) for name in ("ranks_are_complete", "trades_and_candles_agree", "candles_and_tickers_agree")
)
ACCOUNTS = "every_bronze_row_is_accounted_for"


# a change to one market each, and the check's result for the day
DAMAGES: list[tuple[tuple[str, str], list[str], Mapping[str, Any]]] = [
    (
        ("silver_candle", ACCOUNTS),
        ["DELETE FROM silver.candle {minute_0}"],
        {"raw": 36, "silver": 35, "rejected": 0, "duplicates": 0},
    ),
    (
        ("silver_trade", ACCOUNTS),
        ["DELETE FROM silver.trade {traded} AND price = 95"],
        {"raw": 45, "silver": 44, "rejected": 0, "duplicates": 0},
    ),
    (COVERAGE, ["UPDATE silver.candle_coverage SET minutes_missing = 1 {day}"], {"incomplete": "KRW-0"}),
    (
        RANKS,
        [
            "UPDATE gold.market_daily SET rank_turnover = 2 {day}",
            "UPDATE gold.market_daily SET rank_volatility = 0 {day}",
            "DELETE FROM gold.market_daily {day}",
        ],
        {"wrongly ranked": "KRW-0, KRW-1", "not ranked": "KRW-2"},
    ),
    (
        TRADES,
        [
            "UPDATE silver.trade SET volume = volume * 1.00000001 {traded}",
            "UPDATE silver.trade SET price = 96 {traded} AND price = 95",
            "DELETE FROM silver.trade {traded}",
            "UPDATE gold.market_daily SET vwap = vwap * 1.00000001 {day}",
            "UPDATE gold.market_daily SET volume = volume * 1.00000001 {day}",
        ],
        {"trades and candles differ": ", ".join(MARKETS[:5])},
    ),
    (
        TICKERS,
        [
            "UPDATE silver.candle SET opening_price = 100.5 {minute_0}",
            "UPDATE silver.candle SET high_price = 104 {minute_1}",
            "UPDATE silver.candle SET low_price = 94 {minute_3}",
            "UPDATE silver.candle SET volume = 0.1 {minute_3}",
            "UPDATE silver.candle SET volume = 4 {minute_3}",
            "DELETE FROM silver.candle {any_minute}",
            """UPDATE bronze.ticker_raw SET raw_data = raw_data || '{{"low_price": "95"}}' {asked}""",
            "UPDATE bronze.ticker_raw SET raw_data = raw_data - 'acc_trade_volume' {asked}",
        ],
        {"ticker and candles differ": ", ".join(MARKETS[:8])},
    ),
]


@pytest.mark.parametrize(("check", "damages", "culprits"), DAMAGES, ids=[check[1] for check, *_ in DAMAGES])
def test_a_wrong_day_fails_alone_and_the_markets_are_named(two_days: str, check: Any, damages: Any, culprits: Any):
    assert evaluated(check, TODAY, days)[0].passed
    whole_day = f"BETWEEN '{TODAY.isoformat()}' AND '{(TOMORROW - MINUTE).isoformat()}'"
    places = {f"minute_{nth}": f"started_at = '{(TODAY + nth * MINUTE).isoformat()}'" for nth in (0, 1, 3)}
    places |= {"traded": f"traded_at {whole_day}", "any_minute": f"started_at {whole_day}"}
    places |= {"day": f"day = '{TODAY.isoformat()}'", "asked": f"ingested_at {whole_day}"}
    for market, damage in zip(MARKETS, damages, strict=False):
        where = {name: f"WHERE market = '{market}' AND {place}" for name, place in places.items()}
        ask(two_days, damage.format(**where))

    evaluation, passed = evaluated(check, TODAY, days)
    assert passed == [False, True]
    assert not evaluation.passed
    assert reason(culprits) in shown(evaluation)["failing windows"]
    assert (evaluation.severity is AssetCheckSeverity.WARN) == (check == COVERAGE)


def test_trades_that_differ_from_the_candles_are_reported(two_days: str, database: Database):
    day = f"traded_at < '{TOMORROW.isoformat()}'"
    ask(two_days, f"UPDATE silver.trade SET volume = volume * 1.00000001 WHERE market = 'KRW-0' AND {day}")
    ask(two_days, f"DELETE FROM silver.trade WHERE market = 'KRW-1' AND {day}")
    ask(two_days, f"DELETE FROM silver.trade WHERE market IN ('KRW-2', 'KRW-3') AND {day} AND price = 95")
    values = f"('KRW-2', '{{}}', 'trade_price: not a number', '{TODAY.isoformat()}', 1)"
    ask(two_days, f"INSERT INTO silver.trade_rejected (market, raw_data, reason, day, bronze_id) VALUES {values}")
    ask(two_days, "DELETE FROM bronze.trade_page WHERE market = 'KRW-3'")
    compute(database, gold_market_daily, TODAY, TOMORROW)

    assert ask(
        two_days, "SELECT market FROM gold.market_daily WHERE vwap_source = 'candles' AND day = %s ORDER BY 1", TODAY
    ) == [(market,) for market in MARKETS[:4]]
    evaluation, passed = evaluated(TRADES, TODAY, days)
    assert passed == [False, True]
    assert "trades and candles differ: KRW-0, KRW-1 |" in shown(evaluation)["failing windows"]


def test_a_rejected_candle_without_a_market_may_be_missing_in_any(two_days: str):
    values = f"('', '{{}}', 'market: missing', '{TODAY.isoformat()}', 1)"
    ask(two_days, f"INSERT INTO silver.candle_rejected (market, raw_data, reason, day, bronze_id) VALUES {values}")

    evaluation, passed = evaluated(COVERAGE, TODAY, days)
    assert passed == [False, True]
    assert "incomplete: (none)" in shown(evaluation)["failing windows"]


def test_what_was_not_collected_is_not_compared(two_days: str, database: Database):
    ask(two_days, "DELETE FROM bronze.candle_raw WHERE market = 'KRW-0' AND key < '2026-01-29T00:03'")
    ask(two_days, "DELETE FROM bronze.candle_page WHERE market = 'KRW-0'")
    cover(database, "candle", "KRW-0", TODAY + 3 * MINUTE, TOMORROW)
    for asset in (silver_candle, gold_market_daily):
        compute(database, asset, TODAY)

    for check in (TRADES, TICKERS):
        assert evaluated(check, TODAY, days)[0].passed
    assert "incomplete: KRW-0 |" in shown(evaluated(COVERAGE, TODAY, days)[0])["failing windows"]


def test_an_unfinished_day_may_be_incomplete(market_url: str, database: Database):
    today = days.at(datetime.now(UTC)).start
    cover(database, "candle", "KRW-A", today, today)
    compute(database, silver_candle, today)
    evaluation = evaluate(*COVERAGE, today, axis=days)

    assert evaluation.passed
    assert "The exchange may still add to the day." in (evaluation.description or "")


@pytest.mark.parametrize("may_add", [True, False])
def test_a_day_may_be_incomplete_as_long_as_the_exchange_may_add_to_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, may_add: bool
):
    yesterday = days.at(now()).start - DAY
    cover(database, "candle", "KRW-A", yesterday, yesterday)
    compute(database, silver_candle, yesterday)
    since_its_end = datetime.now(UTC) - yesterday - DAY
    monkeypatch.setattr(day_checks, "REPORTING_DELAY", since_its_end + (MINUTE if may_add else -MINUTE))
    assert evaluate(*COVERAGE, yesterday, axis=days).passed is may_add


def test_a_wrong_window_of_books_fails_alone(market_url: str, database: Database):
    for at in (PAST, PAST + WINDOW):
        sides = {market: ([books.BID], [books.ASK]) for market in MARKETS} | {"KRW-ONE": ([books.BID], [])}
        books.collect(database, *((market, books.book(market, *each)) for market, each in sides.items()), at=at)
    for asset in (silver_orderbook, gold_orderbook_stats):
        compute(database, asset, PAST, PAST + WINDOW)
    accounts, figures = ("silver_orderbook", ACCOUNTS), ("gold_orderbook_stats", "every_two_sided_book_has_figures")
    for check in (accounts, figures):
        assert evaluated(check, PAST, windows)[1] == [True, True]

    there = f"ingested_at = '{PAST.isoformat()}'"
    ask(market_url, f"DELETE FROM gold.orderbook_stats WHERE market = 'KRW-0' AND {there}")
    ask(market_url, f"UPDATE gold.orderbook_stats SET spread_bps = 0 WHERE market = 'KRW-1' AND {there}")
    evaluation, passed = evaluated(figures, PAST, windows)
    assert passed == [False, True]
    assert "without figures: KRW-0, KRW-1 |" in shown(evaluation)["failing windows"]

    ask(market_url, f"DELETE FROM silver.orderbook WHERE market = 'KRW-2' AND {there}")
    evaluation, passed = evaluated(accounts, PAST, windows)
    assert passed == [False, True]
    assert "raw: 10; silver: 9; rejected: 0; duplicates: 0" in shown(evaluation)["failing windows"]


def test_all_checks_pass_on_the_offline_exchanges_data(
    market_url: str, database: Database, exchange: Handle, monkeypatch: pytest.MonkeyPatch
):
    yesterday = final_day()
    market = "USDT-BTC"  # hundreds of trades a day
    for variable in ("UPBIT_CANDLE_MARKETS", "UPBIT_TRADE_MARKETS"):
        monkeypatch.setenv(variable, market)
    at = yesterday + timedelta(hours=15, minutes=1, seconds=2)
    put_bronze(database, at, {market: wire.array([wire.raw(exchange.market.ticker(market, at))])[1:-1]})
    compute(database, silver_ticker, at)
    chain = ("bronze_candle_raw", "silver_candle", "bronze_trade_raw", "silver_trade", "gold_market_daily")
    result = materialize(*chain, first=yesterday, axis=days)

    assert result.success, run_errors(result)
    passed = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    assert all(passed.values()), passed
    assert ask(market_url, "SELECT market, vwap_source FROM gold.market_daily") == [(market, "trades")]
    ask(market_url, "UPDATE silver.candle SET opening_price = opening_price * 1.00001")
    assert not evaluated(TICKERS, yesterday, days)[0].passed
