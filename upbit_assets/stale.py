"""Which windows' silver or gold no longer follows from what lies below: asked of the database, not of Dagster.

Bronze is append-only, so a window has changed exactly when its number of raw rows has. Which windows to count is
told by the transaction that wrote each row: everything below the oldest transaction still open is settled, so
whatever commits late or out of order is seen at the next look.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from upbit_assets.partitions import WINDOW, each_of, window_start
from upbit_assets.postgres.tables import (
    bronze_ticker_raw,
    gold_market_stats_build,
    silver_ticker_build,
)

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Stale:
    """A window to compute again, and the state of its sources that asks for it."""

    start: datetime
    silver: bool  # else gold alone
    sources: str


def horizon(connection: sa.Connection) -> tuple[str, int]:
    """(the database's identity, the oldest transaction still open): rows of older transactions are settled."""
    oldest = sa.text(
        "SELECT concat_ws('/', system_identifier, oid), pg_snapshot_xmin(pg_current_snapshot())::text::bigint "
        "FROM pg_control_system(), pg_database WHERE datname = current_database()"
    )
    database, xmin = connection.execute(oldest).one()
    return database, xmin


def changed_since(connection: sa.Connection, transaction: int) -> set[datetime]:
    """The windows whose raw rows or silver were written in `transaction` or later.

    Gold compares with the day before, so new silver touches the window a day later too.
    """
    bronze, silver = bronze_ticker_raw, silver_ticker_build
    # rows restored from another server may bear transactions that are still to come here
    newest = sa.text("(pg_snapshot_xmax(pg_current_snapshot())::text)::bigint")
    built = sa.select(silver.c.window_start).where(silver.c.written_in >= transaction, silver.c.written_in < newest)
    windows = sa.union(
        sa.select(window_start(bronze.c.ingested_at)).where(
            bronze.c.written_in >= transaction, bronze.c.written_in < newest
        ),
        built,
        built.with_only_columns(silver.c.window_start + DAY),
    )
    return set(connection.scalars(windows))


def oldest_collected(connection: sa.Connection) -> datetime | None:
    return connection.scalar(sa.select(sa.func.min(bronze_ticker_raw.c.ingested_at)))


def stale(connection: sa.Connection, windows: set[datetime]) -> list[Stale]:
    """Those of the windows that have to be computed again, newest first."""
    each = each_of(sorted(windows))
    start = each.c.start
    raw = (
        sa.select(sa.func.count().label("rows"))
        .where(bronze_ticker_raw.c.ingested_at >= start, bronze_ticker_raw.c.ingested_at < start + WINDOW)
        .lateral("raw")
    )
    silver, before, gold = silver_ticker_build, silver_ticker_build.alias("before"), gold_market_stats_build
    silver_stale = raw.c.rows != sa.func.coalesce(silver.c.bronze_rows, 0)
    gold_stale = silver.c.window_start.is_not(None) & (
        gold.c.silver_computed_at.is_distinct_from(silver.c.computed_at)
        | gold.c.day_before_computed_at.is_distinct_from(before.c.computed_at)
    )
    found = connection.execute(
        sa.select(
            start,
            silver_stale,
            sa.func.concat_ws("/", raw.c.rows, silver.c.computed_at, before.c.computed_at),
        )
        .join_from(each, raw, sa.true())
        .outerjoin(silver, silver.c.window_start == start)
        .outerjoin(before, before.c.window_start == start - DAY)
        .outerjoin(gold, gold.c.window_start == start)
        .where(silver_stale | gold_stale)
        .order_by(start.desc())
    )
    return [Stale(*row) for row in found]
