"""A store may be unreachable, slow or full, cut uploads off, or reject credentials: each is one clear error."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from upbit_assets.archive import ArchiveError
from upbit_assets.archive import store as store_module
from upbit_assets.archive.days import archive_day, path_of, read_back
from upbit_assets.archive.store import Store
from upbit_assets.local_http import session_for
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.archive.conftest import ACCESS_KEY, SECRET, use_s3
from upbit_assets_tests.archive.rows import PAST, put_rows
from upbit_assets_tests.pipeline import ask

pytestmark = pytest.mark.long

TICKERS = tables.bronze_ticker_raw
ERROR = "<Error><Code>{}</Code><Message>of {}</Message><AWSAccessKeyId>{}</AWSAccessKeyId></Error>"


class Faulty(BaseHTTPRequestHandler):
    """Forwards requests to a working S3 server, except those that `fault` handles."""

    upstream: ClassVar[str]
    fault: ClassVar[Any]

    def handle_one(self) -> None:
        if type(self).fault(self):
            return
        length = int(self.headers.get("Content-Length") or 0)
        answer = session_for(self.upstream).request(
            self.command, self.upstream + self.path, data=self.rfile.read(length), headers=dict(self.headers)
        )
        self.answer(answer.status_code, answer.content, dict(answer.headers))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def faulty(monkeypatch: pytest.MonkeyPatch, upstream: str, fault: Callable[[Faulty], bool]) -> Iterator[None]:
    handler = type("Handler", (Faulty,), {"upstream": upstream, "fault": fault})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        use_s3(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def refuse(request: Faulty) -> bool:
    request.answer(403, ERROR.format("InvalidAccessKeyId", SECRET, ACCESS_KEY).encode())
    return True


def full(request: Faulty) -> bool:
    if request.command in ("PUT", "POST"):
        request.answer(507, ERROR.format("StorageFull", "the disk", "").encode())
        return True
    return False


def cut_off(request: Faulty) -> bool:
    """In the middle of an upload."""
    if request.command == "PUT" and "rows.parquet" in request.path:
        request.rfile.read(100)
        request.connection.close()
        request.close_connection = True
        return True
    return False


def slow(request: Faulty) -> bool:
    time.sleep(5)
    return False


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store_module.CLIENT, "timeout", "2s")
    monkeypatch.setitem(store_module.RETRIES, "max_retries", 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refuse, "The store rejects the credentials, or they lack the privilege for this"),
        (full, "The store does not respond, is full, or closed the connection"),
        (cut_off, "The store does not respond, is full, or closed the connection"),
        pytest.param(slow, "The store does not respond, is full, or closed the connection", marks=pytest.mark.long),
    ],
)
def test_what_a_store_does_is_one_plain_error_without_credentials_and_the_version_before_stays(
    database: Database, market_url: str, s3: Store, s3_server: str, monkeypatch: pytest.MonkeyPatch, fault, message: str
):
    put_rows(market_url, TICKERS)
    before = archive_day(database, s3, TICKERS, PAST)
    put_rows(market_url, TICKERS, count=5, first=50)
    with faulty(monkeypatch, s3_server, fault), pytest.raises(ArchiveError, match=message) as error:
        archive_day(database, Store(), TICKERS, PAST)
    assert "UPBIT_ARCHIVE_URL is s3://upbit/bronze" in str(error.value)
    assert ACCESS_KEY not in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None, "its text would be stored in Dagster's database"

    use_s3(monkeypatch, s3_server)
    assert read_back(Store(), TICKERS, PAST) == before
    assert ask(market_url, "SELECT count(*) FROM bronze.archive") == [(1,)], "a failed archive is not recorded"
    again = archive_day(database, Store(), TICKERS, PAST)
    assert again is not None
    assert again.content.rows == 35


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_unreachable_is_named(database: Database, market_url: str, monkeypatch: pytest.MonkeyPatch):
    use_s3(monkeypatch, "http://127.0.0.1:9")
    put_rows(market_url, TICKERS)
    with pytest.raises(ArchiveError, match="does not respond"):
        archive_day(database, Store(), TICKERS, PAST)


def test_a_bucket_that_is_not_there_is_not_made(
    database: Database, market_url: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
):
    use_s3(monkeypatch, s3_server)
    put_rows(market_url, TICKERS)
    with pytest.raises(ArchiveError, match="no such bucket or folder: create it first"):
        archive_day(database, Store(), TICKERS, PAST)


def test_nor_is_a_folder_which_may_be_a_disk_that_is_not_mounted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPBIT_ARCHIVE_URL", "/nonesuch/archive")
    with pytest.raises(ArchiveError, match=r"create it first.*UPBIT_ARCHIVE_URL is /nonesuch/archive"):
        Store()


def test_a_file_of_several_parts_is_uploaded_whole(s3: Store, tmp_path: Path):
    content = os.urandom(3 * store_module.PART + 5)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        s3.put("a/b", file)
    copy = s3.fetch("a/b")
    assert copy is not None
    with copy:
        assert copy.read() == content
    assert list(s3.paths()) == ["a/b"]


KILLED = """
import os
from upbit_assets.archive.days import *
from upbit_assets.postgres import tables
print("ready", flush=True)
day = seoul_days.at(datetime.fromisoformat("2026-01-29T12:00+09:00"))
while True:
    archive_day(Database(), Store(), tables.bronze_ticker_raw, day)
    print("again", flush=True)
"""


def test_a_killed_archiver_leaves_no_half_file(database: Database, market_url: str, folder: Path):
    put_rows(market_url, TICKERS, count=2000)
    file = folder / path_of(TICKERS, PAST)
    for wait in (0.0, 0.05, 0.15):
        with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, env=dict(os.environ)) as archiver:
            assert archiver.stdout is not None
            archiver.stdout.readline()
            time.sleep(wait)
            archiver.send_signal(signal.SIGKILL)
        if file.exists():
            archived = read_back(Store(), TICKERS, PAST)
            assert archived is not None
            archived.require_whole()
    archived = archive_day(database, Store(), TICKERS, PAST)
    assert archived is not None
    assert archived.content.rows == 2000
