"""The stream's database session, with the lock that makes it the only one. Used by one thread at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from upbit_assets.postgres import origin, tables
from upbit_assets.postgres.exchange_calls import add_calls
from upbit_assets.postgres.resource import DatabaseError, engine_for, explain
from upbit_assets.postgres.snapshot_source import record_snapshot
from upbit_assets.postgres_io import REFUSALS, Records, copy_records, lock_key, storable
from upbit_assets.stream.frames import Trade
from upbit_assets.stream.status import Status, moment
from upbit_assets.upbit.usage import Usage

LOCK = lock_key("the stream")
COLUMNS = ("market", "raw_data", "ingested_at", "traded_at", "key", "connection")
SESSION = sa.text("SET statement_timeout = '30s'")


class Store:
    """A session that only `lead` opens, and reopens after it was lost, so that writing requires the lock.

    Every method raises DatabaseError if the database is unreachable or rejects the statement; nothing was written then.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self.url = url
        self.connection: sa.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self.connection is not None

    def lead(self) -> bool:
        """Try to acquire the database's lock, which is held until the session ends; returns whether it is held."""
        if self.connection is None:
            self.open()
        with self.session() as connection:
            return bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(LOCK))))

    def claim_origin(self, source: str, *, simulated: bool) -> None:
        """Keep simulated and real data apart. Raises OriginError."""
        with self.session() as connection:
            origin.claim_origin(connection, source, simulated=simulated)

    def write(self, trades: Sequence[Trade]) -> None:
        """Append the rows, all of them or none."""
        self.append({tables.bronze_trade_stream_raw: Records(COLUMNS, trades)})

    def append(self, load: Mapping[sa.Table, Records], *, snapshot_at: datetime | None = None) -> None:
        """Append each table's rows, all of them or none; `snapshot_at`: the time of a snapshot to record."""
        try:
            self.copy(load, snapshot_at)
        except REFUSALS:
            with self.session() as connection:
                load = {table: storable(connection, table, records) for table, records in load.items()}
            self.copy(load, snapshot_at)

    def copy(self, load: Mapping[sa.Table, Records], snapshot_at: datetime | None) -> None:
        with self.session() as connection:
            for table, records in load.items():
                copy_records(connection, table, records)
            if snapshot_at:
                record_snapshot(connection, snapshot_at)

    def report(self, status: Status, usage: Iterable[tuple[str, Usage]]) -> None:
        """Replace the row of the stream's status, and add its calls to the exchange's record."""
        row = {
            "reported_at": sa.func.now(),
            "collecting_since": moment(status.since),
            **{f"{kind}s": number for kind, number in status.frames.items()},
            "reconnects": status.reconnects,
            "stored": status.stored,
            "waiting": status.waiting,
            "lost": status.lost,
            "bytes_spilled": status.spilled,
        }
        with self.session() as connection:
            insert = postgresql.insert(tables.live_stream).values(row)
            connection.execute(insert.on_conflict_do_update(index_elements=[sa.text("(true)")], set_=row))
            add_calls(connection, usage)

    @contextmanager
    def session(self) -> Iterator[sa.Connection]:
        """A transaction of the session."""
        if self.connection is None:
            raise DatabaseError("The session with the database was lost.")
        with self.explained(), self.connection.begin():
            yield self.connection

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except REFUSALS:  # of a document, not of the session
            raise
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            self.close()
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            raise DatabaseError(explain(cause, self.engine.url)) from error

    def open(self) -> None:
        self.engine = engine_for(self.url())
        with self.explained():
            self.connection = self.engine.connect()
            self.connection.execute(SESSION)
            self.connection.commit()

    def close(self) -> None:
        """End the session, and with it its lock."""
        if self.connection is not None:
            self.connection.invalidate()
            self.connection.close()
            self.connection = None
