import json
from contextlib import suppress
from datetime import UTC, datetime, time
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from upbit_assets.local_http import session_for
from upbit_assets.sandbox.endpoints import Endpoints, RequestError
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.server import running
from upbit_assets_tests import http
from upbit_assets_tests.sandbox.conftest import AT

MARKET = Market(count=30)
FIELDS = """
market trade_date trade_time trade_date_kst trade_time_kst trade_timestamp opening_price high_price low_price
trade_price prev_closing_price change change_price change_rate signed_change_price signed_change_rate trade_volume
acc_trade_price acc_trade_price_24h acc_trade_volume acc_trade_volume_24h highest_52_week_price
highest_52_week_date lowest_52_week_price lowest_52_week_date timestamp
"""


ENDPOINTS = Endpoints(MARKET, lambda: AT)
BEFORE = MARKET.trades("BTC-ETH", AT, days_ago=7, to=time(12, 34, 56))
BOOKS = [MARKET.orderbook(market, AT) for market in ("KRW-BTC", "BTC-ETH")]
GROUPED = [MARKET.orderbook("KRW-BTC", AT, level=Decimal(10000), count=2)]


class Client:
    def __init__(self, url):
        self.url, self.session = url, session_for(url)

    def get(self, target, **options):
        return self.session.get(self.url + target, timeout=60, **options)

    def post(self, target):
        return self.session.post(self.url + target, timeout=60)


class Watch:
    """A clock of seconds that a test sets."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


WATCH = Watch()


@pytest.fixture
def watch():
    WATCH.now += 100_000  # quotas and blocks of earlier tests have expired
    return WATCH


@pytest.fixture(scope="module")
def served():
    with running(30, lambda: AT, seconds=WATCH) as handle:
        yield handle


@pytest.fixture
def client(served, watch):
    return Client(served.url)


def failure(status, message, name=None):
    return status, {"error": {"name": name or status, "message": message}}


MISSING = failure(400, "Missing request parameter error. Check the required parameters!")
MISMATCH = failure(400, "Type mismatch error. Check the parameters type!")
INVALID = failure(400, "Invalid parameter. Check the given value!")
UNKNOWN = failure(404, "Code not found")
UNROUTED = failure(404, "no Route matched with those values", "not_found")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/ticker?markets=KRW-NOPE", UNKNOWN),
        ("/v1/ticker?markets=KRW-BTC,KRW-NOPE", UNKNOWN),
        ("/v1/ticker?markets=", UNKNOWN),
        ("/v1/ticker", MISSING),
        ("/v1/ticker/all", MISSING),
        ("/v1/market/all?is_details=perhaps", MISMATCH),
        ("/v1/trades/ticks", MISSING),
        ("/v1/trades/ticks?market=KRW-NOPE", UNKNOWN),
        ("/v1/trades/ticks?market=KRW-BTC&count=abc", MISMATCH),
        ("/v1/trades/ticks?market=KRW-BTC&cursor=abc", MISMATCH),
        ("/v1/trades/ticks?market=KRW-BTC&days_ago=8", INVALID),
        ("/v1/trades/ticks?market=KRW-BTC&to=240000", INVALID),
        ("/v1/orderbook", MISSING),
        ("/v1/orderbook?markets=KRW-BTC,KRW-NOPE", UNKNOWN),
        ("/v1/orderbook?markets=KRW-BTC&count=abc", MISMATCH),
        ("/v1/orderbook?markets=KRW-BTC&level=abc", MISMATCH),
        ("/v1/orderbook/instruments", MISSING),
        ("/v1/orderbook/instruments?markets=KRW-NOPE", UNKNOWN),
        ("/v1/candles/days", MISSING),
        ("/v1/candles/days?market=KRW-NOPE", UNKNOWN),
        ("/v1/candles/days?market=KRW-BTC&count=", MISMATCH),
        ("/v1/candles/days?market=KRW-BTC&count=0", INVALID),
        ("/v1/candles/days?market=KRW-BTC&to=yesterday", INVALID),
        ("/v1/candles/days?market=KRW-BTC&converting_price_unit=BTC", INVALID),
        ("/v1/candles/minutes/7?market=KRW-BTC", failure(400, "specified unit is not valid.")),
        ("/v1/candles/minutes/one?market=KRW-BTC", MISMATCH),
        ("/v1/candles/minutes?market=KRW-BTC", UNROUTED),
        ("/v1/candles/hours?market=KRW-BTC", UNROUTED),
        ("/v1/nope", UNROUTED),
        ("/v1/ticker/", UNROUTED),
    ],
)
def test_errors_have_the_exchanges_wording(client, target, expected):
    reply = client.get(target)
    assert (reply.status_code, reply.json()) == expected


def test_other_methods_are_not_routed(client):
    reply = client.post("/v1/ticker?markets=KRW-BTC")
    assert (reply.status_code, reply.json()) == UNROUTED


def test_a_ticker_has_the_real_fields_in_order(client):
    (row,) = client.get("/v1/ticker?markets=KRW-BTC").json()
    assert list(row) == FIELDS.split()
    assert (row["market"], row["trade_date"], row["trade_time_kst"][:2]) == ("KRW-BTC", "20260730", "16")


def test_the_wire_carries_the_markets_own_decimals(client):
    text = client.get("/v1/ticker?markets=KRW-BTC,BTC-ETH").text
    rows = json.loads(text, parse_float=Decimal)
    assert rows == [MARKET.ticker(market, AT) for market in ("KRW-BTC", "BTC-ETH")]


def test_lower_case_codes_are_accepted_and_rows_come_in_the_order_requested(client):
    rows = client.get("/v1/ticker", params={"markets": "krw-eth,KRW-BTC"}).json()
    assert [row["market"] for row in rows] == ["KRW-ETH", "KRW-BTC"]


def test_tickers_of_quote_currencies_are_those_of_all_their_markets(client):
    pairs = [row["market"] for row in client.get("/v1/market/all").json()]
    rows = client.get("/v1/ticker/all?quote_currencies=KRW,usdt").json()
    assert [row["market"] for row in rows] == [code for code in pairs if not code.startswith("BTC-")]


def test_pairs_have_details_only_on_request(client):
    assert set(client.get("/v1/market/all").json()[0]) == {"market", "korean_name", "english_name"}
    event = client.get("/v1/market/all?is_details=true").json()[0]["market_event"]
    assert list(event) == ["warning", "caution"]
    assert list(event["caution"]) == [
        "PRICE_FLUCTUATIONS",
        "TRADING_VOLUME_SOARING",
        "DEPOSIT_AMOUNT_SOARING",
        "GLOBAL_PRICE_DIFFERENCES",
        "CONCENTRATION_OF_SMALL_ACCOUNTS",
    ]


@pytest.mark.parametrize(
    ("target", "rows"),
    [
        ("/v1/trades/ticks?market=krw-btc&count=3", MARKET.trades("KRW-BTC", AT, count=3)),
        ("/v1/trades/ticks?market=KRW-BTC", MARKET.trades("KRW-BTC", AT)),
        ("/v1/trades/ticks?market=KRW-BTC&count=501", MARKET.trades("KRW-BTC", AT, count=500)),
        ("/v1/trades/ticks?market=BTC-ETH&days_ago=7&to=123456", BEFORE),
        ("/v1/trades/ticks?market=BTC-ETH&days_ago=7&to=12:34:56", BEFORE),
        ("/v1/orderbook?markets=KRW-BTC,BTC-ETH&count=50", BOOKS),
        ("/v1/orderbook?markets=KRW-BTC,BTC-ETH&level=0", BOOKS),
        ("/v1/orderbook?markets=KRW-BTC,BTC-ETH&level=10000.0&count=2", GROUPED),
        ("/v1/orderbook?markets=BTC-ETH&level=100", []),
        ("/v1/orderbook/instruments?markets=KRW-BTC", [MARKET.instrument("KRW-BTC", AT)]),
        ("/v1/candles/days?market=KRW-BTC&count=201", MARKET.candles("KRW-BTC", AT, "days", count=200)),
        ("/v1/candles/days?market=KRW-BTC&to=", MARKET.candles("KRW-BTC", AT, "days")),
        (
            "/v1/candles/days?market=BTC-ETH&converting_price_unit=KRW",
            MARKET.candles("BTC-ETH", AT, "days", converted=True),
        ),
        *((f"/v1/candles/{unit}?market=KRW-BTC", MARKET.candles("KRW-BTC", AT, unit)) for unit in ("years", "seconds")),
    ],
)
def test_a_path_answers_with_the_markets_rows(client, target, rows):
    assert json.loads(client.get(target).text, parse_float=Decimal) == rows


@pytest.mark.parametrize(
    "to",
    [
        "2026-07-01T04:56:53Z",
        "2026-07-01 04:56:53",
        "2026-07-01T04:56:53",
        "2026-07-01T13:56:53%2B09:00",
        "2026-07-01%2012:56:53%2B08:00",
    ],
)
def test_times_are_accepted_in_several_formats(client, to):
    (row,) = client.get(f"/v1/candles/minutes/1?market=KRW-BTC&to={to}").json()
    assert (row["candle_date_time_utc"], row["unit"]) == ("2026-07-01T04:56:00", 1)


texts = st.one_of(
    st.text(), st.integers().map(str), st.datetimes(timezones=st.timezones()).map(str), st.just("KRW-BTC")
)
NAMES = ["market", "markets", "count", "to", "cursor", "days_ago", "level", "quote_currencies", "converting_price_unit"]


@given(st.sampled_from(ENDPOINTS.paths()), st.dictionaries(st.sampled_from(NAMES), texts))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_query_gets_a_reply_or_a_client_error(path, query):
    endpoint = ENDPOINTS.find(path)
    assert endpoint
    with suppress(RequestError):
        rows = endpoint[1](QueryParams({"market": "KRW-BTC", "markets": "KRW-BTC"} | query))
        assert all("market" in row for row in rows)


def test_every_quotation_reply_carries_the_exchanges_headers(client):
    for target in ("/v1/ticker?markets=KRW-BTC", "/v1/ticker", "/v1/ticker?markets=KRW-NOPE"):
        headers = client.get(target).headers
        assert headers["limit-by-ip"] == "Yes"
        assert headers["content-type"] == "application/json;charset=UTF-8"
        assert headers["cache-control"] == "no-cache, no-store, max-age=0, must-revalidate"
        assert (headers["pragma"], headers["expires"]) == ("no-cache", "0")
        assert headers["etag"].startswith('W/"')
        assert headers["date"] == "Thu, 30 Jul 2026 07:41:01 GMT"
        assert "vary" in headers
        assert headers["remaining-req"].startswith("group=ticker; min=600; sec=")


def test_an_unrouted_path_spends_no_quota(client):
    assert "remaining-req" not in client.get("/v1/nope").headers


def test_a_reply_is_compressed_only_on_request(client):
    packed = client.get("/v1/market/all", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/v1/market/all", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()


@pytest.mark.parametrize(
    "target", ["/", "/_sandbox/health", "/_sandbox/faults", "/v1/market/all", "/v1/ticker", "/v1/nope", "/x"]
)
def test_every_reply_is_marked_as_simulated(client, target):
    assert client.get(target).headers["x-upbit-simulated"] == "true"


def test_an_internal_error_is_marked_as_simulated_too():
    def broken():
        raise RuntimeError

    with running(3, broken) as handle:
        reply = Client(handle.url).get("/v1/market/all")
    assert (reply.status_code, reply.headers["x-upbit-simulated"]) == (500, "true")


def test_the_front_page_describes_the_service(client):
    assert "simulation" in client.get("/").json()["about"]
    assert client.get("/_sandbox/health").json() == {"simulated": True, "status": "up", "markets": 30}


def calls(client, n, target="/v1/ticker?markets=KRW-BTC", **options):
    return [client.get(target, **options) for _ in range(n)]


def statuses(replies):
    return [reply.status_code for reply in replies]


def test_ten_calls_a_second_are_free_and_counted_down(client, watch):
    for _ in range(2):
        remaining = [reply.headers["remaining-req"].rpartition("=")[2] for reply in calls(client, 10)]
        assert remaining == list("9876543210")
        watch.now += 1


def test_groups_are_counted_apart(client):
    others = ("market/all", "trades/ticks?market=KRW-BTC", "orderbook?markets=KRW-BTC", "candles/days?market=KRW-BTC")
    replies = calls(client, 10) + [reply for target in others for reply in calls(client, 10, f"/v1/{target}")]
    assert statuses(replies) == [200] * 50
    groups = [reply.headers["remaining-req"] for reply in replies[::10]]
    assert groups == [f"group={g}; min=600; sec=9" for g in ("ticker", "market", "trade", "orderbook", "candle")]


def test_units_of_candles_are_counted_together(client):
    targets = ["/v1/candles/days?market=KRW-BTC", "/v1/candles/minutes/1?market=KRW-BTC", "/v1/candles/minutes/7"]
    replies = [reply for target in targets for reply in calls(client, 5, target)]
    assert statuses(replies) == [200] * 10 + [429] * 5


def test_the_eleventh_call_of_a_second_is_too_many(client, watch):
    late = calls(client, 11)[-1]
    assert late.status_code == 429
    assert late.headers["remaining-req"] == "group=ticker; min=600; sec=0"
    watch.now += 1
    assert statuses(calls(client, 1)) == [200]


def test_calls_after_a_429_are_blocked_in_all_groups_and_longer_each_time(client, watch):
    blocks = []
    for _ in range(3):
        replies = calls(client, 16)
        assert statuses(replies) == [200] * 10 + [429] * 5 + [418]
        until = datetime.fromisoformat(replies[-1].json()["error"]["message"].split()[-1].rstrip("."))
        blocks.append(until.timestamp() - watch.now)
        assert statuses(calls(client, 1, "/v1/market/all")) == [418]
        watch.now = until.timestamp() - 0.5
        assert statuses(calls(client, 1)) == [418]
        watch.now += 1
    assert until.tzinfo == UTC
    assert blocks == sorted(set(blocks))


def test_with_an_origin_there_is_one_call_in_ten_seconds(client, watch):
    origin = {"headers": {"Origin": "https://example.com"}}
    first, second = calls(client, 2, "/v1/market/all", **origin)
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["remaining-req"] == "group=origin; min=6; sec=0"
    watch.now += 10
    assert statuses(calls(client, 1, **origin)) == [200]


def test_a_regional_host_has_no_korean_fields():
    with running(market_count=30, regional=True) as regional, running(market_count=30) as korean:

        def only_korean(path):
            one, other = (http.get(host.url + path, timeout=60).json()[0] for host in (korean, regional))
            return set(one) - set(other), set(other) - set(one)

        kst = {"candle_date_time_kst"}
        assert only_korean("/v1/candles/minutes/1?market=KRW-BTC") == (kst, set())
        assert only_korean("/v1/ticker?markets=KRW-BTC") == ({"trade_date_kst", "trade_time_kst"}, set())
        assert only_korean("/v1/orderbook?markets=KRW-BTC") == ({"level"}, set())
        names = {"korean_name", "market_event"}
        assert only_korean("/v1/market/all?is_details=true") == (names, {"market_warning"})
        assert http.get(f"{regional.url}/v1/orderbook?markets=KRW-BTC&level=0", timeout=60).status_code == 400
