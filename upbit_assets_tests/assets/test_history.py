"""History is collected completely, once, and continues where it stopped."""

import itertools
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult
from psycopg.types.range import Range

from upbit_assets.assets import coverage, history, pages
from upbit_assets.assets.bronze import CANDLES
from upbit_assets.assets.coverage import Gap
from upbit_assets.assets.history import interleave_concurrently
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import DAY, MINUTE, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Records, copy_records
from upbit_assets.sandbox.server import Handle, running
from upbit_assets.upbit import UpbitClient, client
from upbit_assets.upbit.replies import split
from upbit_assets_tests import http
from upbit_assets_tests.pipeline import Clock, ask, materialize, metadata_of, run_errors
from upbit_assets_tests.postgres.lab import PATIENCE, spawn, until
from upbit_assets_tests.sandbox.history import candles, trades

pytestmark = pytest.mark.long

NOON = datetime(2026, 7, 1, 12, 0, 0, 500_000, tzinfo=UTC)
TODAY = datetime(2026, 7, 1, tzinfo=UTC)
YESTERDAY = TODAY - DAY
MARKET, OTHER = "BTC-TRX", "BTC-HBAR"  # about 150 and 100 candles and trades a day
A_PAGE = 50
HTML = "<html>점검 중</html>"
# they differ only in paging, which test_pages.py tests
BOTH = pytest.mark.parametrize("kind", ["candle", pytest.param("trade", marks=pytest.mark.long)])
RAW = {"candle": tables.bronze_candle_raw, "trade": tables.bronze_trade_raw}
PAGES = {"candle": tables.bronze_candle_page, "trade": tables.bronze_trade_page}
KEY = {"candle": "candle_date_time_utc", "trade": "sequential_id"}
PATH = {"candle": "/v1/candles/minutes/1", "trade": "/v1/trades/ticks"}


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """The offline exchange, at noon until a test moves the clock."""
    Clock.moment = NOON
    with running(market_count=30, clock=lambda: Clock.moment) as handle:
        monkeypatch.setenv("UPBIT_API_URL", handle.url)
        yield handle


@pytest.fixture(autouse=True)
def _small_and_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (history, pages, client):
        monkeypatch.setattr(module, "datetime", Clock)
    choose(monkeypatch, MARKET)
    make_small(monkeypatch)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Small pages, and a client with short retry waits."""

    def hurried(_: Exchange, *, background: bool = False) -> UpbitClient:
        url = os.environ["UPBIT_API_URL"]
        return UpbitClient(url, attempts=2, background=background, sleep=lambda seconds: time.sleep(seconds / 50))

    patch.setattr(Exchange, "client", hurried)
    patch.setattr(pages, "CANDLES_A_PAGE", A_PAGE)
    patch.setattr(pages, "TRADES_A_PAGE", A_PAGE)


def choose(patch: pytest.MonkeyPatch, *markets: str) -> None:
    for kind in ("CANDLE", "TRADE"):
        patch.setenv(f"UPBIT_{kind}_MARKETS", ",".join(markets))


def collect(
    kind: str,
    day: datetime = YESTERDAY,
    last: datetime | None = None,
    *,
    silver: bool = False,
    full_refresh: bool = False,
) -> ExecuteInProcessResult:
    names = [f"bronze_{kind}_raw", *([f"silver_{kind}"] if silver else [])]
    config = {"ops": {f"bronze_{kind}_raw": {"config": {"full_refresh": full_refresh}}}}
    with DagsterInstance.ephemeral() as instance:
        return materialize(*names, first=day, last=last, instance=instance, axis=days, config=config)


def collected(
    kind: str,
    day: datetime = YESTERDAY,
    last: datetime | None = None,
    *,
    silver: bool = False,
    full_refresh: bool = False,
) -> Any:
    """The materialization's metadata of a successful run."""
    result = collect(kind, day, last, silver=silver, full_refresh=full_refresh)
    assert result.success, run_errors(result)
    return metadata_of(result, f"bronze_{kind}_raw")


def failed(kind: str, day: datetime = YESTERDAY, last: datetime | None = None) -> str:
    """The error of a run that fails without a retry."""
    result = collect(kind, day, last)
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    return run_errors(result)


def stored(url: str, kind: str, market: str = MARKET, day: datetime = YESTERDAY) -> list[Any]:
    """Bronze's rows, oldest first; of several versions of one, in the order they were collected."""
    rows = f"SELECT raw_data FROM {RAW[kind].fullname} WHERE market = %s AND day = %s ORDER BY id"
    found = ask(url, rows, market, day)
    return sorted((row for (row,) in found), key=lambda row: (row.get("timestamp"), row[KEY[kind]]))


def exchange_rows(exchange: Handle, kind: str, market: str = MARKET, day: datetime = YESTERDAY) -> list[Any]:
    """All of the exchange's rows of a day, oldest first."""
    end = min(day + DAY, CANDLES.settled(Clock.moment))
    found = (
        candles(exchange.market, market, Clock.moment, "minutes/1", day, end)
        if kind == "candle"
        else trades(exchange.market, market, Clock.moment, (days.at(Clock.moment).start - day) // DAY)
    )
    as_json = (json.loads(json.dumps(row, default=float)) for row in found)
    return sorted(as_json, key=lambda row: (row["timestamp"], row[KEY[kind]]))


def keys(kind: str, rows: list[Any]) -> list[Any]:
    return [row[KEY[kind]] for row in rows]


def assert_whole(url: str, exchange: Handle, kind: str, market: str = MARKET, day: datetime = YESTERDAY) -> None:
    assert keys(kind, stored(url, kind, market, day)) == keys(kind, exchange_rows(exchange, kind, market, day))
    assert missing(kind, market, day) == []


def missing(kind: str, market: str = MARKET, day: datetime = YESTERDAY) -> list[Gap]:
    with Database().connect() as connection:
        return coverage.gaps(connection, PAGES[kind], [(day, market)], day + DAY, include_unavailable=True)


def number_of_pages(url: str, kind: str) -> int:
    ((number,),) = ask(url, f"SELECT count(*) FROM {PAGES[kind].fullname}")
    return int(number)


class Counter:
    """Counts the requests to the exchange while it is open."""

    def __init__(self, exchange: Handle) -> None:
        self.exchange = exchange

    def __enter__(self) -> "Counter":
        self.exchange.faults.replace([{"match": "candles|trades", "kind": "slow", "times": 0}])
        return self

    def __exit__(self, *_: object) -> None:
        (counter,) = self.exchange.faults.show()
        self.calls = counter["seen"]
        self.exchange.faults.clear()


def newest_rows(exchange: Handle, kind: str, count: int = 200) -> list[str]:
    """Yesterday's newest rows as the exchange formats them."""
    which: dict[str, str | int] = {"to": TODAY.isoformat()} if kind == "candle" else {"days_ago": 1}
    reply = http.get(exchange.url + PATH[kind], params={"market": MARKET, "count": count, **which}, timeout=60)
    return list(split(reply.text))


def answer(exchange: Handle, kind: str, rows: list[str], nth: int = 0) -> None:
    """Make the exchange's nth reply these rows."""
    exchange.faults.add(PATH[kind], "body", body=f"[{','.join(rows)}]", skip=nth, times=1)


class TestADay:
    @BOTH
    def test_a_day_is_collected_exactly(self, market_url: str, exchange: Handle, kind: str):
        metadata = collected(kind)
        assert stored(market_url, kind) == exchange_rows(exchange, kind)
        assert missing(kind) == []
        assert metadata["pages"] == 1 + len(exchange_rows(exchange, kind)) // A_PAGE

    @BOTH
    def test_a_second_run_requests_nothing(self, market_url: str, exchange: Handle, kind: str):
        collected(kind)
        with Counter(exchange) as counter:
            assert collected(kind)["pages"] == 0
        assert counter.calls == 0
        assert_whole(market_url, exchange, kind)

    @BOTH
    def test_today_gets_what_is_new(self, market_url: str, exchange: Handle, kind: str):
        collected(kind, TODAY)
        before = ask(market_url, f"SELECT * FROM {RAW[kind].fullname}")
        Clock.moment += timedelta(hours=3)
        with Counter(exchange) as counter:
            new = collected(kind, TODAY)[f"rows in {RAW[kind].fullname}"]
        assert (counter.calls, new > 0) == (1, True)
        after = ask(market_url, f"SELECT * FROM {RAW[kind].fullname}")
        assert len(after) == len(before) + new
        assert set(map(repr, before)) < set(map(repr, after))
        Clock.moment = TODAY + DAY + timedelta(minutes=15)
        collected(kind, TODAY)
        Clock.moment = NOON + DAY
        assert_whole(market_url, exchange, kind, day=TODAY)

    @pytest.mark.parametrize("second", [0, 9.999, 10])
    @pytest.mark.parametrize("minute", [TODAY, NOON.replace(microsecond=0)])
    def test_a_candle_still_forming_is_not_stored(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch, minute: datetime, second: float
    ):
        choose(monkeypatch, "KRW-BTC")  # trades in each minute
        monkeypatch.setattr(pages, "CANDLES_A_PAGE", 200)
        Clock.moment = minute + timedelta(seconds=second)
        day = days.at(minute - MINUTE).start
        with Database().engine.begin() as connection:  # all but the last minutes
            covered = Range(day, minute - 3 * MINUTE)
            note = Records(
                ("market", "day", "covered", "rows", "ingested_at"), [("KRW-BTC", day, covered, 0, Clock.moment)]
            )
            copy_records(connection, tables.bronze_candle_page, note)
        collected("candle", day)
        last = max(keys("candle", stored(market_url, "candle", "KRW-BTC", day)))
        assert last == f"{minute - (MINUTE if second == 10 else 2 * MINUTE):%Y-%m-%dT%H:%M:%S}"

    @BOTH
    def test_a_range_of_days_is_one_run(self, market_url: str, exchange: Handle, kind: str):
        first = YESTERDAY - 2 * DAY
        assert collected(kind, first, YESTERDAY)["incomplete market days"] == 3
        for day in (first, YESTERDAY - DAY, YESTERDAY):
            assert_whole(market_url, exchange, kind, day=day)

    def test_concurrent_runs_of_a_day_collect_it_once(self, market_url: str, exchange: Handle):
        exchange.faults.add("candles", "slow", seconds=0.1)
        counts: list[int] = []
        runs = [threading.Thread(target=lambda: counts.append(collected("candle")["pages"])) for _ in range(2)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert sorted(counts) == [0, number_of_pages(market_url, "candle") - 1]  # and the verification of the day
        assert_whole(market_url, exchange, "candle")

    def test_a_listing_day_begins_with_the_listing(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch
    ):
        choose(monkeypatch, "BTC-ADA")
        listed = datetime(2026, 2, 27, tzinfo=UTC)
        monkeypatch.setattr(pages, "CANDLES_A_PAGE", 200)
        collected("candle", listed - DAY, listed)
        assert stored(market_url, "candle", "BTC-ADA", listed - DAY) == []
        assert_whole(market_url, exchange, "candle", "BTC-ADA", listed - DAY)
        assert_whole(market_url, exchange, "candle", "BTC-ADA", listed)
        assert len(stored(market_url, "candle", "BTC-ADA", listed)) > 100


class TestBadPages:
    @BOTH
    def test_a_page_that_overlaps_loses_and_repeats_nothing(self, market_url: str, exchange: Handle, kind: str):
        answer(exchange, kind, newest_rows(exchange, kind)[30 : 30 + A_PAGE], nth=1)
        collected(kind)
        assert_whole(market_url, exchange, kind)

    @BOTH
    def test_a_page_out_of_order_loses_nothing(self, market_url: str, exchange: Handle, kind: str):
        rows = newest_rows(exchange, kind)[:A_PAGE]
        answer(exchange, kind, rows[1::2] + rows[::2])
        collected(kind)
        assert_whole(market_url, exchange, kind)

    @BOTH
    def test_a_page_that_repeats_once_is_requested_again(self, market_url: str, exchange: Handle, kind: str):
        answer(exchange, kind, newest_rows(exchange, kind)[:A_PAGE], nth=1)
        collected(kind)
        assert_whole(market_url, exchange, kind)

    @BOTH
    def test_a_repeating_page_ends_the_run_and_stored_pages_stay(self, market_url: str, exchange: Handle, kind: str):
        same = f"[{','.join(newest_rows(exchange, kind)[:A_PAGE])}]"
        exchange.faults.add(PATH[kind], "body", body=same, skip=1)
        failure = failed(kind)
        assert "returned no rows older than those already known, so paging makes no progress." in failure
        assert f"{A_PAGE} rows in 1 pages were collected and stored; the next run continues there." in failure
        exchange.faults.clear()
        collected(kind)
        assert_whole(market_url, exchange, kind)

    @BOTH
    def test_a_market_without_progress_does_not_lose_the_others(
        self, market_url: str, exchange: Handle, kind: str, monkeypatch: pytest.MonkeyPatch
    ):
        choose(monkeypatch, MARKET, OTHER)
        monkeypatch.setattr(history, "CONCURRENT_REQUESTS", 1)
        same = f"[{','.join(newest_rows(exchange, kind)[:A_PAGE])}]"
        exchange.faults.add(rf"{PATH[kind]}\?market={MARKET}", "body", body=same, skip=1)
        assert f"market={MARKET}" in failed(kind)
        assert_whole(market_url, exchange, kind, OTHER)
        exchange.faults.clear()
        collected(kind)
        assert_whole(market_url, exchange, kind)

    def test_an_exchange_whose_pages_make_no_progress_is_not_requested_long(self, market_url: str, exchange: Handle):
        same = f"[{','.join(newest_rows(exchange, 'candle')[:A_PAGE])}]"
        exchange.faults.add("candles", "body", body=same)
        assert "paging makes no progress." in failed("candle", TODAY - 20 * DAY, YESTERDAY)
        # some are in progress when the last one ends the run, and some start before that is noticed; each has two calls
        most = 2 * (history.MAX_STUCK_MARKETS + 1 + 2 * history.CONCURRENT_REQUESTS)
        assert history.MAX_STUCK_MARKETS < exchange.faults.show()[0]["seen"] <= most

    @pytest.mark.parametrize("instead", [HTML, '[{"market": "BTC-TRX", "candle_date'])
    def test_another_kind_of_reply_is_requested_again(self, market_url: str, exchange: Handle, instead: str):
        exchange.faults.add("candles", "body", body=instead, content_type="text/html", skip=1, times=1)
        collected("candle")
        assert_whole(market_url, exchange, "candle")

    def test_a_permanent_failure_ends_the_run_and_stored_pages_stay(self, market_url: str, exchange: Handle):
        exchange.faults.add("candles", "body", body=HTML, skip=2)
        failure = failed("candle")
        assert (
            "the body is not one. It begins with '<html>점검 중</html>'. 100 rows in 2 pages were collected" in failure
        )
        with Counter(exchange) as counter:
            collected("candle")
        assert counter.calls == number_of_pages(market_url, "candle") - 2
        assert_whole(market_url, exchange, "candle")

    def test_a_block_ends_the_run_with_its_end_and_the_next_run_continues(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        body = '{"error": {"name": 418, "message": "Blocked until 2099-01-02T03:04:05Z."}}'
        exchange.faults.add("candles", "status", status=418, body=body, skip=2)
        with_block = failed("candle")
        assert "The exchange has blocked this IP address until 2099-01-02 03:04:05 UTC" in with_block
        assert "100 rows in 2 pages were collected and stored; the next run continues there." in with_block
        with Counter(exchange) as counter:
            assert "blocked this IP address until 2099-01-02" in failed("candle")
        assert counter.calls == 0

        monkeypatch.setenv("UPBIT_LIMITS_DIR", str(tmp_path))  # the block is over
        with Counter(exchange) as counter:
            collected("candle")
        assert counter.calls == number_of_pages(market_url, "candle") - 2
        assert_whole(market_url, exchange, "candle")

    @BOTH
    def test_a_delisted_market_does_not_lose_the_others(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch, kind: str
    ):
        choose(monkeypatch, OTHER, MARKET)
        exchange.faults.add(f"market={OTHER}&", "status", status=404, skip=1)
        problems = collected(kind)["unavailable"]
        assert list(problems) == [f"{OTHER} 2026-06-30"]
        assert "with status 404: 'Simulated error 404'" in problems[f"{OTHER} 2026-06-30"]
        assert_whole(market_url, exchange, kind)
        assert keys(kind, stored(market_url, kind, OTHER)) == keys(kind, exchange_rows(exchange, kind, OTHER))[-A_PAGE:]

        with Database().connect() as connection:  # as in the sensor
            assert coverage.gaps(connection, PAGES[kind], [(YESTERDAY, OTHER)], TODAY, include_unavailable=False) == []
        exchange.faults.clear()
        collected(kind)  # as by a manual run
        assert_whole(market_url, exchange, kind, OTHER)

    def test_simulated_data_is_rejected_even_after_a_404(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch
    ):
        choose(monkeypatch, OTHER, MARKET)
        monkeypatch.setattr(history, "CONCURRENT_REQUESTS", 1)
        ask(market_url, "INSERT INTO bronze.origin (simulated) VALUES (false)")
        exchange.faults.add(f"market={OTHER}&", "status", status=404)
        assert "This database has real data" in failed("candle")
        assert stored(market_url, "candle") == []


class TestBadRows:
    def silver(self, url: str, kind: str) -> tuple[list[Any], list[Any]]:
        """Silver's rows of yesterday, and the reasons of the rejected ones."""
        names = "started_at, last_traded_at" if kind == "candle" else "trade_id, traded_at"
        return (
            ask(url, f"SELECT {names} FROM silver.{kind}"),
            ask(url, f"SELECT raw_data, reason FROM silver.{kind}_rejected"),
        )

    def test_a_candle_whose_timestamp_lies_past_its_end_is_taken(self, market_url: str, exchange: Handle):
        end = int(YESTERDAY.timestamp() * 1000) + 60_031
        fault = {"index": 0, "set": {"timestamp": str(end + 86_340_000)}}
        exchange.faults.add("candles", "rows", rows=[fault], times=1)
        collected("candle", silver=True)
        taken, rejected = self.silver(market_url, "candle")
        assert (len(taken), rejected) == (len(exchange_rows(exchange, "candle")), [])
        assert max(last for _, last in taken) == TODAY + timedelta(milliseconds=31)

    @pytest.mark.parametrize("index", [0, 20])
    def test_a_time_of_seoul_where_utc_belongs_is_rejected_with_its_reason(
        self, market_url: str, exchange: Handle, index: int
    ):
        row = json.loads(newest_rows(exchange, "candle")[index])
        fault = {"index": index, "set": {"candle_date_time_utc": json.dumps(row["candle_date_time_kst"])}}
        exchange.faults.add("candles", "rows", rows=[fault], times=1)
        collected("candle", silver=True)
        taken, ((kept, reason),) = self.silver(market_url, "candle")
        assert len(taken) == len(exchange_rows(exchange, "candle")) - 1
        assert kept["candle_date_time_kst"] == row["candle_date_time_kst"]
        assert reason == "candle_date_time_utc: of another day"

    def test_trades_that_differ_in_their_long_ids_alone_are_two(self, market_url: str, exchange: Handle):
        row = json.loads(newest_rows(exchange, "trade", 1)[0])
        ids = [2**53 + 1, 2**53 + 2]  # equal as floats
        assert float(ids[0]) != ids[0]
        answer(exchange, "trade", [json.dumps(row | {"sequential_id": each}) for each in ids])
        collected("trade", silver=True)
        taken, rejected = self.silver(market_url, "trade")
        assert (sorted(each for each, _ in taken), rejected) == (ids, [])

    @pytest.mark.parametrize("text", ['"\\u0000"', "1e999999999999", "NaN", '"2026-06-30"'])
    def test_a_malformed_row_is_stored_once_and_does_not_lose_the_others(
        self, market_url: str, exchange: Handle, text: str
    ):
        rows = newest_rows(exchange, "candle")
        utc = json.loads(rows[0])["candle_date_time_utc"]
        bad = [rows[0].replace(f'"{utc}"', text), f'{rows[1][:-1]},"x":{text}}}']
        answer(exchange, "candle", bad + rows[2:A_PAGE])
        answer(exchange, "candle", bad + rows[30 : 28 + A_PAGE], nth=1)
        collected("candle")
        found = ask(market_url, "SELECT raw_data::text FROM bronze.candle_raw WHERE day = %s", YESTERDAY)
        assert len(found) == len(set(found)) == len(exchange_rows(exchange, "candle"))


class TestCoverage:
    def coverage_of(self, url: str, day: datetime = YESTERDAY) -> dict[str, tuple[int, int, int, str | None]]:
        names = "market, minutes_traded, minutes_silent, minutes_missing, problem"
        return {row[0]: row[1:] for row in ask(url, f"SELECT {names} FROM silver.candle_coverage WHERE day = %s", day)}

    def test_a_silent_minute_is_not_a_missing_one(self, market_url: str, exchange: Handle):
        collected("candle", silver=True)
        traded = len(exchange_rows(exchange, "candle"))
        assert self.coverage_of(market_url) == {MARKET: (traded, 1440 - traded, 0, None)}

    def test_a_partly_collected_day_is_reported(self, market_url: str, exchange: Handle):
        collected("candle", TODAY, silver=True)
        *_, newest = of_today = exchange_rows(exchange, "candle", day=TODAY)
        known = (datetime.fromisoformat(newest["candle_date_time_utc"] + "Z") - TODAY) // MINUTE + 1
        assert known < 719, "rows after the newest candle may still be published"
        traded = len(of_today)
        assert self.coverage_of(market_url, TODAY) == {MARKET: (traded, known - traded, 1440 - known, None)}

    def test_a_minute_whose_candle_was_rejected_is_missing_until_a_good_one_is_requested(
        self, market_url: str, exchange: Handle
    ):
        wrong = [{"index": index, "set": {"trade_price": "-1"}} for index in (0, 7)]
        exchange.faults.add("candles", "rows", rows=wrong, times=1)
        collected("candle", silver=True)
        traded = len(exchange_rows(exchange, "candle")) - 2
        assert self.coverage_of(market_url) == {MARKET: (traded, 1438 - traded, 2, None)}
        exchange.faults.clear()
        collected("candle", silver=True)
        assert self.coverage_of(market_url) == {MARKET: (traded, 1438 - traded, 2, None)}
        collected("candle", silver=True, full_refresh=True)
        assert self.coverage_of(market_url) == {MARKET: (traded + 2, 1438 - traded, 0, None)}
        assert stored(market_url, "candle")[-1] == exchange_rows(exchange, "candle")[-1]

    def test_a_delisted_market_has_its_problem_until_it_is_complete(
        self, market_url: str, exchange: Handle, monkeypatch: pytest.MonkeyPatch
    ):
        exchange.faults.add("candles", "status", status=404, skip=1)
        collected("candle", silver=True)
        traded, silent, not_collected, problem = self.coverage_of(market_url)[MARKET]
        assert (traded, traded + silent + not_collected) == (A_PAGE, 1440)
        assert not_collected > 0
        assert problem
        assert "status 404" in problem
        exchange.faults.clear()
        collected("candle", silver=True)
        assert self.coverage_of(market_url)[MARKET][2:] == (0, None)


class TestWhatIsGone:
    @BOTH
    def test_a_reversed_range_is_rejected_without_requests(self, database: Database, exchange: Handle, kind: str):
        with Counter(exchange) as counter:
            failure = failed(kind, YESTERDAY, YESTERDAY - DAY)
        assert "The range of partitions is reversed: the first one must not be later than the last." in failure
        assert counter.calls == 0

    def test_trades_older_than_a_week_fail_at_once_with_the_reason(self, database: Database, exchange: Handle):
        with Counter(exchange) as counter:
            failure = failed("trade", TODAY - 9 * DAY, YESTERDAY)
        assert counter.calls == 0
        assert (
            "Nothing was collected of 2026-06-22, 2026-06-23, and it can't be collected any more: the exchange serves "
            "only the last 7 days, back to 2026-06-24." in failure
        )

    def test_a_day_with_trades_keeps_them(self, market_url: str, exchange: Handle):
        exchange.faults.add("trades", "status", status=404, skip=1)
        collected("trade", TODAY - 7 * DAY)
        exchange.faults.clear()
        before = stored(market_url, "trade", day=TODAY - 7 * DAY)
        Clock.moment += DAY
        with Counter(exchange) as counter:
            assert collected("trade", TODAY - 7 * DAY)["pages"] == 0
        assert counter.calls == 0
        assert len(before) == A_PAGE
        assert stored(market_url, "trade", day=TODAY - 7 * DAY) == before

    @BOTH
    def test_before_any_ranking_it_says_what_to_do(
        self, database: Database, exchange: Handle, monkeypatch: pytest.MonkeyPatch, kind: str
    ):
        monkeypatch.delenv(f"UPBIT_{kind.upper()}_MARKETS")
        assert "There is no turnover ranking yet to choose the markets by: materialize gold_market_stats first" in (
            failed(kind)
        )

    @BOTH
    def test_an_invalid_setting_is_reported(
        self, database: Database, exchange: Handle, monkeypatch: pytest.MonkeyPatch, kind: str
    ):
        choose(monkeypatch, "top ten")
        assert (
            f"UPBIT_{kind.upper()}_MARKETS is 'top ten': it must be topN (like top10), all, or market codes"
            in failed(kind)
        )


def collect_forever(url: str, exchange_url: str) -> None:
    """The process to be killed, on the real clock."""
    os.environ.update(UPBIT_POSTGRES_URL=url, UPBIT_API_URL=exchange_url)
    patch = pytest.MonkeyPatch()
    choose(patch, MARKET)
    make_small(patch)
    collect("candle", datetime.now(UTC) - DAY)


def test_pages_of_a_killed_process_are_not_requested_again(market_url: str, monkeypatch: pytest.MonkeyPatch):
    for module in (history, pages, client):
        monkeypatch.setattr(module, "datetime", datetime)
    day = days.at(datetime.now(UTC) - DAY).start
    with running(market_count=30) as exchange:
        monkeypatch.setenv("UPBIT_API_URL", exchange.url)
        exchange.faults.add("candles", "slow", seconds=PATIENCE, skip=2)
        process = spawn.Process(target=collect_forever, args=[market_url, exchange.url])
        process.start()
        until(lambda: number_of_pages(market_url, "candle") == 2, "two pages are stored")
        process.kill()
        process.join()

        with Counter(exchange) as counter:
            collected("candle", day)
        assert counter.calls == number_of_pages(market_url, "candle") - 2
        truth = candles(exchange.market, MARKET, datetime.now(UTC), "minutes/1", day, day + DAY)
        assert keys("candle", stored(market_url, "candle", day=day)) == keys("candle", truth)


class TestSideBySide:
    @staticmethod
    def counting(advanced: list[int], each: int = 50) -> Iterator[int]:
        for nth in range(each):
            time.sleep(0.001)
            advanced.append(nth)
            yield nth

    def test_every_item_of_every_iterator_is_yielded(self):
        found = list(interleave_concurrently((self.counting([], each) for each in (3, 0, 5, 1, 4, 0)), 2))
        assert sorted(found) == sorted(nth for each in (3, 0, 5, 1, 4, 0) for nth in range(each))

    def test_concurrency_is_bounded(self):
        begun: list[int] = []

        def iterators() -> Iterator[Iterator[int]]:
            for nth in range(9):
                begun.append(nth)
                yield iter([nth])

        items = interleave_concurrently(iterators(), 3)
        next(items)
        assert len(begun) <= 4
        items.close()

    @pytest.mark.parametrize("end", ["stops", "raises", "an iterator raises"])
    def test_closing_it_stops_all_iterators(self, end: str):
        advanced: list[int] = []

        def broken() -> Iterator[int]:
            yield from self.counting(advanced, 2)
            raise LookupError

        def consume() -> None:
            iterators = [self.counting(advanced) for _ in range(3)]
            for nth, _ in enumerate(interleave_concurrently([broken() if end[0] == "a" else iter([1]), *iterators], 4)):
                if end == "raises" and nth == 5:
                    raise LookupError
                if end == "stops" and nth == 5:
                    return

        if end == "stops":
            consume()
        else:
            with pytest.raises(LookupError):
                consume()
        after = len(advanced)
        assert after < 30
        time.sleep(0.02)
        assert len(advanced) == after
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]

    def test_items_being_fetched_are_yielded_before_an_exception(self):
        raised = threading.Event()

        def broken() -> Iterator[int]:
            yield 0
            raised.set()
            raise LookupError

        def slow() -> Iterator[int]:
            for nth in itertools.count(1):
                assert raised.wait(PATIENCE)
                time.sleep(0.02)
                yield nth

        given: list[int] = []
        with pytest.raises(LookupError):
            given.extend(interleave_concurrently([broken(), slow(), slow()], 3))
        assert sorted(given) == [0, 1, 1]

    def test_no_more_pages_are_held_than_are_being_fetched(self):
        class Thing:
            pass

        alive = weakref.WeakSet[Thing]()

        def things() -> Iterator[Thing]:
            for _ in range(200):
                alive.add(thing := Thing())
                yield thing
                del thing

        assert max(len(alive) for _ in interleave_concurrently((things() for _ in range(20)), 4)) <= 10
