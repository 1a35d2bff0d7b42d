"""A client of the offline exchange's WebSocket, and an exchange whose clock a test steps."""

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from upbit_assets.sandbox.clock import AdjustableClock
from upbit_assets.sandbox.market import milliseconds
from upbit_assets.sandbox.server import Handle, running
from upbit_assets_tests.sandbox.conftest import AT


@dataclass
class Seconds:
    """The clock of limits and timers, also stepped by tests."""

    value: float = 1_000_000.0

    def __call__(self) -> float:
        return self.value


@dataclass
class World:
    handle: Handle
    clock: AdjustableClock
    seconds: Seconds = field(default_factory=Seconds)

    @contextmanager
    def connected(self, **options) -> Iterator["Client"]:
        self.seconds.value += 1  # another second of the rate limits
        url = self.handle.url.replace("http", "ws") + options.pop("path", "/websocket/v1")
        hub = self.handle.hub
        others = len(hub.connections)
        with connect(
            url,
            **{"compression": None, "ping_interval": None, "max_size": None, "max_queue": None, "proxy": None}
            | options,
        ) as socket:
            yield Client(self, socket)
        # or the hub would send all events up to the next test's time
        while len(hub.connections) > others or (hub.running and not others):
            time.sleep(0.001)

    @contextmanager
    def subscribed(self, *types, form="DEFAULT", **options) -> Iterator["Client"]:
        """A client that has received its snapshots."""
        with self.connected(**options) as client:
            client.subscribe(*types, form=form)
            client.snapshots = client.due(0.5)
            yield client

    def step(self, seconds: float) -> None:
        self.clock.step(seconds)

    def settle(self) -> None:
        """Wait until everything due has been sent: what is due starts a task, whose frames are then sent."""
        hub, now = self.handle.hub, milliseconds(self.clock())
        while not (
            hub.position == now
            and all(
                all(due > self.seconds.value for due, _ in connection.bursts)
                and (connection.up_at is None or connection.up_at > self.seconds.value)
                for connection in list(hub.connections)
            )
            and len(hub.tasks) == 1
            and not any(connection.out for connection in list(hub.connections))
        ):
            time.sleep(0.001)


@dataclass
class Client:
    world: World
    socket: ClientConnection
    snapshots: list = field(default_factory=list)

    def send(self, *parts):
        self.socket.send(json.dumps([{"ticket": "t"}, *parts]))

    def subscribe(self, *types, form="DEFAULT"):
        self.send(*types, {"format": form})

    def due(self, seconds=0.0, *, step=0.0):
        """All frames due after advancing the timers and the exchange's clock."""
        return [json.loads(frame, parse_float=Decimal) for frame in self.raw(seconds, step)]

    def raw(self, seconds=0.0, step=0.0):
        assert self.socket.ping().wait(60)  # everything sent before has arrived
        self.world.seconds.value += seconds
        self.world.step(step)
        self.world.settle()
        # A pong comes after all frames
        done = self.socket.ping()
        assert done.wait(60)
        frames = []
        with contextlib.suppress(TimeoutError):
            while True:
                frames.append(self.socket.recv(timeout=0))
        return frames

    def ended(self):
        """The frames before the connection's end, and its close code."""
        frames = []
        try:
            while True:
                frames.append(json.loads(self.socket.recv(timeout=60)))
        except ConnectionClosed:
            return frames, self.socket.protocol.close_code


@contextmanager
def stepped_world(markets=30, **options) -> Iterator[World]:
    clock, seconds = AdjustableClock(AT, speed=0), Seconds()
    with running(markets, clock, seconds=seconds, **options) as handle:
        yield World(handle, clock, seconds)


def wanted(kind, *codes, **options):
    return {"type": kind, "codes": list(codes), **options}
