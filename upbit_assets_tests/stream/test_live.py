"""The live tables: exactly the exchange's current data, deleted when outdated."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from upbit_assets.sandbox.server import Handle
from upbit_assets.stream.live import MAX_TRADES, LivePublisher
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.stream.conftest import Run, until

AT = datetime(2026, 1, 29, 5, 0, tzinfo=UTC)
MS = int(AT.timestamp() * 1000)


@pytest.fixture
def publisher(market_url: str) -> Iterator[LivePublisher]:
    publisher = LivePublisher(lambda: market_url)
    yield publisher
    publisher.close()


def ticker(code: str, price: str, turnover: str = "10") -> bytes:
    return (
        f'{{"type":"ticker","code":"{code}","trade_price":{price},"signed_change_rate":-0.0123,'
        f'"acc_trade_volume_24h":1.50,"acc_trade_price_24h":{turnover},"timestamp":{MS}}}'
    ).encode()


def trade(code: str, number: int, volume: str = "1") -> bytes:
    return (
        f'{{"type":"trade","code":"{code}","sequential_id":{number},"trade_timestamp":{MS + number},'
        f'"trade_price":100,"trade_volume":{volume},"ask_bid":"BID"}}'
    ).encode()


def publish(publisher: LivePublisher, *frames: bytes) -> bool:
    for frame in frames:
        try:
            said: Any = json.loads(frame)
        except ValueError:
            said = {"type": "ticker", "code": str(len(frame))}
        publisher.put(said["type"], said["code"], frame, datetime.now(UTC))
    return publisher.publish(publisher.take())


def test_prices_are_exact(publisher: LivePublisher, market_url: str):
    digits = "0.00000000123456789012345678"
    assert publish(publisher, ticker("BTC-X", digits))
    assert ask(market_url, "SELECT trade_price, sent_at FROM live.ticker") == [(Decimal(digits), AT)]


def test_a_newer_ticker_replaces_the_previous_one_in_a_later_batch(publisher: LivePublisher, market_url: str):
    batches = []
    for price in ("1", "2"):
        publish(publisher, ticker("KRW-A", price))
        [(now, batch)] = ask(market_url, "SELECT trade_price, batch FROM live.ticker")
        assert now == Decimal(price)
        batches.append(batch)
    assert batches[0] < batches[1]


def test_turnover_is_compared_in_krw_at_the_newest_rate(publisher: LivePublisher, market_url: str):
    publish(
        publisher,
        *(ticker("KRW-BTC", "100000", "7"), ticker("KRW-A", "1", "250000"), ticker("BTC-A", "0.1", "3.5")),
        ticker("USDT-A", "1", "1"),
    )
    ranked = ask(market_url, "SELECT rank_volume, market, turnover_krw FROM live.turnover_top10 ORDER BY 1")
    assert ranked == [
        (1, "BTC-A", Decimal(350000)),
        (2, "KRW-A", Decimal(250000)),
        (3, "KRW-BTC", Decimal(7)),
        (4, "USDT-A", None),
    ]


def test_an_unreadable_frame_does_not_lose_the_others(publisher: LivePublisher, market_url: str):
    bad = (
        b'{"type":"ticker","code":"KRW-B","trade_price":NaN}',
        b"\xff",
        ticker("KRW-C", "1").replace(b'"timestamp":', b'"timestamp":99999999999999999'),
        *(ticker("KRW-D", '"much"'), ticker("KRW-E", "1e999999"), ticker("KRW-\\u0000", "1"), ticker("K" * 31, "1")),
        trade("KRW-F", 2**64),
    )
    assert publish(publisher, *bad, ticker("KRW-A", "1"))
    assert ask(market_url, "SELECT market FROM live.ticker") == [("KRW-A",)]


def test_a_duplicate_trade_is_stored_once(publisher: LivePublisher, market_url: str):
    publish(publisher, trade("KRW-A", 1), trade("KRW-A", 2), trade("KRW-B", 1))
    publish(publisher, trade("KRW-A", 2), trade("KRW-A", 3))
    assert ask(market_url, "SELECT market, trade_id FROM live.trade ORDER BY 1, 2") == [
        *(("KRW-A", number) for number in (1, 2, 3)),
        ("KRW-B", 1),
    ]


def test_memory_stays_bounded_while_nothing_is_published(publisher: LivePublisher):
    for number in range(MAX_TRADES + 10):
        publisher.put("trade", "KRW-A", trade("KRW-A", number), AT)
        publisher.put("ticker", "KRW-A", ticker("KRW-A", str(number)), AT)
    assert len(publisher.take()) == MAX_TRADES + 1


def test_it_continues_after_the_database_was_unreachable(publisher: LivePublisher, market_url: str):
    publish(publisher, ticker("KRW-A", "1"))
    session = publisher.open().connection.driver_connection
    assert session
    ask(market_url, "SELECT pg_terminate_backend(%s)", session.info.backend_pid)
    assert not publish(publisher, ticker("KRW-A", "2"))
    assert publish(publisher, ticker("KRW-A", "3"))
    assert ask(market_url, "SELECT trade_price FROM live.ticker") == [(Decimal(3),)]


def test_the_reader_can_only_read_the_live_tables(publisher: LivePublisher, market_url: str):
    publish(publisher, ticker("KRW-A", "1"))
    with psycopg.connect(market_url) as connection:
        connection.execute("SET ROLE upbit_reader")
        for name in ("ticker", "orderbook", "trade", "market", "candle", "turnover_top10"):
            connection.execute(f"SELECT * FROM live.{name}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM live.ticker")


def test_the_stream_fills_the_live_tables(
    stream: Callable[..., AbstractContextManager[Run]], exchange: Handle, market_url: str
):
    with stream():
        until(lambda: ask(market_url, "SELECT count(*) FROM live.ticker")[0][0] == 30)
        until(lambda: ask(market_url, "SELECT count(*) FROM live.orderbook")[0][0] == 2)
        until(lambda: ask(market_url, "SELECT count(*) FROM live.trade")[0][0] > 0)
    [(asks, bids)] = ask(market_url, "SELECT ask_prices, bid_prices FROM live.orderbook WHERE market = 'KRW-BTC'")
    assert asks == sorted(asks)
    assert bids == sorted(bids, reverse=True)
    assert bids[0] < asks[0]
    unknown = "SELECT market, trade_id::text FROM live.trade EXCEPT SELECT market, key FROM bronze.trade_stream_raw"
    assert ask(market_url, unknown) == []
