import gzip
import logging
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest

from upbit_assets.sandbox.server import running
from upbit_assets.upbit import (
    BlockedError,
    Limits,
    StatusError,
    TransportError,
    UnexpectedBodyError,
    UpbitClient,
    UpbitError,
)
from upbit_assets.upbit.usage import Usage
from upbit_assets_tests.upbit.conftest import Answer

ROW = '{"market":"KRW-BTC","trade_price":1.16539E8}'
GOOD = Answer(f"[{ROW}]".encode())
TOO_MANY = Answer(b"Too many API requests.", 429)
HTML = b"<html><title>Maintenance</title></html>"


def test_a_replys_text_is_exactly_the_body(exchange, client):
    exchange.answers = [Answer(f' [ {ROW} ,{{"market" : "한글"}}]\n'.encode())]
    before = datetime.now(UTC)
    reply = client.tickers()
    assert reply.text == f' [ {ROW} ,{{"market" : "한글"}}]\n'
    assert reply.rows == [ROW, '{"market" : "한글"}']
    assert before <= reply.received_at <= datetime.now(UTC)
    assert reply.received_at.utcoffset() == timedelta(0)
    assert not reply.simulated
    assert 0 < reply.seconds < 5


def test_requests_follow_the_exchanges_documentation(exchange, client):
    exchange.answers = [Answer(), Answer(), Answer()]
    assert client.tickers().url == f"{exchange.url}/v1/ticker/all?quote_currencies=KRW%2CBTC%2CUSDT"
    client.markets()
    client.get("candle", "/v1/candles/minutes/1", market="KRW-BTC", to=None, count=2)
    assert [request.path for request in exchange.requests] == [
        "/v1/ticker/all?quote_currencies=KRW%2CBTC%2CUSDT",
        "/v1/market/all?is_details=true",
        "/v1/candles/minutes/1?market=KRW-BTC&count=2",
    ]
    for request in exchange.requests:
        assert request.headers["user-agent"].startswith("upbit-assets/")
        assert request.headers["accept-encoding"] == "gzip"
        assert "origin" not in request.headers
        assert request.connection == 1, "the connection is kept"


@pytest.mark.parametrize(
    "number",
    [
        "1.16539E8",
        "9.9E-7",
        "0.00000000",
        "-0.0",
        "1234567890123456789012345678901234567890.000",
        "9" * 5000,
        "1e400",
    ],
)
def test_numbers_are_kept_exactly(exchange, client, number):
    exchange.answers = [Answer(f'[{{"market":"KRW-BTC","trade_price":{number}}}]'.encode())]
    assert client.tickers().rows == [f'{{"market":"KRW-BTC","trade_price":{number}}}']


def test_nan_in_one_row_does_not_lose_the_others(exchange, client):
    exchange.answers = [Answer(f'[{ROW},{{"market":"KRW-ODD","trade_price":NaN}},{ROW}]'.encode())]
    assert [row.market for row in client.tickers().rows] == ["KRW-BTC", "KRW-ODD", "KRW-BTC"]


def test_an_empty_array_is_accepted_if_there_may_be_no_rows(exchange, client):
    exchange.answers = [Answer(b"[]")] * 2
    assert client.candles("minutes/1", "KRW-BTC").rows == []
    assert client.trades("KRW-BTC").rows == []


@pytest.mark.parametrize(
    "ask",
    [UpbitClient.markets, UpbitClient.tickers, lambda client: client.orderbook(["KRW-BTC"])],
    ids=["markets", "tickers", "order books"],
)
def test_an_empty_array_is_retried_if_there_are_always_rows(exchange, client, waits, ask):
    exchange.answers = [Answer(b"[]"), GOOD]
    assert [row.market for row in ask(client).rows] == ["KRW-BTC"]
    assert len(waits) == 1


def test_invalid_utf8_affects_only_its_own_row(exchange, client):
    exchange.answers = [
        Answer(f'[{ROW},{{"market":"KRW-ODD","name":"'.encode() + b'\xed\xa0\x80"},' + ROW.encode() + b"]")
    ]
    assert [row.market for row in client.tickers().rows] == ["KRW-BTC", "KRW-ODD", "KRW-BTC"]


def test_gzip(exchange, client):
    body = f"[{','.join([ROW] * 9999)}]"
    exchange.answers = [Answer(gzip.compress(body.encode()), headers={"Content-Encoding": "gzip"})]
    assert client.tickers().text == body


def test_the_offline_exchange_is_recognised(exchange, client):
    exchange.answers = [Answer(headers={"X-Upbit-Simulated": "true"})]
    assert client.tickers().simulated


@pytest.mark.parametrize(
    "trouble",
    [
        TOO_MANY,
        Answer(HTML, 502),
        Answer(b"", 500),
        Answer(HTML),
        Answer(b""),
        Answer(b"[1,"),
        Answer(b'["\xff"]'),
        Answer(b'{"error":{}}'),
        Answer(b"[1, 2", missing=10),
        Answer(b"5\r\n[1", headers={"Transfer-Encoding": "chunked"}, missing=1),
        Answer(b"[1]", headers={"Content-Encoding": "gzip"}),
        Answer(reset=True),
        Answer(delay=60),
    ],
    ids=str,
)
def test_transient_failures_are_retried(exchange, hurried, waits, caplog, trouble):
    exchange.answers = [trouble, GOOD]
    assert hurried.tickers().rows == [ROW]
    assert len(exchange.requests) == 2
    assert len(waits) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Attempt 1 failed, retrying in " in caplog.text


def test_attempts_are_bounded_with_growing_waits(exchange, client, waits):
    exchange.answers = [Answer(HTML, 502)] * 9
    with pytest.raises(StatusError, match=r"status 502: '<html><title>Maintenance") as caught:
        client.tickers()
    assert caught.value.status == 502
    assert len(exchange.requests) == 5
    assert all(wait <= most for wait, most in zip(waits, [1, 2, 4, 8], strict=True))


def test_no_attempt_begins_after_the_deadline(exchange):
    exchange.answers = [Answer(delay=60)] * 9
    began = time.monotonic()
    with UpbitClient(exchange.url, read_timeout=0.1, deadline=0.5) as client, pytest.raises(TransportError):
        client.tickers()
    assert time.monotonic() - began < 3


def test_after_a_429_it_waits_for_the_next_second(exchange, waits):
    exchange.answers = [TOO_MANY, GOOD]
    with UpbitClient(exchange.url, sleep=waits.append) as client:
        client.tickers()
    first, second = (request.at for request in exchange.requests)
    assert 1 < second - first < 5


def test_a_418_is_not_retried_and_has_the_end_of_the_block(exchange, client):
    blocked = b'{"error":{"name":418,"message":"Blocked for 90 seconds"}}'
    exchange.answers = [TOO_MANY, Answer(blocked, 418), GOOD]
    with pytest.raises(
        BlockedError, match=r"blocked this IP address until 2\d{3}-.* UTC: 'Blocked for 90 seconds'"
    ) as caught:
        client.tickers()
    assert len(exchange.requests) == 2
    assert caught.value.until is not None
    assert abs(caught.value.until - datetime.now(UTC) - timedelta(seconds=90)) < timedelta(seconds=5)


@pytest.mark.parametrize("said", [b"", b"Blocked", b'{"error":{"name":"blocked","message":"Blocked"}}'])
def test_no_calls_are_made_while_blocked(exchange, client, said):
    exchange.answers = [Answer(said, 418, missing=1), GOOD]
    for call in (client.tickers, client.tickers, client.markets):
        with pytest.raises(BlockedError, match="without saying until when") as caught:
            call()
        assert caught.value.until is None
    assert len(exchange.requests) == 1


def test_a_block_holds_for_all_clients_of_the_exchange(exchange, client):
    exchange.answers = [Answer(b"blocked for 90 seconds", 418), GOOD]
    with pytest.raises(BlockedError):
        client.tickers()
    with UpbitClient(exchange.url + "/", background=True) as another, pytest.raises(BlockedError, match="90 seconds"):
        another.candles("days", "KRW-BTC")
    assert len(exchange.requests) == 1


def test_calls_continue_after_the_block(exchange, client):
    exchange.answers = [Answer(b"blocked for 1 second", 418), GOOD]
    with pytest.raises(BlockedError):
        client.tickers()
    time.sleep(1)
    assert client.tickers().rows


@pytest.mark.parametrize(
    ("status", "body", "name", "message"),
    [
        (404, b'{"error":{"name":404,"message":"Code not found"}}', 404, "Code not found"),
        (404, b'{"error":{"name":"not_found","message":"no Route"}}', "not_found", "no Route"),
        (400, b"", "", ""),
        (403, HTML, "", HTML.decode()),
    ],
)
def test_permanent_failures_are_not_retried(exchange, client, waits, status, body, name, message):
    exchange.answers = [Answer(body, status), GOOD]
    with pytest.raises(StatusError, match=f"with status {status}") as caught:
        client.tickers()
    assert (caught.value.status, caught.value.name, caught.value.message) == (status, name, message)
    assert (len(exchange.requests), waits) == (1, [])


def test_redirects_are_not_followed(exchange, client):
    exchange.answers = [Answer(b"", 302, {"Location": "http://elsewhere.example/"}), GOOD]
    with pytest.raises(StatusError, match=r"Redirect to http://elsewhere\.example/, not followed"):
        client.tickers()
    assert len(exchange.requests) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(HTML), "is not one. It begins with '<html><title>"),
        (Answer(b""), "is empty. It begins with ''"),
        (Answer(b'{"a":1}'), """is not one. It begins with '{"a":1}'"""),
        (Answer(b'[{"a":1},{"b"'), "is truncated or invalid JSON at character 13. It begins with "),
        (
            Answer(b'["\xff\x1b[31m"]'),
            "is truncated or invalid JSON at character 2. It begins with '[\"\ufffd\\x1b[31m\"]'",
        ),
        (Answer(b"[]"), "has no rows. It begins with '[]'"),
        (Answer(b'[{"a":1},', missing=99), "was cut off after 9 bytes. It begins with "),
        (Answer(b"[" + b" " * 2000 + b"]"), "is larger than 1,000 bytes. It begins with "),
        (
            Answer(gzip.compress(b" " * 9_000_000), headers={"Content-Encoding": "gzip"}),
            "is larger than 1,000 bytes",
        ),
    ],
    ids=["HTML", "empty", "object", "cut JSON", "not UTF-8", "no rows", "broken off", "large", "large once unpacked"],
)
def test_an_unexpected_body_is_quoted(exchange, waits, answer, said):
    exchange.answers = [answer] * 2
    client = UpbitClient(exchange.url, max_bytes=1000, attempts=2, sleep=waits.append)
    with client, pytest.raises(UnexpectedBodyError) as caught:
        client.tickers()
    assert f"Expected a JSON array from {exchange.url}/v1/ticker/all?quote_currencies=" in str(caught.value)
    assert f"the body {said}" in str(caught.value)


def test_a_slowly_dripping_body_ends_at_the_deadline(exchange, waits):
    exchange.answers = [Answer(b" " * 100 + b"[]", drip=0.05)]
    client = UpbitClient(exchange.url, deadline=0.3, sleep=waits.append)
    with client, pytest.raises(UnexpectedBodyError, match="timed out after"):
        client.tickers()


def test_nothing_listens(waits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with UpbitClient(url, sleep=waits.append) as client, pytest.raises(TransportError) as caught:
        client.tickers()
    assert str(caught.value) == (
        f"The exchange at {url} cannot be reached: connection refused. "
        "Check the network, and UPBIT_API_URL if it is set."
    )
    assert len(waits) == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(reset=True), "the connection was closed without a response"),
        (Answer(delay=60), "the response timed out"),
    ],
)
def test_no_answer(exchange, waits, answer, reason):
    exchange.answers = [answer] * 5
    with (
        UpbitClient(exchange.url, read_timeout=0.1, sleep=waits.append) as client,
        pytest.raises(TransportError, match=reason),
    ):
        client.tickers()
    assert len(waits) == 4


def test_a_server_that_does_not_speak_http(waits):
    def greet() -> None:
        with server.accept()[0] as connection:
            connection.sendall(b"220 mail.example ready\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        client = UpbitClient(url, attempts=1, read_timeout=10)
        thread = Thread(target=greet)
        thread.start()
        with client, pytest.raises(TransportError):
            client.tickers()
        thread.join()


@pytest.mark.parametrize("url", ["api.upbit.com", "", "ftp://api.upbit.com", "http://", "http://[", "htp//x"])
def test_an_invalid_url_is_not_retried(waits, url):
    with (
        UpbitClient(url, sleep=waits.append) as client,
        pytest.raises(TransportError, match="is invalid"),
    ):
        client.tickers()
    assert waits == []


def test_no_secret_is_shown(exchange, waits, caplog):
    with UpbitClient(exchange.url.replace("//", "//someone:hush@"), attempts=2, sleep=waits.append) as client:
        exchange.answers = [GOOD, Answer(HTML), Answer(reset=True), Answer(status=404)]
        told = client.tickers().url
        for _ in range(2):
            with pytest.raises(UpbitError) as caught:
                client.tickers()
            told += str(caught.value)
    assert "hush" not in told + caplog.text


def test_an_exhausted_quota_waits_for_the_next_second(exchange):
    exchange.answers = [Answer(headers={"Remaining-Req": "group=any; min=600; sec=0"}), Answer(), Answer()]
    waited: list[float] = []
    limits = Limits(exchange.url, clock=lambda: sum(waited), sleep=waited.append)
    with UpbitClient(exchange.url, limits=limits) as client:
        client.tickers()
        client.markets()
        assert waited == [], "another group has calls of its own"
        client.tickers()
    assert 1 <= sum(waited) < 1.01


def test_a_call_without_a_response_releases_its_slot(waits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    client = UpbitClient(url, attempts=2, sleep=waits.append, limits=Limits(url, 1))
    with client, pytest.raises(TransportError):
        client.tickers()
    assert len(waits) == 1, "the second attempt was made"


def test_threads_fetch_through_one_background_client_as_fast_as_is_permitted():
    with running(market_count=3) as handle, UpbitClient(handle.url, background=True, attempts=1) as client:
        client.orderbook(["KRW-BTC"])
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            replies = list(threads.map(lambda _: client.orderbook(["KRW-BTC"]), range(25)))
        assert len(replies) == 25
        assert time.monotonic() - began < 10, "sequentially they would take 25"


def test_calls_are_reported_by_group_with_rejections_and_the_fewest_left(exchange, waits):
    exchange.answers = [
        TOO_MANY,
        Answer(headers={"Remaining-Req": "group=ticker; min=600; sec=8"}),
        Answer(b"blocked for 90 seconds", 418),
    ]
    reports: list[Mapping[str, Usage]] = []
    with UpbitClient(exchange.url, sleep=waits.append, report=reports.append) as client:
        client.tickers()
        with pytest.raises(BlockedError):
            client.markets()
        assert reports == [], "they are reported every ten seconds"
    [usage] = reports
    assert (usage["ticker"].calls, usage["ticker"].too_many_requests) == (2, 1)
    assert usage["ticker"].calls_left == 0
    assert (usage["market"].calls, usage["market"].blocked) == (1, 1)
    assert usage["market"].blocked_until is not None
    assert usage["market"].blocked_until > datetime.now(UTC)
