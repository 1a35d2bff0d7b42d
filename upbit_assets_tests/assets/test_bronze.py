"""Bronze: the exchange's responses, exactly as received, and nothing else."""

import logging
import os
from datetime import datetime, timedelta
from typing import Any

import pytest

from upbit_assets.assets import snapshots
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.server import Handle
from upbit_assets.upbit import UpbitClient
from upbit_assets_tests import http
from upbit_assets_tests.pipeline import (
    PAST,
    ask,
    checks,
    exact,
    materialize,
    metadata_of,
    now,
    put_bronze,
    rows,
    run_errors,
    ticker,
)

TICKERS = "/v1/ticker/all?quote_currencies=KRW,BTC,USDT"
MARKETS = "/v1/market/all?is_details=true"


def reply_of(exchange: Handle, target: str) -> Any:
    return exact(http.get(exchange.url + target, timeout=60).text)


def stored(url: str, table: str) -> Any:
    return [exact(text) for (text,) in ask(url, f"SELECT raw_data::text FROM {table} ORDER BY id")]


def test_bronze_holds_what_the_exchange_sent_to_the_last_digit(market_url: str, frozen_exchange: Handle):
    result = materialize("bronze_ticker_raw", first=now())

    assert result.success, run_errors(result)
    reply = reply_of(frozen_exchange, TICKERS)
    assert len(reply) == 30
    assert stored(market_url, "bronze.ticker_raw") == reply
    assert ask(market_url, "SELECT market FROM bronze.ticker_raw ORDER BY id") == [(row["market"],) for row in reply]


def test_a_snapshot_has_one_ingested_at_within_the_window(market_url: str, exchange: Handle):
    window = windows.at(now())
    materialize("bronze_ticker_raw", first=window.start)

    ((moment,),) = ask(market_url, "SELECT DISTINCT ingested_at FROM bronze.ticker_raw")
    assert window.start <= moment < window.end


def test_a_second_run_adds_a_snapshot_and_changes_nothing(database: Database, exchange: Handle):
    first = now()
    materialize("bronze_ticker_raw", first=first)
    before = rows(database, tables.bronze_ticker_raw, leave_out=())
    materialize("bronze_ticker_raw", first=first)

    after = rows(database, tables.bronze_ticker_raw, leave_out=())
    assert len(after) == 60
    assert set(map(repr, before)) <= set(map(repr, after))


def test_the_market_list_is_collected_once_a_window(market_url: str, frozen_exchange: Handle):
    first = now()
    results = [materialize("bronze_ticker_raw", first=first) for _ in range(2)]

    assert stored(market_url, "bronze.market_raw") == reply_of(frozen_exchange, MARKETS)
    assert all(checks(result)["markets_match_the_market_list"].passed for result in results)


def test_a_failing_market_list_does_not_lose_tickers(market_url: str, frozen_exchange: Handle):
    frozen_exchange.faults.add("market/all", "status", status=404)
    result = materialize("bronze_ticker_raw", first=now())

    assert result.success
    assert len(stored(market_url, "bronze.ticker_raw")) == 30
    check = checks(result)["markets_match_the_market_list"]
    assert not check.passed
    assert "No market list was collected in this window." in (check.description or "")


def test_a_market_list_that_comes_after_the_window_is_not_stored_in_it(exchange: Handle, database: Database):
    log = logging.getLogger(__name__)
    with UpbitClient(exchange.url) as client, database.connect() as connection:
        assert snapshots.market_list(log, connection, client, windows.at(PAST)) == {}
        assert snapshots.market_list(log, connection, client, windows.at(now())) != {}


def test_a_past_window_keeps_its_rows_and_reports_it(database: Database, exchange: Handle):
    put_bronze(database, PAST, {"KRW-BTC": ticker("KRW-BTC")})
    before = rows(database, tables.bronze_ticker_raw, leave_out=())
    result = materialize("bronze_ticker_raw", first=PAST)

    assert result.success
    assert rows(database, tables.bronze_ticker_raw, leave_out=()) == before
    assert metadata_of(result, "bronze_ticker_raw")["collected"] == (
        "nothing: the window is over, its raw rows are left unchanged"
    )


def test_a_past_window_without_rows_fails_at_once_with_the_reason(database: Database, exchange: Handle):
    result = materialize("bronze_ticker_raw", first=PAST)

    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert "Nothing was collected in 2026-01-29-14:00" in run_errors(result)
    assert "no history" in run_errors(result)
    assert rows(database, tables.bronze_ticker_raw) == []


def test_a_range_with_empty_windows_fails_naming_them(database: Database, exchange: Handle):
    for minutes in (0, 20):
        put_bronze(database, PAST + timedelta(minutes=minutes), {"KRW-BTC": ticker("KRW-BTC")})
    result = materialize("bronze_ticker_raw", first=PAST, last=PAST + timedelta(minutes=30))

    assert not result.success
    assert "Nothing was collected in 2026-01-29-14:10, 2026-01-29-14:30, and" in run_errors(result)
    assert "2 of the 4 requested windows have rows" in run_errors(result)


def test_a_range_up_to_the_open_window_collects_into_that_alone(database: Database, exchange: Handle):
    window = windows.at(now())
    put_bronze(database, window.start - WINDOW, {"KRW-BTC": ticker("KRW-BTC")})
    result = materialize("bronze_ticker_raw", first=window.start - WINDOW, last=window.start)

    assert result.success, run_errors(result)
    collected = rows(database, tables.bronze_ticker_raw)
    assert len([row for row in collected if window.start <= row[2] < window.end]) == 30
    assert len(collected) == 31


@pytest.mark.parametrize("path", ["ticker/all", "market/all", "orderbook"])
@pytest.mark.long
def test_an_empty_reply_is_requested_again(
    database: Database, exchange: Handle, path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UPBIT_ORDERBOOK_MARKETS", "KRW-BTC,KRW-ETH")
    exchange.faults.add(path, "empty", times=1)
    assert materialize("bronze_ticker_raw", "bronze_orderbook_raw", first=now()).success

    stored = (tables.bronze_ticker_raw, tables.bronze_market_raw, tables.bronze_orderbook_raw)
    assert [len(rows(database, table)) for table in stored] == [30, 30, 2]


def test_a_reply_after_the_windows_end_is_not_stored(
    database: Database, exchange: Handle, monkeypatch: pytest.MonkeyPatch
):
    window = windows.at(now() - WINDOW)

    class JustBeforeItsEnd(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return window.end - timedelta(seconds=1)

    # the run begins in time; the reply arrives after the window's end
    monkeypatch.setattr(snapshots, "datetime", JustBeforeItsEnd)
    result = materialize("bronze_ticker_raw", first=window.start)

    assert not result.success
    assert f"The window {windows.key_of(window.start)} ended before the response arrived" in run_errors(result)
    assert rows(database, tables.bronze_ticker_raw) == []


@pytest.mark.parametrize("held", ["simulated", "real"])
def test_real_and_simulated_data_never_share_a_database(market_url: str, database: Database, exchange: Handle, held):
    ask(market_url, "INSERT INTO bronze.origin (simulated) VALUES (%s)", held == "simulated")
    result = materialize("bronze_ticker_raw", first=now())

    assert result.success == (held == "simulated")
    if held == "real":
        assert "This database has real data, but" in run_errors(result)
        assert "sends simulated data; they can't be mixed" in run_errors(result)
        assert rows(database, tables.bronze_ticker_raw) == []


def test_the_run_shows_where_the_data_came_from(exchange: Handle, database: Database):
    shown = metadata_of(materialize("bronze_ticker_raw", first=now()), "bronze_ticker_raw")

    assert shown["simulated"] is True
    assert shown["source"].startswith(os.environ["UPBIT_API_URL"] + "/v1/ticker/all")
    assert shown["dagster/partition_row_count"] == 30
