"""What collecting candles and trades has in common: a past, asked for page by page.

Each page is a transaction of its own together with a note of what it covers. What is covered is not asked for again,
by whatever run, so a run that ends early costs nothing of what it had.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from dagster import AssetExecutionContext, Failure, TimeWindow
from psycopg.types.range import Range

from upbit_assets.assets.choice import Choice, NoRankingYet
from upbit_assets.assets.coverage import Gap, begun, gaps
from upbit_assets.assets.pages import EPOCH, MILLISECOND, NoProgress, Page, Said
from upbit_assets.assets.snapshots import claim_origin, storable_market, warn_of_clock
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres.copy import Records
from upbit_assets.postgres.io_manager import Load, Loads, Metadata
from upbit_assets.postgres.migrate import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import SettingError
from upbit_assets.upbit import UpbitClient, UpbitError

# the last trades of a minute are stored a moment after its end, and our clock may be ahead by half of this
SETTLED = timedelta(seconds=10)
AT_ONCE = 4  # pages under way, so that the limit is reached though each takes a while
TELL_EVERY = 10  # seconds
MOST_STUCK = 5  # then it is the exchange, not a market

T = TypeVar("T")
Loading = Generator[Load, None, None]


@dataclass(frozen=True)
class History:
    """How one kind of rows is collected.

    Args:
        raw, page: the tables of the rows, and of the notes what is covered.
        onward: tables that are computed from them, which need partitions as well.
        choice: of the markets.
        pages: asks for a gap, page after page.
        grain: what is asked for is whole multiples of it, so that no candle still forming is.
        kept: how many days the exchange still tells; None: all of them.
    """

    raw: sa.Table
    page: sa.Table
    onward: tuple[sa.Table, ...]
    choice: Choice
    pages: Callable[[UpbitClient, Gap], Iterator[Page]]
    grain: timedelta
    kept: int | None = None

    def collect(
        self, context: AssetExecutionContext, exchange: Exchange, database: Database, *, again: bool = False
    ) -> Loads:
        """All that the days lack, or `again` all of the days; what that is, is asked when they are locked."""
        progress = Progress(context)
        return Loads(self.loads(progress, context.partition_time_window, exchange, database, again), progress.metadata)

    def loads(
        self, progress: "Progress", span: TimeWindow, exchange: Exchange, database: Database, again: bool
    ) -> Loading:
        with database.connect() as connection:
            progress.begin(missing := self.missing(connection, span, again))
            if not missing:
                return
            claimed, stuck = False, list[NoProgress]()
            make_partitions(connection, span.start, span.end - MILLISECOND, (self.raw, *self.onward))
            with exchange.client(background=span.end <= datetime.now(UTC)) as client:
                try:
                    for page in side_by_side((self.pages_of(client, gap, stuck) for gap in missing), AT_ONCE):
                        if page.reply and not claimed:
                            claim_origin(database, page.reply)
                            warn_of_clock(progress.context, page.reply)
                            claimed = True
                        new = unknown(connection, self.raw, page)
                        yield Load({self.raw: as_records(page, new), self.page: note(page)})
                        progress.add(page, len(new))
                except UpbitError as error:  # the client has already tried again where that could help
                    raise Failure(f"{error} {progress.kept}", allow_retries=False) from error
            if stuck:
                raise Failure(f"{' '.join(map(str, stuck))} {progress.kept}", allow_retries=False) from stuck[0]

    def pages_of(self, client: UpbitClient, gap: Gap, stuck: list[NoProgress]) -> Iterator[Page]:
        """A gap's pages as far as they lead. One that leads nowhere keeps no other market waiting; many end the run."""
        try:
            yield from self.pages(client, gap)
        except NoProgress as error:
            stuck.append(error)
            if len(stuck) == MOST_STUCK:
                raise

    def settled(self, now: datetime) -> datetime:
        """Until when there will be no other rows than those of now."""
        return now - SETTLED - (now - SETTLED - EPOCH) % self.grain

    def missing(self, connection: sa.Connection, span: TimeWindow, again: bool) -> list[Gap]:
        """What of the days was not collected, or `again` all of it, newest first.

        Raises:
            Failure: there is nothing to choose markets by, or the exchange doesn't tell a day any more of which
                nothing is there.
        """
        now, starts = datetime.now(UTC), days.starts_in(span)
        try:
            wanted = self.choice.markets(connection, starts)
        except (NoRankingYet, SettingError) as error:
            raise Failure(str(error), allow_retries=False) from error
        found = begun(connection, self.page, starts)
        missing = gaps(
            connection, self.page, [*wanted, *found], self.settled(now), hopeless=True, again=again, raw=self.raw
        )
        if self.kept is None:
            return missing
        oldest = days.at(now).start - self.kept * DAY
        if gone := sorted({gap.day for gap in missing if gap.day < oldest} - {day for day, _ in found}):
            raise Failure(
                f"Nothing was collected of {days.named(gone)}, and it can't be collected any more: the exchange tells "
                f"the last {self.kept} days only, back to {days.key_of(oldest)}.",
                allow_retries=False,
            )
        return [gap for gap in missing if gap.day >= oldest]


@dataclass
class Progress:
    """What a run has collected so far, told in its log every few seconds and at its end."""

    context: AssetExecutionContext
    asked: timedelta = timedelta()
    covered: timedelta = timedelta()
    pages: int = 0
    rows: int = 0
    market_days: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def begin(self, missing: Sequence[Gap]) -> None:
        self.asked = sum((gap.end - gap.start for gap in missing), timedelta())
        self.market_days = len({(gap.day, gap.market) for gap in missing})
        self.started = self.told = time.monotonic()
        self.context.log.info(
            f"{self.market_days:,} markets' days are not whole." if missing else "Nothing is missing."
        )

    def add(self, page: Page, new: int) -> None:
        self.pages, self.rows, self.covered = self.pages + 1, self.rows + new, self.covered + page.end - page.start
        if page.problem:
            self.problems[f"{page.gap.market} {days.key_of(page.gap.day)}"] = page.problem
            self.context.log.warning(f"{page.gap.market}: {page.problem}")
        if time.monotonic() - self.told >= TELL_EVERY:
            self.told = time.monotonic()
            self.tell(page)

    def tell(self, page: Page) -> None:
        seconds, share = time.monotonic() - self.started, self.covered / self.asked
        self.context.log.info(
            f"{share:.1%} of {self.market_days:,} markets' days, at {days.key_of(page.gap.day)}: {self.rows:,} rows in "
            f"{self.pages:,} pages, {self.pages / seconds:.1f} a second; about {seconds * (1 / share - 1):,.0f} s to go"
            if share
            else f"{self.rows:,} rows in {self.pages:,} pages"
        )

    @property
    def kept(self) -> str:
        return f"{self.rows:,} rows in {self.pages:,} pages were collected and stay; the next run goes on there."

    def metadata(self) -> Metadata:
        seconds = max(time.monotonic() - self.started, 0.001)
        return {
            "markets' days that were not whole": self.market_days,
            "pages": self.pages,
            "pages per second": round(self.pages / seconds, 2),
            **({"not to be had": self.problems} if self.problems else {}),
        }


def side_by_side(iterators: Iterable[Iterator[T]], at_once: int) -> Iterator[T]:
    """The items of all the iterators as they come, `at_once` of them advanced at a time, each in a thread.

    What one of them raises is raised when the items are given that were under way.
    """
    waiting, problem = iter(iterators), None
    with ThreadPoolExecutor(at_once) as pool:
        running: dict[Future[T | None], Iterator[T]] = {}

        def advance(iterator: Iterator[T]) -> None:
            running[pool.submit(next, iterator, None)] = iterator

        for iterator in islice(waiting, at_once):
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


def unknown(connection: sa.Connection, raw: sa.Table, page: Page) -> list[Said]:
    """The rows of a page that bronze doesn't have to the letter."""
    found = connection.execute(
        sa.select(raw.c.key, sa.cast(raw.c.raw_data, sa.Text)).where(
            raw.c.day == page.gap.day,
            raw.c.market == storable_market(page.gap.market),
            raw.c.key == sa.any_(sa.cast([said.key for said in page.rows], sa.ARRAY(sa.Text))),
        )
    )
    known = defaultdict(list)
    for key, text in found:
        known[key].append(exact(text))
    return [said for said in page.rows if not any(is_of(document, said.row) for document in known[said.key])]


def exact(text: str) -> Any:
    """JSON with every number to its last digit; the text where it is none, or nested too deeply to be read here."""
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, strict=False)
    except (ArithmeticError, ValueError, RecursionError):
        return text


def is_of(document: Any, text: str) -> bool:
    """Whether bronze keeps this text as this document; one that jsonb refuses is kept as a string."""
    if isinstance(document, str):
        return document == text.replace("\0", r"\u0000")
    return bool(document == exact(text))


def as_records(page: Page, rows: Sequence[Said]) -> Records:
    received_at = page.reply.received_at if page.reply else None
    return Records(
        ("market", "raw_data", "ingested_at", "day", "key"),
        rows,
        lambda said: (storable_market(said.row.market), said.row, received_at, page.gap.day, said.key),
    )


def note(page: Page) -> Records:
    received_at = page.reply.received_at if page.reply else datetime.now(UTC)
    covered: Range[datetime] = Range(page.start, page.end)
    row = (storable_market(page.gap.market), page.gap.day, covered, len(page.rows), page.problem, received_at)
    return Records(("market", "day", "covered", "rows", "problem", "ingested_at"), [row])
