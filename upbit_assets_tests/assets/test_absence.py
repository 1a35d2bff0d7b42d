"""Absence is proved: rows that the exchange omits once, or serves late, don't count as silence forever."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from upbit_assets.assets import pages
from upbit_assets.definitions import defs
from upbit_assets.partitions import DAY, MINUTE, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.assets.test_history import A_PAGE, KEY, RAW, exchange_rows, make_small, stored
from upbit_assets_tests.pipeline import Clock, ask, materialize, put, run_errors
from upbit_assets_tests.test_gaps import MARKET, NOON, TODAY, GapCloser, daemon, exchange

pytestmark = pytest.mark.long

__all__ = ["daemon", "exchange"]  # fixtures

LAYERS = {kind: (f"bronze_{kind}_raw", f"silver_{kind}", "gold_market_daily") for kind in RAW}
MARKETS = (MARKET, "BTC-TRX")
YESTERDAY = TODAY - DAY
CALLS = r"/v1/(candles|trades)"


@pytest.fixture(autouse=True)
def _small(daemon: GapCloser, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture
def two_markets(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("CANDLE", "TRADE"):
        monkeypatch.setenv(f"UPBIT_{kind}_MARKETS", ",".join(MARKETS))


def close_gaps(daemon: GapCloser, ticks: int = 60) -> int:
    """Run the sensor and its requests for some hours; returns the number of runs, including failed ones."""
    runs = 0
    for _ in range(ticks):
        if daemon.tick():
            (request,) = daemon.requests
            job = defs.resolve_job_def("collect_days")
            selection = list(request.asset_selection or [])
            job.execute_in_process(
                instance=daemon.instance, tags=request.tags, asset_selection=selection, raise_on_error=False
            )
            runs += 1
        elif daemon.skipped == "Nothing is missing":
            break
        Clock.moment += timedelta(minutes=5)
    return runs


def whole(kind: str, url: str, exchange: Handle, market: str, day: datetime) -> bool:
    have, truth = (
        {row[KEY[kind]] for row in rows}
        for rows in (stored(url, kind, market, day), exchange_rows(exchange, kind, market, day))
    )
    return have == truth


def claimed(url: str, kind: str) -> set[tuple[str, datetime]]:
    """The market's days that are marked as proved."""
    page = tables.bronze_candle_page if kind == "candle" else tables.bronze_trade_page
    found = ask(
        url,
        f"SELECT DISTINCT ON (market, day) market, day, proved FROM {page.fullname} "
        "WHERE proved IS NOT NULL ORDER BY market, day, id DESC",
    )
    return {(market, day) for market, day, proved in found if proved}


def random_faults(*kinds: str, chance: float) -> list[dict[str, Any]]:
    options = {"rows": {"rows": [{"market": "*", "set": {"market": '"KRW-BTC"'}}]}}
    return [{"match": CALLS, "kind": kind, "chance": chance, **options.get(kind, {})} for kind in kinds]


@pytest.mark.usefixtures("two_markets")
@pytest.mark.parametrize(
    "faults",
    [
        random_faults("empty", chance=0.1),
        random_faults("short", chance=0.2),
        random_faults("repeat", chance=0.2),
        random_faults("rows", chance=0.2),
        random_faults("empty", "short", "repeat", "rows", chance=0.05),
    ],
    ids=["nothing", "half a page", "the answer before", "another market's", "all of it"],
)
@pytest.mark.long
def test_what_an_exchange_leaves_out_of_some_answers_is_collected_in_the_end_or_reported_as_missing(
    daemon: GapCloser, exchange: Handle, market_url: str, faults: list[dict[str, Any]]
):
    exchange.faults.replace(faults)
    close_gaps(daemon)

    everything = {(market, YESTERDAY - back * DAY) for market in MARKETS for back in (0, 1)}
    for kind in RAW:
        proved = claimed(market_url, kind)
        assert [of for of in proved if not whole(kind, market_url, exchange, *of)] == []
        assert len(proved) >= len(everything) - 1
    for market, day, source in ask(market_url, "SELECT market, day, vwap_source FROM gold.market_daily"):
        assert source == "candles" or whole("trade", market_url, exchange, market, day)
    silent = ask(market_url, "SELECT market, day, minutes_traded FROM silver.candle_coverage WHERE minutes_missing = 0")
    assert [row for row in silent if row[2] != len(exchange_rows(exchange, "candle", row[0], row[1]))] == []


@pytest.mark.parametrize("kind", RAW)
@pytest.mark.parametrize("nth", [0, 1])
def test_one_empty_reply_is_requested_again_at_once(
    daemon: GapCloser, exchange: Handle, market_url: str, kind: str, nth: int
):
    exchange.faults.add(CALLS, "empty", skip=nth, times=1)
    result = materialize(*LAYERS[kind], first=YESTERDAY, axis=days)
    assert result.success, run_errors(result)
    assert whole(kind, market_url, exchange, MARKET, YESTERDAY)
    assert claimed(market_url, kind) == {(MARKET, YESTERDAY)}


def test_two_empty_replies_are_detected_by_the_day_candle(
    daemon: GapCloser, exchange: Handle, market_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UPBIT_DAYS_BACK", "1")
    exchange.faults.add("minutes", "empty", skip=1, times=2)
    result = materialize(*LAYERS["candle"], first=YESTERDAY, axis=days)
    assert result.success, run_errors(result)
    coverage = "SELECT minutes_silent, minutes_missing, proved FROM silver.candle_coverage"
    assert ask(market_url, coverage) == [(0, 1440 - A_PAGE, False)]
    assert close_gaps(daemon) == 2  # the candles again, and the trades
    traded = len(exchange_rows(exchange, "candle", MARKET, YESTERDAY))
    assert ask(market_url, coverage) == [(1440 - traded, 0, True)]


@pytest.mark.parametrize("late", [3, pytest.param(9, marks=pytest.mark.long)])
def test_late_candles_leave_no_minute_silent(
    daemon: GapCloser, exchange: Handle, market_url: str, late: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UPBIT_CANDLE_MARKETS", "KRW-BTC")  # it trades in each minute
    monkeypatch.setattr(pages, "CANDLES_A_PAGE", 200)
    exchange.faults.add("minutes", "late", seconds=60 * late)
    for minutes in (0, 10, 20):
        Clock.moment = NOON + minutes * MINUTE
        assert materialize("bronze_candle_raw", "silver_candle", first=TODAY, axis=days).success
        assert ask(market_url, "SELECT minutes_silent FROM silver.candle_coverage") == [(0,)]
    Clock.moment = TODAY + DAY + 11 * MINUTE
    assert materialize("bronze_candle_raw", "silver_candle", first=TODAY, axis=days).success
    assert ask(market_url, "SELECT minutes_traded, proved FROM silver.candle_coverage") == [(1440, True)]


@pytest.mark.long
def test_a_day_that_never_adds_up_is_requested_three_times_and_reported(
    daemon: GapCloser, exchange: Handle, market_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UPBIT_DAYS_BACK", "1")
    exchange.faults.add("minutes", "rows", rows=[{"index": 3, "duplicate": -1}])
    close_gaps(daemon)
    assert daemon.skipped == "Nothing is missing"
    notes = ask(market_url, "SELECT problem FROM bronze.candle_page WHERE NOT proved ORDER BY id")
    assert [problem is not None for (problem,) in notes] == [False, False, True]
    ((problem, missing, proved),) = ask(
        market_url, "SELECT problem, minutes_missing, proved FROM silver.candle_coverage"
    )
    assert "but the day's candle has" in problem
    assert (missing > 0, proved) == (True, False)


@pytest.mark.parametrize("said", ['"NaN"', "1e400", "1e99999999999999999999", "-1", "null", "[]"])
def test_a_day_candle_without_a_valid_volume_proves_nothing(
    daemon: GapCloser, exchange: Handle, market_url: str, said: str
):
    change = {"market": "*", "set": {"candle_acc_trade_volume": said}}
    exchange.faults.add("candles/days", "rows", rows=[change])
    result = materialize(*LAYERS["candle"], first=YESTERDAY, axis=days)
    assert result.success
    assert ask(market_url, "SELECT proved FROM silver.candle_coverage") == [(False,)]


def test_a_day_candle_below_the_last_ticker_proves_nothing(
    daemon: GapCloser, exchange: Handle, market_url: str, database: Database
):
    last = YESTERDAY + DAY - MINUTE
    columns = "trade_date trade_time trade_price acc_trade_volume acc_trade_price change_rate day_volume"
    row = (MARKET, last, last, *("20260709", "235900", 1, 1, 1, 0, 10**15))
    put(database, tables.silver_ticker, f"market ingested_at traded_at {columns}", [row])
    assert materialize("bronze_candle_raw", "silver_candle", first=YESTERDAY, axis=days).success
    assert ask(market_url, "SELECT proved FROM silver.candle_coverage") == [(False,)]


def test_silence_assumed_by_an_earlier_version_is_requested_again(daemon: GapCloser, exchange: Handle, market_url: str):
    """After the migration, a page without rows covers nothing."""
    ask(
        market_url,
        "INSERT INTO bronze.candle_page (market, day, covered, rows, ingested_at) VALUES (%s, %s, 'empty', 0, %s)",
        *(MARKET, YESTERDAY - 30 * DAY, NOON - 29 * DAY),
    )
    close_gaps(daemon)
    assert whole("candle", market_url, exchange, MARKET, YESTERDAY - 30 * DAY)


@pytest.mark.parametrize(("kind", "more"), [("candle", 1), ("trade", 2)])
def test_the_proof_of_a_day_costs_a_call_or_two(
    daemon: GapCloser, exchange: Handle, market_url: str, kind: str, more: int
):
    exchange.faults.add(CALLS, "slow")
    assert materialize(f"bronze_{kind}_raw", first=YESTERDAY, axis=days).success
    full, rest = divmod(len(exchange_rows(exchange, kind, MARKET, YESTERDAY)), A_PAGE)
    assert rest
    (counter,) = exchange.faults.show()
    assert counter["seen"] == full + 1 + more
