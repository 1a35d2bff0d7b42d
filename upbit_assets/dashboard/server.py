"""Runs the market board, as a process or in a thread for tests."""

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from upbit_assets.dashboard.app import LOOPBACK, create_app
from upbit_assets.local_http import listening

OPEN_FILES = 8192
NAME = "the market board"


def server(url: str, hosts: Sequence[str]) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            create_app(url, hosts),
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,  # the event streams of open pages never end
        )
    )


def serve(
    url: str, host: str, port: int, hosts: Sequence[str] = (), *, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve the board over the market database at `url` until SIGINT or SIGTERM.

    `ready` is called once it listens. Raises OSError with a clear message if it can't listen.
    """
    allow_open_files()
    with listening(NAME, host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        ready()
        server(url, (*LOOPBACK, host, *hosts)).run([listener])


def allow_open_files() -> None:
    """Raise the limit of open files, usually 1,024, as every open page needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@contextlib.contextmanager
def running(url: str, hosts: Sequence[str] = ()) -> Iterator[str]:
    """Run the board in a thread on a free port, for the duration of the context; yields its URL."""
    board = server(url, (*LOOPBACK, *hosts))
    listener = listening(NAME, "127.0.0.1", 0)
    thread = threading.Thread(target=board.run, args=([listener],), name="board", daemon=True)
    thread.start()
    try:
        while not board.started:
            if not thread.is_alive():
                raise RuntimeError("the board did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        board.should_exit = True
        thread.join()
        listener.close()
