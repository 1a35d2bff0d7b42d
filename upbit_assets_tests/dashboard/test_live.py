"""What is written reaches every open page at once, over one connection, and again after the database was away."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from upbit_assets.dashboard.server import running
from upbit_assets.partitions import windows
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets_tests import http
from upbit_assets_tests.conftest import copy_of_upbit, empty
from upbit_assets_tests.dashboard.market_data import books_of, notify, put

LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'upbit_assets board' AND datname = current_database()"
)
FOREIGN = ("", "no json", "[1, 2]", '{"table": {"deep": "x\\ny"}, "other": 1}', "\U0001f600" * 900, "[" * 7999)


class OpenPage:
    """The stream of one page."""

    def __init__(self, address: str) -> None:
        self.reply = http.get(address + "/api/events", stream=True, timeout=10)
        self.lines = self.reply.iter_lines(chunk_size=1, decode_unicode=True)

    def event(self) -> tuple[str, Any]:
        """The next event, and what it says."""
        name = next(line for line in self.lines if line.startswith("event: ")).removeprefix("event: ")
        return name, json.loads(next(self.lines).removeprefix("data: "))

    def until(self, name: str, said: Any) -> None:
        for _ in range(20):
            if self.event() == (name, said):
                return
        pytest.fail(f"no {name} {said} came")


@pytest.fixture(scope="module")
def url(server: EmbeddedPostgres) -> Iterator[str]:
    with copy_of_upbit(server, "live") as url:
        yield url


@pytest.fixture(scope="module")
def board(url: str) -> Iterator[str]:
    with running(url) as address:
        yield address


@pytest.fixture
def open_page(board: str) -> Iterator[OpenPage]:
    page = OpenPage(board)
    yield page
    page.reply.close()


def write(url: str, table: str = "gold.market_stats") -> None:
    with psycopg.connect(url) as connection:
        notify(connection, table, windows.at(datetime.now(UTC)).start)


def test_all_pages_hear_of_a_write_over_one_connection(board: str, url: str):
    with ExitStack() as closing:
        pages = [OpenPage(board) for _ in range(40)]
        for page in pages:
            closing.callback(page.reply.close)
            page.until("database", {"up": True})
        write(url)
        for page in pages:
            name, said = page.event()
            assert (name, said["table"]) == ("asset_written", "gold.market_stats")
            assert datetime.fromisoformat(said["start"]) == windows.at(datetime.now(UTC)).start
        with psycopg.connect(url) as connection:
            assert len(connection.execute(LISTENERS).fetchall()) == 1


def test_a_write_that_is_rolled_back_is_not_told(url: str, open_page: OpenPage):
    open_page.until("database", {"up": True})
    with psycopg.connect(url) as connection:
        notify(connection, "gold.never", datetime.now(UTC))
        connection.rollback()
    write(url, "gold.done")
    assert open_page.event()[1]["table"] == "gold.done"


@pytest.mark.parametrize("payload", FOREIGN)
def test_a_foreign_notification_harms_nobody(url: str, open_page: OpenPage, payload: str):
    open_page.until("database", {"up": True})
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_notify('asset_written', %s)", (payload,))
    name, said = open_page.event()
    assert name == "asset_written"
    assert set(said) <= {"table", "start", "end"}
    assert all(isinstance(value, str) for value in said.values())


def test_it_says_that_the_database_went_away_and_listens_again(url: str, open_page: OpenPage):
    open_page.until("database", {"up": True})
    with psycopg.connect(url) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) listeners")
    open_page.until("database", {"up": False})
    open_page.until("database", {"up": True})
    write(url)
    assert open_page.event()[0] == "asset_written"


def test_an_answer_is_kept_until_something_is_written(board: str, url: str):
    """A thousand pages that hear of a window must not each read it from the database."""
    start = windows.at(datetime.now(UTC)).start

    def rejected() -> int:
        rows = http.get(board + "/api/coverage", timeout=10).json()["rows"]
        return rows[-1]["rejected_rows"]

    empty(url)
    put(url, books_of([start], 1))
    OpenPage(board).until("database", {"up": True})
    write(url)
    time.sleep(0.2)
    assert rejected() == 0
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE silver.ticker_build SET rejected_rows = 7")
    assert rejected() == 0, "it was read again though nothing was told"
    with psycopg.connect(url) as connection:
        notify(connection, "silver.ticker", start)
    deadline = time.monotonic() + 2
    while rejected() != 7:
        assert time.monotonic() < deadline
