"""A window that was not collected is not materialized in any layer; one that is legitimately empty is."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from dagster import ExecuteInProcessResult

from upbit_assets.partitions import DAY, WINDOW, Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.assets.test_candles_and_trades import HALF_PAST, TODAY, candle, cover, put_candles
from upbit_assets_tests.pipeline import (
    PAST,
    materialize,
    metadata_of,
    put_bronze,
    put_silver,
    rows,
    run_errors,
    ticker,
)

pytestmark = pytest.mark.long

TICKER = ("silver_ticker", "gold_market_stats")
BOOK = ("silver_orderbook", "gold_orderbook_stats")
DAYS = ("silver_candle", "silver_trade", "gold_market_daily")


def materialized(result: ExecuteInProcessResult, asset: str) -> list[str | None]:
    return [event.partition for event in result.asset_materializations_for_node(asset)]


def keys(axis: Axis, starts: Iterable[datetime]) -> list[str]:
    return [axis.key_of(start) for start in starts]


def put_tickers(database: Database, *minutes: int, **fields: str) -> None:
    for each in minutes:
        put_bronze(database, PAST + timedelta(minutes=each), {"KRW-BTC": ticker("KRW-BTC", **fields)})


@pytest.mark.parametrize(
    ("assets", "axis"), [(TICKER, windows), (BOOK, windows), (DAYS, days)], ids=["ticker", "orderbook", "days"]
)
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("partitions", [1, 3])
def test_what_was_not_collected_fails_and_is_not_materialized(
    market_url: str, assets: tuple[str, ...], axis: Axis, together: bool, partitions: int
):
    last = PAST + (partitions - 1) * axis.length if partitions > 1 else None
    for selection in [assets] if together else [(asset,) for asset in assets]:
        result = materialize(*selection, first=PAST, last=last, axis=axis)
        assert not result.success
        assert "Nothing was collected in" in run_errors(result)
        assert axis.key_of(axis.at(PAST).start) in run_errors(result)
        assert not [key for asset in selection for key in materialized(result, asset)]


def test_a_range_materializes_collected_windows_and_names_the_others(
    database: Database, capfd: pytest.CaptureFixture[str]
):
    put_tickers(database, 10, 30, 31)
    result = materialize(*TICKER, first=PAST, last=PAST + 5 * WINDOW)

    assert result.success, run_errors(result)
    there = keys(windows, [PAST + WINDOW, PAST + 3 * WINDOW])
    for asset in TICKER:
        assert materialized(result, asset) == there
        missing = "2026-01-29-14:00, 2026-01-29-14:20, 2026-01-29-14:40, 2026-01-29-14:50"
        assert missing in metadata_of(result, asset)["not materialized"]
    log = capfd.readouterr().err
    assert f"Nothing was collected in {missing}: silver_ticker has no rows there." in log
    assert "The other 2 of the 6 requested partitions are materialized" in log
    assert len(rows(database, tables.gold_market_stats)) == 2


def test_a_window_with_only_rejected_rows_counts_as_collected(database: Database):
    put_tickers(database, 0, trade_price="0")
    result = materialize(*TICKER, first=PAST)

    assert result.success, run_errors(result)
    assert [materialized(result, asset) for asset in TICKER] == [keys(windows, [PAST])] * 2
    assert "not materialized" not in metadata_of(result, "silver_ticker")


def test_gold_without_silver_is_not_materialized_though_the_window_was_collected(database: Database):
    put_tickers(database, 0)
    result = materialize("gold_market_stats", first=PAST)
    assert not result.success
    assert "silver was not computed for, 2026-01-29-14:00" in run_errors(result)


def test_a_window_emptied_by_a_run_is_materialized(database: Database):
    put_silver(database, [{"market": "KRW-BTC", "trade_price": 1, "ingested_at": PAST}])
    result = materialize("silver_ticker", first=PAST)
    assert result.success, run_errors(result)
    assert materialized(result, "silver_ticker") == keys(windows, [PAST])
    assert rows(database, tables.silver_ticker) == []


@pytest.mark.parametrize("kind", ["candle", "trade"])
def test_a_day_without_trades_counts_as_collected(database: Database, kind: str):
    cover(database, kind, "KRW-BTC", TODAY, TODAY + DAY)
    result = materialize(*DAYS, first=TODAY - DAY, last=TODAY + DAY, axis=days)

    assert result.success, run_errors(result)
    assert [materialized(result, asset) for asset in DAYS] == [keys(days, [TODAY])] * 3


def test_a_day_with_candles_and_no_trades_is_computed_as_a_whole(database: Database):
    put_candles(database, candle(HALF_PAST))
    result = materialize(*DAYS, first=TODAY, axis=days)
    assert result.success, run_errors(result)
    assert [materialized(result, asset) for asset in DAYS] == [keys(days, [TODAY])] * 3
