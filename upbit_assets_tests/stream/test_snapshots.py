"""The stream's snapshots: the same as a run's, atomic, and recorded so that no run is needed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from upbit_assets.assets.snapshots import SnapshotError
from upbit_assets.postgres.origin import OriginError
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.postgres.snapshot_source import stream_takes_snapshots
from upbit_assets.sandbox.server import Handle
from upbit_assets.stream import snapshots as module
from upbit_assets.stream.snapshots import Snapshots
from upbit_assets.stream.store import Store
from upbit_assets.stream.writer import Writer
from upbit_assets_tests.pipeline import ask, now

Take = Callable[[int], None]
SNAPSHOT = "SELECT count(*), count(DISTINCT ingested_at) FROM bronze."


@pytest.fixture
def take(market_url: str, frozen_exchange: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Takes snapshots as the database's only stream."""
    monkeypatch.setenv("UPBIT_ORDERBOOK_MARKETS", "KRW-BTC,KRW-ETH")
    now()

    async def takes(times: int) -> None:
        writer = Writer(Store(lambda: market_url), tmp_path)
        assert await writer.in_database(writer.store.lead)
        try:
            for _ in range(times):
                await Snapshots(frozen_exchange.url, writer).take()
        finally:
            await writer.close()

    return lambda times: asyncio.run(takes(times))


def found(url: str, table: str) -> tuple[Any, ...]:
    """(rows, snapshots) of a table of bronze."""
    return ask(url, SNAPSHOT + table)[0]


def noted(url: str) -> list[tuple[Any, ...]]:
    return ask(url, "SELECT taken_at FROM live.snapshot")


def test_a_snapshot_equals_a_runs_with_the_market_list_once_a_window(take: Take, market_url: str):
    take(2)
    assert [found(market_url, table) for table in ("ticker_raw", "orderbook_raw", "market_raw")] == [
        (60, 2),
        (4, 2),
        (30, 1),
    ]
    assert noted(market_url) == ask(market_url, "SELECT max(ingested_at) FROM bronze.ticker_raw")


def test_failing_order_books_do_not_lose_tickers(take: Take, market_url: str, frozen_exchange: Handle):
    frozen_exchange.faults.add("orderbook", "status", status=404)
    take(1)
    assert (found(market_url, "ticker_raw"), found(market_url, "orderbook_raw")) == ((30, 1), (0, 0))
    assert noted(market_url)


def test_failing_tickers_are_left_to_a_run(take: Take, market_url: str, frozen_exchange: Handle):
    frozen_exchange.faults.add("ticker/all", "status", status=404)
    with pytest.raises(SnapshotError, match="404"):
        take(1)
    assert (found(market_url, "ticker_raw"), noted(market_url)) == ((0, 0), [])


def test_a_document_that_jsonb_rejects_does_not_lose_the_others(take: Take, market_url: str, frozen_exchange: Handle):
    frozen_exchange.faults.add("ticker/all", "rows", rows=[{"market": "KRW-BTC", "set": {"trade_price": "NaN"}}])
    take(1)
    assert found(market_url, "ticker_raw") == (30, 1)


def test_a_failed_snapshot_is_stored_in_no_table(take: Take, market_url: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(connection: Any, _taken_at: datetime) -> None:
        connection.exec_driver_sql("SELECT * FROM nothing")

    monkeypatch.setattr("upbit_assets.stream.store.record_snapshot", refuse)
    with pytest.raises(DatabaseError):
        take(1)
    assert (found(market_url, "ticker_raw"), noted(market_url)) == ((0, 0), [])


def test_simulated_snapshots_are_never_stored_in_a_real_database(take: Take, market_url: str):
    ask(market_url, "INSERT INTO bronze.origin (simulated) VALUES (false)")
    with pytest.raises(OriginError):
        take(1)
    assert found(market_url, "ticker_raw") == (0, 0)


def test_a_missed_snapshot_is_reported_and_the_next_is_taken(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(module, "MINUTE", timedelta(seconds=0.01))
    results = iter([SnapshotError("the exchange is away"), DatabaseError("the database is away"), OriginError("end")])

    async def take(_self: Snapshots) -> None:
        raise next(results)

    monkeypatch.setattr(Snapshots, "take", take)
    with pytest.raises(OriginError):
        asyncio.run(Snapshots("http://127.0.0.1:1", Writer(Store(lambda: ""), Path())).run())
    assert [each.getMessage()[-7:] for each in caplog.records if "no snapshot" in each.getMessage()] == ["is away"] * 2


@pytest.mark.parametrize(
    ("second", "taken", "takes"),
    [
        (2, -32, True),  # the last one, half a minute before the full one
        (2, -50, False),  # it missed one
        (59, -89, True),  # and this minute's is late
        (59, -110, False),
        (2, 3600, False),  # from a clock that was ahead
    ],
)
def test_runs_take_over_at_the_first_full_minute_without_one(
    database: Database, market_url: str, second: int, taken: int, takes: bool
):
    at = datetime(2026, 1, 29, 5, 0, second, tzinfo=UTC)
    ask(market_url, "INSERT INTO live.snapshot VALUES (%s)", at + timedelta(seconds=taken))
    with database.connect() as connection:
        assert stream_takes_snapshots(connection, at) is takes
