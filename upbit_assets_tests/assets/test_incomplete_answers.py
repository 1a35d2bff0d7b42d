"""An incomplete reply is requested once more; what is still missing is reported, and everything else is stored."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import ExecuteInProcessResult

from upbit_assets.assets import snapshots
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.pipeline import CHAIN, ask, checks, evaluate, materialize, metadata_of, now, put_bronze, ticker

pytestmark = pytest.mark.long

UNKNOWN, MISSING, OLD = "unknown to the exchange", "not in the response", "the newest ticker is of"
NAMED = ["KRW-BTC", "KRW-ETH", "KRW-USDT"]
ON_THE_LIST = ("bronze_ticker_raw", "named_markets_are_listed")
A_MOMENT_AGO = timedelta(seconds=1)

pytestmark = pytest.mark.usefixtures("database")


def collected(*assets: str) -> ExecuteInProcessResult:
    result = materialize(*assets, first=now())
    assert result.success
    return result


def tickers() -> tuple[ExecuteInProcessResult, Mapping[str, Any]]:
    result = collected("bronze_ticker_raw")
    return result, metadata_of(result, "bronze_ticker_raw")


def books() -> Mapping[str, Any]:
    return metadata_of(collected("bronze_orderbook_raw"), "bronze_orderbook_raw")


def snapshots_of(url: str, table: str) -> list[int]:
    """The number of rows of each snapshot."""
    counts = ask(url, f"SELECT count(*) FROM bronze.{table}_raw GROUP BY ingested_at ORDER BY ingested_at")
    return [count for (count,) in counts]


def calls(exchange: Handle) -> int:
    return exchange.faults.show()[0]["seen"]


class TestTickers:
    def test_the_complete_one_of_two_replies_is_kept(self, market_url: str, exchange: Handle):
        tickers()
        exchange.faults.add("ticker/all", "short", times=1)
        result, shown = tickers()
        assert snapshots_of(market_url, "ticker") == [30, 30]
        assert MISSING not in shown
        assert checks(result)["markets_match_the_market_list"].passed

    def test_what_is_missing_twice_is_reported_and_the_rest_is_kept(self, market_url: str, exchange: Handle):
        tickers()
        exchange.faults.add("ticker/all", "rows", rows=[{"market": "KRW-ETH", "duplicate": -1}])
        result, shown = tickers()
        assert (shown[MISSING], calls(exchange)) == ("KRW-ETH", 2)
        assert snapshots_of(market_url, "ticker") == [30, 29, 29]
        check = checks(result)["markets_match_the_market_list"]
        assert not check.passed
        assert "without a ticker in some snapshots: KRW-ETH" in str(check.metadata)

    def test_two_incomplete_replies_complement_each_other(self, market_url: str, exchange: Handle):
        tickers()
        for skip, market in enumerate(NAMED[:2]):
            lacks = [{"market": market, "duplicate": -1}]
            exchange.faults.add("ticker/all", "rows", skip=skip, times=1, rows=lacks)
        assert MISSING not in tickers()[1]
        assert snapshots_of(market_url, "ticker") == [30, 29, 29]

    def test_a_failing_second_call_does_not_lose_the_first(self, market_url: str, exchange: Handle):
        tickers()
        exchange.faults.add("ticker/all", "short", times=1)
        exchange.faults.add("ticker/all", "status", status=400, skip=1)
        assert "and 5 more" in tickers()[1][MISSING]
        assert snapshots_of(market_url, "ticker") == [30, 15]

    @pytest.mark.parametrize("times", [1, None])
    def test_an_outdated_reply_is_requested_again(self, market_url: str, exchange: Handle, times: int | None):
        long_ago = {"market": "*", "set": {"timestamp": "1769662800000"}}
        exchange.faults.add("ticker/all", "rows", times=times, rows=[long_ago])
        shown = tickers()[1]
        assert shown.get(OLD) == (None if times else "2026-01-29 14:00:00 KST")
        assert snapshots_of(market_url, "ticker") == ([30] if times else [30, 30])

    def test_a_delisted_market_is_not_missing(self, database: Database, exchange: Handle):
        put_bronze(database, datetime.now(UTC) - A_MOMENT_AGO, {"KRW-GONE": ticker("KRW-GONE")})
        assert tickers()[1][MISSING] == "KRW-GONE"  # there is no list yet
        assert MISSING not in tickers()[1]


class TestOrderbooks:
    @pytest.fixture(autouse=True)
    def _named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UPBIT_ORDERBOOK_MARKETS", ",".join(NAMED))

    @pytest.mark.parametrize("known_to_the_list", [True, False, None], ids=["still listed", "not listed", "no list"])
    def test_one_unknown_code_does_not_lose_the_others(
        self, market_url: str, exchange: Handle, known_to_the_list: bool | None
    ):
        if known_to_the_list:
            tickers()
        exchange.market.close_market("KRW-ETH", datetime.now(UTC) - A_MOMENT_AGO)
        if known_to_the_list is False:
            tickers()
        shown = books()
        assert shown[UNKNOWN] == "KRW-ETH"
        assert MISSING not in shown
        assert ask(market_url, "SELECT market FROM bronze.orderbook_raw ORDER BY 1") == [("KRW-BTC",), ("KRW-USDT",)]

    def test_a_named_code_that_is_not_on_the_list_fails_its_check(self, market_url: str, exchange: Handle):
        assert evaluate(*ON_THE_LIST).passed
        tickers()
        assert evaluate(*ON_THE_LIST).passed
        exchange.market.close_market("KRW-ETH", datetime.now(UTC) - A_MOMENT_AGO)
        ask(market_url, "DELETE FROM bronze.market_raw")  # so that the next run collects it
        tickers()
        check = evaluate(*ON_THE_LIST)
        assert not check.passed
        assert check.metadata["UPBIT_ORDERBOOK_MARKETS"].value == "KRW-ETH"

    def test_a_ranking_from_before_a_delisting_loses_only_that_market(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_ORDERBOOK_MARKETS", "top30")
        collected(*CHAIN)
        exchange.market.close_market("KRW-ETH", datetime.now(UTC) - A_MOMENT_AGO)
        assert books()[UNKNOWN] == "KRW-ETH"
        assert sum(snapshots_of(market_url, "orderbook")) == 29

    def test_it_fails_where_the_exchange_knows_none(self, market_url: str, exchange: Handle):
        for market in NAMED:
            exchange.market.close_market(market, datetime.now(UTC) - A_MOMENT_AGO)
        assert not materialize("bronze_orderbook_raw", first=now()).success

    def test_the_number_of_calls_is_bounded(self, exchange: Handle, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(snapshots, "MAX_CALLS", 4)
        exchange.faults.add("orderbook", "status", status=404)
        assert not materialize("bronze_orderbook_raw", first=now()).success
        assert calls(exchange) == 4

    def test_a_gateways_404_does_not_mean_an_unknown_code(self, exchange: Handle):
        body = '{"error": {"name": "not_found", "message": "no Route matched with those values"}}'
        exchange.faults.add("orderbook", "status", status=404, body=body)
        assert not materialize("bronze_orderbook_raw", first=now()).success
        assert calls(exchange) == 1

    def test_a_book_that_is_missing_from_one_answer_is_requested_again(self, market_url: str, exchange: Handle):
        exchange.faults.add("orderbook", "rows", times=1, rows=[{"market": "KRW-ETH", "duplicate": -1}])
        assert MISSING not in books()
        assert snapshots_of(market_url, "orderbook") == [3]
        exchange.faults.add("orderbook", "rows", rows=[{"market": "KRW-ETH", "duplicate": -1}])
        assert books()[MISSING] == "KRW-ETH"
