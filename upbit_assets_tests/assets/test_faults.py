"""Bad input, network or database: nothing false is stored, the run reports the cause, the next one recovers."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from upbit_assets.exchange import Exchange
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets.sandbox.server import Handle
from upbit_assets.upbit import UpbitClient
from upbit_assets.upbit.replies import split
from upbit_assets_tests import http
from upbit_assets_tests.conftest import a_server
from upbit_assets_tests.pipeline import (
    CHAIN,
    PAST,
    ask,
    checks,
    exact,
    materialize,
    now,
    put_bronze,
    rows,
    run_errors,
    ticker,
)

TICKERS = "/v1/ticker/all?quote_currencies=KRW,BTC,USDT"
RESULTS = (tables.silver_ticker, tables.silver_ticker_rejected, tables.gold_market_stats)


class TestBadInput:
    """Invalid rows of the exchange don't affect other rows."""

    @pytest.fixture(autouse=True)
    def _surroundings(self, market_url: str, frozen_exchange: Handle) -> None:
        self.url, self.exchange = market_url, frozen_exchange
        self.markets = [listing.market for listing in frozen_exchange.market.markets()]

    def run_with(self, *changes: dict[str, Any]) -> dict[str, str]:
        """The chain on a reply changed like this, held against the reply; returns {market: reason} of the rejected.

        Afterwards the exchange is as it should be, and so is the next run.
        """
        self.exchange.faults.add("ticker/all", "rows", rows=list(changes))
        result = materialize(*CHAIN, first=now())
        assert result.success, run_errors(result)
        assert_whole(result)
        self.assert_bronze_is(http.get(self.exchange.url + TICKERS, timeout=60).text)
        rejected = ask(self.url, "SELECT market, reason FROM silver.ticker_rejected")
        self.found = ask(self.url, "SELECT market, trade_price, acc_trade_volume FROM silver.ticker")
        self.exchange.faults.clear()
        healed = materialize(*CHAIN, first=now())
        assert_whole(healed)
        ((markets,),) = ask(self.url, "SELECT count(*) FROM gold.market_stats WHERE ingested_at >= %s", self.newest())
        assert markets == 30
        return dict(rejected)

    def newest(self) -> Any:
        return ask(self.url, "SELECT max(ingested_at) FROM silver.ticker")[0][0]

    def assert_bronze_is(self, reply: str) -> None:
        stored = ask(self.url, "SELECT raw_data::text FROM bronze.ticker_raw ORDER BY id")
        said_rows = split(reply)
        for (kept,), row in zip(stored, said_rows, strict=True):
            document = exact(kept)
            assert document == (row if isinstance(document, str) else exact(row))

    def test_one_market_twice_counts_once(self):
        assert self.run_with({"market": self.markets[3], "duplicate": 2}) == {}
        assert len(self.found) == 30
        assert ask(self.url, "SELECT duplicate_rows FROM silver.ticker_build") == [(2,)]

    @pytest.mark.parametrize("field", ["trade_price", pytest.param("acc_trade_price_24h", marks=pytest.mark.long)])
    def test_malformed_numbers_are_rejected_with_a_reason(self, field: str):
        literals = ["null", '"100.0"', "-1.0", "NaN", "1" * 40, "1e400", "1e-400", "1e999999", "[1]", "true"]
        if field == "trade_price":
            literals.append("0.0")
        bad = dict(zip(self.markets, literals, strict=False))
        missing = self.markets[len(bad)]
        reasons = self.run_with(
            {"market": missing, "drop": [field]},
            *({"market": market, "set": {field: literal}} for market, literal in bad.items()),
        )

        assert set(reasons) == {*bad, missing}
        text_only = {market for market, literal in bad.items() if literal in ("NaN", "1e999999")}
        for market, reason in reasons.items():
            assert reason.startswith("raw row: kept as text" if market in text_only else f"{field}: ")
        assert {market for market, *_ in self.found} == set(self.markets) - set(reasons)

    def test_exponents_are_read_exactly(self):
        literals = {self.markets[0]: "1.16539E8", self.markets[1]: "9.9E-7", self.markets[2]: "1.234567890123456789e-5"}
        fields = ("trade_price", "prev_closing_price", "acc_trade_volume_24h")
        changes = (
            {"market": market, "set": {**dict.fromkeys(fields, text), "signed_change_rate": "0"}}
            for market, text in literals.items()
        )
        assert self.run_with(*changes) == {}

        found = {market: (price, volume) for market, price, volume in self.found}
        assert {market: found[market] for market in literals} == {
            market: (Decimal(text), Decimal(text)) for market, text in literals.items()
        }

    def test_unknown_fields_are_kept_and_do_not_matter(self):
        assert self.run_with({"market": "*", "set": {"brand_new": '{"deep": [1e-7, null, "값"]}'}}) == {}
        kept = ask(
            self.url, "SELECT count(*) FROM bronze.ticker_raw WHERE raw_data -> 'brand_new' -> 'deep' ->> 2 = '값'"
        )
        assert kept == [(30,)]

    def test_an_unparsable_row_does_not_lose_the_others(self):
        odd = {
            "1,200 deep": "[" * 1_200 + "]" * 1_200,
            "100,000 deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
            "a million characters": f'"{"x" * 1_000_000}"',
            "a million digits": "9" * 1_000_000,
            "half a character": '"\\ud800"',
            "half a character in bytes": '"\ud800"',
            "no value": "nonsense",
            "a name twice": '{"a": 1, "a": 2}',
        }
        hit = dict(zip(odd, self.markets, strict=False))
        changes = [{"market": hit[name], "set": {"odd": value}} for name, value in odd.items()]
        self.exchange.faults.add("ticker/all", "rows", rows=changes)
        result = materialize(*CHAIN, first=now())
        assert result.success, run_errors(result)
        assert_whole(result)
        assert ask(self.url, "SELECT count(*) FROM bronze.ticker_raw") == [(30,)]
        kept_as_text = (
            "SELECT market FROM silver.ticker_rejected WHERE reason = 'raw row: kept as text, jsonb refused it'"
        )
        fine = {hit[name] for name in ("1,200 deep", "a million characters", "a name twice")}
        assert {market for (market,) in ask(self.url, kept_as_text)} == {*hit.values()} - fine

    @pytest.mark.parametrize("row", ["null", "[[1], 2]", "nonsense"])
    def test_an_invalid_row_does_not_lose_the_others(self, row: str):
        good = http.get(self.exchange.url + TICKERS, timeout=60).text
        self.exchange.faults.add("ticker/all", "body", body=f"{good[:-1]},{row}]", times=1)
        result = materialize(*CHAIN, first=now())
        if row == "nonsense":  # rejected as a reply; the next one is accepted
            assert len(ask(self.url, "SELECT 1 FROM bronze.ticker_raw")) == 30
        else:
            assert result.success, run_errors(result)
            assert_whole(result)
            assert ask(self.url, "SELECT silver_rows, rejected_rows FROM silver.ticker_build") == [(30, 1)]

    def test_an_unknown_quote_currency_ranks_last_with_a_note(self):
        assert self.run_with({"market": self.markets[5], "set": {"market": '"JPY-BTC"'}}) == {}
        ranked = "SELECT market, rank_volume = max(rank_volume) OVER (), rank_note FROM gold.market_stats"
        [(last, note)] = [row[1:] for row in ask(self.url, ranked) if row[0] == "JPY-BTC"]
        assert (last, note.split(";")[0]) == (True, "no rate: no KRW-JPY in the window")

    def test_a_code_of_twelve_characters_is_taken(self):
        assert self.run_with({"market": self.markets[-1], "set": {"market": '"USDT-BIGTIME"'}}) == {}
        assert "USDT-BIGTIME" in {market for market, *_ in self.found}

    def test_hostile_codes_are_rejected_visibly_and_harm_nothing(self):
        codes = [
            *("KRW-'", "'; DROP TABLE silver.ticker; --", 'KRW-\\"', "KRW-비트코인", "KRW-\\u0000", "KRW-\\ud800"),
            *("KRW-\\n", "\\u202eKRW-BTC", "KRW-BTC\\t1\\\\.", "%s%(x)s{}", "", "K" * 10_000),
        ]
        hit = dict(zip(self.markets[-len(codes) :], codes, strict=True))
        changes = ({"market": market, "set": {"market": f'"{code}"'}} for market, code in hit.items())
        self.run_with(*changes)

        assert {market for market, *_ in self.found} == set(self.markets) - set(hit)
        reasons = ask(self.url, "SELECT reason FROM silver.ticker_rejected ORDER BY bronze_id")
        assert len(reasons) == len(codes)
        assert {reason.partition(":")[0] for (reason,) in reasons} == {"market", "raw row"}


def assert_whole(result: Any) -> None:
    found = checks(result)
    assert found["every_bronze_row_is_accounted_for"].passed
    assert found["ranks_are_complete"].passed


class TestBadNetwork:
    """A run without a complete response stores nothing and reports why; the next one succeeds."""

    @pytest.fixture(autouse=True)
    def _hurried(self, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
        self.database = database

        def client(_: Exchange) -> UpbitClient:
            url = os.environ["UPBIT_API_URL"]
            return UpbitClient(url, read_timeout=2, attempts=2, sleep=lambda seconds: time.sleep(seconds / 20))

        monkeypatch.setattr(Exchange, "client", client)

    def failure(self) -> str:
        result = materialize(*CHAIN, first=now())
        assert not result.success
        assert not [event for event in result.all_events if event.is_step_up_for_retry]
        stored = (tables.bronze_ticker_raw, tables.bronze_market_raw, *RESULTS)
        assert [rows(self.database, table) for table in stored] == [[]] * len(stored)
        return run_errors(result)

    @pytest.mark.parametrize(
        ("kind", "options", "words"),
        [
            (
                "body",
                {"body": "<h1>점검 중</h1>", "content_type": "text/html"},
                "the body is not one. It begins with '<h1>점검 중",
            ),
            ("body", {"body": '{"data": []}'}, "Expected a JSON array from"),
            ("status", {"status": 502, "body": "<h1>Bad Gateway</h1>", "content_type": "text/html"}, "status 502"),
            ("empty", {}, "the body has no rows"),
            ("cut", {}, "is truncated or invalid JSON at character"),
            ("cut", {"closes": True}, "was cut off after"),
            ("reset", {}, "the connection was closed without a response"),
            ("slow", {"seconds": 10}, "the response timed out"),
            ("status", {"status": 429}, "with status 429"),
        ],
        ids=["html", "object", "502", "empty", "cut", "hangs up", "reset", "slow", "429"],
    )
    @pytest.mark.long
    def test_an_incomplete_response(self, exchange: Handle, kind: str, options: dict[str, Any], words: str):
        exchange.faults.add("ticker/all", kind, **options)
        assert words in self.failure()

        exchange.faults.clear()
        assert_recovered()

    def test_connection_refused(self, exchange: Handle, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_API_URL", "http://127.0.0.1:9")
        words = self.failure()
        assert "cannot be reached: connection refused" in words
        assert "UPBIT_API_URL" in words

        monkeypatch.setenv("UPBIT_API_URL", exchange.url)
        assert_recovered()

    @pytest.mark.long
    def test_a_block_is_respected_and_its_end_is_reported(self, exchange: Handle):
        end = (datetime.now(UTC) + timedelta(seconds=8)).replace(microsecond=0)
        block = f'{{"error": {{"name": 418, "message": "Blocked until {end:%Y-%m-%dT%H:%M:%SZ}"}}}}'
        exchange.faults.replace(
            [
                {"match": "ticker/all", "kind": "status", "status": 429, "times": 1},
                {"match": "ticker/all", "kind": "status", "status": 418, "skip": 1, "body": block},
            ]
        )
        told = f"has blocked this IP address until {end:%Y-%m-%d %H:%M:%S} UTC"
        assert told in self.failure()
        assert told in self.failure()
        assert exchange.faults.show()[0]["seen"] == 2

        exchange.faults.clear()
        time.sleep(max(0, (end - datetime.now(UTC)).total_seconds()))
        assert_recovered()


def assert_recovered() -> None:
    result = materialize(*CHAIN, first=now())
    assert result.success, run_errors(result)
    assert all(check.passed for check in checks(result).values())


@pytest.mark.parametrize(("kind", "options"), [("status", {"status": 429}), ("cut", {})], ids=["429", "cut"])
def test_transient_failures_lose_nothing(database: Database, exchange: Handle, kind: str, options: dict[str, Any]):
    exchange.faults.add("ticker/all", kind, times=1, **options)

    assert_recovered()
    assert len(rows(database, tables.bronze_ticker_raw)) == 30


@pytest.mark.long
class TestBadDatabase:
    """Silver and gold have the complete old result or the new one, whatever happens to the database."""

    @pytest.fixture
    def built(self, database: Database) -> Database:
        put_bronze(database, PAST, {f"KRW-{n}": ticker(f"KRW-{n}") for n in range(50)})
        assert materialize("silver_ticker", "gold_market_stats", first=PAST).success
        put_bronze(database, PAST + timedelta(minutes=1), {f"KRW-{n}": ticker(f"KRW-{n}") for n in range(50)})
        return database

    def test_a_lost_database_is_reported_and_recovers(self, monkeypatch: pytest.MonkeyPatch):
        with a_server() as own:
            monkeypatch.setenv("UPBIT_POSTGRES_URL", own.url("upbit"))
            put_bronze(Database(), PAST, {"KRW-BTC": ticker("KRW-BTC")})
            assert materialize("silver_ticker", first=PAST).success

            own.stop()
            gone = materialize("silver_ticker", first=PAST)
            assert len([event for event in gone.all_events if event.is_step_up_for_retry]) == 2
            assert (
                "PostgreSQL is not reachable, or the connection was lost. Start it, then run this again."
                in run_errors(gone)
            )

            own.start()
            assert len(rows(Database(), tables.silver_ticker)) == 1
            assert materialize("silver_ticker", "gold_market_stats", first=PAST).success
            engine_for(own.url("upbit")).dispose()

    def test_a_connection_lost_during_a_write_keeps_the_old_result_and_is_retried(
        self, market_url: str, built: Database
    ):
        before = [rows(built, table) for table in RESULTS]
        with ThreadPoolExecutor(1) as pool:
            with paused_writes(market_url) as writers:
                run = pool.submit(materialize, "silver_ticker", "gold_market_stats", first=PAST)
                ask(market_url, "SELECT pg_terminate_backend(%s)", *writers(1))
                assert [rows(built, table) for table in RESULTS] == before
            result = run.result()

        assert result.success, run_errors(result)
        assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == ["silver_ticker"]
        assert_whole(result)
        assert len(rows(built, tables.silver_ticker)) == 100

    def test_a_run_killed_during_a_write_keeps_the_old_result_and_the_next_succeeds(
        self, market_url: str, built: Database
    ):
        before = [rows(built, table) for table in RESULTS]
        with paused_writes(market_url) as writers, run_in_subprocess() as run:
            writers(1)
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert [rows(built, table) for table in RESULTS] == before

        result = materialize("silver_ticker", "gold_market_stats", first=PAST)
        assert result.success, run_errors(result)
        assert_whole(result)
        assert len(rows(built, tables.silver_ticker)) == 100

    def test_concurrent_runs_of_a_window_leave_one_complete_result(self, market_url: str, built: Database):
        with ThreadPoolExecutor(4) as pool:
            spans = [(PAST, None), (PAST - WINDOW, PAST + WINDOW)] * 2
            runs = [
                pool.submit(materialize, "silver_ticker", "gold_market_stats", first=first, last=last)
                for first, last in spans
            ]
            results = [run.result() for run in runs]

        for result in results:
            assert result.success, run_errors(result)
            assert_whole(result)
        assert len(rows(built, tables.silver_ticker)) == 100
        assert len(rows(built, tables.gold_market_stats)) == 50
        assert ask(market_url, "SELECT count(DISTINCT computed_at) FROM silver.ticker") == [(1,)]


@contextmanager
def paused_writes(url: str) -> Iterator[Callable[[int], list[int]]]:
    """Pauses silver's writes halfway; returns a function that waits for a number of them and returns their sessions."""
    waiting = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM silver.ticker_build%'"
    )

    def writers(number: int) -> list[int]:
        for _ in range(300):
            if len(found := ask(url, waiting)) == number:
                return [pid for (pid,) in found]
            time.sleep(0.1)
        raise AssertionError("no write came")

    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE silver.ticker_build IN EXCLUSIVE MODE")
        yield writers


@contextmanager
def run_in_subprocess() -> Iterator[subprocess.Popen[bytes]]:
    """The same run in a separate process."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "upbit_assets.definitions"]
    with (
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen(
            [*command, "--select", "silver_ticker,gold_market_stats", "--partition", windows.key_of(PAST)],
            env=os.environ | {"DAGSTER_HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run,
    ):
        try:
            yield run
        finally:
            run.kill()
