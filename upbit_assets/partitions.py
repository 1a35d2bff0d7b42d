"""The time axis: ten-minute windows of collection, half-open, read on Seoul's clock."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from dagster import TimeWindow, TimeWindowPartitionsDefinition

SEOUL = ZoneInfo("Asia/Seoul")
WINDOW = timedelta(minutes=10)
KEY_FORMAT = "%Y-%m-%d-%H:%M"
START = "2026-01-01-00:00"

windows = TimeWindowPartitionsDefinition(
    start=os.environ.get("UPBIT_START") or START,
    fmt=KEY_FORMAT,
    cron_schedule="*/10 * * * *",
    timezone=str(SEOUL),
    end_offset=1,  # the window now filling is a partition too
)


def window_at(moment: datetime) -> TimeWindow:
    """The window `[start, end)` that holds `moment`, which carries its zone."""
    start = moment.astimezone(UTC).replace(second=0, microsecond=0)
    start = (start - timedelta(minutes=start.minute % 10)).astimezone(SEOUL)
    return TimeWindow(start, start + WINDOW)


def key_of(start: datetime) -> str:
    """The partition key of the window that starts at `start`, e.g. 2026-01-29-14:00."""
    return start.astimezone(SEOUL).strftime(KEY_FORMAT)


def window_of(key: str) -> datetime:
    """The start of the window with this partition key."""
    return datetime.strptime(key, KEY_FORMAT).replace(tzinfo=SEOUL)


def window_start(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[datetime]:
    """SQL: the start of the window that holds `moment`."""
    origin = datetime(2000, 1, 1, tzinfo=SEOUL)
    return sa.func.date_bin(WINDOW, moment, origin, type_=sa.DateTime(timezone=True))


def windows_in(span: TimeWindow) -> list[datetime]:
    """The starts of the windows of a span."""
    return [span.start + i * WINDOW for i in range((span.end - span.start) // WINDOW)]


def each_of(starts: Sequence[datetime]) -> sa.TableValuedAlias:
    """SQL: a relation with one column, `start`: these window starts."""
    moment = sa.DateTime(timezone=True)
    start = sa.func.unnest(sa.cast(list(starts), sa.ARRAY(moment)), type_=moment)
    return start.table_valued(sa.column("start", moment)).alias("each").render_derived()


def windows_with_rows(connection: sa.Connection, table: sa.Table, starts: Sequence[datetime]) -> set[datetime]:
    """Those of the windows in which the table holds rows, by one index probe each."""
    each = each_of(starts)
    row = sa.select(1).where(table.c.ingested_at >= each.c.start, table.c.ingested_at < each.c.start + WINDOW)
    return set(connection.scalars(sa.select(each.c.start).where(row.correlate(each).exists())))
