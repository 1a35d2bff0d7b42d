"""How the exchange tells the past: a market's candles and trades, page by page, the newest first."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from upbit_assets.assets.coverage import MINUTE, Gap
from upbit_assets.partitions import DAY, SEOUL, days
from upbit_assets.upbit import Refused, Reply, Row, UpbitClient, UpbitError
from upbit_assets.upbit.clock import TOLERATED

CANDLES_A_PAGE, TRADES_A_PAGE = 200, 500
MILLISECOND = timedelta(milliseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# the exchange's clock from ours, at most: what the client tolerates, the call, and the second that `Date` is of
CLOCKS_DIFFER = TOLERATED + timedelta(seconds=2)


@dataclass(frozen=True)
class Said:
    """A row with what tells it from its market's others, and its time; "" and None where it doesn't plainly say."""

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
        rows, start = [candle(row) for row in reply.rows], gap.start
        if len(rows) >= CANDLES_A_PAGE:
            # in a page out of order the oldest is not the last
            start = min((row.at for row in rows if row.at), default=end)
            if start >= end:
                raise NoProgress(reply.url)
        yield Page(gap, reply, within(rows, gap), max(start, gap.start), end)
        end = start


def trade_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's trades, by the id of the oldest trade known.

    A day still going on is covered up to its newest trade. The millisecond of a full page's oldest may have more.
    """
    end, known = gap.end, gap.day + DAY
    going_on = gap.end < known and gap.end >= datetime.now(UTC) - MINUTE
    to, cursor, used = None if going_on else time_of_day(gap), None, set[int | None]()
    while end > gap.start:
        try:
            reply = trades(client, gap, to, cursor)
        except Refused as error:
            yield no_such_market(gap, error)
            return
        rows = [trade(row) for row in reply.rows]
        timed = [(row.at, int(row.key)) for row in rows if row.at and row.key]
        if going_on and cursor is None:
            end = max(min(end, max(timed)[0]), gap.start) if timed else gap.start
        if len(rows) < TRADES_A_PAGE:
            yield Page(gap, reply, within(rows, gap), gap.start, end)
            return
        used.add(cursor)
        oldest, cursor = min(timed, default=(known, None))
        if cursor in used or oldest > known:
            raise NoProgress(reply.url)
        start = max(min(oldest + MILLISECOND, end), gap.start)
        yield Page(gap, reply, within(rows, gap), start, end)
        end, known, to = start, oldest, None


def trades(client: UpbitClient, gap: Gap, to: str | None, cursor: int | None) -> Reply:
    """A page of the gap's day, which is told by how many days before the exchange's today it was.

    Around midnight that may be another day than ours; what is answered then is asked for again.
    """
    while True:
        now = datetime.now(UTC)
        days_ago = (days.at(now).start - gap.day) // DAY or None
        reply = client.trades(gap.market, count=TRADES_A_PAGE, to=to, cursor=cursor, days_ago=days_ago)
        if days.at(now - CLOCKS_DIFFER).start == days.at(reply.received_at + CLOCKS_DIFFER).start:
            return reply


def time_of_day(gap: Gap) -> str | None:
    """The end of a gap as `to`: the next whole second, as what is known already is not stored twice."""
    second = (gap.end + timedelta(seconds=1) - MILLISECOND).replace(microsecond=0)
    return None if second >= gap.day + DAY else f"{second.astimezone(UTC):%H%M%S}"


def no_such_market(gap: Gap, error: Refused) -> Page:
    """The note that there is no more to be had: delisted, or renamed.

    Raises:
        Refused: it is something else.
    """
    if (error.status, error.name) != (404, 404):  # a gateway's own 404 has another name
        raise error
    return Page(gap, None, [], gap.start, gap.start, problem=str(error))


def within(rows: Sequence[Said], gap: Gap) -> list[Said]:
    """What is of another day is asked for with that; what doesn't say when it was is kept for silver to reject."""
    return [row for row in rows if row.at is None or gap.start <= row.at < gap.end]


def candle(row: Row) -> Said:
    """A candle's start, `candle_date_time_utc`, is its key; KST is told in Korea only. Source: Upbit REST, Candles."""
    utc, kst = fields(row, "candle_date_time_utc", "candle_date_time_kst")
    at = moment(utc, UTC)
    return Said(row, utc if at else "", at if not kst or at == moment(kst, SEOUL) else None)


def trade(row: Row) -> Said:
    """A trade's `sequential_id` is its key: up to 17 digits, unique, in no order. Source: Upbit REST, Recent trades."""
    key, ms, date, time = fields(row, "sequential_id", "timestamp", "trade_date_utc", "trade_time_utc")
    at = EPOCH + timedelta(milliseconds=int(ms)) if re.fullmatch(r"\d{1,14}", ms) else None
    agrees = at and at.replace(microsecond=0) == moment(f"{date}T{time}", UTC)
    return Said(row, key if re.fullmatch(r"\d{1,18}", key) else "", at if agrees else None)


def moment(text: str, zone: tzinfo) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=zone)
    except ValueError:
        return None


def fields(row: Row, *names: str) -> list[str]:
    """Fields of a row as they are spelt; "" where there is none."""
    try:
        said = json.loads(row, parse_int=str, parse_float=str, strict=False)
    except (ValueError, RecursionError):
        said = None
    values = [said.get(name) if isinstance(said, dict) else None for name in names]
    return [value if isinstance(value, str) else "" for value in values]
