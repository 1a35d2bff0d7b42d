"""Runs the offline exchange: as a process of its own, or beside a test in a thread."""

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
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.websocket import Connection, Hub

NAME = "the offline exchange"


@dataclass(frozen=True, slots=True)
class Handle:
    """A running exchange: its base URL, its faults, the market it serves, and its WebSocket's side."""

    url: str
    faults: Faults
    market: Market
    hub: Hub


class HttpProtocol(H11Protocol):
    """Hands the connection to the app, which needs it to break it off."""

    def connection_made(self, transport: Any) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn's own raises the signal again once it is down, and a stop on request would look like a crash
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
    """Serve the exchange until SIGTERM or SIGINT, then return. To be called in the main thread.

    `activity` is that of `Market`. `ready` is called once it listens. Raises OSError, with a message that says so,
    when it can't.
    """
    with listening(NAME, host, port) as listener:
        server = server_for(create_app(Market(seed, markets, activity), clock, regional=regional))
        former = {each: signal.signal(each, server.stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            ready()
            server.run(sockets=[listener])
        finally:
            for each, handler in former.items():
                signal.signal(each, handler)


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
    """An exchange in a thread of this process, on a free port unless one is given, gone with the context.

    `clock`, `seconds`, `regional` and `date` are those of `create_app`, `activity` that of `Market`.
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
            loop="asyncio",  # its sockets take the option that a reset needs
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
