"""The time axes: ten-minute windows and the exchange's days, half-open, with keys in Seoul time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from dagster import DailyPartitionsDefinition, TimeWindow, TimeWindowPartitionsDefinition

from upbit_assets.postgres import tables
from upbit_assets.postgres_io import is_distributed
from upbit_assets.settings import UPBIT_OPENED, WINDOW_FORMAT, SettingError, check, settings

SEOUL = ZoneInfo("Asia/Seoul")
# the exchange counts milliseconds since
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
MINUTE = timedelta(minutes=1)
WINDOW = timedelta(minutes=10)
DAY = timedelta(days=1)
MAX_NAMED = 5
# the tags with a run's partitions
PARTITION, RANGE_START, RANGE_END = (
    f"dagster/{tag}" for tag in ("partition", "asset_partition_range_start", "asset_partition_range_end")
)
DAY_FORMAT = "%Y-%m-%d"
DAY_BEGINS = 9  # hour in Seoul; midnight UTC


@dataclass(frozen=True, eq=False)
class Axis:
    """Windows `[start, end)` of equal length; each is a partition.

    Args:
        fmt: of the partition keys.
        define: makes `partitions`; called when they are first needed, as the first one may be stored in the database.
        length: of a window.
        origin: the start of one of the windows.
        stride: how much history to scan at a time when all of it has to be scanned.
    """

    fmt: str
    define: Callable[[], TimeWindowPartitionsDefinition]
    length: timedelta
    origin: datetime
    stride: timedelta

    @cached_property
    def partitions(self) -> TimeWindowPartitionsDefinition:
        """Dagster's definition; it includes the current, unfinished window."""
        return self.define()

    def at(self, moment: datetime) -> TimeWindow:
        """The window that contains `moment` (aware)."""
        start = self.origin + (moment - self.origin) // self.length * self.length
        return TimeWindow(start, start + self.length)

    def key_of(self, start: datetime) -> str:
        """The partition key of the window that starts at `start`, e.g. 2026-01-29-14:00."""
        return start.astimezone(SEOUL).strftime(self.fmt)

    def named(self, starts: Sequence[datetime]) -> str:
        """The windows as text; only the first few if there are many."""
        more = len(starts) - MAX_NAMED
        return ", ".join(map(self.key_of, starts[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")

    def start_of(self, key: str) -> datetime:
        """The start of the window with this partition key."""
        day = datetime.strptime(key, self.fmt).replace(tzinfo=SEOUL)
        return day + (self.origin - self.origin.replace(hour=0))

    def has(self, key: str) -> bool:
        """Whether this is a key of the axis."""
        try:
            self.start_of(key)
        except ValueError:
            return False
        return True

    def floor(self, moment: sa.ColumnElement[Any]) -> sa.ColumnElement[datetime]:
        """SQL: the start of the window that contains `moment`."""
        return sa.func.date_bin(self.length, moment, self.origin, type_=sa.DateTime(timezone=True))

    def span_of(self, starts: Sequence[datetime], moment: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """SQL: whether a moment is within the span of these windows, as constants that allow partition pruning.

        If the windows are rows of a relation, the planner can't prune: it would open and lock every partition.
        """
        return (moment >= min(starts)) & (moment < max(starts) + self.length)

    def starts_in(self, span: TimeWindow) -> list[datetime]:
        """The starts of the windows in a span."""
        return [span.start + i * self.length for i in range((span.end - span.start) // self.length)]

    def spans(self, starts: Sequence[datetime], most: int | None = None) -> Iterator[TimeWindow]:
        """Sorted windows as spans of adjacent ones, of at most so many windows each."""
        first = None
        for start, following in zip(starts, [*starts, None][1:], strict=True):
            first = first or start
            end = start + self.length
            if following != end or (end - first) // self.length == most:
                yield TimeWindow(first, end)
                first = None

    def of_run(self, tags: Mapping[str, str]) -> list[datetime]:
        """The starts of the windows that a run with these tags covers."""
        first, last = (tags.get(end) or tags.get(PARTITION) for end in (RANGE_START, RANGE_END))
        if not (first and last and self.has(first)):
            return []
        return self.starts_in(TimeWindow(self.start_of(first), self.start_of(last) + self.length))

    def with_rows(
        self, connection: sa.Connection, table: sa.Table, starts: Sequence[datetime], *which: sa.ColumnElement[bool]
    ) -> set[datetime]:
        """The windows in which the table has rows, or `which` of them are counted; one index probe per window."""
        column = table.c[table.info["window"]]
        if len(starts) > 1 and not is_distributed(connection):
            window = each_of(starts)
            row = sa.select(1).where(
                *(column >= window.c.start, column < window.c.start + self.length, self.span_of(starts, column), *which)
            )
            # for EXISTS, the planner would rather compare each row with each window
            probe = row.limit(1).correlate(window).lateral()
            return set(connection.scalars(sa.select(window.c.start).join_from(window, probe, sa.true())))
        # A query each: Citus can't correlate a distributed table's rows with a list of windows. With literals, as the
        # plan of a prepared statement would lock all partitions.
        start, end = (sa.bindparam(name, type_=column.type, literal_execute=True) for name in ("start", "end"))
        row = sa.select(1).where(column >= start, column < end, *which).limit(1)
        return {
            start
            for start in starts
            if connection.scalar(row, {"start": start, "end": start + self.length}) is not None
        }


def first_window() -> str:
    """The key of the first window: UPBIT_START, else as the database keeps it since it was made.

    Raises:
        SettingError: it is not set, and the database can't be read.
    """
    # Importing this module must not connect: what starts the database imports it too.
    from upbit_assets.postgres.resource import Database, DatabaseError

    check()
    if settings.UPBIT_START:
        return settings.UPBIT_START
    try:
        with Database().connect() as connection:
            start = connection.scalars(sa.select(tables.bronze_collection_start.c.starts_at)).one()
    except (DatabaseError, sa.exc.NoResultFound) as error:
        advice = error if isinstance(error, DatabaseError) else "Run: upbit-assets migrate"
        raise SettingError(
            f"UPBIT_START is unset, and the database doesn't have the day of its first start. {advice}"
        ) from None
    return start.astimezone(SEOUL).strftime(WINDOW_FORMAT)


def ten_minute_partitions() -> TimeWindowPartitionsDefinition:
    return TimeWindowPartitionsDefinition(
        start=first_window(), fmt=WINDOW_FORMAT, cron_schedule="*/10 * * * *", timezone=str(SEOUL), end_offset=1
    )


windows = Axis(
    WINDOW_FORMAT,
    ten_minute_partitions,
    length=WINDOW,
    origin=datetime(2000, 1, 1, tzinfo=SEOUL),
    stride=DAY,
)
days = Axis(
    DAY_FORMAT,
    lambda: DailyPartitionsDefinition(UPBIT_OPENED, timezone=str(SEOUL), hour_offset=DAY_BEGINS, end_offset=1),
    length=DAY,
    origin=datetime(2000, 1, 1, DAY_BEGINS, tzinfo=SEOUL),
    stride=3650 * DAY,
)


def each_of(starts: Sequence[datetime]) -> sa.TableValuedAlias:
    """SQL: the window starts as a relation with one column, `start`."""
    moment = sa.DateTime(timezone=True)
    start = sa.func.unnest(sa.cast(list(starts), sa.ARRAY(moment)), type_=moment)
    return start.table_valued(sa.column("start", moment)).alias("each").render_derived()
