"""Writes and live market data, forwarded to every open page over one database connection."""

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from upbit_assets.postgres.resource import READER_ROLE

WRITTEN, LIVE = "asset_written", "live_written"  # channels: an asset's write, a batch of the stream
FIRST_RETRY, LAST_RETRY = 0.25, 10.0  # seconds
HEARTBEAT = 15.0
MAX_QUEUED = 100  # events for a page that doesn't read; it is disconnected, and reconnects by itself
BATCHES_KEPT = 240  # one minute; a page further behind gets every market
# keepalives: a dead connection is detected within a minute
SESSION: dict[str, str | int] = {
    "application_name": "upbit_assets board",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
# age after which the minute's snapshot is preferred to the stream's data; the same as SILENT_AFTER in the page
CURRENT_SECONDS = 10
TICKERS = """
SELECT batch, market, (extract(epoch FROM sent_at) * 1000)::bigint,
       json_build_array(market, trade_price::text, change_rate::text, daily_volume::text, turnover::text,
                        turnover_krw::text)::text
FROM live.market
WHERE batch > %s AND (SELECT max(received_at) FROM live.ticker) > now() - make_interval(secs => %s)
"""
MARKETS = (Path(__file__).parent / "live.sql").read_text(encoding="utf-8")
MARKETS = MARKETS.replace(":batch", "%(batch)s").replace(":markets", "%(markets)s::text[]")


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n"


@dataclass(eq=False)
class OpenPage:
    """An open page: the events queued for it, and the batch and market state it was last sent."""

    market: str | None
    events: deque[str] = field(default_factory=deque)
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    batch: int = 0
    state: str | None = None


class LiveState:
    """The live tables as last read, and the tickers that changed with each batch."""

    def __init__(self) -> None:
        self.batch = 0
        self.rows: dict[str, str] = {}
        self.changes: deque[tuple[int, dict[str, str]]] = deque(maxlen=BATCHES_KEPT)
        self.states: dict[str, str] = {}
        self.sent_at = self.read_at = 0
        self.texts: dict[int, str] = {}  # of the newest batch, by the batch that a page has

    def add(self, found: list[tuple[int, str, int, str]]) -> None:
        changed = {market: text for _, market, _, text in found}
        self.batch = max(batch for batch, *_ in found)
        self.sent_at = max(sent_at for _, _, sent_at, _ in found)
        self.read_at = int(time.time() * 1000)
        self.rows |= changed
        self.changes.append((self.batch, changed))
        self.texts.clear()

    def is_current(self) -> bool:
        """Whether the stream's data is newer than the minute's snapshot."""
        return time.time() * 1000 - self.read_at < CURRENT_SECONDS * 1000

    def tickers_since(self, batch: int) -> str:
        """The event with everything that changed after `batch`, however many batches a slow page has missed."""
        if batch not in self.texts:
            rows: dict[str, str] = {}
            if self.changes and batch >= self.changes[0][0]:
                for newer, changed in self.changes:
                    if newer > batch:
                        rows |= changed
            else:
                rows = self.rows
            newest = f'"sent_at": {self.sent_at}, "read_at": {self.read_at}'
            self.texts[batch] = event("tickers", f'{{{newest}, "rows": [{", ".join(rows.values())}]}}')
        return self.texts[batch]


class Announcer:
    """Listens for the database's notifications and forwards them to the open pages.

    Args:
        url: of the database.
        on_change: called after a write, or when writes may have been missed.
    """

    def __init__(self, url: str, on_change: Callable[[], None]) -> None:
        self.url, self.on_change = url, on_change
        self.listening = False
        self.pages: set[OpenPage] = set()
        self.live = LiveState()

    async def run(self) -> None:
        """Listen forever, reconnecting when the connection is lost."""
        delay = FIRST_RETRY
        while True:
            with contextlib.suppress(psycopg.Error):
                connection = await psycopg.AsyncConnection.connect(make_conninfo(self.url, **SESSION), autocommit=True)
                async with connection:
                    await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(READER_ROLE)))
                    await connection.execute("SET timezone = 'Asia/Seoul'")
                    for channel in (WRITTEN, LIVE):
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    delay = FIRST_RETRY
                    self.set_listening(listening=True)
                    while True:
                        await self.hear(connection)
            self.live = LiveState()
            self.set_listening(listening=False)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - no secret, only to spread
            delay = min(2 * delay, LAST_RETRY)

    async def hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Wait for notifications and forward them; several batches at once are read as one."""
        notifications = [each async for each in connection.notifies(stop_after=1)]
        for each in notifications:
            if each.channel == WRITTEN:
                self.on_change()
                self.broadcast(event(WRITTEN, parse_payload(each.payload)))
        if self.pages and any(each.channel == LIVE for each in notifications):
            await self.read_live(connection)

    async def read_live(self, connection: psycopg.AsyncConnection[Any]) -> None:
        before, live = self.live.batch, self.live
        found = await (await connection.execute(TICKERS, [before, CURRENT_SECONDS])).fetchall()
        if found:
            live.add(found)
        shown = {page.market for page in self.pages if page.market}
        # a market that no page showed before is read regardless of its last batch
        for since, markets in ((before, shown & live.states.keys()), (0, shown - live.states.keys())):
            if markets:
                values = {"batch": since, "markets": sorted(markets)}
                live.states |= dict(await (await connection.execute(MARKETS, values)).fetchall())
        for market in live.states.keys() - shown:
            del live.states[market]
        for page in self.pages:
            page.awake.set()

    def set_listening(self, *, listening: bool) -> None:
        if self.listening != listening:
            self.listening = listening
            self.on_change()
            self.broadcast(self.state())

    def state(self) -> str:
        return event("database", {"up": self.listening})

    def broadcast(self, text: str) -> None:
        for page in list(self.pages):
            if len(page.events) < MAX_QUEUED:
                page.events.append(text)
            else:
                self.pages.discard(page)
            page.awake.set()

    @contextmanager
    def page(self, market: str | None) -> Iterator[OpenPage]:
        page = OpenPage(market)
        page.awake.set()  # to send the current state
        self.pages.add(page)
        try:
            yield page
        finally:
            self.pages.discard(page)

    async def stream(self, market: str | None = None) -> AsyncIterator[str]:
        """Server-sent events: the state of the database first, then writes and live market data as they happen.

        A slow page gets what it missed as one event; it delays no other page.
        """
        with self.page(market) as page:
            yield self.state()
            while page in self.pages:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await page.awake.wait()
                except TimeoutError:
                    yield ": heartbeat\n\n"
                    continue
                page.awake.clear()
                if text := self.news(page):
                    yield text

    def news(self, page: OpenPage) -> str:
        """What the page has not been sent yet."""
        texts = [*page.events]
        page.events.clear()
        if page.batch < self.live.batch and self.live.is_current():
            texts.append(self.live.tickers_since(page.batch))
            page.batch = self.live.batch
        elif page.batch > self.live.batch:  # the database was unreachable
            page.batch = 0
        state = self.live.states.get(page.market or "")
        if state is not None and state is not page.state:
            page.state = state
            texts.append(event("market", state))
        return "".join(texts)


def parse_payload(payload: str) -> dict[str, str]:
    """The table and the period written; empty for a notification in another format."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        return {name: str(value) for name, value in json.loads(payload).items() if name in ("table", "start", "end")}
    return {}
