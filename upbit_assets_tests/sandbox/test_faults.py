import gzip
import json
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from upbit_assets_tests import http

TICKER = "/v1/ticker?markets=KRW-BTC,KRW-ETH"


def fetch(exchange, target=TICKER, **options):
    return http.get(exchange.url + target, timeout=60, **options)


def test_a_status_comes_with_the_body_type_and_headers_requested(exchange):
    exchange.faults.add(
        "ticker",
        "status",
        status=502,
        body="<h1>Bad Gateway</h1>",
        content_type="text/html",
        headers={"Retry-After": "3"},
    )
    reply = fetch(exchange)
    assert (reply.status_code, reply.text) == (502, "<h1>Bad Gateway</h1>")
    assert (reply.headers["content-type"], reply.headers["retry-after"]) == ("text/html", "3")
    assert reply.headers["x-upbit-simulated"] == "true"


@pytest.mark.parametrize("status", [200, 400, 418, 429, 500, 503])
def test_a_status_alone_is_an_error_of_the_exchange(exchange, status):
    exchange.faults.add("ticker", "status", status=status)
    reply = fetch(exchange)
    assert (reply.status_code, reply.json()["error"]["name"]) == (status, status)


def test_a_fault_hits_only_what_it_matches(exchange):
    exchange.faults.add(r"^/v1/ticker\?markets=KRW-BTC,", "status", status=500)
    assert fetch(exchange).status_code == 500
    assert fetch(exchange, "/v1/ticker?markets=KRW-ETH").status_code == 200


def test_a_fault_matches_the_unescaped_query(exchange):
    exchange.faults.add("KRW-BTC,KRW-ETH", "status", status=500)
    assert fetch(exchange, "/v1/ticker?markets=KRW-BTC%2CKRW-ETH").status_code == 500


def test_a_fault_skips_the_first_requests_and_ends_after_so_many(exchange):
    exchange.faults.add("ticker", "status", status=503, skip=1, times=2)
    assert [fetch(exchange).status_code for _ in range(5)] == [200, 503, 503, 200, 200]


def test_a_body_is_sent_as_it_is(exchange):
    body = '[{"market":"KRW-BTC","trade_price":NaN}]'
    exchange.faults.add("ticker", "body", body=body)
    assert fetch(exchange).text == body


def test_an_empty_reply_is_an_empty_array(exchange):
    exchange.faults.add("ticker", "empty")
    assert fetch(exchange).json() == []


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_cut_reply_claims_to_be_whole(exchange, encoding):
    whole = fetch(exchange).text
    exchange.faults.add("ticker", "cut")
    reply = fetch(exchange, headers={"Accept-Encoding": encoding})
    assert reply.text == whole[: len(whole) // 2]
    with pytest.raises(requests.exceptions.JSONDecodeError):
        reply.json()


def test_a_cut_connection_sends_less_than_it_promised(exchange):
    exchange.faults.add("ticker", "cut", closes=True, times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        fetch(exchange)
    assert fetch(exchange).status_code == 200


def test_a_reset_is_a_reset_on_the_wire(exchange):
    exchange.faults.add("ticker", "reset", times=1)
    address = urlsplit(exchange.url)
    with socket.create_connection((address.hostname, address.port), 5) as raw:
        raw.sendall(b"GET /v1/ticker?markets=KRW-BTC HTTP/1.1\r\nHost: exchange\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)
    assert fetch(exchange).status_code == 200


def test_a_slow_reply_is_late_but_right(exchange):
    exchange.faults.add("ticker", "slow", seconds=0.3)
    start = time.monotonic()
    assert len(fetch(exchange).json()) == 2
    assert time.monotonic() - start >= 0.3


def test_a_slow_reply_exceeds_a_short_timeout(exchange):
    # not tickers: the reply is made after the test, and would be the one that another test has repeated
    exchange.faults.add("market/all", "slow", seconds=1)
    with pytest.raises(requests.exceptions.ReadTimeout):
        http.get(exchange.url + "/v1/market/all", timeout=0.1)


def test_slow_can_be_combined_with_another_fault(exchange):
    exchange.faults.add("", "slow", seconds=0.1)
    exchange.faults.add("", "status", status=504)
    reply = fetch(exchange)
    assert reply.status_code == 504
    assert reply.elapsed.total_seconds() >= 0.1


RAW = ["NaN", "null", '"91200000"', "-1", "1" * 40, "1E400", "9.9E-7", r'"\u0000"', r'"\ud800"', "{}", "tru"]


@pytest.mark.parametrize("text", RAW)
def test_a_field_can_be_replaced_by_any_text(exchange, text):
    exchange.faults.add("ticker", "rows", rows=[{"market": "KRW-BTC", "set": {"trade_price": text}}])
    first, second = fetch(exchange).text.split("},{")
    assert f'"trade_price":{text},' in first
    assert f'"trade_price":{text},' not in second


def test_rows_lose_fields_gain_unknown_ones_and_come_twice(exchange):
    changes = [
        {"market": "KRW-BTC", "drop": ["trade_price", "timestamp"], "duplicate": 2},
        {"market": "*", "set": {"brand_new": "[1]"}},
    ]
    exchange.faults.add("ticker", "rows", rows=changes)
    rows = fetch(exchange).json()
    assert [row["market"] for row in rows] == ["KRW-BTC"] * 3 + ["KRW-ETH"]
    assert all(row["brand_new"] == [1] for row in rows)
    assert ["trade_price" in row for row in rows] == [False, False, False, True]


@pytest.mark.parametrize("code", ["XAU-BTC", "KRW-'; DROP TABLE ticker; --", "KRW-\N{HANGUL SYLLABLE GA}", "", "../.."])
def test_a_market_can_have_any_code(exchange, code):
    exchange.faults.add("", "rows", rows=[{"market": "KRW-BTC", "set": {"market": json.dumps(code)}}])
    assert fetch(exchange).json()[0]["market"] == code
    assert fetch(exchange, "/v1/market/all").json()[0]["market"] == code


CANDLES = "/v1/candles/minutes/1?market=KRW-BTC&count=4"


def test_rows_of_one_market_are_distinguished_by_index(exchange):
    whole = fetch(exchange, CANDLES).json()
    changes = [{"index": 0, "set": {"unit": "7"}}, {"index": -1, "duplicate": 1}, {"market": "KRW-ETH", "index": 1}]
    exchange.faults.add("candles/minutes/1[?].*count=4", "rows", rows=changes)
    assert fetch(exchange, CANDLES).json() == [whole[0] | {"unit": 7}, *whole[1:], whole[-1]]
    assert fetch(exchange, CANDLES.replace("4", "3")).json() == whole[:3]


@pytest.mark.parametrize("target", [CANDLES, "/v1/trades/ticks?market=KRW-BTC", "/v1/orderbook?markets=KRW-BTC"])
def test_every_path_can_fail(exchange, target):
    exchange.faults.add("[/]v1.(candles|trades|orderbook)", "status", status=503, times=1)
    exchange.faults.add("KRW-BTC", "rows", rows=[{"market": "*", "drop": ["market"]}, {"index": 0, "duplicate": 1}])
    assert fetch(exchange, target).status_code == 503
    first, second, *_ = fetch(exchange, target).json()
    assert first == second
    assert "market" not in first


def test_a_fault_leaves_compression_as_it_is(exchange):
    exchange.faults.add("ticker", "body", body="[]")
    reply = fetch(exchange, headers={"Accept-Encoding": "gzip"}, stream=True)
    assert gzip.decompress(reply.raw.read()) == b"[]"


def test_faults_are_switched_over_http(exchange):
    url = exchange.url + "/_sandbox/faults"
    fault = {"match": "ticker", "kind": "status", "status": 429, "times": 1}
    assert http.put(url, json=[fault], timeout=60).status_code == 200
    assert fault.items() <= http.get(url, timeout=60).json()[0].items()
    assert [fetch(exchange).status_code for _ in range(2)] == [429, 200]
    assert http.get(url, timeout=60).json()[0]["seen"] == 2
    assert http.delete(url, timeout=60).json() == []
    assert exchange.faults.show() == []


def test_faults_do_not_apply_to_their_own_endpoint(exchange):
    exchange.faults.add("", "status", status=500)
    assert http.delete(exchange.url + "/_sandbox/faults", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "senseless",
    [
        [{"match": "(", "kind": "empty"}],
        [{"match": "x", "kind": "flood"}],
        [{"match": "x", "kind": "empty", "colour": 1}],
        [{"match": "x", "kind": "status", "status": 99}],
        [{"match": "x", "kind": "rows", "rows": [{"drop": []}]}],
        [{"kind": "empty"}],
        [1],
        {"match": "x"},
        None,
    ],
)
def test_an_invalid_fault_is_rejected_and_changes_nothing(exchange, senseless):
    exchange.faults.add("nothing", "empty")
    reply = http.put(exchange.url + "/_sandbox/faults", json=senseless, timeout=60)
    assert reply.status_code == 400
    assert [fault["match"] for fault in exchange.faults.show()] == ["nothing"]


def test_a_random_fault_is_reproducible(exchange):
    hit = []
    for _ in range(2):
        exchange.faults.replace([{"match": "market", "kind": "empty", "chance": 0.3}])
        hit.append([fetch(exchange, "/v1/market/all").text == "[]" for _ in range(40)])
    assert 4 <= sum(hit[0]) <= 20
    assert hit[0] == hit[1]


def test_a_short_page_looks_like_the_last_one(exchange):
    candles = "/v1/candles/minutes/1?market=KRW-BTC&count=100&to=2026-01-01T00:00:00"
    whole = fetch(exchange, candles).json()
    exchange.faults.add("candles", "short")
    assert fetch(exchange, candles).json() == whole[:50]


@pytest.mark.parametrize(
    "target", ["/v1/candles/minutes/1?market=KRW-BTC&count=9", "/v1/trades/ticks?market=KRW-BTC&count=99"]
)
def test_the_newest_rows_come_late(exchange, target):
    newest = fetch(exchange, target).json()[0]["timestamp"]
    exchange.faults.add("candles|trades", "late", seconds=600)
    assert all(row["timestamp"] < newest - 300_000 for row in fetch(exchange, target).json())


def test_a_reply_is_repeated_for_any_query(exchange):
    former = fetch(exchange, "/v1/ticker?markets=KRW-BTC").text
    exchange.faults.add("ticker", "repeat")
    assert fetch(exchange, "/v1/ticker?markets=KRW-ETH").text == former


def test_a_row_can_be_removed(exchange):
    exchange.faults.add("ticker", "rows", rows=[{"market": "KRW-BTC", "duplicate": -1}])
    assert [row["market"] for row in fetch(exchange).json()] == ["KRW-ETH"]
