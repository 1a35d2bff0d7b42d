"""Who takes the minute's snapshots: the stream, which notes each one, or else Dagster's runs."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.partitions import MINUTE
from upbit_assets.postgres.tables import live_snapshot

STREAM_SECOND = 30  # of the minute, at which the stream takes its snapshot, half a minute before a run would
IN_TIME = timedelta(seconds=45)  # before the full minute, at which runs are asked for


def note_snapshot(connection: sa.Connection, taken_at: datetime) -> None:
    """Note a snapshot of the stream, in the transaction that stores it."""
    noted = insert(live_snapshot).values(taken_at=taken_at)
    connection.execute(noted.on_conflict_do_update(index_elements=[sa.text("(true)")], set_={"taken_at": taken_at}))


def stream_takes_snapshots(connection: sa.Connection, at: datetime) -> bool:
    """Whether the stream took one before the last full minute, so that no run need have taken it then."""
    full = at.replace(second=0, microsecond=0)
    taken_at = live_snapshot.c.taken_at
    # a clock that was ahead must not keep the runs away until then
    in_time = sa.select(sa.exists().where(taken_at >= full - IN_TIME, taken_at < at + MINUTE))
    return bool(connection.scalar(in_time))
