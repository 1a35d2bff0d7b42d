"""With a wrong clock, nothing is collected into a wrong window, and the error names the clock."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from dagster import ExecuteInProcessResult

from upbit_assets.partitions import DAY, days, windows
from upbit_assets.sandbox.clock import AdjustableClock
from upbit_assets.sandbox.server import running
from upbit_assets_tests.pipeline import ask, materialize, now, run_errors

RAW = ("ticker_raw", "market_raw", "orderbook_raw", "candle_raw", "candle_page", "trade_raw", "trade_page")
COLLECTED = " + ".join(f"(SELECT count(*) FROM bronze.{table})" for table in RAW)


@contextmanager
def our_clock_ahead(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> Iterator[None]:
    """An exchange whose clock, for market and replies, is behind ours."""
    with running(market_count=30, clock=AdjustableClock(datetime.now(UTC) - by)) as exchange:
        monkeypatch.setenv("UPBIT_API_URL", exchange.url)
        for kind in ("ORDERBOOK", "CANDLE", "TRADE"):
            monkeypatch.setenv(f"UPBIT_{kind}_MARKETS", "BTC-HBAR")  # about 100 trades a day
        yield


ASSETS = {
    "bronze_ticker_raw": windows,
    "bronze_orderbook_raw": windows,
    "bronze_candle_raw": days,
    "bronze_trade_raw": days,
}


def collect(asset: str) -> ExecuteInProcessResult:
    axis = ASSETS[asset]
    return materialize(asset, first=now() - (DAY if axis is days else timedelta()), axis=axis)


@pytest.mark.parametrize(
    ("minutes", "direction"), [(20, "ahead of"), pytest.param(-20, "behind", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("asset", ASSETS)
def test_a_wrong_clock_collects_nothing_and_the_error_says_what_to_do(
    market_url: str, monkeypatch: pytest.MonkeyPatch, asset: str, minutes: int, direction: str
):
    with our_clock_ahead(monkeypatch, timedelta(minutes=minutes)):
        result = collect(asset)
    assert not result.success
    assert f"(h:mm:ss) {direction} the exchange's" in run_errors(result)
    assert "This machine's clock is 0:" in run_errors(result)
    assert "timedatectl set-ntp true" in run_errors(result)
    assert ask(market_url, f"SELECT {COLLECTED}") == [(0,)]


@pytest.mark.parametrize("seconds", [-4, 4])
@pytest.mark.parametrize("asset", ["bronze_ticker_raw", "bronze_trade_raw"])
def test_a_tolerated_clock_offset_is_reported(
    market_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], asset: str, seconds: int
):
    with our_clock_ahead(monkeypatch, timedelta(seconds=seconds)):
        result = collect(asset)
    assert result.success, run_errors(result)
    direction = "ahead of" if seconds > 0 else "behind"
    log = capfd.readouterr().err
    assert re.search(rf"WARNING.* machine's clock is 0:00:0[2-4] \(h:mm:ss\) {direction} the exchange's", log)
    assert ask(market_url, f"SELECT {COLLECTED} > 0") == [(True,)]
