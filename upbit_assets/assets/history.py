"""Collecting history (candles, trades), page by page.

Each page is stored in one transaction with a record of the interval that it covers. No run requests a covered interval
again, so a run that ends early loses nothing.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby, islice
from typing import Any, TypeVar

import sqlalchemy as sa
from dagster import AssetExecutionContext, Failure, MaterializeResult, TimeWindow
from psycopg.types.range import Range

from upbit_assets import archive
from upbit_assets.assets.coverage import Gap, gaps, requested_market_days
from upbit_assets.assets.pages import (
    KeyedRow,
    NoProgressError,
    Page,
    day_candle,
    volume_of,
    whole_day,
)
from upbit_assets.assets.refine import Refinement
from upbit_assets.assets.selection import MarketSelection, NoRankingError
from upbit_assets.assets.snapshots import storable_market, with_known_origin
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import DAY, EPOCH, MILLISECOND, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.partitioning import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Metadata, Records, Writer, asset_writer
from upbit_assets.settings import SettingError
from upbit_assets.upbit import Row, UpbitClient, UpbitError

# the exchange serves a minute's last trades shortly after its end, and our clock may be ahead by half of this
SETTLED = timedelta(seconds=10)
TRADE_DAYS = 7  # the exchange serves trades of today and of so many days before
CONCURRENT_REQUESTS = 4  # enough to reach the rate limit despite each one's latency
LOG_EVERY = 10  # seconds
MAX_STUCK_MARKETS = 5  # with more, the cause is the exchange, not a market
ROUNDING = Decimal("1e-9")  # the exchange rounds its sums to about 16 digits
MAX_VERIFICATIONS = 3  # after so many without new rows, a day stays unverified

T = TypeVar("T")


@dataclass(frozen=True)
class PagedHistory:
    """How one kind of history is collected.

    Args:
        raw, page: the tables of the rows, and of the records of covered intervals.
        refinement: how silver validates a row.
        volume: the field whose sum is the day's volume.
        downstream: tables computed from these, which need partitions too.
        selection: of the markets.
        pages: requests a gap, page by page.
        grain: requests end at its multiples, so that unfinished candles are left out.
        available_days: how many past days the exchange serves; None: all of them.
    """

    raw: sa.Table
    page: sa.Table
    refinement: Refinement
    volume: str
    downstream: tuple[sa.Table, ...]
    selection: MarketSelection
    pages: Callable[[UpbitClient, Gap], Iterator[Page]]
    grain: timedelta
    available_days: int | None = None

    def collect(
        self, context: AssetExecutionContext, exchange: Exchange, database: Database, *, full_refresh: bool = False
    ) -> MaterializeResult:
        """Collect the days' missing intervals (all of the days if `full_refresh`), determined under the days' lock.

        Raises:
            Failure: no markets can be selected, or the exchange didn't return everything; what it returned is stored.
        """
        progress, span = Progress(context), context.partition_time_window
        past = [start for start in days.starts_in(span) if start + DAY <= datetime.now(UTC)]
        archive.restore_missing(context, database, [self.raw, self.page], past)
        with (
            database.connect() as locking,
            asset_writer(context, locking, self.raw) as out,
            database.connect() as connection,
        ):
            progress.begin(missing := self.missing(connection, span, full_refresh))
            if missing:
                make_partitions(connection, span.start, span.end - MILLISECOND, (self.raw, *self.downstream))
                with exchange.client(background=span.end <= datetime.now(UTC)) as client:
                    self.fill(missing, client, database, connection, out, progress)
        return MaterializeResult(metadata={**progress.metadata(), **out.metadata()})

    def fill(
        self,
        missing: Sequence[Gap],
        client: UpbitClient,
        database: Database,
        connection: sa.Connection,
        out: Writer,
        progress: "Progress",
    ) -> None:
        """Request the gaps page by page; each page is stored before the next one."""
        stuck = list[NoProgressError]()
        of_each = (list(each) for _, each in groupby(missing, lambda gap: (gap.day, gap.market)))
        each_pages = (self.pages_of(client, gaps, stuck) for gaps in of_each)
        try:
            with closing(interleave_concurrently(each_pages, CONCURRENT_REQUESTS)) as pages:
                for page in with_known_origin(pages, database, progress.context.log):
                    if page.proved is not None:
                        page = self.verified(connection, client, page)
                    new = new_rows(connection, self.raw, page)
                    out.append(Load({self.raw: as_records(page, new), self.page: page_record(page)}))
                    progress.add(page, len(new))
        except UpbitError as error:  # the client has already retried what is retryable
            raise Failure(f"{error} {progress.kept}", allow_retries=False) from error
        if stuck:
            raise Failure(f"{' '.join(map(str, stuck))} {progress.kept}", allow_retries=False) from stuck[0]

    def pages_of(self, client: UpbitClient, gaps: Sequence[Gap], stuck: list[NoProgressError]) -> Iterator[Page]:
        """The pages of a market's day, and the verification of the whole day if that is due.

        A market whose pages make no progress is skipped; MAX_STUCK_MARKETS of them end the run.
        """
        try:
            for gap in gaps:
                for page in (self.pages if gap.start < gap.end else whole_day)(client, gap):
                    yield page
                    if page.problem:
                        return
        except NoProgressError as error:
            stuck.append(error)
            if len(stuck) == MAX_STUCK_MARKETS:
                raise

    def verified(self, connection: sa.Connection, client: UpbitClient, page: Page) -> Page:
        """The page with its verification: whether the day's rows add up to the exchange's day candle.

        If they don't, the candle is requested again first.

        Raises:
            UpbitError: that request failed.
        """
        ours, rejected = self.collected_volume(connection, page.gap)
        at_least = last_ticker_volume(connection, page.gap)

        def proves(day_candle: Row | None) -> bool:
            """Whether the volumes agree; rows that silver rejects may make up the difference."""
            whole = volume_of(day_candle)
            if whole is None or whole * (1 + ROUNDING) < at_least:
                return False
            return abs(ours - whole) <= whole * ROUNDING or (rejected > 0 and ours < whole)

        if not proves(page.day_candle):
            reply, row = day_candle(client, page.gap)
            page = replace(page, reply=reply, day_candle=row)
        if proves(page.day_candle):
            return replace(page, proved=True)
        if self.failed_verifications(connection, page.gap) + 1 < MAX_VERIFICATIONS:
            return page
        problem = (
            f"Collected volume: {ours} coins, but the day's candle has {volume_of(page.day_candle)} and the day's "
            f"last ticker {at_least}: requested {MAX_VERIFICATIONS} times with the same result."
        )
        return replace(page, problem=problem)

    def collected_volume(self, connection: sa.Connection, gap: Gap) -> tuple[Decimal, int]:
        """The volume of the day's rows that silver accepts, and how many it rejects."""
        day = sa.select(self.raw).where(self.raw.c.day == gap.day, self.raw.c.market == storable_market(gap.market))
        row = self.refinement.validated(day.subquery("bronze")).subquery("validated").c
        good = row.reason.is_(None)
        volume = sa.func.sum(row[self.volume]).filter(good, row.row_number == 1)
        ours, rejected = connection.execute(sa.select(sa.func.coalesce(volume, 0), sa.func.count().filter(~good))).one()
        return ours, rejected

    def failed_verifications(self, connection: sa.Connection, gap: Gap) -> int:
        """How often verification of the day failed since its newest row was stored."""
        raw, page = self.raw.c, self.page.c
        code = storable_market(gap.market)
        newest = sa.select(sa.func.max(raw.ingested_at)).where(raw.day == gap.day, raw.market == code).scalar_subquery()
        since = sa.func.coalesce(page.ingested_at >= newest, True)
        return (
            connection.scalar(
                sa.select(sa.func.count()).where(page.day == gap.day, page.market == code, ~page.proved, since)
            )
            or 0
        )

    def settled(self, now: datetime) -> datetime:
        """The time before which the exchange's rows are final."""
        return now - SETTLED - (now - SETTLED - EPOCH) % self.grain

    def missing(self, connection: sa.Connection, span: TimeWindow, full_refresh: bool) -> list[Gap]:
        """The days' missing intervals (all of the days if `full_refresh`), newest first.

        Raises:
            Failure: no markets can be selected, or a day without rows is no longer available from the exchange.
        """
        now, starts = datetime.now(UTC), days.starts_in(span)
        try:
            wanted = self.selection.markets(connection, starts)
        except (NoRankingError, SettingError) as error:
            raise Failure(str(error), allow_retries=False) from error
        found = requested_market_days(connection, self.page, starts)
        missing = gaps(
            connection,
            self.page,
            [*wanted, *found],
            self.settled(now),
            include_unavailable=True,
            full_refresh=full_refresh,
            raw=self.raw,
        )
        if self.available_days is None:
            return missing
        oldest = days.at(now).start - self.available_days * DAY
        if gone := sorted({gap.day for gap in missing if gap.day < oldest} - {day for day, _ in found}):
            raise Failure(
                f"Nothing was collected of {days.named(gone)}, and it can't be collected any more: the exchange serves "
                f"only the last {self.available_days} days, back to {days.key_of(oldest)}.",
                allow_retries=False,
            )
        return [gap for gap in missing if gap.day >= oldest]


def last_ticker_volume(connection: sa.Connection, gap: Gap) -> Decimal:
    """The day's volume by its last collected ticker, a lower bound of the whole day's."""
    ticker = tables.silver_ticker.c
    last = sa.select(ticker.day_volume).where(
        ticker.market == gap.market,
        ticker.ingested_at >= gap.day,
        ticker.ingested_at < gap.day + DAY,
        ticker.traded_at >= gap.day,
    )
    return connection.scalar(last.order_by(ticker.ingested_at.desc()).limit(1)) or Decimal(0)


@dataclass
class Progress:
    """What a run has collected so far, logged every LOG_EVERY seconds."""

    context: AssetExecutionContext
    requested: timedelta = timedelta()
    covered: timedelta = timedelta()
    pages: int = 0
    rows: int = 0
    market_days: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    disproved: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)

    def begin(self, missing: Sequence[Gap]) -> None:
        self.requested = sum((gap.end - gap.start for gap in missing), timedelta())
        self.market_days = len({(gap.day, gap.market) for gap in missing})
        self.started = self.logged_at = time.monotonic()
        self.context.log.info(f"{self.market_days:,} market days are incomplete." if missing else "Nothing is missing.")

    def add(self, page: Page, new: int) -> None:
        self.pages += page.proved is None
        self.rows, self.covered = self.rows + new, self.covered + page.end - page.start
        if page.proved is False:
            self.disproved.append(f"{page.gap.market} {days.key_of(page.gap.day)}")
            self.context.log.warning(
                f"{self.disproved[-1]}: the collected volume doesn't match the exchange's candle of the day; the day "
                "counts as missing and is requested again."
            )
        if page.problem:
            self.problems[f"{page.gap.market} {days.key_of(page.gap.day)}"] = page.problem
            self.context.log.warning(f"{page.gap.market}: {page.problem}")
        if time.monotonic() - self.logged_at >= LOG_EVERY:
            self.logged_at = time.monotonic()
            self.log_progress(page)

    def log_progress(self, page: Page) -> None:
        seconds, share = time.monotonic() - self.started, self.covered / (self.requested or MILLISECOND)
        self.context.log.info(
            f"{share:.1%} of {self.market_days:,} market days, at {days.key_of(page.gap.day)}: {self.rows:,} rows in "
            f"{self.pages:,} pages, {self.pages / seconds:.1f} a second; about {seconds * (1 / share - 1):,.0f} s left"
            if share
            else f"{self.rows:,} rows in {self.pages:,} pages"
        )

    @property
    def kept(self) -> str:
        return f"{self.rows:,} rows in {self.pages:,} pages were collected and stored; the next run continues there."

    def metadata(self) -> Metadata:
        seconds = max(time.monotonic() - self.started, 0.001)
        return {
            "incomplete market days": self.market_days,
            "pages": self.pages,
            "pages per second": round(self.pages / seconds, 2),
            **({"unavailable": self.problems} if self.problems else {}),
            **({"volume mismatch": ", ".join(self.disproved)} if self.disproved else {}),
        }


def interleave_concurrently(iterators: Iterable[Iterator[T]], concurrency: int) -> Generator[T, None, None]:
    """The items of all iterators as they arrive; `concurrency` iterators are advanced at a time, each in a thread.

    An exception is raised after the items already being fetched were yielded.
    """
    waiting, problem = iter(iterators), None
    with ThreadPoolExecutor(concurrency) as pool:
        running: dict[Future[T | None], Iterator[T]] = {}

        def advance(iterator: Iterator[T]) -> None:
            running[pool.submit(next, iterator, None)] = iterator

        for iterator in islice(waiting, concurrency):
            advance(iterator)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                iterator, error = running.pop(future), future.exception()
                problem = problem or error
                item = None if error else future.result()
                if not problem and (following := next(waiting, None) if item is None else iterator) is not None:
                    advance(following)
                if item is not None:
                    yield item
        if problem:
            raise problem


def new_rows(connection: sa.Connection, raw: sa.Table, page: Page) -> list[KeyedRow]:
    """The rows of a page that bronze doesn't have in exactly this form."""
    found = connection.execute(
        sa.select(raw.c.key, sa.cast(raw.c.raw_data, sa.Text)).where(
            raw.c.day == page.gap.day,
            raw.c.market == storable_market(page.gap.market),
            raw.c.key == sa.any_(sa.cast([row.key for row in page.rows], sa.ARRAY(sa.Text))),
        )
    )
    known = defaultdict(list)
    for key, text in found:
        known[key].append(exact(text))
    return [row for row in page.rows if not any(matches_stored(document, row.row) for document in known[row.key])]


def exact(text: str) -> Any:
    """JSON with exact numbers; the text itself if it isn't JSON or is nested too deeply to parse."""
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, strict=False)
    except (ArithmeticError, ValueError, RecursionError):
        return text


def matches_stored(document: Any, text: str) -> bool:
    """Whether bronze's document is this text; text that jsonb rejects is stored as a string."""
    if isinstance(document, str):
        return document == text.replace("\0", r"\u0000")
    return bool(document == exact(text))


def as_records(page: Page, rows: Sequence[KeyedRow]) -> Records:
    received_at = page.reply.received_at if page.reply else None
    return Records(
        ("market", "raw_data", "ingested_at", "day", "key"),
        rows,
        lambda row: (storable_market(row.row.market), row.row, received_at, page.gap.day, row.key),
    )


def page_record(page: Page) -> Records:
    received_at = page.reply.received_at if page.reply else datetime.now(UTC)
    covered: Range[datetime] = Range(page.start, page.end)
    key = (storable_market(page.gap.market), page.gap.day)
    row = (*key, covered, len(page.rows), page.problem, received_at, page.proved, page.day_candle)
    names = ("market", "day", "covered", "rows", "problem", "ingested_at", "proved", "day_candle")
    return Records(names, [row])
