"""Reading history from the exchange: a market's candles and trades, page by page, newest first."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal

from upbit_assets.assets.coverage import REPORTING_DELAY, Gap
from upbit_assets.assets.refine import LARGEST
from upbit_assets.partitions import DAY, EPOCH, MILLISECOND, MINUTE, SEOUL, days
from upbit_assets.upbit import Reply, Row, StatusError, UpbitClient, UpbitError
from upbit_assets.upbit.clock import TOLERATED

CANDLES_A_PAGE, TRADES_A_PAGE = 200, 500
CONFIRMATIONS = 2  # how many replies must agree that there are no more rows
MARKET_CODE = re.compile("[A-Z0-9]+-[A-Z0-9]+")
# bound of the clock offset: what the client tolerates, the duration of the call, and the resolution of `Date`
MAX_CLOCK_OFFSET = TOLERATED + timedelta(seconds=2)


@dataclass(frozen=True)
class KeyedRow:
    """A row with its key among its market's rows and its time; "" and None if they are missing or malformed."""

    row: Row
    key: str
    at: datetime | None


@dataclass(frozen=True)
class Page:
    """The rows of a reply that are in the gap, and the interval `[start, end)` that they cover completely.

    `proved` is None for a page of rows. Otherwise the page has no rows and is the verification of the whole day by the
    exchange's day candle: `day_candle`, None if there is none.
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
    """Two pages in a row had no rows older than those already known."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return f"{self.url} returned no rows older than those already known, so paging makes no progress."


def candle_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's one-minute candles, by exclusive `to`."""

    def ask(oldest: KeyedRow | None) -> Reply:
        return client.candles("minutes/1", gap.market, to=oldest.at if oldest else gap.end, count=CANDLES_A_PAGE)

    def older(row: KeyedRow, oldest: KeyedRow | None) -> bool:
        return row.at is None or row.at < (oldest.at if oldest and oldest.at else gap.end)

    return walk(gap, ask, candle, older, CANDLES_A_PAGE, (timedelta(), MINUTE))


def trade_pages(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """A gap's trades, by the id of the oldest known trade. A page's last millisecond may be incomplete."""
    cursors = set[str]()

    def ask(oldest: KeyedRow | None) -> Reply:
        if oldest:
            cursors.add(oldest.key)
            return trades(client, gap, None, int(oldest.key))
        return trades(client, gap, None if is_still_changing(gap) else time_of_day(gap), None)

    def older(row: KeyedRow, oldest: KeyedRow | None) -> bool:
        if row.at is None:
            return True
        latest = oldest.at if oldest and oldest.at else gap.day + DAY - MILLISECOND
        # a trade of the day before: after a known trade it means the day's end, otherwise the reply is of another day
        return row.at <= latest and row.key not in cursors and (oldest is not None or row.at >= gap.day)

    return walk(gap, ask, trade, older, TRADES_A_PAGE, (MILLISECOND, timedelta()))


def walk(
    gap: Gap,
    ask: Callable[[KeyedRow | None], Reply],
    read: Callable[[Row], KeyedRow],
    older: Callable[[KeyedRow, KeyedRow | None], bool],
    full: int,
    margins: tuple[timedelta, timedelta],
) -> Iterator[Page]:
    """A gap's pages, newest first, each requested by the oldest known row.

    A page covers the interval between its rows. That there are none before them must be confirmed by two replies,
    because the exchange may err: a page that isn't full and the empty one after it, or two empty ones. What the
    exchange may still add after the newest row is left to the next run.

    Args:
        older: whether a row belongs in the reply to a request by the oldest known row.
        margins: from a row's time to where coverage by the newer rows of its page begins, and to where coverage by the
            older ones ends.
    """
    end, oldest, confirmations, retried = gap.end, None, 0, False
    above, below = margins
    while end > gap.start:
        try:
            reply = ask(oldest)
        except StatusError as error:
            yield no_such_market(gap, error)
            return
        rows = [row for row in map(read, reply.rows) if of_market(row, gap) and older(row, oldest)]
        timed = [row for row in rows if row.at and row.key]
        if not timed and reply.rows and (not rows or len(reply.rows) >= full):
            if retried:
                raise NoProgressError(reply.url)
            retried = True
            continue
        confirmations = (confirmations + 1 if not timed else 1) if len(reply.rows) < full else 0
        if oldest is None and is_still_changing(gap):
            newest = max((row.at for row in timed if row.at), default=None)
            end = max(min(newest + below, end), gap.start) if newest else gap.start
        if timed:
            oldest, retried = min(timed, key=lambda row: (row.at or EPOCH, len(row.key), row.key)), False
        start = gap.start if confirmations == CONFIRMATIONS else end
        if timed and oldest and oldest.at:
            start = max(min(oldest.at + above, end), gap.start)
        if rows or start < end or end == gap.start:
            yield Page(gap, reply, rows_in_gap(rows, gap), start, end)
        end = start


def is_still_changing(gap: Gap) -> bool:
    """Whether the exchange may still add rows at the gap's end."""
    return gap.end + REPORTING_DELAY > datetime.now(UTC)


def of_market(row: KeyedRow, gap: Gap) -> bool:
    """False for rows of another market, which are ignored. Rows without one are stored; silver rejects them."""
    market = row.row.market
    return market == gap.market or not MARKET_CODE.fullmatch(market)


def whole_day(client: UpbitClient, gap: Gap) -> Iterator[Page]:
    """The exchange's day candle of the gap's day, not yet compared with the rows."""
    try:
        reply, row = day_candle(client, gap)
    except StatusError as error:
        yield no_such_market(gap, error)
        return
    yield Page(gap, reply, [], gap.end, gap.end, proved=False, day_candle=row)


def day_candle(client: UpbitClient, gap: Gap) -> tuple[Reply, Row | None]:
    """The exchange's candle of a day; None if two replies have none, as on a day without trades."""
    for _ in range(CONFIRMATIONS):
        reply = client.candles("days", gap.market, to=gap.day + DAY, count=1)
        for row in reply.rows:
            if row.market == gap.market and candle(row).at == gap.day:
                return reply, row
    return reply, None


def volume_of(day_candle: Row | None) -> Decimal | None:
    """The volume of a day candle: 0 without a candle, None if it is malformed."""
    if day_candle is None:
        return Decimal(0)
    (text,) = fields(day_candle, "candle_acc_trade_volume")
    try:
        volume = Decimal(text)
    except ArithmeticError:
        return None
    return volume if volume.is_finite() and 0 <= volume <= LARGEST else None


def trades(client: UpbitClient, gap: Gap, to: str | None, cursor: int | None) -> Reply:
    """A page of the gap's day, which is specified by the number of days before the exchange's current day.

    Around midnight the exchange's current day may differ from ours; such a request is repeated.
    """
    while True:
        now = datetime.now(UTC)
        days_ago = (days.at(now).start - gap.day) // DAY or None
        reply = client.trades(gap.market, count=TRADES_A_PAGE, to=to, cursor=cursor, days_ago=days_ago)
        if days.at(now - MAX_CLOCK_OFFSET).start == days.at(reply.received_at + MAX_CLOCK_OFFSET).start:
            return reply


def time_of_day(gap: Gap) -> str | None:
    """The end of a gap as `to`, rounded up to a second; rows that are stored already are skipped."""
    second = (gap.end + timedelta(seconds=1) - MILLISECOND).replace(microsecond=0)
    return None if second >= gap.day + DAY else f"{second.astimezone(UTC):%H%M%S}"


def no_such_market(gap: Gap, error: StatusError) -> Page:
    """The page that records that the market is unavailable: it was delisted or renamed.

    Raises:
        StatusError: the error is another one.
    """
    if not error.unknown_market:
        raise error
    return Page(gap, None, [], gap.start, gap.start, problem=str(error))


def rows_in_gap(rows: Sequence[KeyedRow], gap: Gap) -> list[KeyedRow]:
    """The rows in the gap, and those without a valid time, which silver rejects."""
    return [row for row in rows if row.at is None or gap.start <= row.at < gap.end]


def candle(row: Row) -> KeyedRow:
    """A candle's key is its start, `candle_date_time_utc`; only Korea's host has KST. Source: Upbit REST, Candles."""
    utc, kst = fields(row, "candle_date_time_utc", "candle_date_time_kst")
    at = moment(utc, UTC)
    return KeyedRow(row, utc if at else "", at if not kst or at == moment(kst, SEOUL) else None)


def trade(row: Row) -> KeyedRow:
    """A trade's key is its `sequential_id`: up to 17 digits, unique, unordered. Source: Upbit REST, Recent trades."""
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
    """The text of some fields of a row; "" if missing."""
    try:
        document = json.loads(row, parse_int=str, parse_float=str, strict=False)
    except (ValueError, RecursionError):
        document = None
    values = [document.get(name) if isinstance(document, dict) else None for name in names]
    return [value if isinstance(value, str) else "" for value in values]
