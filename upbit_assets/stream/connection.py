"""A WebSocket to the exchange that subscribes, reads, and reconnects after any failure.

Source: Upbit WebSocket, Guide and Best practice; Rate limits.
"""

import asyncio
import json
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from upbit_assets.local_http import is_local
from upbit_assets.upbit.errors import BlockedError, block_end, quoted
from upbit_assets.upbit.limits import Limits
from upbit_assets.upbit.usage import Usage

log = logging.getLogger(__name__)

PATH = "/websocket/v1"
GROUP = "websocket"  # of the rate limits
CONNECTS_A_SECOND = 5  # of all processes of this machine; Upbit, Rate limits
FIRST_RETRY, LAST_RETRY = 0.5, 30.0  # seconds
AFTER_429 = 2.0  # at least
MUTE = 30.0  # seconds without data after which a connection counts as dead, even if it answers pings
LARGEST_FRAME = 16 * 2**20

Receive = Callable[[bytes, datetime, str], bool]
Admit = Callable[[bool], Awaitable[None]]


def subscription(codes: Mapping[str, Sequence[str]]) -> str:
    """The message that subscribes to these types and codes, replacing the previous subscription."""
    types = [{"type": kind, "codes": list(each)} for kind, each in codes.items() if each]
    return json.dumps([{"ticket": str(uuid.uuid4())}, *types, {"format": "DEFAULT"}])


class Connection:
    """A named connection.

    Args:
        base_url: the exchange's, as for REST.
        receive: called with each frame, its time of receipt and the connection's name; returns whether it was data. It
            must not block.
        admit: called on each new connection with whether the exchange is simulated, before subscribing.
    """

    def __init__(self, name: str, base_url: str, receive: Receive, admit: Admit) -> None:
        self.name, self.receive, self.admit = name, receive, admit
        self.url = base_url.replace("http", "ws", 1) + PATH
        self.limits = Limits(base_url, CONNECTS_A_SECOND)
        self.message = ""
        self.subscribed = asyncio.Event()
        self.socket: ClientConnection | None = None
        self.data_at: datetime | None = None  # when data was last received
        self.opened = 0  # number of times
        self.problem: str | None = None  # why it is not connected
        self.usage = Usage()  # of handshakes, since it was last reported

    async def subscribe(self, message: str) -> None:
        """Replace the subscription."""
        self.message = message
        self.subscribed.set()
        if self.socket:
            try:
                await self.socket.send(message)
            except WebSocketException:
                log.info("%s: closed while subscribing; it subscribes when reconnected.", self.name)

    async def run(self) -> None:
        """Stay connected, from the first subscription on."""
        await self.subscribed.wait()
        failures = 0
        while True:
            began = time.monotonic()
            wait, problem = 0.0, ""
            try:
                await self.read()
                problem = "closed by the exchange"
            except BlockedError as error:
                wait, problem = self.blocked(error), str(error)
            except InvalidStatus as error:
                wait = AFTER_429 if error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS else 0
                problem = str(error)
            except (OSError, TimeoutError, WebSocketException) as error:
                problem = str(error) or type(error).__name__
            failures = 0 if time.monotonic() - began > LAST_RETRY else failures + 1
            wait, self.problem = max(wait, back_off(failures)), problem
            log.warning("%s: %s. Reconnecting in %.1f s.", self.name, problem, wait)
            await asyncio.sleep(wait)

    async def read(self) -> None:
        """One connection, from its handshake to its end.

        Raises:
            BlockedError, InvalidStatus: the exchange rejected the connection.
            OSError, TimeoutError, WebSocketException: connecting failed, or the connection was lost.
        """
        socket = await self.connect()
        async with socket:
            await self.admit(is_simulated(socket))
            await socket.send(self.message)
            self.socket, self.opened, self.problem = socket, self.opened + 1, None
            log.info("%s: connected.", self.name)
            watch = asyncio.create_task(self.watch(socket))
            try:
                async for payload in socket:
                    now = datetime.now(UTC)
                    if self.receive(as_bytes(payload), now, self.name):
                        self.data_at = now
            finally:
                self.socket = None
                watch.cancel()

    async def connect(self) -> ClientConnection:
        turn = await asyncio.to_thread(self.limits.acquire, GROUP)
        try:
            socket = await connect(self.url, **options(self.url))
        except InvalidStatus as error:
            if error.response.status_code != HTTPStatus.IM_A_TEAPOT:
                self.usage.add(error.response.status_code)
                raise
            now, body = datetime.now(UTC), bytes(error.response.body or b"")
            blocked = BlockedError(block_end(body.decode(errors="replace"), now), quoted(body))
            self.usage.add(HTTPStatus.IM_A_TEAPOT, blocked_until=self.limits.block(blocked, now))
            raise blocked from error
        finally:
            await asyncio.to_thread(self.limits.record_response, GROUP, turn)
        self.usage.add(HTTPStatus.SWITCHING_PROTOCOLS)
        return socket

    async def watch(self, socket: ClientConnection) -> None:
        """Abort the connection if it receives no data."""
        last, since = self.data_at, time.monotonic()
        while True:
            await asyncio.sleep(MUTE / 30)
            if self.data_at != last:
                last, since = self.data_at, time.monotonic()
            elif time.monotonic() - since > MUTE:
                log.warning("%s: no data for %.0f s.", self.name, MUTE)
                socket.transport.abort()
                return

    def blocked(self, error: BlockedError) -> float:
        return max((error.until - datetime.now(UTC)).total_seconds(), 0) if error.until else LAST_RETRY


def is_simulated(socket: ClientConnection) -> bool:
    """Whether it is the offline exchange, by its response header."""
    headers = socket.response.headers if socket.response else {}
    return str(headers.get("X-Upbit-Simulated", "")).lower() == "true"


def options(url: str) -> dict[str, Any]:
    return {
        "proxy": None if is_local(url) else True,
        "compression": None,  # costs more than it saves at these sizes
        "ping_interval": 20,
        "ping_timeout": None,  # dead connections are detected by `watch`
        "close_timeout": 1,
        "max_size": LARGEST_FRAME,
        "max_queue": 1024,
    }


def back_off(failures: int) -> float:
    """Seconds to wait after this number of consecutive failures, with jitter."""
    longest = min(FIRST_RETRY * 2 ** min(failures, 10), LAST_RETRY)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


def as_bytes(payload: str | bytes) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload
