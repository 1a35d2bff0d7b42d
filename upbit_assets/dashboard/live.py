"""What was just written, told to every open page over one database connection."""

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
MOST_WAITING = 100  # events for a page that reads none; it is let go, and begins anew when it comes back
# so that a connection whose other end is gone without a word is noticed within a minute
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
    """Listens in the database, and passes on what it hears.

    Args:
        url: the database's.
        changed: called when something was written, or may have been while nobody listened.
    """

    def __init__(self, url: str, changed: Callable[[], None]) -> None:
        self.url, self.changed = url, changed
        self.listening = False
        self.pages: set[asyncio.Queue[str]] = set()

    async def run(self) -> None:
        """Listen for ever; where the database goes away, come back when it does."""
        delay = FIRST_RETRY
        while True:
            with contextlib.suppress(psycopg.Error):
                connection = await psycopg.AsyncConnection.connect(make_conninfo(self.url, **SESSION), autocommit=True)
                async with connection:
                    await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(READER_ROLE)))
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    delay = FIRST_RETRY
                    self.turn(listening=True)
                    async for heard in connection.notifies():
                        self.changed()
                        self.tell(event(CHANNEL, written(heard.payload)))
            self.turn(listening=False)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - no secret, only to spread
            delay = min(2 * delay, LAST_RETRY)

    def turn(self, *, listening: bool) -> None:
        if self.listening != listening:
            self.listening = listening
            self.changed()
            self.tell(self.state())

    def state(self) -> str:
        return event("database", {"up": self.listening})

    def tell(self, text: str) -> None:
        for page in list(self.pages):
            try:
                page.put_nowait(text)
            except asyncio.QueueFull:
                self.pages.discard(page)

    @contextmanager
    def page(self) -> Iterator[asyncio.Queue[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self.pages.add(queue)
        try:
            yield queue
        finally:
            self.pages.discard(queue)

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: first whether the database is there, then what is written as it is written."""
        with self.page() as queue:
            yield self.state()
            while queue in self.pages:
                try:
                    text = await asyncio.wait_for(queue.get(), HEARTBEAT)
                except TimeoutError:
                    text = ": still here\n\n"
                yield text


def written(payload: str) -> dict[str, str]:
    """Which table was written, and of what time; empty where a foreign notification says nothing of it."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        return {name: str(value) for name, value in json.loads(payload).items() if name in ("table", "start", "end")}
    return {}
