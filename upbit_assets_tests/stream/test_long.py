"""Tests of minutes, for `make test-long`: the stream's repair after an outage and after a day of faults."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import DagsterInstance

from upbit_assets.assets.silver import silver_ticker
from upbit_assets.partitions import DAY, MINUTE, RANGE_END, RANGE_START, WINDOW, windows
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.clock import AdjustableClock, real_time
from upbit_assets.sandbox.server import Handle, running
from upbit_assets.stream.snapshots import Snapshots
from upbit_assets.upbit import UpbitClient
from upbit_assets_tests.assets.test_missing_trades import CHAIN, Sensor
from upbit_assets_tests.assets.test_trade_stream import put_all, put_snapshot, trades_of
from upbit_assets_tests.pipeline import ask, compute, materialize, put_bronze, run_errors
from upbit_assets_tests.stream.conftest import collecting, stored, truth, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

OUTAGE, WHOLE_WITHIN = 60, 120  # seconds
NOT_PROVED = "SELECT state, count(*) FROM silver.trade_coverage WHERE window_start = ANY(%s) GROUP BY state"


@contextmanager
def snapshots_every_minute(exchange: Handle, database: Database) -> Iterator[None]:
    """Snapshots as the schedule takes them."""
    ended = threading.Event()

    def take() -> None:
        with closing(UpbitClient(exchange.url)) as client:
            while not ended.wait(60 - time.time() % 60):
                reply = client.tickers()
                put_bronze(database, reply.received_at, [(row.market, row) for row in reply.rows])

    thread = threading.Thread(target=take)
    thread.start()
    yield
    ended.set()
    thread.join()


def cut_off(exchange: Handle) -> None:
    """Both connections are lost and can't be reopened."""
    exchange.faults.add("websocket/v1$", "status", status=503)
    exchange.faults.add("type=", "reset")


def test_a_minute_without_connections_is_repaired_and_proved_within_two(
    market_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Runs are separate processes, as started by Dagster; the sensor is evaluated every ten seconds."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.undo()  # with production waits
    environment = {"UPBIT_POSTGRES_URL": market_url, "DAGSTER_HOME": str(tmp_path), "UPBIT_LIMITS_DIR": str(tmp_path)}
    with running(855) as exchange, DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        for name, value in (environment | {"UPBIT_API_URL": exchange.url}).items():
            patch.setenv(name, value)
        sensor = Sensor(instance)
        with collecting(exchange, market_url, tmp_path / "stream") as run, snapshots_every_minute(exchange, database):
            until(run.hears, 120)
            time.sleep(2)
            before(exchange, database, datetime.now(UTC))
            sensor.tick()  # for the time before it began
            lost = datetime.now(UTC)
            cut_off(exchange)
            time.sleep(OUTAGE)
            exchange.faults.clear()
            back = time.monotonic()
            until(run.hears, WHOLE_WITHIN)
            heard = time.monotonic() - back
            while not sensor.tick():
                time.sleep(10)
            (request,) = sensor.requests
            one = request.tags.get("dagster/partition")
            first, last = request.tags.get(RANGE_START, one), request.tags.get(RANGE_END, one)
            command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "upbit_assets.definitions"]
            command += ["--select", ",".join(CHAIN), "--partition-range", f"{first}...{last}"]
            ended = subprocess.run(command, env=os.environ, cwd=tmp_path, capture_output=True, text=True, check=False)
            took = time.monotonic() - back
            assert ended.returncode == 0, ended.stderr[-3000:]
            starts = [windows.start_of(key) for key in {str(first), str(last)}]
            states = dict(ask(market_url, NOT_PROVED, starts))
            until_then = ask(market_url, "SELECT max(ingested_at) FROM bronze.ticker_raw")[0][0] - timedelta(seconds=1)
            wanted, found = truth(exchange, lost, until_then), stored(market_url, lost, until_then)
            asked = ask(market_url, "SELECT count(DISTINCT market), count(*) FROM bronze.trade_stream_page")[0]
            rest = ask(market_url, "SELECT count(*) FROM bronze.trade_stream_raw WHERE connection = 'rest'")[0][0]
    print(
        f"\n{OUTAGE} s without both connections: heard again after {heard:.0f} s, whole and proved after {took:.0f} s; "
        f"{asked[0]} of 855 markets asked for in {asked[1]} pages, {rest} trades; coverage {states}"
    )
    assert set(wanted) <= set(found)
    assert set(states) == {"proved"}
    assert asked[0] < 855
    assert took <= WHOLE_WITHIN


def before(exchange: Handle, database: Database, now: datetime) -> None:
    """The window as after a long run of the stream: all trades until now, and snapshots before and after them."""
    start = windows.at(now).start
    put_all(database, trades_of(exchange.market, start - 2 * MINUTE, now))
    for at in (start - MINUTE, now):
        put_snapshot(database, exchange.market, at)


SPEED, FAULTS = 288, 200  # a day in five minutes
MARKETS, ACTIVITY = 6, 0.1
ONE: dict[
    str, tuple[str, str, dict[str, Any]]
] = {  # a day's 200 short faults: which frames or upgrades they hit, how, and how often
    "both connections lost": ("type=", "reset", {"times": 3}),
    "close 1006 in the middle of a frame": ("type=trade", "cut", {"closes": True, "times": 1}),
    "an error frame, then 1000": ("type=trade", "close", {"body": '{"error":{"name":"X","message":"x"}}', "times": 2}),
    "dropped frames": ("type=trade", "drop", {"times": 20}),
    "one market mute": ("code=KRW-BTC", "drop", {"times": 20}),
    "doubled frames": ("type=trade", "rows", {"rows": [{"market": "*", "duplicate": 1}], "times": 20}),
    "late frames, ids out of order": ("type=trade", "late", {"seconds": 0.4, "times": 10}),
    "a wrong digit": ("type=trade", "rows", {"rows": [{"market": "*", "digit": ["trade_volume"]}], "times": 6}),
    "NaN": ("type=trade", "rows", {"rows": [{"market": "*", "set": {"trade_price": "NaN"}}], "times": 4}),
    "u0000": ("type=trade", "rows", {"rows": [{"market": "*", "set": {"ask_bid": r'"\u0000"'}}], "times": 4}),
    "no JSON": ("type=trade", "body", {"body": "no JSON", "times": 2}),
    "a frame of 1 MB": ("type=trade", "body", {"body": "x" * 2**20, "times": 1}),
    "429 on the upgrade": ("websocket/v1$", "status", {"status": 429, "times": 1}),
    "503 on the upgrade": ("websocket/v1$", "status", {"status": 503, "times": 1}),
    "a slow connection": ("type=trade", "slow", {"seconds": 0.2, "times": 5}),
    "a short page over REST": ("trades/ticks", "short", {"times": 1}),
    "5xx over REST": ("trades/ticks", "status", {"status": 502, "times": 1}),
}
SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()"
)


def test_a_day_with_two_hundred_faults_loses_and_duplicates_no_trade(
    market_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """24 hours of exchange time in five minutes, compared with the offline exchange's trades."""
    end = windows.at(datetime.now(UTC)).start
    start, seed = end - DAY, int(os.environ.get("UPBIT_TEST_SEED", time.time()))
    draw, hit = random.Random(seed), Counter[str]()
    clock = AdjustableClock((start - 4 * WINDOW).astimezone(UTC), SPEED)
    with running(MARKETS, clock, activity=ACTIVITY, date=real_time) as exchange:
        monkeypatch.setenv("UPBIT_API_URL", exchange.url)
        monkeypatch.setattr(Snapshots, "run", nothing)  # it would use this machine's clock
        with collecting(exchange, market_url, tmp_path / "stream") as run:
            until(run.hears, 60)
            a_day_of_faults(exchange, clock, end, draw, hit, market_url, database)
            exchange.faults.clear()
            until(run.hears, 60)
            until(lambda: not run.collector.writer.spill.size(), 120)
        streamed = stored(market_url, start, end)
        put_snapshot(database, exchange.market, end + MINUTE)
        compute(database, silver_ticker, start - WINDOW, end)
        for _ in range(3):
            result = materialize(*CHAIN, first=start, last=end - WINDOW)
            assert result.success, run_errors(result)
        wanted = truth(exchange, start - timedelta(milliseconds=1), end - timedelta(milliseconds=1))
    rows = ask(market_url, "SELECT market, trade_id::text FROM silver.trade_stream WHERE traded_at >= %s", start)
    found = Counter(rows)
    lost, twice = wanted - found, found - Counter(dict.fromkeys(wanted, 1))
    total = ask(market_url, "SELECT sum(trades), sum(volume) FROM gold.trade_stats")[0]
    states = dict(ask(market_url, "SELECT state, count(*) FROM silver.trade_coverage GROUP BY state"))
    print(
        f"\n24 h with {hit.total()} faults (seed {seed}): {len(wanted):,} trades, {len(wanted - streamed):,} missed by "
        f"the stream; {lost.total()} lost, {twice.total()} doubled; windows by market: {states}\n{json.dumps(hit)}"
    )
    assert hit.total() >= FAULTS
    assert (lost, twice) == (Counter(), Counter())
    assert total[0] == len(wanted)
    assert "missing" not in states


async def nothing(_: Snapshots) -> None:
    """A task that never ends."""
    await asyncio.Event().wait()


def a_day_of_faults(
    exchange: Handle,
    clock: AdjustableClock,
    end: datetime,
    draw: random.Random,
    hit: Counter[str],
    url: str,
    database: Database,
) -> None:
    """A snapshot every few minutes of the exchange's time until its day is over, and faults at random."""
    began, first = time.monotonic(), clock()
    while (now := clock()) < end + MINUTE:
        put_snapshot(database, exchange.market, now)
        due = FAULTS * 1.05 * ((now - first) / (end - first))
        while hit.total() < due:
            name = draw.choice([*ONE, "the database's session lost"])
            hit[name] += 1
            if name in ONE:
                match, kind, options = ONE[name]
                exchange.faults.add(match, kind, **options)
            else:
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(SESSIONS)
        time.sleep(0.5)
        assert time.monotonic() - began < 1200
