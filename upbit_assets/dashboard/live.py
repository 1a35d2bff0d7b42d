"""Notifications of writes, forwarded to every open page over one database connection."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from upbit_assets.postgres.resource import READER_ROLE

CHANNEL = "asset_written"
FIRST_RETRY, LAST_RETRY = 0.25, 10.0  # seconds
HEARTBEAT = 15.0
MAX_QUEUED = 100  # events for a page that doesn't read; it is disconnected, and reconnects by itself
# keepalives: a dead connection is detected within a minute
SESSION: dict[str, str | int] = {
    "application_name": "upbit_assets board",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class Announcer:
    """Listens for the database's notifications and forwards them to the open pages.

    Args:
        url: of the database.
        on_change: called after a write, or when writes may have been missed.
    """

    def __init__(self, url: str, on_change: Callable[[], None]) -> None:
        self.url, self.on_change = url, on_change
        self.listening = False
        self.pages: set[asyncio.Queue[str]] = set()

    async def run(self) -> None:
        """Listen forever, reconnecting when the connection is lost."""
        delay = FIRST_RETRY
        while True:
            with contextlib.suppress(psycopg.Error):
                connection = await psycopg.AsyncConnection.connect(make_conninfo(self.url, **SESSION), autocommit=True)
                async with connection:
                    await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(READER_ROLE)))
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    delay = FIRST_RETRY
                    self.set_listening(listening=True)
                    async for notification in connection.notifies():
                        self.on_change()
                        self.broadcast(event(CHANNEL, parse_payload(notification.payload)))
            self.set_listening(listening=False)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            delay = min(2 * delay, LAST_RETRY)

    def set_listening(self, *, listening: bool) -> None:
        if self.listening != listening:
            self.listening = listening
            self.on_change()
            self.broadcast(self.state())

    def state(self) -> str:
        return event("database", {"up": self.listening})

    def broadcast(self, text: str) -> None:
        for page in list(self.pages):
            try:
                page.put_nowait(text)
            except asyncio.QueueFull:
                self.pages.discard(page)

    @contextmanager
    def page(self) -> Iterator[asyncio.Queue[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue(MAX_QUEUED)
        self.pages.add(queue)
        try:
            yield queue
        finally:
            self.pages.discard(queue)

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: the state of the database first, then writes as they happen."""
        with self.page() as queue:
            yield self.state()
            while queue in self.pages:
                try:
                    text = await asyncio.wait_for(queue.get(), HEARTBEAT)
                except TimeoutError:
                    text = ": heartbeat\n\n"
                yield text


def parse_payload(payload: str) -> dict[str, str]:
    """The table and the period written; empty for a notification in another format."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        return {name: str(value) for name, value in json.loads(payload).items() if name in ("table", "start", "end")}
    return {}
