"""Live tables: each market's newest ticker and order book, and the trades of the last minutes.

Four times a second, changed rows replace the previous ones. If the database is slow, intermediate states are skipped:
only the newest is written, and nothing is queued.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import psycopg
import sqlalchemy as sa

from upbit_assets.partitions import EPOCH, MILLISECOND
from upbit_assets.postgres.resource import engine_for
from upbit_assets.postgres_io.copy import cursor

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.25
RETRY_SECONDS = 1.0
TRADES_KEPT = timedelta(minutes=15)  # longer than until candles are collected over REST
PRUNE_EVERY = 40  # batches
MAX_TRADES = 5_000  # per batch; further ones are only in bronze


class Ticker(msgspec.Struct):
    """A ticker's frame. Source: Upbit WebSocket, Ticker."""

    code: str
    trade_price: Decimal
    signed_change_rate: Decimal
    acc_trade_volume_24h: Decimal
    acc_trade_price_24h: Decimal
    timestamp: int

    def row(self) -> tuple[Any, ...]:
        return (
            *(self.code, self.trade_price, self.signed_change_rate),
            *(self.acc_trade_volume_24h, self.acc_trade_price_24h, EPOCH + self.timestamp * MILLISECOND),
        )


class Level(msgspec.Struct):
    ask_price: Decimal
    ask_size: Decimal
    bid_price: Decimal
    bid_size: Decimal


class Orderbook(msgspec.Struct):
    """An order book's frame; a side with fewer levels is padded with zeros. Source: Upbit WebSocket, Orderbook."""

    code: str
    total_ask_size: Decimal
    total_bid_size: Decimal
    orderbook_units: list[Level]
    timestamp: int

    def row(self) -> tuple[Any, ...]:
        asks = [(unit.ask_price, unit.ask_size) for unit in self.orderbook_units if unit.ask_price]
        bids = [(unit.bid_price, unit.bid_size) for unit in self.orderbook_units if unit.bid_price]
        return (
            *(self.code, self.total_ask_size, self.total_bid_size),
            *([price for price, _ in asks], [size for _, size in asks]),
            *([price for price, _ in bids], [size for _, size in bids]),
            EPOCH + self.timestamp * MILLISECOND,
        )


class Trade(msgspec.Struct):
    """A trade's frame. Source: Upbit WebSocket, Trade."""

    code: str
    sequential_id: int
    trade_timestamp: int
    trade_price: Decimal
    trade_volume: Decimal
    ask_bid: str

    def row(self) -> tuple[Any, ...]:
        return (
            *(self.code, self.sequential_id, EPOCH + self.trade_timestamp * MILLISECOND),
            *(self.trade_price, self.trade_volume, self.ask_bid),
        )


class Target(NamedTuple):
    """How the frames of a type are read and stored."""

    decoder: msgspec.json.Decoder[Any]
    statement: str
    by_row: bool = False  # row by row, because unnest would flatten nested arrays


TICKERS = """
INSERT INTO live.ticker (
  market, trade_price, change_rate, acc_trade_volume, acc_trade_price, sent_at, received_at, batch)
SELECT *, %s FROM unnest(
  %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::timestamptz[], %s::timestamptz[])
ON CONFLICT (market) DO UPDATE SET
  (trade_price, change_rate, acc_trade_volume, acc_trade_price, sent_at, received_at, batch) = ROW (
    excluded.trade_price, excluded.change_rate, excluded.acc_trade_volume, excluded.acc_trade_price, excluded.sent_at,
    excluded.received_at, excluded.batch)
"""
ORDERBOOKS = """
INSERT INTO live.orderbook (
  batch, market, total_ask_size, total_bid_size, ask_prices, ask_sizes, bid_prices, bid_sizes, sent_at, received_at)
VALUES (%s, %s, %s, %s, %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s, %s)
ON CONFLICT (market) DO UPDATE SET
  (batch, total_ask_size, total_bid_size, ask_prices, ask_sizes, bid_prices, bid_sizes, sent_at, received_at) = ROW (
    excluded.batch, excluded.total_ask_size, excluded.total_bid_size, excluded.ask_prices, excluded.ask_sizes,
    excluded.bid_prices, excluded.bid_sizes, excluded.sent_at, excluded.received_at)
"""
TRADES = """
INSERT INTO live.trade (market, trade_id, traded_at, price, volume, taker, received_at, batch)
SELECT *, %s FROM unnest(
  %s::text[], %s::bigint[], %s::timestamptz[], %s::numeric[], %s::numeric[], %s::text[], %s::timestamptz[])
ON CONFLICT DO NOTHING
"""
TARGETS: Mapping[str, Target] = {
    "ticker": Target(msgspec.json.Decoder(Ticker), TICKERS),
    "orderbook": Target(msgspec.json.Decoder(Orderbook), ORDERBOOKS, by_row=True),
    "trade": Target(msgspec.json.Decoder(Trade), TRADES),
}
NEXT_BATCH = sa.text("SELECT nextval('live.batch')")
NOTIFY = sa.text("NOTIFY live_written")
PRUNE = sa.text("DELETE FROM live.trade WHERE received_at < :before")
SESSION = sa.text("SET statement_timeout = '5s'; SET synchronous_commit = off")


class LivePublisher:
    """Keeps the newest frames in memory, and writes changed ones to the live tables.

    Args:
        database_url: gives the market data's database.
    """

    def __init__(self, database_url: Callable[[], str]) -> None:
        self.database_url = database_url
        self.newest: dict[tuple[str, str], tuple[bytes, datetime]] = {}
        self.trades: list[tuple[bytes, datetime]] = []
        self.connection: sa.Connection | None = None
        self.batches = 0
        self.failing = False

    def put(self, kind: str, code: str, payload: bytes, received_at: datetime) -> None:
        """Add a frame; doesn't block."""
        if kind != "trade":
            self.newest[kind, code] = payload, received_at
        elif len(self.trades) < MAX_TRADES:
            self.trades.append((payload, received_at))

    async def run(self) -> None:
        """Publish until canceled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "live") as thread:
            try:
                while True:
                    await asyncio.sleep(BATCH_SECONDS)
                    if frames := self.take():
                        published = await loop.run_in_executor(thread, self.publish, frames)
                        await asyncio.sleep(0 if published else RETRY_SECONDS)
            finally:
                thread.submit(self.close)

    def take(self) -> list[tuple[str, bytes, datetime]]:
        newest, self.newest = self.newest, {}
        trades, self.trades = self.trades, []
        return [*((kind, *frame) for (kind, _), frame in newest.items()), *(("trade", *frame) for frame in trades)]

    def publish(self, frames: Sequence[tuple[str, bytes, datetime]]) -> bool:
        """Store a batch in one transaction; returns whether that succeeded."""
        rows = readable(frames)
        try:
            connection = self.open()
            with connection.begin():
                batch = connection.scalar(NEXT_BATCH)
                for kind, found in rows.items():
                    store(connection, TARGETS[kind], found, batch)
                connection.execute(NOTIFY)
                self.batches += 1
                if self.batches % PRUNE_EVERY == 0:
                    connection.execute(PRUNE, {"before": datetime.now(UTC) - TRADES_KEPT})
        except psycopg.DataError:  # a figure out of range: store the other rows without it
            half = len(frames) // 2
            return not half or (self.publish(frames[:half]) and self.publish(frames[half:]))
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            self.report(f"The live tables are not up to date: {str(cause).strip()}")
            self.close()
            return False
        self.report(None)
        return True

    def report(self, problem: str | None) -> None:
        """Log a problem when it starts and when it ends."""
        if problem and not self.failing:
            log.warning("%s", problem)
        elif self.failing and not problem:
            log.info("The live tables are up to date again.")
        self.failing = problem is not None

    def open(self) -> sa.Connection:
        if self.connection is None:
            connection = engine_for(self.database_url()).connect()
            with connection.begin():
                connection.execute(SESSION)
            self.connection = connection
        return self.connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.invalidate()
            self.connection.close()
            self.connection = None


def store(connection: sa.Connection, target: Target, rows: Sequence[tuple[Any, ...]], batch: Any) -> None:
    with cursor(connection) as writer:
        if target.by_row:
            writer.executemany(target.statement, [(batch, *row) for row in rows])
        else:
            writer.execute(target.statement, [batch, *map(list, zip(*rows, strict=True))])


def readable(frames: Sequence[tuple[str, bytes, datetime]]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each type's frames. Unreadable frames are left out here; those of trades are in bronze."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for kind, payload, received_at in frames:
        try:
            row = TARGETS[kind].decoder.decode(payload).row()
        except (msgspec.DecodeError, UnicodeError, OverflowError):
            continue
        rows.setdefault(kind, []).append((*row, received_at))
    return rows
