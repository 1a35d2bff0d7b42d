"""The stream: latency to a page, a steady load, writing to bronze, closing a window, and its effect on snapshots."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from dagster import TimeWindow

from bench.board import p99, served
from bench.frames import TRADE, frame_text
from bench.measure import Contender, Result, interleaved
from bench.stage import DAY, MARKETS, MINUTE, MarketData, Stage, codes, output_of, tickers
from upbit_assets.assets.gold import gold_trade_stats
from upbit_assets.assets.silver import silver_ticker, silver_trade_stream
from upbit_assets.checks import every_trade_is_there
from upbit_assets.dashboard.server import allow_open_files
from upbit_assets.partitions import WINDOW
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import Records
from upbit_assets.postgres_io.copy import cursor as driver_cursor
from upbit_assets.stack import free_port
from upbit_assets.stream.frames import Trade, parse, trade
from upbit_assets.stream.store import COLUMNS, Store
from upbit_assets.stream.writer import BATCH

LIVE, PAGES, LIVE_SECONDS = 1_000, 1_000, 60  # frames a second, open pages
BUSY, BUSY_SECONDS = 5_000, 600
# targets, in seconds, seconds, share of a core, MB, seconds
P50, P99, CORE, MEMORY, CLOSING = 0.3, 1.0, 0.6, 300, 2.0
WINDOW_TRADES, SNAPSHOTS = 7_000, 100
MB = 1e6
HERE = Path(__file__).parents[1]


def stream(stage: Stage) -> Iterator[Result]:
    yield from to_a_page(stage)
    yield from steady(stage)
    yield into_bronze(stage)
    yield closing(stage)
    yield snapshots_meanwhile(stage)


@dataclass
class Running:
    """A running stream and the source of its frames."""

    process: psutil.Process
    source: "subprocess.Popen[str]"
    began: float
    cpu: float

    def share(self) -> float:
        """The share of a core that the stream has used."""
        return (cpu_of(self.process) - self.cpu) / (time.monotonic() - self.began)

    def sent(self) -> int:
        """Wait for the last frame; returns the number of trades sent."""
        return int(next(iter(self.source.stdout or ())))


def cpu_of(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


@contextmanager
def collecting(stage: Stage, data: MarketData, a_second: int, seconds: float) -> Iterator[Running]:
    """Run `upbit-assets stream`; yields once its first trade is stored."""
    port, home = free_port(18700), Path(tempfile.mkdtemp(prefix="stream-", dir=stage.folder))
    environment = os.environ | {
        "UPBIT_POSTGRES_URL": data.url,
        "UPBIT_API_URL": f"http://127.0.0.1:{port}",
        "UPBIT_LIMITS_DIR": str(home / "limits"),
        "DAGSTER_HOME": str(home),
        "UPBIT_ORDERBOOK_MARKETS": "KRW-BTC",
    }
    frames = [sys.executable, "-m", "bench.frames", str(port), str(a_second), str(seconds)]
    source = subprocess.Popen(frames, cwd=HERE, stdout=subprocess.PIPE, text=True)
    with (home / "log").open("wb") as log:
        command = [str(Path(sys.executable).parent / "upbit-assets"), "stream"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not data.count("bronze.trade_stream_raw"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((home / "log").read_text()[-4000:])
            time.sleep(0.1)
        running = psutil.Process(process.pid)
        yield Running(running, source, time.monotonic(), cpu_of(running))
    finally:
        for each in (source, process):  # the source would report a lost connection
            each.terminate()
            each.wait(60)


def to_a_page(stage: Stage) -> list[Result]:
    """The latency from a trade's time at the exchange to the pages that show its market."""
    pages, seconds = max(50, round(PAGES * stage.scale)), max(10, LIVE_SECONDS * stage.scale)
    with stage.database() as data, served(data.url) as address, collecting(stage, data, LIVE, seconds + 60):
        latencies = asyncio.run(read_pages(address, [codes()[nth % 20] for nth in range(pages)], seconds))
    what = f"From a trade at the exchange to {pages:,} open pages at {LIVE:,} frames a second"
    return [
        Result(f"{what}: p50", "300 ms", statistics.median(latencies), P50, at_most=1),
        Result(f"{what}: p99", "1 s", p99(latencies), P99, at_most=1),
    ]


async def read_pages(address: str, markets: Sequence[str], seconds: float) -> list[float]:
    """Latencies in seconds, measured on every 50th page; the other pages only read."""
    allow_open_files()
    host, _, port = address.removeprefix("http://").partition(":")
    found: list[float] = []

    async def page(market: str, measured: bool) -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
        writer.write(f"GET /api/events?market={market} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        last, is_market = "", False
        while line := await reader.readline():
            if not measured:
                continue
            if is_market and line.startswith(b"data: "):
                trades = json.loads(line[6:])["trades"]
                if last:
                    now = datetime.now(UTC)
                    news = [datetime.fromisoformat(at) for at, *_ in trades if at > last]
                    found.extend((now - at).total_seconds() for at in news)
                last = max([last, *(at for at, *_ in trades)])
            is_market = line == b"event: market\n"

    opened = [asyncio.create_task(page(market, nth % 50 == 0)) for nth, market in enumerate(markets)]
    await asyncio.sleep(10)
    found.clear()
    await asyncio.sleep(seconds)
    for each in opened:
        each.cancel()
    await asyncio.gather(*opened, return_exceptions=True)
    return found


def steady(stage: Stage) -> list[Result]:
    """A sustained load: no trade is lost, and CPU and memory stay within bounds."""
    seconds = max(20, BUSY_SECONDS * stage.scale)
    with stage.database() as data, collecting(stage, data, BUSY, seconds) as running:
        memory = list[float]()
        ended = threading.Event()

        def sample_memory() -> None:
            while not ended.wait(1):
                memory.append(running.process.memory_info().rss / MB)

        sampling = threading.Thread(target=sample_memory)
        sampling.start()
        sent, share = running.sent(), running.share()
        ended.set()
        sampling.join()
        time.sleep(5)
        ((stored,),) = data.connection.execute("SELECT count(DISTINCT (market, key)) FROM bronze.trade_stream_raw")
    what = f"{BUSY:,} frames a second for {seconds:,.0f} s"
    # of the last two thirds, as ids are remembered for a minute and the sets of them grow meanwhile
    third = len(memory) // 3
    growth = statistics.median(memory[2 * third :]) / statistics.median(memory[third : 2 * third])
    return [
        Result(f"{what}: trades sent by the exchange", "trades in bronze", sent, stored, at_least=1, counted=True),
        Result(f"{what}: CPU seconds of the stream per second", "60 % of a core", share, CORE, at_most=1),
        Result(f"{what}: peak memory in MB", "300 MB", round(max(memory)), MEMORY, at_most=1, counted=True),
        Result(
            f"{what}: memory, last third",
            "middle third",
            round(growth, 3),
            1,
            at_most=1.1,
            counted=True,
        ),
    ]


def trades(first: int, number: int, at: Callable[[int], datetime]) -> list[Trade]:
    """Trades of all markets in turn, as parsed from the WebSocket."""
    made = []
    for nth in range(first, first + number):
        moment = at(nth)
        trade_id = (int(moment.timestamp() * 1000) << 16) + nth
        text = frame_text(TRADE, codes()[nth % MARKETS], nth, moment, trade_id)
        made.append(trade(parse(text), text, moment, "trades-1"))
    return made


def into_bronze(stage: Stage) -> Result:
    """The stream's writes, compared with COPY of the same text in the same batches over the same connection."""
    start = datetime.now(UTC)
    rows = max(10, round(100 * stage.scale)) * BATCH
    batches = [trades(first, BATCH, lambda _: start) for first in range(0, rows, BATCH)]
    with stage.database() as data:
        store = Store(lambda: data.url)
        store.open()
        made = ["".join(line(each) for each in batch).encode() for batch in batches]

        def ours() -> None:
            for batch in batches:
                store.write(batch)

        def theirs() -> None:
            statement = f"COPY bronze.trade_stream_raw ({', '.join(COLUMNS)}) FROM STDIN"
            for text in made:
                with store.session() as connection, driver_cursor(connection) as cursor, cursor.copy(statement) as copy:
                    copy.write(text)

        clear = lambda: data.clear("bronze.trade_stream_raw")  # noqa: E731
        seconds, ready = interleaved(Contender(ours, clear), Contender(theirs, clear), rounds=5)
        store.close()
    what = f"{rows:,} trades of the stream into bronze, in batches of {BATCH:,}"
    return Result(what, "COPY of the same prepared JSON in the same batches", seconds, ready, at_least=0.8)


def line(row: Trade) -> str:
    text = row.raw_data.replace("\\", "\\\\")
    return "\t".join((row.market, text, *(at.isoformat() for at in row[2:4]), row.key, row.connection)) + "\n"


def closing(stage: Stage) -> Result:
    """A window of all markets from bronze to gold, with the proof that no trade is missing."""
    number = max(855, round(WINDOW_TRADES * stage.scale))
    window = TimeWindow(DAY, DAY + WINDOW)
    moments = [DAY + nth * WINDOW / number for nth in range(number)]
    with stage.database() as data:
        data.fill_bronze(DAY - 2 * MINUTE, 12)
        snapshots = TimeWindow(DAY - WINDOW, DAY + WINDOW)
        data.write(silver_ticker, snapshots, output_of(silver_ticker, snapshots, tables.bronze_ticker_raw))
        store = Store(lambda: data.url)
        store.open()
        store.write(trades(0, number, lambda nth: moments[nth]))
        store.close()
        data.run("ANALYZE bronze.trade_stream_raw")

        def close() -> float:
            before = data.busy()
            raw = output_of(silver_trade_stream, window, tables.bronze_trade_stream_raw)
            data.write(silver_trade_stream, window, raw)
            sources = [
                tables.metadata.tables[key.path[-1].replace("_", ".", 1)] for key in gold_trade_stats.dependency_keys
            ]
            data.write(gold_trade_stats, window, output_of(gold_trade_stats, window, *sources))
            with data.engine.connect() as connection:
                every_trade_is_there.function(connection, window)
            return data.busy() - before

        (seconds,) = interleaved(Contender(close))
        if data.count("silver.trade_stream") != number:
            raise RuntimeError("silver rejected trades")
    what = f"A window of all markets' {number:,} trades from bronze to gold with its proof: the database's time"
    return Result(what, "2 s", seconds, CLOSING, at_most=1)


def snapshots_meanwhile(stage: Stage) -> Result:
    """Storing the minute's snapshot while trades come in, compared with the same without trades."""
    pairs = tickers(DAY)
    snapshot = Records(("market", "raw_data", "ingested_at"), [(*pair, datetime.now(UTC)) for pair in pairs])
    seconds = max(20, LIVE_SECONDS * stage.scale)
    with stage.database() as data:
        store = Store(lambda: data.url)

        def take() -> None:
            store.append({tables.bronze_ticker_raw: snapshot}, snapshot_at=datetime.now(UTC))

        # with pauses, because snapshots come one at a time and the stream writes a few times a second
        contender = Contender(take, lambda: time.sleep(seconds / 2 / SNAPSHOTS))
        store.open()
        (alone,) = interleaved(contender, rounds=SNAPSHOTS)
        with collecting(stage, data, LIVE, seconds):
            (ours,) = interleaved(contender, rounds=SNAPSHOTS)
        store.close()
    what = f"The minute's snapshot into bronze while {LIVE:,} frames a second come in"
    return Result(what, "the same without the stream", ours, alone, at_most=1.1)
