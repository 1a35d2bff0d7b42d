"""The exchange's hosts in Singapore, Indonesia and Thailand, which have neither KST nor the Korean fields."""

from collections.abc import Iterator

import pytest

from upbit_assets.partitions import days
from upbit_assets.sandbox.server import Handle, running
from upbit_assets_tests.pipeline import CHAIN, ask, checks, final_day, materialize, now, run_errors

pytestmark = pytest.mark.long

BOOKS = ("bronze_orderbook_raw", "silver_orderbook", "gold_orderbook_stats")
DAILY = ("bronze_candle_raw", "silver_candle", "bronze_trade_raw", "silver_trade", "gold_market_daily")


@pytest.fixture
def regional(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    with running(market_count=30, regional=True) as handle:
        monkeypatch.setenv("UPBIT_API_URL", handle.url)
        for kind in ("ORDERBOOK", "CANDLE", "TRADE"):
            monkeypatch.setenv(f"UPBIT_{kind}_MARKETS", "BTC-HBAR")
        yield handle


def test_tickers_and_books_become_gold(market_url: str, regional: Handle):
    for chain in (CHAIN, BOOKS):
        result = materialize(*chain, first=now())
        assert result.success, run_errors(result)
        assert [name for name, check in checks(result).items() if not check.passed] == []
    assert ask(market_url, "SELECT count(*) FROM gold.market_stats") == [(30,)]
    assert ask(market_url, "SELECT count(*) FROM gold.orderbook_stats") == [(1,)]
    kst = "traded_at AT TIME ZONE 'Asia/Seoul'"
    differ = f"to_char({kst}, 'YYYYMMDD') <> trade_date OR to_char({kst}, 'HH24MISS') <> trade_time"
    assert ask(market_url, f"SELECT count(*) FROM silver.ticker WHERE {differ}") == [(0,)]


def test_candles_and_trades_become_gold(market_url: str, regional: Handle):
    result = materialize(*DAILY, first=final_day(), axis=days)
    assert result.success, run_errors(result)
    assert [name for name, check in checks(result).items() if not check.passed] == []
    assert ask(market_url, "SELECT market, vwap_source, minutes_missing FROM gold.market_daily") == [
        ("BTC-HBAR", "trades", 0)
    ]
