"""Whether the stream or Dagster's runs take the minute's snapshots: the stream records each one that it took."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.partitions import MINUTE, WINDOW
from upbit_assets.postgres.tables import live_snapshot

STREAM_SECOND = 30  # the second of the minute at which the stream takes its snapshot; runs start at second 0
MAX_AGE = timedelta(seconds=45)  # of the stream's snapshot when the schedule decides whether to request a run


def record_snapshot(connection: sa.Connection, taken_at: datetime) -> None:
    """Record a snapshot of the stream, in the transaction that stores it."""
    row = insert(live_snapshot).values(taken_at=taken_at)
    connection.execute(row.on_conflict_do_update(index_elements=[sa.text("(true)")], set_={"taken_at": taken_at}))


def stream_takes_snapshots(connection: sa.Connection, at: datetime) -> bool:
    """Whether the stream took a snapshot shortly before the last full minute, so that no run is needed for it."""
    full = at.replace(second=0, microsecond=0)
    taken_at = live_snapshot.c.taken_at
    # ignores a time in the future, from a clock that was ahead: it would prevent runs until then
    recent = sa.select(sa.exists().where(taken_at >= full - MAX_AGE, taken_at < at + MINUTE))
    return bool(connection.scalar(recent))


def computation_delay(connection: sa.Connection, at: datetime) -> timedelta:
    """How much older figures may be: a window while the stream takes the snapshots, as it is computed at its end."""
    return WINDOW if stream_takes_snapshots(connection, at) else timedelta()
