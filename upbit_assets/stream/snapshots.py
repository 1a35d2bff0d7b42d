"""The minute's snapshot of all tickers, and of the chosen order books, into bronze: what a run would collect.

A run a minute would cost Dagster a process and a log. They are what proves that the stream has every trade, and the
source of the windows' figures; Dagster computes those when a window is over.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets import snapshots
from upbit_assets.assets.selection import NoRankingError
from upbit_assets.partitions import MINUTE, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.exchange_calls import report_calls
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.postgres.snapshot_source import STREAM_SECOND
from upbit_assets.postgres_io import Records
from upbit_assets.stream.writer import Writer
from upbit_assets.upbit import Reply, UpbitClient

log = logging.getLogger(__name__)

DEADLINE = 20.0  # seconds for the exchange's answers; what is later than the full minute a run has collected instead


class Snapshots:
    """Takes one each minute.

    Args:
        base_url: the exchange's.
        writer: brings them into the database, between the batches of trades.
    """

    def __init__(self, base_url: str, writer: Writer) -> None:
        self.client = UpbitClient(base_url, attempts=2, deadline=DEADLINE, report=report_calls)
        self.writer = writer

    async def run(self) -> None:
        """Take them for ever. Raises OriginError where the database holds the other kind of data."""
        while True:
            minute = MINUTE.total_seconds()
            await asyncio.sleep((STREAM_SECOND - datetime.now(UTC).timestamp()) % minute or minute)
            try:
                await self.take()
            except (snapshots.SnapshotError, DatabaseError) as error:
                log.warning("There is no snapshot of this minute by the stream: %s", error)

    async def take(self) -> None:
        """One transaction with everything that was collected, or none.

        Raises:
            SnapshotError, DatabaseError: there is none.
        """
        reply, load = await asyncio.to_thread(self.collect)
        store = self.writer.store
        await self.writer.in_database(store.claim_origin, reply.url, simulated=reply.simulated)
        await self.writer.in_database(store.append, load, snapshot_at=reply.received_at)

    def collect(self) -> tuple[Reply, Mapping[sa.Table, Records]]:
        """The tickers' reply, and the rows for each table."""
        window = windows.at(datetime.now(UTC))
        with Database().connect() as connection:
            *_, reply = tickers = snapshots.snapshot(log, self.client, snapshots.all_tickers(connection), window)
            books = self.orderbooks(connection, window)
            listed = snapshots.market_list(log, connection, self.client, window)
        load = {tables.bronze_ticker_raw: snapshots.as_records(*tickers), **listed}
        return reply, load | ({tables.bronze_orderbook_raw: snapshots.as_records(*books)} if books else {})

    def orderbooks(self, connection: sa.Connection, window: TimeWindow) -> Sequence[Reply]:
        """Those that the exchange gives in time; their lack costs no ticker."""
        try:
            return snapshots.snapshot(log, self.client, snapshots.chosen_orderbooks(connection), window)
        except NoRankingError:
            return []
        except snapshots.SnapshotError as error:
            log.warning("The order books were not collected: %s", error)
            return []
