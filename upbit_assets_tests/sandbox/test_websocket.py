import json

import pytest
from websockets.exceptions import InvalidStatus

from upbit_assets.sandbox import frames
from upbit_assets_tests.sandbox.streaming import stepped_world, wanted


@pytest.fixture(scope="module")
def shared():
    with stepped_world() as world:
        yield world


@pytest.fixture
def world(shared):
    shared.handle.faults.clear()
    shared.seconds.value += 1000
    return shared


BTC = wanted("trade", "KRW-BTC")


def kinds(told):
    return [(frame["type"], frame["code"], frame["stream_type"]) for frame in told]


def test_the_upgrade_has_the_simulation_and_rate_limit_headers(world):
    with world.connected() as client:
        headers = client.socket.response.headers
    assert headers["X-Upbit-Simulated"] == "true"
    assert headers["Remaining-Req"] == "group=websocket; min=300; sec=4"
    assert "Sec-WebSocket-Extensions" not in headers


def test_another_path_is_not_routed(world):
    with pytest.raises(InvalidStatus) as refused, world.connected(path="/websocket/v2"):
        pass
    assert refused.value.response.status_code == 404


def test_a_snapshot_comes_first_then_updates(world):
    with world.connected() as client:
        client.subscribe(wanted("trade", "KRW-BTC", "KRW-ETH"), wanted("ticker", "KRW-BTC"))
        assert client.due() == []
        early = client.due(0.2)
        late = client.due(0.2)
        assert kinds(early + late) == [
            ("trade", "KRW-BTC", "SNAPSHOT"),
            ("trade", "KRW-ETH", "SNAPSHOT"),
            ("ticker", "KRW-BTC", "SNAPSHOT"),
        ]
        assert len(early) == 2
        later = client.due(step=5)
        assert len(later) > 5
        assert {frame["stream_type"] for frame in later} == {"REALTIME"}


def test_only_snapshots_or_only_updates(world):
    only = wanted("trade", "KRW-BTC", is_only_snapshot=True), wanted("ticker", "KRW-BTC", is_only_realtime=True)
    with world.subscribed(*only) as client:
        assert kinds(client.snapshots) == [("trade", "KRW-BTC", "SNAPSHOT")]
        assert set(kinds(client.due(step=5))) == {("ticker", "KRW-BTC", "REALTIME")}


def test_a_new_request_replaces_the_subscription(world):
    with world.subscribed(BTC) as client:
        client.subscribe(wanted("ticker", "KRW-BTC"))
        assert kinds(client.due(0.5)) == [("ticker", "KRW-BTC", "SNAPSHOT")]
        assert {frame["type"] for frame in client.due(step=5)} == {"ticker"}


def test_unknown_and_lower_case_codes_get_no_frames(world):
    with world.subscribed(wanted("trade", "KRW-NOPE", "krw-btc", "KRW-ETH"), wanted("orderbook", "")) as client:
        assert kinds(client.snapshots) == [("trade", "KRW-ETH", "SNAPSHOT")]
        assert {frame["code"] for frame in client.due(step=20)} <= {"KRW-ETH"}


@pytest.mark.parametrize(
    ("suffix", "count"), [("", 30), (".1", 1), (".5", 5), (".15", 15), (".30", 30), (".20", 30), (".x", 30)]
)
def test_the_suffix_of_a_code_is_how_many_prices_its_book_has(world, suffix, count):
    with world.subscribed(wanted("orderbook", "KRW-BTC" + suffix)) as client:
        (book,) = client.snapshots
    assert (book["code"], len(book["orderbook_units"])) == ("KRW-BTC", count)


def test_books_come_in_levels_where_there_are_any(world):
    books = wanted("orderbook", "KRW-BTC", "BTC-ETH", level=100000), wanted("orderbook", "KRW-BTC", level=7)
    with world.subscribed(*books) as client:
        (book,) = client.snapshots
        assert book["level"] == 100_000
        assert all(unit["ask_price"] % 100_000 == 0 for unit in book["orderbook_units"])
        assert {(book["code"], book["level"]) for book in client.due(step=1)} == {("KRW-BTC", 100_000)}


def test_the_subscription_is_listed_and_its_format_can_be_switched(world):
    with world.subscribed(wanted("trade", "KRW-BTC"), wanted("orderbook", "KRW-ETH.5", level=0)) as client:
        client.send({"method": "LIST_SUBSCRIPTIONS"})
        result = [wanted("trade", "KRW-BTC"), wanted("orderbook", "KRW-ETH.5")]
        assert client.due() == [{"method": "LIST_SUBSCRIPTIONS", "result": result, "ticket": "t"}]
        client.send({"method": "LIST_SUBSCRIPTIONS"}, {"format": "SIMPLE"})
        (told,) = client.due()
        assert (told["mthd"], told["rslt"][0], told["tckt"]) == (
            "LIST_SUBSCRIPTIONS",
            {"ty": "trade", "cds": ["KRW-BTC"]},
            "t",
        )
        assert {frame["ty"] for frame in client.due(step=5)} == {"trade", "orderbook"}


ERRORS = [
    ("hello", "WRONG_FORMAT"),
    ('{"ticket":"t"}', "WRONG_FORMAT"),
    ("[1]", "WRONG_FORMAT"),
    ('[{"ticket":"t"},{"type":"trade","codes":["KRW-BTC"]},{"format":"XML"}]', "WRONG_FORMAT"),
    ('[{"type":"trade","codes":["KRW-BTC"]}]', "NO_TICKET"),
    ('[{"ticket":""},{"type":"trade","codes":["KRW-BTC"]}]', "NO_TICKET"),
    ('[{"ticket":"t"}]', "NO_TYPE"),
    ('[{"ticket":"t"},{"codes":["KRW-BTC"]}]', "NO_TYPE"),
    ('[{"ticket":"t"},{"type":"trade"}]', "NO_CODES"),
    ('[{"ticket":"t"},{"type":"trade","codes":[]}]', "NO_CODES"),
    ('[{"ticket":"t"},{"type":"nope","codes":["KRW-BTC"]}]', "INVALID_PARAM"),
    ('[{"ticket":"t"},{"type":"trade","codes":[1]}]', "INVALID_PARAM"),
    ('[{"ticket":"t"},{"type":"trade","codes":["KRW-BTC"],"is_only_snapshot":"yes"}]', "INVALID_PARAM"),
    ('[{"ticket":"t"},{"type":"orderbook","codes":["KRW-BTC"],"level":"many"}]', "INVALID_PARAM"),
    ('[{"ticket":"t"},{"method":"NOPE"}]', "INVALID_PARAM"),
    ('[{"ticket":"t"},{"type":"myOrder","codes":["KRW-BTC"]}]', "INVALID_AUTH"),
]


@pytest.mark.parametrize(("message", "name"), ERRORS)
def test_a_wrong_message_is_rejected_and_the_connection_closed(world, message, name):
    with world.connected() as client:
        client.socket.send(message)
        (told,), code = client.ended()
    assert (told["error"]["name"], code) == (name, 1000)
    assert told["error"]["message"]


def test_ping_as_text_is_answered_every_ten_seconds(world):
    with world.connected() as client:
        client.socket.send("PING")
        assert client.due(5) == []
        assert [client.due(seconds) for seconds in (2, 7, 3, 10)] == [[{"status": "UP"}], [], *[[{"status": "UP"}]] * 2]


def test_pings_of_the_protocol_are_answered(world):
    with world.connected() as client:
        assert client.socket.ping().wait(5)


def test_an_idle_connection_is_dropped_without_a_close(world):
    with world.subscribed(BTC) as client:
        world.seconds.value += 60
        world.settle()
        assert client.socket.protocol.state.name == "OPEN"
        world.seconds.value += 1
        assert client.ended() == ([], 1006)


def test_traffic_keeps_a_connection(world):
    with world.subscribed(BTC) as client:
        for _ in range(4):
            assert client.due(30, step=2)
        for _ in range(4):
            client.due(30)
            assert client.socket.ping().wait(5)


def test_frames_are_binary(world):
    with world.connected() as client:
        client.socket.send("PING")
        client.subscribe(BTC)
        assert {type(frame) for frame in client.raw(7)} == {bytes}


def test_frames_are_compressed_only_if_offered(world):
    both = []
    for compression in ("deflate", None):
        with world.subscribed(wanted("orderbook", "KRW-BTC"), compression=compression) as client:
            assert ("Sec-WebSocket-Extensions" in client.socket.response.headers) is bool(compression)
            both.append(client.snapshots)
    assert both[0] == both[1]


def test_a_request_may_come_in_fragments_and_as_bytes(world):
    text = json.dumps([{"ticket": "t"}, BTC])
    with world.connected() as client:
        client.socket.send([text[:9], text[9:]])
        assert len(client.due(0.5)) == 1
        client.socket.send(text.encode())
        assert len(client.due(0.5)) == 1


def refusals(world, count, **options):
    found = []
    for _ in range(count):
        try:
            with world.connected(**options):
                found.append(101)
        except InvalidStatus as refused:
            found.append(refused.response.status_code)
        world.seconds.value -= 1
    return found


def test_five_connections_a_second_and_then_429_and_418(world):
    world.seconds.value += 0.5
    assert refusals(world, 11) == [101] * 5 + [429] * 5 + [418]
    world.seconds.value += 1000
    assert refusals(world, 1) == [101]


def test_an_origin_may_come_once_in_ten_seconds(world):
    world.seconds.value += 100 - world.seconds.value % 10
    assert refusals(world, 3, origin="https://example.com") == [101, 429, 429]
    assert refusals(world, 1) == [101]


def test_five_messages_a_second_and_no_more(world):
    with world.connected() as client:
        for _ in range(6):
            client.socket.send("PING")
        (told,), code = client.ended()
    assert (told["error"]["name"], code) == ("TOO_MANY_REQUEST", 1000)


def test_a_hundred_messages_a_minute_and_no_more(world):
    world.seconds.value += 60 - world.seconds.value % 60
    with world.connected() as client:
        for _ in range(100):
            client.socket.send("PING")
            assert client.socket.ping().wait(5)
            world.seconds.value += 0.25
        client.socket.send("PING")
        told, code = client.ended()
    assert (told[-1]["error"]["name"], code) == ("TOO_MANY_REQUEST", 1000)


TYPES = ("ticker", "trade", "orderbook", "candle.1s", "candle.240m")
EVERY = [wanted(kind, "KRW-BTC", "BTC-ETH") for kind in TYPES]


def formatted(row, kind):
    return {frames.NAMES[kind].get(name, name): value for name, value in row.items()}


@pytest.mark.parametrize("form", frames.FORMATS)
def test_all_formats_have_the_same_values(world, form):
    with world.subscribed(*EVERY) as client:
        plain = client.snapshots
    with world.subscribed(*EVERY, form=form) as client:
        other = [frame[0] if form.endswith("LIST") else frame for frame in client.snapshots]
        assert len(other) == len(EVERY) * 2
    if form.startswith("SIMPLE"):
        for row in plain:
            row["orderbook_units"] = [formatted(unit, "unit") for unit in row.get("orderbook_units", [])]
        plain = [formatted(row, row["type"].partition(".")[0]) for row in plain]
        plain = [{name: value for name, value in row.items() if name != "orderbook_units"} for row in plain]
    assert other == plain


def test_a_list_has_all_trades_of_one_moment(world):
    with world.subscribed(BTC, form="JSON_LIST") as client:
        told = client.due(step=60)
    assert max(map(len, told)) > 1
    assert all(len({row["trade_timestamp"] for row in rows}) == 1 for rows in told)
