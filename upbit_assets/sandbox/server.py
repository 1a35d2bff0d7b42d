"""Runs the offline exchange, as a process or in a thread for tests."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from upbit_assets.local_http import listening
from upbit_assets.sandbox.app import create_app
from upbit_assets.sandbox.clock import Clock, real_time
from upbit_assets.sandbox.faults import Faults
from upbit_assets.sandbox.hub import Hub
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.websocket import Connection

NAME = "the offline exchange"


@dataclass(frozen=True, slots=True)
class Handle:
    """A running exchange: its base URL, faults, market, and WebSocket hub."""

    url: str
    faults: Faults
    market: Market
    hub: Hub


class HttpProtocol(H11Protocol):
    """Passes the transport to the app, which needs it to reset the connection."""

    def connection_made(self, transport: Any) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn's own re-raises the signal after shutdown, which makes a requested stop look like a crash
        yield

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        self.should_exit = True


def serve(
    host: str = "127.0.0.1",
    port: int = 8766,
    *,
    seed: int = 0,
    markets: int = 855,
    activity: float = 1,
    clock: Clock = real_time,
    regional: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve the exchange until SIGTERM or SIGINT, then return. Call it from the main thread.

    For `activity` see `Market`. `ready` is called once it listens. Raises OSError with a clear message if it can't
    listen.
    """
    with listening(NAME, host, port) as listener:
        server = server_for(create_app(Market(seed, markets, activity), clock, regional=regional))
        previous = {signum: signal.signal(signum, server.stop) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            ready()
            server.run(sockets=[listener])
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


@contextlib.contextmanager
def running(
    market_count: int = 30,
    clock: Clock = real_time,
    port: int = 0,
    *,
    seed: int = 0,
    activity: float = 1,
    seconds: Callable[[], float] = time.time,
    regional: bool = False,
    date: Clock | None = None,
) -> Iterator[Handle]:
    """Run an exchange in a thread for the duration of the context, on a free port unless one is given.

    For `clock`, `seconds`, `regional` and `date` see `create_app`, for `activity` see `Market`.
    """
    market = Market(seed, market_count, activity)
    app = create_app(market, clock, seconds=seconds, regional=regional, date=date)
    with listening(NAME, "127.0.0.1", port) as listener:
        server = server_for(app)
        thread = threading.Thread(target=server.run, args=([listener],), name="offline-exchange", daemon=True)
        thread.start()
        try:
            await_start(server, thread)
            yield Handle(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.faults, market, app.state.hub)
        finally:
            server.stop()
            thread.join()


def server_for(app: Starlette) -> Server:
    return Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            loop="asyncio",  # uvloop's sockets don't take the SO_LINGER that a reset needs
            ws=partial(Connection, app.state.hub),  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
    )


def await_start(server: Server, thread: threading.Thread) -> None:
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the offline exchange did not start")
        time.sleep(0.005)
