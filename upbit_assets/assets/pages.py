"""How the exchange tells the past: a market's candles and trades, page by page, the newest first."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal

from upbit_assets.assets.coverage import MINUTE, REPORTING_DELAY, Gap
from upbit_assets.assets.refine import LARGEST
from upbit_assets.partitions import DAY, EPOCH, MILLISECOND, SEOUL, days
from upbit_assets.upbit import Reply, Row, StatusError, UpbitClient, UpbitError
from upbit_assets.upbit.clock import TOLERATED

CANDLES_A_PAGE, TRADES_A_PAGE = 200, 500
AGREED = 2  # so many answers must say that there is nothing
MARKET_CODE = re.compile("[A-Z0-9]+-[A-Z0-9]+")
# the exchange's clock from ours, at most: what the client tolerates, the call, and the second that `Date` is of
CLOCKS_DIFFER = TOLERATED + timedelta(seconds=2)


@dataclass(frozen=True)
class KeyedRow:
    """A row with what tells it from its market's others, and its time; "" and None where it doesn't plainly say."""

    row: Row
    key: str
    at: datetime | None


@dataclass(frozen=True)
class Page:
    """The rows of a reply that are of the gap, and the part `[start, end)` of which they are all there is.

    `proved` is None for a page of rows. A page without rows that has it is a look at the whole day, by the exchange's
    own candle of it: `day_candle`, None where there is none.
    """

    gap: Gap
    reply: Reply | None
    rows: Sequence[KeyedRow]
    start: datetime
    end: datetime
    problem: str | None = None
    proved: bool | None = None
    day_candle: Row | None = None


class NoProgressError(UpbitError):
    """A page of which nothing is older than what was asked for, twice."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return f"{self.url} gave a page with nothing older than what is known: asking on would lead nowhere."


def candle_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's one-minute candles, by exclusive `to`."""

    def ask(oldest: KeyedRow | None) -> Reply:
        return client.candles("minutes/1", gap.market, to=oldest.at if oldest else gap.end, count=CANDLES_A_PAGE)

    def older(row: KeyedRow, oldest: KeyedRow | None) -> bool:
        return row.at is None or row.at < (oldest.at if oldest and oldest.at else gap.end)

    return walk(gap, ask, candle, older, CANDLES_A_PAGE, (timedelta(), MINUTE))


def trade_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's trades, by the id of the oldest trade known. A millisecond at the end of a page may have more."""
    cursors = set[str]()

    def ask(oldest: KeyedRow | None) -> Reply:
        if oldest:
            cursors.add(oldest.key)
            return trades(client, gap, None, int(oldest.key))
        return trades(client, gap, None if is_going_on(gap) else time_of_day(gap), None)

    def older(row: KeyedRow, oldest: KeyedRow | None) -> bool:
        if row.at is None:
            return True
        latest = oldest.at if oldest and oldest.at else gap.day + DAY - MILLISECOND
        # of the day before: after a known trade it tells that the day holds no more, alone that another day was told
        return row.at <= latest and row.key not in cursors and (oldest is not None or row.at >= gap.day)

    return walk(gap, ask, trade, older, TRADES_A_PAGE, (MILLISECOND, timedelta()))


def walk(
    gap: Gap,
    ask: Callable[[KeyedRow | None], Reply],
    read: Callable[[Row], KeyedRow],
    older: Callable[[KeyedRow, KeyedRow | None], bool],
    full: int,
    told: tuple[timedelta, timedelta],
) -> Iterator[Page]:
    """A gap's pages, the newest first, each asked for by the oldest row known.

    A page covers what lies between its rows. Below them it takes two answers that agree that there is no more, since
    the exchange may slip: a page that isn't full and the empty one that follows, or two empty ones. Above them, what
    it may still come to tell is left to the next run.

    Args:
        older: whether a row answers what was asked by the oldest known.
        told: how long after a row's time all is known that is newer in its page, and all that is older.
    """
    end, oldest, agreed, strayed = gap.end, None, 0, False
    above, below = told
    while end > gap.start:
        try:
            reply = ask(oldest)
        except StatusError as error:
            yield no_such_market(gap, error)
            return
        rows = [row for row in map(read, reply.rows) if of_market(row, gap) and older(row, oldest)]
        timed = [row for row in rows if row.at and row.key]
        if not timed and reply.rows and (not rows or len(reply.rows) >= full):
            if strayed:
                raise NoProgressError(reply.url)
            strayed = True
            continue
        agreed = (agreed + 1 if not timed else 1) if len(reply.rows) < full else 0
        if oldest is None and is_going_on(gap):
            newest = max((row.at for row in timed if row.at), default=None)
            end = max(min(newest + below, end), gap.start) if newest else gap.start
        if timed:
            oldest, strayed = min(timed, key=lambda row: (row.at or EPOCH, len(row.key), row.key)), False
        start = gap.start if agreed == AGREED else end
        if timed and oldest and oldest.at:
            start = max(min(oldest.at + above, end), gap.start)
        if rows or start < end or end == gap.start:
            yield Page(gap, reply, rows_in_gap(rows, gap), start, end)
        end = start


def is_going_on(gap: Gap) -> bool:
    """Whether the exchange may still come to tell more of the gap's end."""
    return gap.end + REPORTING_DELAY > datetime.now(UTC)


def of_market(row: KeyedRow, gap: Gap) -> bool:
    """What names another market is no answer; what names none is kept for silver to reject."""
    market = row.row.market
    return market == gap.market or not MARKET_CODE.fullmatch(market)


def whole_day(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """What the exchange says of the gap's day as a whole, not yet held against anything."""
    try:
        reply, row = day_candle(client, gap)
    except StatusError as error:
        yield no_such_market(gap, error)
        return
    yield Page(gap, reply, [], gap.end, gap.end, proved=False, day_candle=row)


def day_candle(client: UpbitClient, gap: Gap) -> tuple[Reply, Row | None]:
    """The exchange's own candle of a day, None where it says twice that there is none: nobody traded."""
    for _ in range(AGREED):
        reply = client.candles("days", gap.market, to=gap.day + DAY, count=1)
        for row in reply.rows:
            if row.market == gap.market and candle(row).at == gap.day:
                return reply, row
    return reply, None


def volume_of(day_candle: Row | None) -> Decimal | None:
    """How many coins were traded in a day; None where its candle doesn't plainly say."""
    if day_candle is None:
        return Decimal(0)
    (said,) = fields(day_candle, "candle_acc_trade_volume")
    try:
        volume = Decimal(said)
    except ArithmeticError:
        return None
    return volume if volume.is_finite() and 0 <= volume <= LARGEST else None


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


def no_such_market(gap: Gap, error: StatusError) -> Page:
    """The note that there is no more to be had: delisted, or renamed.

    Raises:
        StatusError: it is something else.
    """
    if not error.unknown_market:
        raise error
    return Page(gap, None, [], gap.start, gap.start, problem=str(error))


def rows_in_gap(rows: Sequence[KeyedRow], gap: Gap) -> list[KeyedRow]:
    """What is of another day is asked for with that; what doesn't say when it was is kept for silver to reject."""
    return [row for row in rows if row.at is None or gap.start <= row.at < gap.end]


def candle(row: Row) -> KeyedRow:
    """A candle's start, `candle_date_time_utc`, is its key; KST is told in Korea only. Source: Upbit REST, Candles."""
    utc, kst = fields(row, "candle_date_time_utc", "candle_date_time_kst")
    at = moment(utc, UTC)
    return KeyedRow(row, utc if at else "", at if not kst or at == moment(kst, SEOUL) else None)


def trade(row: Row) -> KeyedRow:
    """A trade's `sequential_id` is its key: up to 17 digits, unique, in no order. Source: Upbit REST, Recent trades."""
    key, ms, date, time = fields(row, "sequential_id", "timestamp", "trade_date_utc", "trade_time_utc")
    at = EPOCH + timedelta(milliseconds=int(ms)) if re.fullmatch(r"\d{1,14}", ms) else None
    agrees = at and at.replace(microsecond=0) == moment(f"{date}T{time}", UTC)
    return KeyedRow(row, key if re.fullmatch(r"\d{1,18}", key) else "", at if agrees else None)


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
