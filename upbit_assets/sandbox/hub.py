"""The market events of the exchange's WebSocket, sent to all connections.

Expensive work (the trades of a slot, snapshots) runs in threads, and each frame is encoded once for all subscribers.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from upbit_assets.sandbox import book
from upbit_assets.sandbox.clock import Clock
from upbit_assets.sandbox.faults import Faults
from upbit_assets.sandbox.feed import Feed
from upbit_assets.sandbox.frames import Frame
from upbit_assets.sandbox.limits import RateLimits
from upbit_assets.sandbox.market import Market, milliseconds, moment
from upbit_assets.sandbox.model import SLOT_MS, Rows
from upbit_assets.sandbox.subscription import CANDLES, Subscription
from upbit_assets.sandbox.tape import Event

if TYPE_CHECKING:
    from upbit_assets.sandbox.websocket import Connection

TICK = 0.01  # seconds between polls of the clock
BOOK_MS, CANDLE_MS = 100, 1000  # intervals at which books and candles are sent


class Hub:
    """All connections, and the market events sent to them."""

    def __init__(
        self, market: Market, clock: Clock, seconds: Callable[[], float], limits: RateLimits, faults: Faults
    ) -> None:
        self.market, self.clock, self.seconds, self.limits, self.faults = market, clock, seconds, limits, faults
        self.feed = Feed(market)
        self.connections: set[Connection] = set()
        self.numbers = itertools.count(1)
        # by type and code
        self.subscribers: dict[str, dict[str, list[tuple[Connection, Subscription]]]] = {}
        # by slot and the market's number of listing changes
        self.slots: dict[tuple[int, int], asyncio.Task[Rows]] = {}
        self.position = self.books_position = 0  # ms up to which everything was sent
        self.traded: dict[str, set[str]] = {
            "orderbook": set(),
            "candle": set(),
        }  # codes with trades since the last of these were sent
        self.tasks: set[asyncio.Task[None]] = set()
        self.running = False

    def enter(self, connection: "Connection") -> None:
        self.connections.add(connection)
        if not self.running:
            self.running = True
            self.start(self.run())

    def leave(self, connection: "Connection") -> None:
        self.connections.discard(connection)
        self.resubscribe()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def resubscribe(self) -> None:
        """Rebuild `subscribers` after a change."""
        self.subscribers = {}
        for connection in self.connections:
            for subscription in connection.subscriptions:
                for code in subscription.depths:
                    self.subscribers.setdefault(subscription.kind, {}).setdefault(code, []).append(
                        (connection, subscription)
                    )

    async def run(self) -> None:
        """Send events as the clock reaches them, as long as there are connections."""
        self.position = self.books_position = milliseconds(self.clock())
        try:
            while self.connections:
                await asyncio.sleep(TICK)
                await self.advance(milliseconds(self.clock()))
                for connection in list(self.connections):
                    connection.tick(self.seconds())
        finally:
            self.running = False
            for connection in list(self.connections):
                connection.transport.abort()

    async def advance(self, now: int) -> None:
        """Send everything up to and including `now`."""
        # If the clock was set back, events are sent again
        self.position = min(self.position, now)
        while self.position < now and self.subscribers:
            slot = (self.position + 1) // SLOT_MS
            tape = await self.slot(slot)
            for stop in self.stops(min(now, (slot + 1) * SLOT_MS - 1)):
                first, last = tape["time"].searchsorted([self.position, stop], "right")
                self.send_trades([Event(*row) for row in tape[first:last].tolist()], now)
                self.position = stop
                if (stop + 1) % CANDLE_MS == 0:
                    self.send_candles(stop)
                if stop % BOOK_MS == 0:
                    self.send_books(stop)
        self.position = now

    async def slot(self, slot: int) -> Rows:
        """The trades of a slot; starts computing those of the next."""
        tape = await self.slot_task(slot)
        self.slot_task(slot + 1)
        return tape

    def slot_task(self, slot: int) -> "asyncio.Task[Rows]":
        key = slot, self.market.changes
        for old in [key for key in self.slots if key[0] < slot - 1 or key[1] != key[1]]:
            del self.slots[old]
        if key not in self.slots:
            self.slots[key] = asyncio.create_task(asyncio.to_thread(self.feed.tape.slot, slot))
        return self.slots[key]

    def stops(self, end: int) -> list[int]:
        """The times up to `end` at which books or candles are due, and `end`.

        If the clock has jumped over several, only the last book but every candle is sent.
        """
        stops = {end}
        if "orderbook" in self.subscribers and end - end % BOOK_MS > self.position:
            stops.add(end - end % BOOK_MS)
        if self.subscribers.keys() & CANDLES.keys():
            first = (self.position + 1) // CANDLE_MS * CANDLE_MS + CANDLE_MS - 1
            stops.update(range(first, end + 1, CANDLE_MS))
        return sorted(stops)

    def send_trades(self, events: list[Event], now: int) -> None:
        """Send trades, and a ticker after each millisecond that has some."""
        for (_, n), run in itertools.groupby(events, lambda event: (event.time, event.market)):
            code, simultaneous = self.market.order[n].listing.market, list(run)
            for codes in self.traded.values():
                codes.add(code)
            if subscribers := self.subscribers.get("trade", {}).get(code):
                send(self.feed.trades(simultaneous, now), subscribers)
            if subscribers := self.subscribers.get("ticker", {}).get(code):
                send(self.feed.ticker(simultaneous[-1], now), subscribers)

    def send_books(self, at: int) -> None:
        """Send the books that have changed, by a trade or at the market's regular interval."""
        traded, self.traded["orderbook"] = self.traded["orderbook"], set()
        before, self.books_position = self.books_position, at
        for code, subscribers in self.subscribers.get("orderbook", {}).items():
            instrument = self.market.instruments.get(code)
            if instrument is None or not (
                code in traded or at // (interval := book.change_interval(instrument)) > before // interval
            ):
                continue
            frames: dict[tuple[int, Decimal], Frame | None] = {}
            for connection, subscription in subscribers:
                key = subscription.depths[code], subscription.level
                if code in subscription.live and self.market.listed(code, moment(at)):
                    if key not in frames:
                        frames[key] = self.feed.book(subscription, code, at)
                    send(frames[key], [(connection, subscription)])

    def send_candles(self, at: int) -> None:
        """Send the candles that changed in the second ending at `at`."""
        traded, self.traded["candle"] = self.traded["candle"], set()
        for kind in self.subscribers.keys() & CANDLES.keys():
            for code in traded & self.subscribers[kind].keys():
                if self.market.listed(code, moment(at)):
                    send(self.feed.candle(kind, code, at), self.subscribers[kind][code])

    async def send_snapshots(self, connection: "Connection", requested: list[tuple[Subscription, str]]) -> None:
        """Send the first frames of some codes, and updates from now on."""
        async with connection.snapshot_lock:
            at, form = self.position, connection.form
            for subscription, code in requested:
                if subscription.realtime:
                    subscription.live.add(code)
            connection.holding = True
            try:
                frames = await asyncio.to_thread(self.snapshots, requested, at, form)
            finally:
                connection.holding = False
            if requested[0][0] in connection.subscriptions:
                for (subscription, code), frame in zip(requested, frames, strict=True):
                    if frame is None:
                        subscription.live.discard(code)
                connection.deliver_first([frame for frame in frames if frame])
                connection.flush()

    def snapshots(self, requested: list[tuple[Subscription, str]], at: int, form: str) -> list[Frame | None]:
        frames = [self.feed.snapshot(subscription, code, at) for subscription, code in requested]
        for frame in frames:
            if frame:
                frame.encoded(form)
        return frames


def send(frame: Frame | None, subscribers: "list[tuple[Connection, Subscription]]") -> None:
    for connection, subscription in subscribers:
        if frame and frame.code in subscription.live:
            connection.deliver(frame)
