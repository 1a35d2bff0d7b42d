"""Every trade is collected once, whatever the connections do: compared with the offline exchange's trades."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from upbit_assets.sandbox.server import Handle
from upbit_assets.stream.collector import TRADES, Collector
from upbit_assets.stream.frames import Frame
from upbit_assets_tests import http
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.stream.conftest import Run, collecting, require_whole, truth, until

pytestmark = pytest.mark.long

Stream = Callable[..., AbstractContextManager[Run]]


def test_every_trade_is_stored_once_as_the_exchange_sent_it(stream: Stream, exchange: Handle, market_url: str):
    with stream() as run:
        start = run.begin()
        time.sleep(3)
        require_whole(exchange, market_url, start)
        tickers = {market for (market,) in ask(market_url, "SELECT market FROM live.ticker")}
        assert tickers == {listing.market for listing in exchange.market.markets()}
        reported = "SELECT 1 FROM live.stream WHERE tickers > 30 AND trades > stored AND stored >= %s"
        [(stored,)] = ask(market_url, "SELECT count(*) FROM bronze.trade_stream_raw")
        until(lambda: ask(market_url, reported, stored))
    wrong = ask(
        market_url,
        """SELECT raw_data FROM bronze.trade_stream_raw
        WHERE (raw_data->>'type' = 'trade' AND raw_data->>'code' = market AND raw_data->>'sequential_id' = key
               AND to_timestamp((raw_data->'trade_timestamp')::numeric / 1000) = traded_at
               AND ingested_at BETWEEN traded_at AND traded_at + interval '1 minute'
               AND connection IN ('trades-1', 'trades-2')) IS NOT TRUE
          AND raw_data->>'stream_type' <> 'SNAPSHOT'""",
    )
    assert wrong == []


def test_each_of_the_two_connections_receives_every_trade(
    stream: Stream, exchange: Handle, monkeypatch: pytest.MonkeyPatch
):
    received = Counter[tuple[str, ...]]()
    take = Collector.take

    def noted(collector: Collector, frame: Frame, payload: bytes, at: datetime, connection: str) -> None:
        received[connection, frame.code, str(frame.sequential_id)] += 1
        take(collector, frame, payload, at, connection)

    monkeypatch.setattr(Collector, "take", noted)
    with stream() as run:
        start = run.begin()
        time.sleep(3)
        wanted = truth(exchange, start, datetime.now(UTC) - timedelta(milliseconds=50))
        until(lambda: all(received[name, *trade] == 1 for name in TRADES for trade in wanted), 20)
    assert len(wanted) > 10


# faults of one connection; the other works
ONE_SIDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dropped frames": ("type=trade.*connection={n}$", "drop", {"chance": 0.3}),
    "doubled frames": ("type=trade.*connection={n}$", "rows", {"rows": [{"market": "*", "duplicate": 1}]}),
    "a connection that is mute but for pongs": ("type=(trade|ticker).*connection={n}$", "drop", {}),
    "one market mute": ("code=KRW-BTC&connection={n}$", "drop", {}),
    "late frames and ids out of order": ("type=trade.*connection={n}$", "late", {"seconds": 0.4, "chance": 0.5}),
    "a close in the middle of a frame": ("type=trade.*connection={n}$", "cut", {"closes": True, "times": 1}),
    "an error frame and then a close": (
        "type=trade.*connection={n}$",
        "close",
        {"body": '{"error":{"name":"INTERNAL","message":"x"}}', "times": 1},
    ),
    "a reset": ("type=trade.*connection={n}$", "reset", {"times": 1}),
    "a slow connection": ("type=trade.*connection={n}$", "slow", {"seconds": 0.5, "chance": 0.2}),
}


QUICKEST = ("dropped frames", "a close in the middle of a frame")


@pytest.mark.parametrize(
    "fault", [each if each in QUICKEST else pytest.param(each, marks=pytest.mark.long) for each in ONE_SIDED]
)
def test_a_fault_of_one_connection_loses_nothing(stream: Stream, exchange: Handle, market_url: str, fault: str):
    match, kind, options = ONE_SIDED[fault]
    with stream() as run:
        start = run.begin()
        sick = connection_of(run, TRADES[0])
        exchange.faults.add(match.format(n=sick), kind, **options)
        time.sleep(3)
        require_whole(exchange, market_url, start)


def connection_of(run: Run, name: str) -> int:
    """The exchange's number of the connection."""
    socket = run.collector.connections[name].socket
    assert socket
    port = socket.local_address[1]
    return next(
        each.number
        for each in list(run.exchange.hub.connections)
        if each.transport.get_extra_info("peername")[1] == port
    )


def test_a_connection_without_data_counts_as_dead_despite_pongs(stream: Stream, exchange: Handle):
    with stream() as run:
        run.begin()
        mute = run.collector.connections[TRADES[0]]
        opened = mute.opened
        exchange.faults.add(f"type=trade.*connection={connection_of(run, TRADES[0])}$", "drop")
        until(lambda: mute.opened > opened)
        assert mute.data_at


@pytest.mark.parametrize("resolves", [True, False], ids=["the network is there", "DNS is gone meanwhile"])
def test_both_connections_recover_when_lost_together(
    exchange: Handle,
    market_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resolves: bool,
):
    by_name = replace(exchange, url=exchange.url.replace("127.0.0.1", "localhost"))
    with collecting(by_name, market_url, tmp_path / "stream") as run:
        run.begin()
        connections = [run.collector.connections[name] for name in TRADES]
        opened = [each.opened for each in connections]
        with monkeypatch.context() as patch:
            if not resolves:
                patch.setattr(socket, "getaddrinfo", no_such_name)
            for each in [connection_of(run, name) for name in TRADES]:
                exchange.faults.add(f"type=trade.*connection={each}$", "reset", times=1)
            attempts = 0 if resolves else 6
            until(lambda: all(f"{name}: " in caplog.text for name in TRADES) and failures(caplog) >= attempts)
        until(lambda: all(each.opened > before for each, before in zip(connections, opened, strict=True)))
        start = run.begin()
        time.sleep(1)
        require_whole(exchange, market_url, start)


def no_such_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def failures(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("trades-1: [Errno -3]") + caplog.text.count("trades-2: [Errno -3]")


@pytest.mark.long
def test_a_renamed_market_is_collected_under_its_new_name(stream: Stream, exchange: Handle, market_url: str):
    """As on the exchange: the old code is delisted when the new one is listed."""
    listings = exchange.url + "/_sandbox/listings"
    old = http.post(listings, json={"quote": "KRW"}, timeout=60).json()["market"]
    with stream() as run:
        run.begin()
        http.delete(listings, json={"market": old}, timeout=60)
        new = http.post(listings, json={"quote": "KRW"}, timeout=60).json()["market"]
        until(lambda: new in run.collector.listings.listed and old not in run.collector.listings.listed)
        until(lambda: ask(market_url, "SELECT 1 FROM bronze.trade_stream_raw WHERE market = %s LIMIT 1", new), 60)
        time.sleep(2.5)  # both connections have subscribed again
        renamed = run.begin()
        time.sleep(2)
        require_whole(exchange, market_url, renamed)
        http.delete(listings, json={"market": new}, timeout=60)


@pytest.mark.long
def test_a_new_listing_is_collected_without_a_restart(stream: Stream, exchange: Handle, market_url: str):
    with stream() as run:
        start = run.begin()
        new = http.post(exchange.url + "/_sandbox/listings", json={"quote": "KRW"}, timeout=60).json()["market"]
        until(lambda: new in run.collector.listings.known)
        until(lambda: ask(market_url, "SELECT 1 FROM bronze.trade_stream_raw WHERE market = %s LIMIT 1", new), 60)
        time.sleep(2.5)  # both connections have subscribed again
        listed = run.begin()
        time.sleep(2)
        require_whole(exchange, market_url, listed)
        assert start < listed
        http.delete(exchange.url + "/_sandbox/listings", json={"market": new}, timeout=60)
        until(lambda: new not in run.collector.listings.listed)
        require_whole(exchange, market_url, listed)


@pytest.mark.parametrize("status", [429, 418, 503])
@pytest.mark.long
def test_rejected_upgrades_are_retried_later(stream: Stream, exchange: Handle, market_url: str, status: int):
    exchange.faults.add("websocket/v1$", "status", status=status, times=1, body="Try again in 5 seconds.")
    with stream() as run:
        if status == 418:
            until(lambda: "blocked this IP address until" in (run.collector.status().problem or ""))
        start = run.begin()
        time.sleep(1)
        require_whole(exchange, market_url, start)
        rejected = (
            "SELECT too_many_requests, blocked, blocked_until IS NOT NULL FROM live.exchange_calls "
            "WHERE call_group = 'websocket' AND calls = 4"
        )
        until(lambda: ask(market_url, rejected) == [(status == 429, status == 418, status == 418)])


BODIES = ["no JSON", "[]", "x" * 2**20]
FIELDS = {"NaN": ("trade_price", "NaN"), "u0000": ("ask_bid", r'"\u0000"')}


@pytest.mark.parametrize("odd", [*BODIES, *FIELDS], ids=lambda text: text[:10])
@pytest.mark.long
def test_malformed_frames_are_stored_and_do_not_lose_the_others(
    stream: Stream, exchange: Handle, market_url: str, odd: str
):
    with stream() as run:
        run.begin()
        if odd in FIELDS:
            exchange.faults.add("code=KRW-BTC", "rows", rows=[{"market": "*", "set": dict([FIELDS[odd]])}])
        else:
            exchange.faults.add("type=trade", "body", body=odd, times=1)
        found = "SELECT market, key <> '' FROM bronze.trade_stream_raw WHERE position(%s IN raw_data #>> '{}') > 0"
        until(lambda: ask(market_url, found, odd))
        assert ask(market_url, found, odd)[0] == (("KRW-BTC", True) if odd in FIELDS else ("", False))
        exchange.faults.clear()
        start = run.begin()
        time.sleep(1)
        require_whole(exchange, market_url, start)


def test_simulated_frames_are_never_stored_in_a_real_database(stream: Stream, market_url: str):
    ask(market_url, "INSERT INTO bronze.origin (simulated) VALUES (false)")
    with stream() as run:
        until(lambda: run.error)
    assert "This database has real data, but" in str(run.error)
    assert ask(market_url, "SELECT 1 FROM bronze.trade_stream_raw") == []
