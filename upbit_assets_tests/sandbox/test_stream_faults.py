"""Faults of the exchange's WebSocket, while REST returns correct data."""

import json
import time
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidMessage, InvalidStatus

from upbit_assets_tests import http
from upbit_assets_tests.sandbox.streaming import stepped_world, wanted

BTC = wanted("trade", "KRW-BTC", is_only_realtime=True)
BOTH = wanted("trade", "KRW-BTC", "KRW-ETH", is_only_realtime=True)


@pytest.fixture(scope="module")
def shared():
    with stepped_world() as world:
        yield world


@pytest.fixture
def world(shared):
    shared.handle.faults.clear()
    shared.seconds.value += 1000
    return shared


def truth(world, since):
    """The ids of KRW-BTC's trades after a time, from REST, oldest first."""
    query = "/v1/trades/ticks?market=KRW-BTC&count=500"
    rows = http.get(world.handle.url + query, timeout=60).json()
    return [row["sequential_id"] for row in reversed(rows) if row["timestamp"] > since]


def now(world):
    return int(world.clock().timestamp() * 1000)


def ids(frames):
    return [frame["sequential_id"] for frame in frames]


@pytest.mark.parametrize("status", [418, 429, 503])
def test_an_upgrade_is_refused(world, status):
    world.handle.faults.add("websocket/v1$", "status", status=status, times=1, headers={"Retry-After": "3"})
    with pytest.raises(InvalidStatus) as refused, world.connected():
        pass
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["Retry-After"] == "3"
    assert refused.value.response.headers["X-Upbit-Simulated"] == "true"
    with world.connected():
        pass


def test_an_upgrade_is_reset_or_slow(world):
    world.handle.faults.add("websocket/v1$", "reset", times=1)
    with pytest.raises(InvalidMessage), world.connected():
        pass
    world.handle.faults.add("websocket/v1$", "slow", times=1, seconds=0.2)
    start = time.monotonic()
    with world.connected():
        assert time.monotonic() - start >= 0.2


def test_a_frame_is_dropped_and_rest_still_has_its_trade(world):
    with world.subscribed(BTC) as client:
        since = now(world)
        world.handle.faults.add("type=trade", "drop", skip=1, times=1)
        told, whole = ids(client.due(step=5)), truth(world, since)
    assert told == whole[:1] + whole[2:]


def test_a_frame_is_doubled(world):
    with world.subscribed(BTC) as client:
        since = now(world)
        world.handle.faults.add("type=trade", "rows", times=1, rows=[{"market": "KRW-BTC", "duplicate": 1}])
        told, whole = ids(client.due(step=5)), truth(world, since)
    assert told == [whole[0], *whole]


def test_one_market_gets_no_frames(world):
    with world.subscribed(BOTH) as client:
        world.handle.faults.add("code=KRW-BTC", "drop")
        assert {frame["code"] for frame in client.due(step=60)} == {"KRW-ETH"}
        world.handle.faults.clear()
        assert {frame["code"] for frame in client.due(step=60)} == {"KRW-BTC", "KRW-ETH"}


def test_no_frames_but_pongs(world):
    with world.subscribed(BOTH) as client:
        client.socket.send("PING")
        world.handle.faults.add("type=(trade|status)", "drop")
        assert client.due(20, step=60) == []


def test_no_frames_and_no_pongs(world):
    with world.subscribed(BOTH) as client:
        world.handle.faults.add("type=", "drop")
        world.step(60)
        assert not client.socket.ping().wait(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(timeout=0)


def test_a_connection_ends_in_the_middle_of_a_frame(world):
    with world.subscribed(BTC) as client:
        since = now(world)
        world.handle.faults.add("type=trade", "cut", closes=True, skip=2, times=1)
        world.step(5)
        told, code = client.ended()
        assert (ids(told), code) == (truth(world, since)[:2], 1006)


def test_half_a_frame_comes_as_a_whole_one(world):
    with world.subscribed(BTC) as client:
        world.handle.faults.add("type=trade", "cut", times=1)
        first, *rest = client.raw(step=5)
    with pytest.raises(ValueError):
        json.loads(first)
    assert all(map(json.loads, rest))


def test_both_connections_are_lost_at_once(world):
    with ExitStack() as stack:
        clients = [stack.enter_context(world.subscribed(BTC)) for _ in range(2)]
        world.handle.faults.add("type=trade", "reset", times=2)
        world.step(5)
        assert [client.ended()[1] for client in clients] == [1006, 1006]


def test_one_of_two_connections_is_chosen(world):
    with world.subscribed(BTC) as one, world.subscribed(BTC) as other:
        number = max(connection.number for connection in world.handle.hub.connections)
        world.handle.faults.add(f"type=trade.*connection={number}$", "drop")
        assert one.due(step=5)
        assert other.due() == []


def test_an_error_frame_and_then_a_close(world):
    body = '{"error":{"name":"INTERNAL","message":"x"}}'
    with world.subscribed(BTC) as client:
        world.handle.faults.add("type=trade", "close", body=body, times=1)
        world.step(5)
        assert client.ended() == ([json.loads(body)], 1000)


def test_a_close_with_another_code(world):
    with world.subscribed(BTC) as client:
        world.handle.faults.add("type=trade", "close", code=1001, times=1)
        world.step(5)
        assert client.ended() == ([], 1001)


def test_a_frame_comes_late_and_ids_out_of_order(world):
    with world.subscribed(BTC) as client:
        since = now(world)
        world.handle.faults.add("type=trade", "late", seconds=0.2, times=2)
        told = ids(client.due(step=5))
        time.sleep(0.25)
        late, whole = ids(client.due()), truth(world, since)
    assert (late, told) == (whole[:2], whole[2:])


def test_a_slow_connection_is_late_but_whole_and_in_order(world):
    with world.subscribed(BTC) as client:
        since = now(world)
        world.handle.faults.add("type=trade", "slow", seconds=0.3, times=1)
        start = time.monotonic()
        told = ids(client.due(step=5))
        assert time.monotonic() - start >= 0.25
        assert told == truth(world, since)


@pytest.mark.parametrize("text", ["NaN", r'"\u0000"', "1E400", "tru"])
def test_a_field_can_be_replaced_by_any_text(world, text):
    change = {"market": "KRW-BTC", "set": {"trade_price": text}}
    with world.subscribed(BOTH) as client:
        world.handle.faults.add("type=trade", "rows", rows=[change], times=1)
        first = client.raw(step=5)[0].decode()
    assert f'"trade_price":{text},' in first


def test_a_digit_is_wrong(world):
    with world.subscribed(BTC) as client:
        since = now(world)
        world.handle.faults.add("type=trade", "rows", rows=[{"market": "*", "digit": ["trade_volume"]}], times=1)
        first, second, *_ = client.due(step=5)
    rows = world.handle.market.trades("KRW-BTC", world.clock(), count=500)
    volumes = {row["sequential_id"]: row["trade_volume"] for row in rows if row["timestamp"] > since}
    assert first["trade_volume"] != volumes[first["sequential_id"]]
    assert second["trade_volume"] == volumes[second["sequential_id"]]


def test_the_times_in_frames_can_be_shifted(world):
    with world.subscribed(BTC) as client:
        world.handle.faults.add("type=trade", "rows", rows=[{"market": "*", "add": {"timestamp": -5000}}])
        assert {frame["timestamp"] for frame in client.due(step=5)} == {now(world) - 5000}


@pytest.mark.parametrize("body", ["no JSON", "", '"' + "x" * 2**20 + '"', "[]"])
def test_a_frame_is_replaced_by_any_text(world, body):
    with world.subscribed(BTC) as client:
        world.handle.faults.add("type=trade", "body", body=body, times=1)
        assert client.raw(step=5)[0].decode() == body


def test_faults_change_while_a_connection_is_open_and_hit_its_snapshots_as_well(world):
    with world.connected() as client:
        http.put(
            world.handle.url + "/_sandbox/faults",
            json=[{"match": "type=ticker", "kind": "drop", "times": 1}],
            timeout=60,
        )
        client.subscribe(wanted("ticker", "KRW-BTC", "KRW-ETH"))
        assert [frame["code"] for frame in client.due(1)] == ["KRW-ETH"]
        assert http.get(world.handle.url + "/_sandbox/faults", timeout=60).json()[0]["seen"] == 2


def test_faults_work_on_short_names_and_lists(world):
    with world.subscribed(BTC, form="SIMPLE_LIST") as client:
        world.handle.faults.add("type=trade", "rows", rows=[{"market": "KRW-BTC", "set": {"tp": "-1"}}])
        assert {row["tp"] for rows in client.due(step=5) for row in rows} == {-1}


def test_a_client_that_does_not_read_is_cut_off(world, monkeypatch):
    monkeypatch.setattr("upbit_assets.sandbox.websocket.UNREAD", 2**20)
    world.handle.faults.add("type=trade", "body", body="x" * 2**20)
    with world.subscribed(BTC, max_queue=1, close_timeout=0.1):
        while world.handle.hub.connections:
            world.step(5)
            time.sleep(0.02)
