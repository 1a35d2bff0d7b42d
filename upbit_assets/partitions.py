"""The time axes: ten-minute windows of collection, and the exchange's days; half-open, read on Seoul's clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from dagster import DailyPartitionsDefinition, TimeWindow, TimeWindowPartitionsDefinition

from upbit_assets.settings import UPBIT_OPENED, WINDOW_FORMAT, settings

SEOUL = ZoneInfo("Asia/Seoul")
WINDOW = timedelta(minutes=10)
DAY = timedelta(days=1)
MOST_NAMED = 5
# the tags by which Dagster tells a run what it is about
PARTITION, RANGE_START, RANGE_END = (
    f"dagster/{tag}" for tag in ("partition", "asset_partition_range_start", "asset_partition_range_end")
)
DAY_BEGINS = 9  # o'clock in Seoul, which is midnight UTC


@dataclass(frozen=True, eq=False)
class Axis:
    """Windows `[start, end)` of one length, each a partition.

    Args:
        partitions: the windows as Dagster knows them; the one now filling is among them.
        length: of each.
        origin: a moment at which one of them begins.
        stride: how much of the past is looked through at a time, where all of it has to be.
    """

    partitions: TimeWindowPartitionsDefinition
    length: timedelta
    origin: datetime
    stride: timedelta

    def at(self, moment: datetime) -> TimeWindow:
        """The window that holds `moment`, which carries its zone."""
        start = self.origin + (moment - self.origin) // self.length * self.length
        return TimeWindow(start, start + self.length)

    def key_of(self, start: datetime) -> str:
        """The partition key of the window that starts at `start`, e.g. 2026-01-29-14:00."""
        return start.astimezone(SEOUL).strftime(self.partitions.fmt)

    def named(self, starts: Sequence[datetime]) -> str:
        """The windows in words, the first few of many."""
        more = len(starts) - MOST_NAMED
        return ", ".join(map(self.key_of, starts[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")

    def start_of(self, key: str) -> datetime:
        """The start of the window with this partition key."""
        day = datetime.strptime(key, self.partitions.fmt).replace(tzinfo=SEOUL)
        return day + (self.origin - self.origin.replace(hour=0))

    def has(self, key: str) -> bool:
        """Whether this is a key of the axis."""
        try:
            self.start_of(key)
        except ValueError:
            return False
        return True

    def floor(self, moment: sa.ColumnElement[Any]) -> sa.ColumnElement[datetime]:
        """SQL: the start of the window that holds `moment`."""
        return sa.func.date_bin(self.length, moment, self.origin, type_=sa.DateTime(timezone=True))

    def span_of(self, starts: Sequence[datetime], moment: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """SQL: whether a moment is within the span of these windows, in words by which partitions are told apart.

        Windows that are rows of a relation tell the planner nothing: it would open and lock all partitions there are.
        """
        return (moment >= min(starts)) & (moment < max(starts) + self.length)

    def starts_in(self, span: TimeWindow) -> list[datetime]:
        """The starts of the windows of a span."""
        return [span.start + i * self.length for i in range((span.end - span.start) // self.length)]

    def of_run(self, tags: Mapping[str, str]) -> list[datetime]:
        """The starts of the windows that a run with these tags is about."""
        first, last = (tags.get(end) or tags.get(PARTITION) for end in (RANGE_START, RANGE_END))
        if not (first and last and self.has(first)):
            return []
        return self.starts_in(TimeWindow(self.start_of(first), self.start_of(last) + self.length))

    def with_rows(self, connection: sa.Connection, table: sa.Table, starts: Sequence[datetime]) -> set[datetime]:
        """Those of the windows in which the table holds rows, by one index probe each."""
        if not starts:
            return set()
        each, column = each_of(starts), table.c[table.info["window"]]
        row = sa.select(1).where(
            column >= each.c.start, column < each.c.start + self.length, self.span_of(starts, column)
        )
        return set(connection.scalars(sa.select(each.c.start).where(row.correlate(each).exists())))


windows = Axis(
    TimeWindowPartitionsDefinition(
        start=settings.UPBIT_START,
        fmt=WINDOW_FORMAT,
        cron_schedule="*/10 * * * *",
        timezone=str(SEOUL),
        end_offset=1,
    ),
    length=WINDOW,
    origin=datetime(2000, 1, 1, tzinfo=SEOUL),
    stride=DAY,
)
days = Axis(
    DailyPartitionsDefinition(UPBIT_OPENED, timezone=str(SEOUL), hour_offset=DAY_BEGINS, end_offset=1),
    length=DAY,
    origin=datetime(2000, 1, 1, DAY_BEGINS, tzinfo=SEOUL),
    stride=3650 * DAY,
)


def each_of(starts: Sequence[datetime]) -> sa.TableValuedAlias:
    """SQL: a relation with one column, `start`: these window starts."""
    moment = sa.DateTime(timezone=True)
    start = sa.func.unnest(sa.cast(list(starts), sa.ARRAY(moment)), type_=moment)
    return start.table_valued(sa.column("start", moment)).alias("each").render_derived()
