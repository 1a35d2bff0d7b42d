"""Trades survive failures of the database, the disk and the process."""

import asyncio
import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.sandbox.server import Handle
from upbit_assets.stream import spill as spill_module
from upbit_assets.stream import writer as module
from upbit_assets.stream.frames import Frame, Trade, document_of, parse, trade
from upbit_assets.stream.spill import Spill
from upbit_assets.stream.status import COLLECTING, STAND_BY
from upbit_assets.stream.store import Store
from upbit_assets.stream.writer import Writer
from upbit_assets_tests.assets.test_trade_stream import Trade as Row
from upbit_assets_tests.assets.test_trade_stream import build
from upbit_assets_tests.conftest import a_server
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.stream.conftest import Run, collecting, require_whole, stored, truth, until

pytestmark = pytest.mark.long

Stream = Callable[..., AbstractContextManager[Run]]


def trades(count: int, first: int = 1) -> list[Trade]:
    """Trades of one market, with ids from `first` on."""
    now = datetime.now(UTC)
    return [
        trade(
            Frame("trade", "KRW-BTC", "REALTIME", int(now.timestamp() * 1000), n),
            f'{{"type":"trade","code":"KRW-BTC","trade_timestamp":{int(now.timestamp() * 1000)},"sequential_id":{n}}}',
            now,
            "trades-1",
        )
        for n in range(first, first + count)
    ]


@pytest.mark.timeout(60)  # both sides waited for each other forever
def test_a_long_frame_that_is_not_json_does_not_block_the_trades_after_it(market_url: str):
    odd = trade(Frame(), document_of(b"x" * 2**20), datetime.now(UTC), "trades-1")
    store = Store(lambda: market_url)
    assert store.lead()
    store.write([odd, *trades(5_000)])
    store.close()
    found = "SELECT count(*), max(length(raw_data #>> '{}')) FROM bronze.trade_stream_raw"
    assert ask(market_url, found) == [(5_001, 2**20)]


def found_in(folder: Path) -> list[int]:
    """The ids of the trades in the oldest spill file."""
    waiting = Spill(folder).oldest()
    assert waiting
    waiting.release()
    return [int(each.key) for each in waiting.trades]


def keys(url: str) -> list[int]:
    return sorted(int(key) for (key,) in ask(url, "SELECT key FROM bronze.trade_stream_raw"))


@contextmanager
def locked(url: str) -> Iterator[None]:
    """A database that accepts no trades for a while, because another session locks the table."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE bronze.trade_stream_raw IN ACCESS EXCLUSIVE MODE")
        yield


class TestDatabase:
    @pytest.fixture
    def own(self) -> Iterator[EmbeddedPostgres]:
        with a_server() as server:
            yield server

    def test_trades_are_spilled_while_the_database_is_unreachable_and_loaded_later(
        self, own: EmbeddedPostgres, exchange: Handle, tmp_path: Path
    ):
        url = own.url("upbit")
        with collecting(exchange, url, tmp_path / "stream") as run:
            start = run.begin()
            os.kill(int((own.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            until(lambda: run.collector.writer.problem)
            time.sleep(3)
            assert run.collector.writer.spill.size() > 0
            assert len(run.collector.writer.pending) < 1000
            assert "PostgreSQL is not reachable" in str(run.collector.status().problem)
            own.start()
            until(lambda: run.collector.writer.problem is None)
            until(lambda: run.collector.writer.spill.size() == 0)
            time.sleep(1)
            require_whole(exchange, url, start, twice=True)
            assert run.collector.role == COLLECTING

    def test_memory_is_bounded_while_the_database_is_slow(
        self, stream: Stream, exchange: Handle, market_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "MAX_WAITING", 50)
        with stream() as run:
            start = run.begin()
            with locked(market_url):
                until(lambda: run.collector.writer.spill.size() > 0)
                time.sleep(2)
                assert len(run.collector.writer.pending) <= 200
                assert "slow" in str(run.collector.writer.problem)
            until(lambda: run.collector.writer.spill.size() == 0)
            require_whole(exchange, market_url, start)
            assert run.collector.writer.problem is None

    def test_one_rejected_document_does_not_lose_the_others(self, market_url: str, tmp_path: Path):
        with closing(Store(lambda: market_url)) as store:
            assert store.lead()
            odd = trades(3)
            odd[1] = odd[1]._replace(raw_data='{"a": NaN}')
            store.write(odd)
        assert keys(market_url) == [1, 2, 3]
        told = ask(market_url, "SELECT raw_data #>> '{}' FROM bronze.trade_stream_raw WHERE key = '2'")
        assert told == [('{"a": NaN}',)]

    def test_no_one_writes_without_acquiring_the_lock(self, market_url: str):
        with closing(Store(lambda: market_url)) as store, pytest.raises(RuntimeError, match="session"):
            store.write(trades(1))


class TestSpill:
    def test_spilled_trades_are_read_back_unchanged(self, tmp_path: Path):
        spill, wanted = Spill(tmp_path), trades(3)
        spill.append(wanted[:2])
        spill.append(wanted[2:])
        waiting = spill.oldest()
        assert waiting
        assert waiting.trades == wanted
        waiting.done()
        assert (spill.oldest(), spill.size()) == (None, 0)

    def test_a_full_file_is_followed_by_another(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(spill_module, "LARGEST", 100)
        spill = Spill(tmp_path)
        for n in range(3):
            spill.append(trades(1, n + 1))
        assert len(list(tmp_path.glob("*.jsonl"))) == 3
        for key in ("1", "2", "3"):
            waiting = spill.oldest()
            assert waiting
            assert waiting.trades[0].key == key
            waiting.done()
        assert spill.oldest() is None

    def test_a_truncated_end_loses_only_its_own_trade(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        spill = Spill(tmp_path)
        spill.append(trades(3))
        spill.end()
        (path,) = tmp_path.glob("*.jsonl")
        path.write_bytes(path.read_bytes()[:-30])
        assert found_in(tmp_path) == [1, 2]
        assert "is truncated" in caplog.text

    def test_a_file_of_another_process_is_not_touched(self, tmp_path: Path):
        one, other = Spill(tmp_path), Spill(tmp_path)
        one.append(trades(1))
        assert other.oldest() is None
        one.end()
        assert found_in(tmp_path) == [1]

    def test_a_full_disk_is_reported_and_leaves_no_half_line(
        self, market_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "MAX_WAITING", 5)
        writer = Writer(Store(lambda: market_url), tmp_path)
        with room_for(1500):
            asyncio.run(writer.spill_rows(trades(8)))
            asyncio.run(writer.spill_rows(trades(100, 9)))
        assert (len(writer.pending), writer.lost) == (5, 95)
        assert os.strerror(errno.EFBIG) in caplog.text
        assert "Free some space there" in str(writer.problem)
        asyncio.run(writer.spill_rows(writer.take()))
        writer.spill.end()
        assert found_in(tmp_path) == list(range(1, 14))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Simulates a full disk by a limit on the size of files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_trades_in_memory_are_written_at_the_end(market_url: str, tmp_path: Path):
    async def write() -> None:
        writer = Writer(Store(lambda: market_url), tmp_path)
        assert writer.store.lead()
        for each in trades(10):
            writer.put(each)
        await writer.close()

    asyncio.run(write())
    assert keys(market_url) == list(range(1, 11))


def test_trades_in_memory_are_spilled_at_the_end_if_the_database_is_unreachable(tmp_path: Path):
    async def write() -> None:
        writer = Writer(Store(lambda: "postgresql://127.0.0.1:1/none"), tmp_path)
        for each in trades(10):
            writer.put(each)
        await writer.close()

    asyncio.run(write())
    assert found_in(tmp_path) == list(range(1, 11))


class TestWrittenTwice:
    """Rows whose commit was not confirmed are written again: bronze has them twice, silver and gold once."""

    @pytest.fixture
    def spilled(self, tmp_path: Path) -> list[Trade]:
        made = [Row(key=key) for key in range(1, 4)]
        rows = [trade(parse(each.frame()), each.frame(), each.at, "trades-1") for each in made]
        spill = Spill(tmp_path)
        spill.append(rows)
        spill.end()
        return rows

    @staticmethod
    def require_once(database: Database, url: str) -> None:
        assert keys(url) == [1, 1, 2, 2, 3, 3]
        build(database)
        assert ask(url, "SELECT trade_id FROM silver.trade_stream ORDER BY 1") == [(1,), (2,), (3,)]
        assert ask(url, "SELECT trades, volume FROM gold.trade_stats") == [(3, 6)]

    def test_a_process_killed_after_the_commit(
        self, spilled: list[Trade], database: Database, market_url: str, tmp_path: Path
    ):
        killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_COMMIT, market_url, tmp_path], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert keys(market_url) == [1, 2, 3]

        async def restart() -> None:
            writer = Writer(Store(lambda: market_url), tmp_path)
            until(writer.store.lead)
            await writer.load_spilled()
            await writer.close()

        asyncio.run(restart())
        self.require_once(database, market_url)
        assert Spill(tmp_path).size() == 0

    def test_a_connection_lost_after_the_commit(
        self, spilled: list[Trade], database: Database, market_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "RETRY", 0.05)

        class AnswerLost(Store):
            lost = False

            def write(self, trades: Sequence[Trade]) -> None:
                super().write(trades)
                if not self.lost:
                    self.lost = True
                    self.close()
                    raise DatabaseError("The answer to the commit was lost.")

        async def write() -> None:
            writer = Writer(AnswerLost(lambda: market_url), tmp_path / "other")
            assert writer.store.lead()
            for each in spilled:
                writer.put(each)
            writing = asyncio.create_task(writer.run())
            while writer.stored < len(spilled) or writer.spill.size():
                await asyncio.sleep(0.02)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await writer.close()

        asyncio.run(write())
        self.require_once(database, market_url)


KILLED_AFTER_COMMIT = """
import asyncio, os, signal, sys
from pathlib import Path
from upbit_assets.stream.spill import Waiting
from upbit_assets.stream.store import Store
from upbit_assets.stream.writer import Writer

Waiting.done = lambda _: os.kill(os.getpid(), signal.SIGKILL)

async def load():
    writer = Writer(Store(lambda: sys.argv[1]), Path(sys.argv[2]))
    assert writer.store.lead()
    await writer.load_spilled()

asyncio.run(load())
"""


class TestProcesses:
    """`upbit-assets stream` as a process."""

    @pytest.fixture
    def started(
        self, exchange: Handle, market_url: str, tmp_path: Path
    ) -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
        children = []

        def start(name: str) -> "subprocess.Popen[bytes]":
            environment = {"UPBIT_API_URL": exchange.url, "DAGSTER_HOME": str(tmp_path / name)}
            (tmp_path / name).mkdir(exist_ok=True)
            command = [str(Path(sys.executable).parent / "upbit-assets"), "stream"]
            with (tmp_path / f"{name}.log").open("ab") as log:
                children.append(subprocess.Popen(command, env=os.environ | environment, stderr=log))
            return children[-1]

        yield start
        for child in children:
            child.kill()
            child.wait()

    @pytest.mark.long
    def test_a_second_one_waits_and_takes_over_when_the_first_is_killed(
        self, started: Callable[[str], "subprocess.Popen[bytes]"], exchange: Handle, market_url: str, tmp_path: Path
    ):
        first = started("one")
        until(lambda: ask(market_url, "SELECT 1 FROM bronze.trade_stream_raw LIMIT 1"), 60)
        started("other")
        until(lambda: "waiting in standby" in (tmp_path / "other.log").read_text(), 60)
        assert "connected" not in (tmp_path / "other.log").read_text()
        first.kill()
        until(lambda: (tmp_path / "other.log").read_text().count("trades-2: connected") == 1, 60)
        time.sleep(1)
        start = datetime.now(UTC)
        time.sleep(2)
        require_whole(exchange, market_url, start)

    def test_a_terminated_stream_writes_its_trades_first(
        self, started: Callable[[str], "subprocess.Popen[bytes]"], exchange: Handle, market_url: str, tmp_path: Path
    ):
        child = started("one")
        until(lambda: (tmp_path / "one.log").read_text().count("trades-2: connected") == 1, 60)
        time.sleep(1)
        start = datetime.now(UTC)
        time.sleep(1)
        end = datetime.now(UTC) - timedelta(milliseconds=200)
        child.terminate()
        assert child.wait(20) == 0
        start, end = (at.replace(microsecond=0) for at in (start, end))
        assert stored(market_url, start, end) == truth(exchange, start, end)

    @pytest.mark.long
    def test_a_repeatedly_killed_stream_leaves_no_partial_trade(
        self, started: Callable[[str], "subprocess.Popen[bytes]"], exchange: Handle, market_url: str
    ):
        for _ in range(3):
            child = started("one")
            enough = len(keys_of_all(market_url)) + 20
            until(partial(has_rows, market_url, enough), 60)
            child.send_signal(signal.SIGKILL)
            child.wait()
        torn = "SELECT market, key FROM bronze.trade_stream_raw WHERE (raw_data->>'sequential_id' = key) IS NOT TRUE"
        assert ask(market_url, torn) == []


def has_rows(url: str, count: int) -> bool:
    return len(keys_of_all(url)) >= count


def keys_of_all(url: str) -> list[tuple[str, str]]:
    return ask(url, "SELECT market, key FROM bronze.trade_stream_raw")


def test_a_stream_that_lost_its_lock_goes_to_standby(
    stream: Stream, exchange: Handle, market_url: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    with stream("one") as one, stream("other") as other:
        until(lambda: {one.collector.role, other.collector.role} == {COLLECTING, STAND_BY})
        leader, waiting = (one, other) if one.collector.role == COLLECTING else (other, one)
        leader.begin()
        with psycopg.connect(market_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND pid <> pg_backend_pid()"
            )
        until(lambda: COLLECTING in {one.collector.role, other.collector.role} and not leader.collector.writer.kind, 20)
        time.sleep(1.5)
        roles = [one.collector.role, other.collector.role]
        assert sorted(roles) == sorted([COLLECTING, STAND_BY])
        now_leading = one if one.collector.role == COLLECTING else other
        start = now_leading.begin()
        time.sleep(1)
        require_whole(exchange, market_url, start)
        assert waiting.error is None
