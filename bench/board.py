"""The market board's API under a steady load, and the database connections of its open pages."""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import psycopg
import sqlalchemy as sa
from starlette.datastructures import QueryParams

from bench.history import fill_gold
from bench.measure import Result
from bench.stage import DAY, MarketData, Stage, tickers
from upbit_assets.dashboard.endpoints import ENDPOINTS, Endpoint
from upbit_assets.dashboard.parameters import parse
from upbit_assets.dashboard.server import allow_open_files
from upbit_assets.partitions import WINDOW
from upbit_assets.postgres.resource import READER_ROLE, engine_for
from upbit_assets.stack import free_port

A_SECOND, SECONDS, PAGES = 50, 20, 1000
CODES = 120  # markets: so many that the cached response of one has expired before its next request
PATHS = ("/api/markets/{market}/windows", "/api/markets/{market}/candles", "/api/markets/{market}/orderbook")
SPAN = {"from": (DAY - timedelta(hours=12)).isoformat(), "to": (DAY + timedelta(hours=12)).isoformat()}
LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"


def board(stage: Stage) -> list[Result]:
    """Requests for different markets in turn, and a thousand pages that listen."""
    last = DAY + timedelta(hours=12)
    with stage.database() as data:
        data.fill_bronze(DAY, 1)
        fill_gold(data, last - 143 * WINDOW, last)
        fill_silver(data, last)
        requests = requests_for(
            [code for code, _ in tickers(DAY)][:CODES], max(100, round(A_SECOND * SECONDS * stage.scale))
        )
        with served(data.url) as address:
            ours = asyncio.run(under_load(address, requests))
            connections = asyncio.run(connections_of_pages(address, data.url, max(50, round(PAGES * stage.scale))))
        theirs = sql_only(data.url, requests)
    what = f"A market's windows, candles and order book over the board's API, {A_SECOND} a second on one core"
    pages = f"Database connections of {round(PAGES * stage.scale):,} open live pages"
    return [
        Result(f"{what}: p99", "p99 of the same SQL on a separate connection", p99(ours), p99(theirs), at_most=20),
        Result(pages, "one", connections, 1, at_most=1, counted=True),
    ]


def requests_for(codes: list[str], count: int) -> list[tuple[Endpoint, str]]:
    endpoints = [endpoint for endpoint in ENDPOINTS if endpoint.path in PATHS]
    return list(islice(zip(cycle(endpoints), cycle(codes), strict=False), count))


def fill_silver(data: MarketData, last: datetime) -> None:
    """A day of one-minute candles, and an order book of each requested market."""
    data.run(
        """
        INSERT INTO silver.candle (market, started_at, opening_price, high_price, low_price, closing_price, volume,
                                   turnover, last_traded_at, ingested_at)
        SELECT market, at, 100 + nth / 1e3, 102, 99, 101 + nth / 1e4, 5 + nth / 1e7, 1e6 + nth / 7.0, at, at
        FROM generate_series(%(first)s, %(last)s, interval '1 minute') at CROSS JOIN sample WHERE nth < %(markets)s
        """,
        first=last - timedelta(days=1),
        last=last,
        markets=CODES,
    )
    levels = "array_fill(1.25::numeric, ARRAY[30])"
    data.run(
        f"""
        INSERT INTO silver.orderbook (market, total_ask_size, total_bid_size, ask_prices, ask_sizes, bid_prices,
                                      bid_sizes, ingested_at, changed_at)
        SELECT market, 37.5, 37.5, {levels}, {levels}, {levels}, {levels}, now(), now()
        FROM sample WHERE nth < %(markets)s
        """,
        markets=CODES,
    )
    data.run("VACUUM ANALYZE silver.candle, silver.orderbook")


def parameters(endpoint: Endpoint) -> dict[str, str]:
    return SPAN if any(each.name == "from" for each in endpoint.parameters) else {}


@contextmanager
def served(url: str) -> Iterator[str]:
    """Run `upbit-assets board` on one core; yields its address."""
    port = free_port(18500)
    command = [str(Path(sys.executable).parent / "upbit-assets"), "board", "--port", str(port)]
    environment = os.environ | {"UPBIT_POSTGRES_URL": url}
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{address}/api/status", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


async def under_load(address: str, requests: list[tuple[Endpoint, str]]) -> list[float]:
    """Seconds of each request from the moment it was due, so that a slow one doesn't delay the others (open loop).

    The first two seconds, in which the board connects and compiles its SQL, don't count.
    """
    async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as client:

        async def one(endpoint: Endpoint, market: str, due: float) -> float:
            await asyncio.sleep(due - time.perf_counter())
            reply = await client.get(endpoint.path.replace("{market}", market), params=parameters(endpoint))
            reply.raise_for_status()
            return time.perf_counter() - due

        start = time.perf_counter() + 0.5
        times = await asyncio.gather(
            *(one(endpoint, market, start + nth / A_SECOND) for nth, (endpoint, market) in enumerate(requests))
        )
        return times[2 * A_SECOND :] or times


async def connections_of_pages(address: str, url: str, pages: int) -> int:
    """How many connections the board listens on while pages are open; each page receives the event of a write."""
    allow_open_files()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits, trust_env=False) as client:
        ready = asyncio.Barrier(pages + 1)

        async def page() -> None:
            async with client.stream("GET", "/api/events") as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                await ready.wait()
                async for line in lines:
                    if line == "event: asset_written":
                        return

        opened = [asyncio.create_task(page()) for _ in range(pages)]
        await ready.wait()
        with psycopg.connect(url, autocommit=True) as connection:
            ((listeners,),) = connection.execute(LISTENERS, ("upbit_assets board",)).fetchall()
            connection.execute("SELECT pg_notify('asset_written', '{}')")
        await asyncio.gather(*opened)
    return listeners


def sql_only(url: str, requests: list[tuple[Endpoint, str]]) -> list[float]:
    """Seconds of each request's SQL alone."""
    engine = engine_for(url, READER_ROLE)
    with engine.connect() as connection, psycopg.connect(url, autocommit=True) as plain:
        return [sum(timed(plain, *each) for each in statements(connection, *one)) for one in requests]


def statements(connection: sa.Connection, endpoint: Endpoint, market: str) -> list[tuple[str, Any]]:
    """The statements, with their values, that the board executes for a request."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        executed.append((statement, values))

    sa.event.listen(connection, "before_cursor_execute", note)
    endpoint.answer(connection, parse(endpoint.parameters, {"market": market}, QueryParams(parameters(endpoint))))
    sa.event.remove(connection, "before_cursor_execute", note)
    return executed


def timed(connection: psycopg.Connection[Any], statement: str, values: Any) -> float:
    started = time.perf_counter()
    connection.execute(statement.encode(), values).fetchall()
    return time.perf_counter() - started


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]
