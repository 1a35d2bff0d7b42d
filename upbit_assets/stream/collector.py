"""The stream: receives frames from the exchange and passes them on; one per database, others wait in standby."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upbit_assets.postgres.origin import OriginError
from upbit_assets.postgres.resource import DatabaseError
from upbit_assets.stream import frames
from upbit_assets.stream.connection import GROUP, Connection, subscription
from upbit_assets.stream.listings import Listings
from upbit_assets.stream.live import LivePublisher
from upbit_assets.stream.recent import Recent
from upbit_assets.stream.snapshots import Snapshots
from upbit_assets.stream.status import COLLECTING, STAND_BY, Status
from upbit_assets.stream.store import Store
from upbit_assets.stream.writer import SupersededError, Writer
from upbit_assets.upbit.usage import Usage

log = logging.getLogger(__name__)

TRADES, STATE = ("trades-1", "trades-2"), "state"  # connections: trades come over two, so that one may be lost
LISTINGS_EVERY = 10.0  # seconds
STAGGER = 2.0  # seconds between resubscribing the two, as each misses frames meanwhile
STAND_BY_EVERY = 1.0
STATUS_EVERY = 1.0
REPORT_EVERY = 5.0  # to the database


class Collector:
    """Collects for one database.

    Args:
        base_url: the exchange's, as for REST.
        database_url: gives the market data's database.
        folder: for spill files and the status.
    """

    def __init__(self, base_url: str, database_url: Callable[[], str], folder: Path) -> None:
        self.base_url, self.folder = base_url, folder
        self.writer = Writer(Store(database_url), folder)
        self.recent = Recent()
        self.live = LivePublisher(database_url)
        self.snapshots = Snapshots(base_url, self.writer)
        self.listings = Listings(base_url)
        self.connections = {name: Connection(name, base_url, self.receive, self.admit) for name in (*TRADES, STATE)}
        self.simulated: bool | None = None
        self.frames = dict.fromkeys(("ticker", "orderbook", "trade"), 0)
        self.unreadable = 0
        self.role, self.since = STAND_BY, datetime.now(UTC)

    async def run(self) -> None:
        """Collect while no other stream of the database does; wait for one to end otherwise.

        Raises:
            OriginError: the database holds the other kind of data.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.writer.close)
            reporting = asyncio.create_task(self.periodically(STATUS_EVERY, self.write_status))
            reporting.add_done_callback(log_failure)
            stack.callback(reporting.cancel)
            while True:
                await self.stand_by()
                await self.collect()

    async def stand_by(self) -> None:
        """Wait for the database's lock."""
        self.turn(STAND_BY)
        waited = False
        while True:
            with contextlib.suppress(DatabaseError):
                if await self.writer.in_database(self.writer.store.lead):
                    break
                if not waited:
                    log.info("Another stream collects for this database; waiting in standby until it ends.")
                    waited = True
                # spill files of this process or of an earlier one on this machine
                await self.writer.load_spilled()
            await asyncio.sleep(STAND_BY_EVERY)
        self.turn(COLLECTING)

    async def collect(self) -> None:
        refused: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.writer.run())
                tasks.create_task(self.live.run())
                tasks.create_task(self.snapshots.run())
                tasks.create_task(self.periodically(LISTINGS_EVERY, self.follow_listings))
                tasks.create_task(self.periodically(REPORT_EVERY, self.report))
                for connection in self.connections.values():
                    tasks.create_task(connection.run())
        except* SupersededError:
            log.warning("Another stream took over while the database was unreachable.")
        except* OriginError as group:
            refused = group.exceptions[0]
        if refused:  # raised in there, Python before 3.11.4 would wrap it in a group
            raise refused from None
        await self.writer.spill_rows(self.writer.take())

    async def periodically(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await work()
            await asyncio.sleep(seconds)

    async def follow_listings(self) -> None:
        """Subscribe to the listed markets, one connection after the other, so that one always receives all frames."""
        markets, books = await asyncio.to_thread(self.listings.update)
        known = list(self.listings.known)
        if markets:
            for name in TRADES:
                await self.connections[name].subscribe(subscription({"trade": known}))
                await asyncio.sleep(STAGGER)
        if known and (markets or books):
            wanted = subscription({"ticker": known, "orderbook": self.listings.books})
            await self.connections[STATE].subscribe(wanted)

    async def admit(self, simulated: bool) -> None:
        """Wait until frames of this kind may be stored in the database. Raises OriginError."""
        while self.simulated != simulated:
            try:
                claim = self.writer.store.claim_origin
                await self.writer.in_database(claim, self.base_url, simulated=simulated)
                self.simulated = simulated
            except DatabaseError:
                await asyncio.sleep(STAND_BY_EVERY)

    def receive(self, payload: bytes, received_at: datetime, connection: str) -> bool:
        """Process a frame; returns whether it was data."""
        frame = frames.parse(payload)
        if frame.type in ("ticker", "orderbook"):
            self.frames[frame.type] += 1
            self.live.put(frame.type, frame.code, payload, received_at)
            return True
        if frame.type == "trade":
            self.frames[frame.type] += 1
            self.take(frame, payload, received_at, connection)
            return True
        if frame is frames.UNREADABLE:
            self.unreadable += 1
            log.warning("%s: a frame of %d bytes is not a JSON object.", connection, len(payload))
            if connection in TRADES:  # it was probably a trade
                self.writer.put(frames.trade(frames.Frame(), frames.document_of(payload), received_at, connection))
        elif b'"status"' not in payload:
            log.warning("%s: message from the exchange: %r", connection, payload[:200])
        return False

    def take(self, frame: frames.Frame, payload: bytes, received_at: datetime, connection: str) -> None:
        if frames.is_old(frame, received_at):
            return
        # trades without an id can't be de-duplicated
        if not frame.sequential_id or self.recent.add(frame.code, frame.sequential_id):
            self.writer.put(frames.trade(frame, frames.text_of(payload), received_at, connection))
            self.live.put(frame.type, frame.code, payload, received_at)

    def turn(self, role: str) -> None:
        self.role, self.since = role, datetime.now(UTC)
        log.info("The stream is %s.", role)

    async def write_status(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which the writer reports
            await asyncio.to_thread(self.status().write, self.folder)

    async def report(self) -> None:
        """Write the status and the handshakes of the connections to the database, from which metrics are computed."""
        usage = [(GROUP, each.usage) for each in self.connections.values() if each.usage.calls]
        for each in self.connections.values():
            each.usage = Usage()
        with contextlib.suppress(DatabaseError):  # the writer reports it
            await self.writer.in_database(self.writer.store.report, self.status(), usage)

    def status(self) -> Status:
        return Status(
            at=datetime.now(UTC).isoformat(),
            role=self.role,
            since=self.since.isoformat(),
            data_at={
                name: each.data_at.isoformat() if each.data_at else None for name, each in self.connections.items()
            },
            frames=dict(self.frames),
            reconnects=sum(max(each.opened - 1, 0) for each in self.connections.values()),
            stored=self.writer.stored,
            waiting=len(self.writer.pending),
            lost=self.writer.lost,
            spilled=self.writer.spill.size(),
            problem=self.writer.problem
            or next(filter(None, (each.problem for each in self.connections.values())), None),
        )


def log_failure(reporting: asyncio.Task[None]) -> None:
    if not reporting.cancelled() and (error := reporting.exception()):
        log.error("The status is no longer written.", exc_info=error)


async def serve(base_url: str, database_url: Callable[[], str], folder: Path) -> None:
    """Collect until SIGTERM or SIGINT."""
    running = asyncio.create_task(Collector(base_url, database_url, folder).run())
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
