"""How the exchange tells the past: a market's candles and trades, page by page, the newest first."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from upbit_assets.assets.coverage import MINUTE, Gap
from upbit_assets.partitions import DAY, days
from upbit_assets.upbit import Refused, Reply, Row, UpbitClient, UpbitError

CANDLES_A_PAGE, TRADES_A_PAGE = 200, 500
MILLISECOND = timedelta(milliseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Said:
    """A row with what tells it from its market's others, and its time; "" and None where it doesn't say."""

    row: Row
    key: str
    at: datetime | None


@dataclass(frozen=True)
class Page:
    """The rows of a reply that are of the gap, and the part `[start, end)` of which they are all there is."""

    gap: Gap
    reply: Reply | None
    rows: Sequence[Said]
    start: datetime
    end: datetime
    problem: str | None = None


class NoProgress(UpbitError):  # noqa: N818 - reads as what happened
    """A full page that is no older than what was asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return f"{self.url} gave a full page with nothing older than what is known: asking on would lead nowhere."


def candle_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's one-minute candles, by exclusive `to`. A page that isn't full is the last: before it nobody traded."""
    end = gap.end
    while end > gap.start:
        try:
            reply = client.candles("minutes/1", gap.market, to=end, count=CANDLES_A_PAGE)
        except Refused as error:
            yield no_such_market(gap, error)
            return
        rows = [candle(row) for row in reply.rows]
        start = oldest(rows, end, reply) if len(rows) >= CANDLES_A_PAGE else gap.start
        yield Page(gap, reply, within(rows, gap), max(start, gap.start), end)
        end = start


def trade_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's trades, by the id of the oldest trade known.

    A day still going on is covered up to its newest trade. The millisecond of a full page's oldest may have more.
    """
    end, seen = gap.end, set[str]()
    going_on = gap.end < gap.day + DAY and gap.end >= datetime.now(UTC) - MINUTE
    to, cursor = None if going_on else time_of_day(gap), None
    while end > gap.start:
        try:
            reply = client.trades(gap.market, count=TRADES_A_PAGE, to=to, cursor=cursor, days_ago=days_ago(gap.day))
        except Refused as error:
            yield no_such_market(gap, error)
            return
        rows = [trade(row) for row in reply.rows]
        timed = [(row.at, row.key) for row in rows if row.at and row.key]
        if going_on and not seen:
            end = min(end, max(timed)[0]) if timed else gap.start
        full = len(rows) >= TRADES_A_PAGE
        start = min(oldest(rows, None, reply) + MILLISECOND, end) if full else gap.start
        yield Page(gap, reply, within(rows, gap), max(start, gap.start), max(end, gap.start))
        if not full:
            return
        key = min(timed)[1] if timed else ""
        if key in seen or not key:
            raise NoProgress(reply.url)
        seen.add(key)
        end, to, cursor = start, None, int(key)


def time_of_day(gap: Gap) -> str | None:
    """The end of a gap as `to`: the next whole second, as what is known already is not stored twice."""
    second = (gap.end + timedelta(seconds=1) - MILLISECOND).replace(microsecond=0)
    return None if second >= gap.day + DAY else f"{second.astimezone(UTC):%H%M%S}"


def no_such_market(gap: Gap, error: Refused) -> Page:
    """The note that there is no more to be had: delisted, or renamed.

    Raises:
        Refused: it is something else.
    """
    if error.status != 404:
        raise error
    return Page(gap, None, [], gap.start, gap.start, problem=str(error))


def oldest(rows: Sequence[Said], before: datetime | None, reply: Reply) -> datetime:
    """The time of a page's oldest row, which in one out of order is not the last."""
    start = min((row.at for row in rows if row.at), default=None)
    if start is None or (before and start >= before):
        raise NoProgress(reply.url)
    return start


def within(rows: Sequence[Said], gap: Gap) -> list[Said]:
    """What is of another day is asked for with that; what doesn't say when it was is kept for silver to reject."""
    return [row for row in rows if row.at is None or gap.start <= row.at < gap.end]


def candle(row: Row) -> Said:
    """A candle's start, `candle_date_time_utc`, is its key. Source: Upbit REST, Candles."""
    said = field(row, "candle_date_time_utc")
    try:
        return Said(row, said, datetime.strptime(said, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC))
    except ValueError:
        return Said(row, said[:30], None)


def trade(row: Row) -> Said:
    """A trade's `sequential_id` is its key: up to 17 digits, unique, in no order. Source: Upbit REST, Recent trades."""
    key, ms = field(row, "sequential_id"), field(row, "timestamp")
    at = EPOCH + timedelta(milliseconds=int(ms)) if re.fullmatch(r"\d{1,14}", ms) else None
    return Said(row, key if re.fullmatch(r"\d{1,18}", key) else "", at)


def field(row: Row, name: str) -> str:
    """A field of a row as it is spelt; "" where there is none."""
    try:
        said = json.loads(row.text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return ""
    value = said.get(name) if isinstance(said, dict) else None
    return value if isinstance(value, str) else ""


def days_ago(day: datetime) -> int | None:
    return (days.at(datetime.now(UTC)).start - day) // DAY or None
