"""Writes trades to the database in small batches, or to spill files while it is unreachable or slow."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from upbit_assets.postgres.resource import DatabaseError
from upbit_assets.stream.frames import Trade
from upbit_assets.stream.spill import Spill
from upbit_assets.stream.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH, BATCH_SECONDS = 1_000, 0.2  # rows, and how long a smaller batch waits for more
MAX_WAITING = 10_000  # rows in memory; with more, they are spilled
DATABASE, SLOW, DISK = "The database is unreachable", "The database is slow", "The disk fails"  # kinds of problems
RETRY = 1.0  # seconds between two attempts to reach the database
LAST_BATCH = 5.0  # seconds to write pending rows on shutdown


class SupersededError(Exception):
    """Another stream holds the database's lock."""


class Writer:
    """Accepts rows without blocking, and writes each to the database at least once.

    Rows being written when the process or the database is killed may be written twice; silver de-duplicates them.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.spill = store, Spill(folder)
        self.pending: list[Trade] = []
        self.full = asyncio.Event()
        self.stored = self.lost = 0
        self.kind: str | None = None
        self.problem: str | None = None
        # separate threads, so that a hanging database doesn't block spilling
        self.database_thread, self.disk_thread = ThreadPoolExecutor(1, "database"), ThreadPoolExecutor(1, "disk")

    def put(self, trade: Trade) -> None:
        self.pending.append(trade)
        if len(self.pending) >= BATCH:
            self.full.set()

    async def in_database(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.database_thread, lambda: call(*arguments, **options))

    async def on_disk(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.disk_thread, call, *arguments)

    async def run(self) -> None:
        """Write until canceled. Raises SupersededError if another stream took over after the session was lost."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.write_batches())
            tasks.create_task(self.limit_memory())
            tasks.create_task(self.load_spilled_periodically())

    async def write_batches(self) -> None:
        while True:
            if len(self.pending) < BATCH:
                self.full.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.full.wait(), BATCH_SECONDS)
            # without a trade too, a lost session is opened again, for what was spilled
            if (batch := self.take(BATCH)) or not self.store.is_open:
                try:
                    await self.write(batch)
                except DatabaseError as error:
                    self.report(DATABASE, f"Trades are spilled to files in {self.spill.folder}. {error}")
                    await self.spill_rows(batch)
                    await self.wait_for_database()
                except asyncio.CancelledError:  # the batch may have been written or not
                    self.pending = batch + self.pending
                    raise

    async def write(self, batch: Sequence[Trade]) -> None:
        await self.in_database(self.store.write, batch)
        self.stored += len(batch)

    async def wait_for_database(self) -> None:
        while True:
            await self.spill_rows(self.take())
            await asyncio.sleep(RETRY)
            try:
                if not await self.in_database(self.store.lead):
                    raise SupersededError
            except DatabaseError as error:
                self.report(DATABASE, str(error))
            else:
                self.report(None, "The database is reachable again.")
                return

    async def limit_memory(self) -> None:
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            if len(self.pending) >= MAX_WAITING:
                self.report(SLOW, f"{len(self.pending):,} waiting trades are spilled to files in {self.spill.folder}.")
                await self.spill_rows(self.take())

    async def spill_rows(self, trades: list[Trade]) -> None:
        """Write rows to a spill file. If the disk fails, MAX_WAITING rows stay in memory and the rest is lost."""
        if not trades:
            return
        try:
            await self.on_disk(self.spill.append, trades)
        except OSError as error:
            self.pending = trades + self.pending
            beyond = self.pending[MAX_WAITING:]
            del self.pending[MAX_WAITING:]
            self.lost += len(beyond)
            self.report(
                DISK,
                f"Spilling trades to {self.spill.folder} fails too ({error.strerror}): {MAX_WAITING:,} are kept in "
                "memory, further ones are lost and have to be requested again over REST. Free some space there.",
            )

    async def load_spilled_periodically(self) -> None:
        while True:
            await asyncio.sleep(RETRY)
            with contextlib.suppress(DatabaseError):  # reported by `write_batches`
                await self.load_spilled()

    async def load_spilled(self) -> None:
        """Write the spill files to the database, oldest first, between the batches of new rows."""
        while waiting := await self.on_disk(self.spill.oldest):
            try:
                for first in range(0, len(waiting.trades), BATCH):
                    await self.write(waiting.trades[first : first + BATCH])
            except BaseException:
                waiting.release()
                raise
            await self.on_disk(waiting.done)
            self.report(None, f"{len(waiting.trades):,} trades of a spill file were written to the database.")

    def take(self, most: int | None = None) -> list[Trade]:
        taken = self.pending[:most]
        del self.pending[: len(taken)]
        return taken

    def report(self, kind: str | None, text: str) -> None:
        """Log a problem when it starts and when it ends."""
        if kind != self.kind:
            log.log(logging.WARNING if kind else logging.INFO, "%s: %s", kind or "Recovered", text)
        self.kind, self.problem = kind, f"{kind}: {text}" if kind else None

    async def close(self) -> None:
        """Write pending rows to the database, or else to a file."""
        last = self.take()
        try:
            async with asyncio.timeout(LAST_BATCH):
                if last:
                    await self.write(last)
                await self.in_database(self.store.close)
        except (DatabaseError, TimeoutError):
            await self.spill_rows(last)
        await self.on_disk(self.spill.end)
        for thread in (self.database_thread, self.disk_thread):
            thread.shutdown(wait=False)
