"""Every write reaches all open pages at once, over one connection, also after the database was unavailable."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import psycopg
import pytest

from upbit_assets.dashboard import live
from upbit_assets.dashboard.live import Announcer
from upbit_assets.dashboard.server import running
from upbit_assets.partitions import windows
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets_tests import http
from upbit_assets_tests.conftest import copy_of_upbit, empty
from upbit_assets_tests.dashboard.market_data import books_of, notify, put

LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'upbit_assets board' AND datname = current_database()"
)
TICKER = """
INSERT INTO live.ticker SELECT market, 100 + batch, 0.01, 1, 10, now() - age, now() - age, batch
FROM (SELECT unnest(%s::text[]) AS market, nextval('live.batch') AS batch, %s::interval AS age) AS each
ON CONFLICT (market) DO UPDATE SET trade_price = excluded.trade_price, batch = excluded.batch,
  sent_at = excluded.sent_at, received_at = excluded.received_at
"""
TRADE = """
INSERT INTO live.trade
SELECT 'KRW-A', id, date_trunc('minute', now()) + id * interval '1 millisecond', 100 + id, 2, taker, now(),
       nextval('live.batch')
FROM unnest(%s::bigint[], %s::text[]) AS each (id, taker)
"""
FOREIGN = ("", "no json", "[1, 2]", '{"table": {"deep": "x\\ny"}, "other": 1}', "\U0001f600" * 900, "[" * 7999)


class OpenPage:
    """The event stream of one page."""

    def __init__(self, address: str, market: str = "") -> None:
        self.reply = http.get(f"{address}/api/events?market={market}", stream=True, timeout=10)
        self.lines = self.reply.iter_lines(chunk_size=1, decode_unicode=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reply.close()

    def event(self) -> tuple[str, Any]:
        """The next event and its data."""
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


def test_all_pages_get_a_write_over_one_connection(board: str, url: str):
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


def test_a_write_that_is_rolled_back_is_not_notified(url: str, open_page: OpenPage):
    open_page.until("database", {"up": True})
    with psycopg.connect(url) as connection:
        notify(connection, "gold.never", datetime.now(UTC))
        connection.rollback()
    write(url, "gold.done")
    assert open_page.event()[1]["table"] == "gold.done"


@pytest.mark.parametrize("payload", FOREIGN)
def test_a_foreign_notification_is_ignored(url: str, open_page: OpenPage, payload: str):
    open_page.until("database", {"up": True})
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_notify('asset_written', %s)", (payload,))
    name, said = open_page.event()
    assert name == "asset_written"
    assert set(said) <= {"table", "start", "end"}
    assert all(isinstance(value, str) for value in said.values())


def test_a_lost_database_is_reported_and_listening_resumes(url: str, open_page: OpenPage):
    open_page.until("database", {"up": True})
    with psycopg.connect(url) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) listeners")
    open_page.until("database", {"up": False})
    open_page.until("database", {"up": True})
    write(url)
    assert open_page.event()[0] == "asset_written"


def test_a_response_is_cached_until_the_next_write(board: str, url: str):
    """A thousand pages that get a window's event must not each read it from the database."""
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
    assert rejected() == 0, "it was read again without a notification"
    with psycopg.connect(url) as connection:
        notify(connection, "silver.ticker", start)
    deadline = time.monotonic() + 2
    while rejected() != 7:
        assert time.monotonic() < deadline


@pytest.fixture
def stream(url: str, board: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the stream, whose batches are notified on commit."""
    empty(url)
    with psycopg.connect(url) as connection:
        yield connection


def batch(stream: psycopg.Connection[Any], *markets: str, age: str = "0 s") -> None:
    stream.execute(TICKER, [list(markets), age])
    stream.execute("NOTIFY live_written")
    stream.commit()


def prices(page: OpenPage) -> dict[str, str]:
    """The prices in the next event of tickers."""
    while True:
        name, said = page.event()
        if name == "tickers":
            return {market: price for market, price, *_ in said["rows"]}


def test_a_page_gets_all_tickers_first_then_changes(board: str, stream: psycopg.Connection[Any]):
    with OpenPage(board) as before:
        before.until("database", {"up": True})
        batch(stream, "KRW-A", "KRW-B")
        assert prices(before).keys() == {"KRW-A", "KRW-B"}
        with OpenPage(board) as later:
            assert prices(later).keys() == {"KRW-A", "KRW-B"}
            batch(stream, "KRW-B")
            assert prices(later).keys() == prices(before).keys() == {"KRW-B"}


def test_a_stream_that_is_down_is_not_shown_as_live(board: str, stream: psycopg.Connection[Any]):
    with OpenPage(board) as page:
        page.until("database", {"up": True})
        batch(stream, "KRW-A", age="20 s")
        batch(stream, "KRW-B")
        assert prices(page).keys() == {"KRW-A", "KRW-B"}, "the old one was sent without a request"


def test_a_page_that_opens_after_the_stream_went_down_gets_no_old_tickers(url: str, monkeypatch: pytest.MonkeyPatch):
    announcer = Announcer(url, lambda: None)
    announcer.live.add([(1, "KRW-A", 0, '["KRW-A"]')])
    with announcer.page(None) as page:
        assert "KRW-A" in announcer.news(page)
    monkeypatch.setattr(live, "CURRENT_SECONDS", 0)
    with announcer.page(None) as page:
        assert announcer.news(page) == ""


def test_a_slow_page_gets_what_it_missed_at_once(url: str):
    announcer = Announcer(url, lambda: None)
    for number in range(1, 4):
        announcer.live.add([(number, f"KRW-{number}", 0, f'["KRW-{number}"]'), (number, "KRW-X", 0, f'["X{number}"]')])
    with announcer.page(None) as page:
        page.batch = 1
        rows = json.loads(announcer.news(page).partition("data: ")[2])["rows"]
        assert sorted(rows) == [["KRW-2"], ["KRW-3"], ["X3"]]
        assert announcer.news(page) == ""


def test_a_page_gets_book_trades_and_candle_of_its_market_only(board: str, stream: psycopg.Connection[Any]):
    with OpenPage(board, "KRW-A") as page, OpenPage(board, "KRW-B") as other:
        page.until("database", {"up": True})
        other.until("database", {"up": True})
        stream.execute(TRADE, [[3, 1, 2], ["BID", "ASK", "BID"]])
        stream.execute(
            "INSERT INTO live.orderbook VALUES "
            "('KRW-A', 3, 4, '{101, 102}', '{1, 2}', '{99, 98.5}', '{2, 2}', now(), now(), nextval('live.batch'))"
        )
        batch(stream, "KRW-A", "KRW-B")
        while (event := page.event())[0] != "market":
            continue
        said = event[1]
        assert said["market"] == "KRW-A"
        assert [(price, volume, taker) for _, price, volume, taker in said["trades"]] == [
            *(("103", "2", "BID"), ("102", "2", "BID"), ("101", "2", "ASK")),
        ]
        assert Decimal(said["strength"]) == 200
        figures = ("opening_price", "high_price", "low_price", "closing_price", "volume")
        assert [said["candle"][name] for name in figures] == ["101", "103", "101", "103", "6"]
        assert said["book"]["bid_prices"] == ["99", "98.5"]
        assert Decimal(said["book"]["spread_bps"]) == 200
        batch(stream, "KRW-B")
        assert [other.event()[0] for _ in range(2)] == ["tickers", "tickers"]


def test_many_live_pages_need_one_connection(board: str, url: str, stream: psycopg.Connection[Any]):
    with ExitStack() as closing:
        pages = [closing.enter_context(OpenPage(board)) for _ in range(100)]
        for page in pages:
            page.until("database", {"up": True})
        batch(stream, "KRW-A")
        assert all(prices(page).keys() == {"KRW-A"} for page in pages)
        assert len(stream.execute(LISTENERS).fetchall()) == 1
