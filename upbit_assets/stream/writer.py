"""Trades from memory into the database, in small batches; into files while the database is away or slow."""

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

BATCH, BATCH_SECONDS = 1_000, 0.2  # rows, and how long fewer than that wait for more
MOST_WAITING = 10_000  # rows in memory, beyond which they go into a file
DATABASE, SLOW, DISK = "The database is away", "The database is slow", "The disk fails"  # what may be wrong
RETRY = 1.0  # seconds between two attempts to reach the database
LAST_BATCH = 5.0  # seconds for what is in memory when the process ends


class SupersededError(Exception):
    """Another stream holds the database's lock."""


class Writer:
    """Takes rows without ever waiting, and sees that they come into the database once it can take them.

    At least once: what was being written when the process or the database was killed may come a second time, and
    silver counts a trade once.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.spill = store, Spill(folder)
        self.pending: list[Trade] = []
        self.full = asyncio.Event()
        self.stored = self.lost = 0
        self.kind: str | None = None
        self.problem: str | None = None
        # one thread each: the database's may be stuck while the disk's must not be
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
        """Write for ever. Raises SupersededError where another stream took over while the database was away."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.write_batches())
            tasks.create_task(self.keep_memory_flat())
            tasks.create_task(self.bring_in_for_ever())

    async def write_batches(self) -> None:
        while True:
            if len(self.pending) < BATCH:
                self.full.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.full.wait(), BATCH_SECONDS)
            if batch := self.take(BATCH):
                try:
                    await self.write(batch)
                except DatabaseError as error:
                    self.say(DATABASE, f"Trades go into files of {self.spill.folder}. {error}")
                    await self.keep(batch)
                    await self.until_it_is_back()
                except asyncio.CancelledError:  # it may be written or not
                    self.pending = batch + self.pending
                    raise

    async def write(self, batch: Sequence[Trade]) -> None:
        await self.in_database(self.store.write, batch)
        self.stored += len(batch)

    async def until_it_is_back(self) -> None:
        while True:
            await self.keep(self.take())
            await asyncio.sleep(RETRY)
            try:
                if not await self.in_database(self.store.lead):
                    raise SupersededError
            except DatabaseError as error:
                self.say(DATABASE, str(error))
            else:
                self.say(None, "The database takes trades again.")
                return

    async def keep_memory_flat(self) -> None:
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            if len(self.pending) >= MOST_WAITING:
                self.say(SLOW, f"{len(self.pending):,} trades wait, and go into files of {self.spill.folder}.")
                await self.keep(self.take())

    async def keep(self, trades: list[Trade]) -> None:
        """Write rows into a file. Where the disk takes none, memory holds what it may, and the rest is lost."""
        if not trades:
            return
        try:
            await self.on_disk(self.spill.append, trades)
        except OSError as error:
            self.pending = trades + self.pending
            beyond = self.pending[MOST_WAITING:]
            del self.pending[MOST_WAITING:]
            self.lost += len(beyond)
            self.say(
                DISK,
                f"{self.spill.folder} can't take trades either ({error.strerror}), memory holds {MOST_WAITING:,} "
                "of them, and those beyond are lost here and have to be asked for again. Free some space there.",
            )

    async def bring_in_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RETRY)
            with contextlib.suppress(DatabaseError):  # which `write_batches` tells, and waits for
                await self.bring_in()

    async def bring_in(self) -> None:
        """Write what waits in files, the oldest first, between the batches of what comes in."""
        while waiting := await self.on_disk(self.spill.oldest):
            try:
                for first in range(0, len(waiting.trades), BATCH):
                    await self.write(waiting.trades[first : first + BATCH])
            except BaseException:
                waiting.release()
                raise
            await self.on_disk(waiting.done)
            self.say(None, f"{len(waiting.trades):,} trades that had waited in a file are in the database.")

    def take(self, most: int | None = None) -> list[Trade]:
        taken = self.pending[:most]
        del self.pending[: len(taken)]
        return taken

    def say(self, kind: str | None, text: str) -> None:
        """Tell what is wrong, or that nothing is any more, once."""
        if kind != self.kind:
            log.log(logging.WARNING if kind else logging.INFO, "%s: %s", kind or "Mended", text)
        self.kind, self.problem = kind, f"{kind}: {text}" if kind else None

    async def close(self) -> None:
        """Write what is in memory, or keep it in a file."""
        last = self.take()
        try:
            async with asyncio.timeout(LAST_BATCH):
                if last:
                    await self.write(last)
                await self.in_database(self.store.close)
        except (DatabaseError, TimeoutError):
            await self.keep(last)
        await self.on_disk(self.spill.end)
        for thread in (self.database_thread, self.disk_thread):
            thread.shutdown(wait=False)
