"""An exchange over real HTTP with scripted replies, in order."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from upbit_assets.upbit import Limits, UpbitClient


@dataclass(frozen=True)
class Answer:
    """`delay`: seconds before it; `missing`: bytes promised but never sent; `drip`: seconds between two bytes of it."""

    body: bytes = b'[{"market":"KRW-BTC"}]'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    missing: int = 0
    drip: float = 0
    reset: bool = False


@dataclass(frozen=True)
class Request:
    """A request: `connection` is the connection's number, `at` is monotonic seconds."""

    at: float
    connection: int
    path: str
    headers: dict[str, str]


class ScriptedExchange:
    """Keeps connections open between replies; `requests` has what it received."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        connections = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connections += 1
            threading.Thread(target=self._serve, args=(connection, connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                while first := lines.readline():
                    head = iter(lambda: lines.readline().decode().strip(), "")
                    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head)}
                    self.requests.append(Request(time.monotonic(), number, first.decode().split()[1], headers))
                    if not self._answer(connection, self.answers.pop(0)):
                        return
        except OSError:
            return

    def _answer(self, connection: socket.socket, answer: Answer) -> bool:
        """Whether the connection stays open."""
        self._closed.wait(answer.delay)
        if answer.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        chunked = "Transfer-Encoding" in answer.headers
        length = {} if chunked else {"Content-Length": str(len(answer.body) + answer.missing)}
        lines = [f"{name}: {value}\r\n" for name, value in (length | answer.headers).items()]
        head = f"HTTP/1.1 {answer.status} Scripted\r\n{''.join(lines)}\r\n".encode()
        for part in [head, *(bytes([byte]) for byte in answer.body)] if answer.drip else [head + answer.body]:
            connection.sendall(part)
            time.sleep(answer.drip)
        return not answer.missing


@pytest.fixture
def exchange() -> Iterator[ScriptedExchange]:
    scripted = ScriptedExchange()
    yield scripted
    scripted.close()


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client would have slept between attempts."""
    return []


@pytest.fixture
def client(exchange: ScriptedExchange, waits: list[float]) -> Iterator[UpbitClient]:
    with UpbitClient(exchange.url, sleep=waits.append, limits=skipping_limits(exchange)) as upbit:
        yield upbit


@pytest.fixture
def hurried(exchange: ScriptedExchange, waits: list[float]) -> Iterator[UpbitClient]:
    """A client with a read timeout of less than a second."""
    with UpbitClient(exchange.url, read_timeout=1, sleep=waits.append, limits=skipping_limits(exchange)) as upbit:
        yield upbit


def skipping_limits(exchange: ScriptedExchange) -> Limits:
    """Limits whose clock jumps ahead instead of waiting."""
    skipped: list[float] = []
    return Limits(exchange.url, clock=lambda: time.monotonic() + sum(skipped), sleep=skipped.append)
