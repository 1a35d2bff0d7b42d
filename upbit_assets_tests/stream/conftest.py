"""The stream against the offline exchange and a real PostgreSQL, and that exchange's own trades."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from upbit_assets.sandbox.model import SLOT_MS
from upbit_assets.sandbox.server import Handle, running
from upbit_assets.sandbox.tape import Event
from upbit_assets.stream import collector as module
from upbit_assets.stream import connection
from upbit_assets.stream.collector import TRADES, Collector
from upbit_assets.stream.status import COLLECTING
from upbit_assets_tests.pipeline import ask

MARKETS, ACTIVITY = 30, 30  # some forty trades a second

Trades = Counter[tuple[str, str]]


def until(what: Callable[[], object], seconds: float = 60) -> None:
    """Poll until the condition is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.02)


@dataclass
class Run:
    """A stream in a separate thread."""

    collector: Collector
    exchange: Handle
    error: BaseException | None = None

    def hears(self) -> bool:
        """Whether it collects, and both connections have received trades since they were opened."""
        assert self.error is None, self.error
        return self.collector.role == COLLECTING and all(
            (each := self.collector.connections[name]).socket and each.data_at for name in TRADES
        )

    def begin(self) -> datetime:
        """The time from which it must have every trade."""
        until(self.hears)
        time.sleep(0.5)  # the second burst of snapshots
        return datetime.now(UTC)


@contextmanager
def collecting(exchange: Handle, url: str, folder: Path) -> Iterator[Run]:
    run = Run(Collector(exchange.url, lambda: url, folder), exchange)
    loop = asyncio.new_event_loop()
    task = loop.create_task(run.collector.run())

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            run.error = error
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())  # as asyncio.run does
            loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield run
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_RETRY", 0.05)
    monkeypatch.setattr(connection, "LAST_RETRY", 0.5)
    monkeypatch.setattr(connection, "MUTE", 10.0)
    monkeypatch.setattr(module, "LISTINGS_EVERY", 0.3)
    monkeypatch.setattr(module, "STAGGER", 1.0)
    monkeypatch.setattr(module, "STAND_BY_EVERY", 0.1)
    monkeypatch.setattr(module, "REPORT_EVERY", 0.3)
    monkeypatch.setenv("UPBIT_ORDERBOOK_MARKETS", "KRW-BTC,KRW-ETH")


@pytest.fixture(scope="session")
def busy_exchange() -> Iterator[Handle]:
    with running(MARKETS, activity=ACTIVITY) as handle:
        yield handle


@pytest.fixture
def exchange(busy_exchange: Handle) -> Handle:
    busy_exchange.faults.clear()
    return busy_exchange


@pytest.fixture
def stream(exchange: Handle, market_url: str, tmp_path: Path) -> Callable[..., AbstractContextManager[Run]]:
    """Starts a stream; `folder` has its spill files."""
    return lambda folder="stream": collecting(exchange, market_url, tmp_path / folder)


def truth(exchange: Handle, start: datetime, end: datetime) -> Trades:
    """All trades of the exchange in `(start, end]`."""
    first, last = (int(at.timestamp() * 1000) for at in (start, end))
    found, market = Trades(), exchange.market
    for slot in range(first // SLOT_MS, last // SLOT_MS + 1):
        for event in map(Event._make, exchange.hub.feed.tape.slot(slot).tolist()):
            if first < event.time <= last:
                row = market.trade_row(market.order[event.market], event.trade)
                found[row["market"], str(row["sequential_id"])] += 1
    return found


def stored(url: str, start: datetime, end: datetime) -> Trades:
    rows = ask(
        url, "SELECT market, key FROM bronze.trade_stream_raw WHERE traded_at > %s AND traded_at <= %s", start, end
    )
    return Trades(rows)


def require_whole(exchange: Handle, url: str, start: datetime, *, twice: bool = False) -> int:
    """Assert that every trade since `start` is stored, once unless `twice` is allowed; returns their number."""
    end = datetime.now(UTC) - timedelta(milliseconds=50)
    start, end = (at.replace(microsecond=at.microsecond // 1000 * 1000) for at in (start, end))
    wanted = truth(exchange, start, end)
    until(lambda: not wanted - stored(url, start, end), 20)
    found = stored(url, start, end)
    assert set(found) == set(wanted)
    assert twice or found == wanted
    assert len(wanted) > 10
    return len(wanted)
