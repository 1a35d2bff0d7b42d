"""The client's calls, against the offline exchange."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import count
from urllib.parse import parse_qs, urlsplit

import pytest

from upbit_assets.sandbox.clock import real_time
from upbit_assets.sandbox.server import Handle, running
from upbit_assets.upbit import Limits, Reply, StatusError, UpbitClient

AT = datetime(2026, 7, 30, 7, 41, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def exchange() -> Iterator[Handle]:
    with running(10, lambda: AT, seconds=count().__next__, date=real_time) as handle:
        yield handle


@pytest.fixture
def client(exchange: Handle) -> Iterator[UpbitClient]:
    with UpbitClient(exchange.url) as upbit:
        yield upbit


def rows_of(reply: Reply):
    return [json.loads(row, parse_float=Decimal) for row in reply.rows]


def query_of(reply: Reply):
    return {name: value for name, (value,) in parse_qs(urlsplit(reply.url).query).items()}


def test_trades(exchange, client):
    reply = client.trades("KRW-BTC")
    assert rows_of(reply) == exchange.market.trades("KRW-BTC", AT, count=500)
    assert query_of(reply) == {"market": "KRW-BTC", "count": "500"}
    older = client.trades("KRW-BTC", count=3, cursor=rows_of(reply)[9]["sequential_id"])
    assert rows_of(older) == rows_of(reply)[10:13]
    before = client.trades("KRW-BTC", count=1, to="12:00:00", days_ago=2)
    assert before.rows[0].market == "KRW-BTC"
    assert query_of(before) == {"market": "KRW-BTC", "count": "1", "to": "12:00:00", "days_ago": "2"}


def test_order_books(exchange, client):
    reply = client.orderbook(["KRW-BTC", "KRW-USDT"])
    assert rows_of(reply) == [exchange.market.orderbook(market, AT) for market in ("KRW-BTC", "KRW-USDT")]
    grouped = client.orderbook(["KRW-BTC", "KRW-USDT"], count=2, level="10000")
    assert [row.market for row in grouped.rows] == ["KRW-BTC"]
    assert query_of(grouped) == {"markets": "KRW-BTC,KRW-USDT", "count": "2", "level": "10000"}


@pytest.mark.parametrize("unit", ["seconds", "minutes/1", "minutes/240", "days", "weeks", "months", "years"])
def test_candles(exchange, client, unit):
    reply = client.candles(unit, "KRW-USDT", count=2)
    assert rows_of(reply) == exchange.market.candles("KRW-USDT", AT, unit, count=2)
    assert query_of(reply) == {"market": "KRW-USDT", "count": "2"}


SEOUL = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("to", "spelled", "newest"),
    [
        (datetime(2026, 7, 1, 12, tzinfo=UTC), "2026-07-01T12:00:00+00:00", "11:59:00"),
        (datetime(2026, 7, 1, 21, tzinfo=SEOUL), "2026-07-01T21:00:00+09:00", "11:59:00"),
        (datetime(2026, 7, 1, 12, 0, 0, 1, tzinfo=UTC), "2026-07-01T12:00:01+00:00", "12:00:00"),
    ],
)
def test_candles_end_before_a_time_in_any_zone(client, to, spelled, newest):
    reply = client.candles("minutes/1", "KRW-BTC", to=to, count=1)
    assert query_of(reply)["to"] == spelled
    assert rows_of(reply)[0]["candle_date_time_utc"] == f"2026-07-01T{newest}"


def test_a_moment_without_a_zone_is_refused(client):
    with pytest.raises(ValueError, match="time zone"):
        client.candles("days", "KRW-BTC", to=datetime(2026, 7, 1))  # noqa: DTZ001


def test_pages_of_candles_follow_each_other(client):
    newer = rows_of(client.candles("minutes/1", "KRW-BTC", count=100))
    start = datetime.fromisoformat(newer[49]["candle_date_time_utc"]).replace(tzinfo=UTC)
    assert rows_of(client.candles("minutes/1", "KRW-BTC", to=start, count=50)) == newer[50:]


def test_an_invalid_unit_is_rejected(client):
    with pytest.raises(StatusError, match="specified unit is not valid"):
        client.candles("minutes/7", "KRW-BTC")


def test_groups_have_limits_of_their_own(exchange):
    waits: list[float] = []
    with UpbitClient(exchange.url, limits=Limits(exchange.url, clock=lambda: sum(waits), sleep=waits.append)) as client:
        for _ in range(6):
            client.candles("days", "KRW-BTC", count=1)
            client.trades("KRW-BTC", count=1)
            client.orderbook(["KRW-BTC"], count=1)
    assert waits == []


@pytest.mark.parametrize(
    ("host", "currency"),
    [
        *(("https://api.upbit.com", "KRW"), ("http://127.0.0.1:1", "KRW"), ("https://sg-api.upbit.com", "SGD")),
        *(("https://id-api.upbit.com/", "IDR"), ("https://th-api.upbit.com", "THB")),
    ],
)
def test_tickers_are_requested_in_the_hosts_own_currency(host: str, currency: str, monkeypatch: pytest.MonkeyPatch):
    params: dict[str, object] = {}
    monkeypatch.setattr(UpbitClient, "_once", lambda _self, _group, _path, given, **_: params.update(given))
    with UpbitClient(host) as client:
        client.tickers()
    assert params == {"quote_currencies": f"{currency},BTC,USDT"}
