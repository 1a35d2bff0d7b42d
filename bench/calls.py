"""The rate of background calls when nothing else limits them, and how long live calls wait for them."""

import multiprocessing
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, count, takewhile

from bench.measure import Result
from bench.stage import MARKETS, Stage
from upbit_assets.sandbox.server import serve
from upbit_assets.upbit import UpbitClient
from upbit_assets.upbit.limits import QUOTA

SECONDS, PROCESSES, THREADS = 20, 2, 4
SPAWN = multiprocessing.get_context("spawn")


def calls(stage: Stage) -> list[Result]:
    """Two processes with four threads each fetch pages of candles; another makes a live call every second."""
    seconds = max(5, SECONDS * stage.scale)
    with exchange() as url, ProcessPoolExecutor(PROCESSES + 1, SPAWN) as processes:
        first = time.monotonic() + 3  # by then all have started
        last = first + seconds
        history = [processes.submit(fetch, url, last) for _ in range(PROCESSES)]
        live = processes.submit(collect, url, first, last).result()
        done = chain(live, *(each.result() for each in history))
    completed = sum(first <= ended < last for _, ended in done)
    longest = max(ended - began for began, ended in live)
    return [
        Result(
            f"{completed} background and live calls together, by {PROCESSES} processes, without a 429",
            f"the permitted {QUOTA} a second",
            seconds,
            completed / QUOTA,
            at_least=0.95,
        ),
        Result(
            f"The slowest of {len(live)} live calls while background calls use the whole quota",
            "one second",
            longest,
            1,
            at_most=1.2,
        ),
    ]


@contextmanager
def exchange() -> Iterator[str]:
    """The offline exchange in a separate process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = SPAWN.Process(target=serve, kwargs={"port": port, "markets": MARKETS})
    process.start()
    url = f"http://127.0.0.1:{port}"
    with UpbitClient(url, attempts=99) as client:
        client.markets()
    yield url
    process.terminate()
    process.join()


def fetch(url: str, last: float) -> list[tuple[float, float]]:
    """Fetch pages of a market's candles until `last`; returns when each call began and ended. A 429 is an error."""
    with UpbitClient(url, background=True, attempts=1) as client, ThreadPoolExecutor(THREADS) as threads:

        def pages(number: int) -> list[tuple[float, float]]:
            calls: list[tuple[float, float]] = []
            while time.monotonic() < last:
                calls.append(timed(client, number * THREADS + len(calls)))
            return calls

        return list(chain(*threads.map(pages, range(THREADS))))


def collect(url: str, first: float, last: float) -> list[tuple[float, float]]:
    """A call about every second, each at another point of the exchange's second."""
    calls = []
    with UpbitClient(url, attempts=1) as client:
        for at in takewhile(lambda at: at < last, count(first, 1.07)):
            time.sleep(max(0, at - time.monotonic()))
            calls.append(timed(client, 0))
    return calls


def timed(client: UpbitClient, pages_back: int) -> tuple[float, float]:
    began = time.monotonic()
    client.candles("minutes/1", "KRW-BTC", to=datetime.now(UTC) - timedelta(minutes=200 * pages_back))
    return began, time.monotonic()
