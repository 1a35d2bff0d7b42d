"""Creates the tables' partitions in advance."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

DAYS_AHEAD = timedelta(days=14)


def make_partitions_ahead(connection: sa.Connection) -> int:
    """Create the partitions of all tables from yesterday to two weeks ahead; returns how many were missing."""
    now = datetime.now(UTC)
    wanted = sa.func.bronze.make_partitions(now - timedelta(days=1), now + DAYS_AHEAD)
    return connection.execute(sa.select(wanted)).scalar_one()


def make_partitions(connection: sa.Connection, first: datetime, last: datetime, tables: Iterable[sa.Table]) -> None:
    """Create the partitions of some tables from `first` to `last`, a hundred at a time to limit the number of locks."""
    make = sa.text("SELECT bronze.make_partitions(CAST(:name AS regclass), :first, :last)")
    for table in tables:
        while connection.execute(make, {"name": table.fullname, "first": first, "last": last}).scalar_one():
            pass
