"""Requests trades that the stream missed over REST: exactly the markets and intervals that the counters show."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import AssetExecutionContext, Failure, MaterializeResult, TimeWindow
from psycopg.types.range import Range

from upbit_assets.assets import named, snapshots
from upbit_assets.assets.coverage import Gap
from upbit_assets.assets.history import CONCURRENT_REQUESTS, LOG_EVERY, TRADE_DAYS, interleave_concurrently
from upbit_assets.assets.pages import KeyedRow, NoProgressError, Page, fields, trade_pages
from upbit_assets.assets.silver import TICKER, TRADE_STREAM
from upbit_assets.assets.trade_proof import FAR, missing_trades
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import DAY, MILLISECOND, WINDOW, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.partitioning import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Metadata, Records, Writer, in_window, no_retry_on_interrupt, writer
from upbit_assets.upbit import UpbitClient, UpbitError

RAW, PAGE = tables.bronze_trade_stream_raw, tables.bronze_trade_stream_page
REST = "rest"  # in the place of a connection's name
WRITE_DELAY = 2.0  # seconds in which the stream has written the trades received before a snapshot
JUST_NOW = timedelta(seconds=5)


def collect(context: AssetExecutionContext, exchange: Exchange, database: Database) -> MaterializeResult:
    """Request the missing trades of the run's windows, as far as the exchange still has them.

    Trades that can't be fetched stay missing; silver and gold are computed from the others.

    Raises:
        Failure: there are no trades, and no snapshot that shows whether there were any.
    """
    span, progress = context.partition_time_window, Progress(context)
    # the trades between two snapshots may be in the neighbouring windows
    around = TimeWindow(span.start - WINDOW, span.end + WINDOW)
    keys = [windows.key_of(start) for start in windows.starts_in(around)]
    with (
        no_retry_on_interrupt(),
        database.connect() as locking,
        writer(locking, RAW, keys, around, context.log) as out,
        database.connect() as connection,
        exchange.client(background=True) as client,
    ):
        try:
            take_snapshot(context, client, database, connection, out)
            progress.begin(gaps := missing(database, span, around))
            if gaps:
                make_partitions(connection, around.start, around.end - MILLISECOND, (RAW, TRADE_STREAM.silver))
                fill(gaps, client, database, connection, out, progress)
        except UpbitError as error:  # the client has already tried again where that could help
            progress.problems["stopped"] = str(error)
            context.log.warning(f"{error} The remaining trades stay missing, and are requested again later.")
        rows = connection.scalar(sa.select(sa.func.count()).where(in_window(RAW, span))) or 0
        if not rows and not can_be_empty(connection, span):
            raise Failure(
                "The stream collected no trades there, and no snapshot shows whether there were any. Trades are only "
                "collected while `upbit-assets stream` runs.",
                allow_retries=False,
            )
    return MaterializeResult(metadata={**out.metadata(), **progress.metadata(), "dagster/partition_row_count": rows})


def take_snapshot(
    context: AssetExecutionContext, client: UpbitClient, database: Database, connection: sa.Connection, out: Writer
) -> None:
    """Take a snapshot unless there is one after the windows' end, or of just now: the proof ends at the last one."""
    now, end = datetime.now(UTC), context.partition_time_window.end
    came = tables.bronze_ticker_raw.c.ingested_at
    later = sa.select(came).where(came >= min(end, now - JUST_NOW), came < end + FAR).limit(1)
    if now >= end + WINDOW or connection.scalar(later):
        return
    reply = client.tickers()
    snapshots.claim_origin(database, reply)
    out.append(Load({tables.bronze_ticker_raw: snapshots.as_records(reply)}))
    time.sleep(WRITE_DELAY)


def missing(database: Database, span: TimeWindow, around: TimeWindow) -> list[Gap]:
    """The gaps to request, newest first: those of the span, including their parts in the neighbouring windows."""
    parts = missing_trades(database, span, TICKER, TRADE_STREAM)
    # a gap at the span's edge continues in the neighbouring window
    before = around.start if any(start == span.start for _, start, _ in parts) else span.start
    after = around.end if any(end == span.end for _, _, end in parts) else span.end
    if (before, after) != (span.start, span.end):
        parts = missing_trades(database, TimeWindow(before, after), TICKER, TRADE_STREAM)
    found = [
        Gap(day, market, max(start, day), min(end, day + DAY))
        for market, start, end in joined(part for part in parts if part[1] <= span.end and part[2] >= span.start)
        for day in days.starts_in(TimeWindow(days.at(start).start, days.at(end - MILLISECOND).end))
    ]
    return sorted(found, key=lambda gap: gap.end, reverse=True)


def joined(parts: Iterable[tuple[str, datetime, datetime]]) -> list[tuple[str, datetime, datetime]]:
    """A market's intervals that are less than a window apart as one.

    Each costs two requests at least, and a page has 500 trades. A stream that connects gets the last trade of each
    market, which would break the silence before into twenty intervals of all markets.
    """
    found = list[tuple[str, datetime, datetime]]()
    for market, start, end in sorted(parts):
        if found and found[-1][0] == market and start - found[-1][2] < WINDOW:
            found[-1] = (market, found[-1][1], max(found[-1][2], end))
        else:
            found.append((market, start, end))
    return found


def can_be_empty(connection: sa.Connection, span: TimeWindow) -> bool:
    """Whether the stream had begun, and a snapshot can prove that a window has no trades."""
    came = tables.silver_ticker.c.ingested_at
    snapshot = sa.select(came).where(came >= span.start - FAR, came < span.end + FAR).limit(1)
    begun = sa.select(RAW.c.traded_at).where(RAW.c.traded_at < span.end).limit(1)
    return bool(connection.scalar(snapshot) and connection.scalar(begun))


def fill(
    gaps: Sequence[Gap],
    client: UpbitClient,
    database: Database,
    connection: sa.Connection,
    out: Writer,
    progress: "Progress",
) -> None:
    """Request the gaps page by page, and store each page and its record before the next one. Raises UpbitError."""
    oldest = days.at(datetime.now(UTC)).start - TRADE_DAYS * DAY
    available = [gap for gap in gaps if gap.day >= oldest]
    progress.too_old = len(gaps) - len(available)
    requests = (pages(client, gap, progress) for gap in available)
    with closing(interleave_concurrently(requests, CONCURRENT_REQUESTS)) as received:
        for page in snapshots.with_known_origin(received, database, progress.context.log):
            new = new_rows(connection, page)
            out.append(Load({RAW: as_records(page, new), PAGE: record_of(page)}))
            progress.add(page, len(new))


def pages(client: UpbitClient, gap: Gap, progress: "Progress") -> Iterator[Page]:
    """A gap's pages; a gap that can't be fetched doesn't stop the others."""
    try:
        yield from trade_pages(client, gap)
    except NoProgressError as error:
        progress.problems[gap.market] = str(error)


def new_rows(connection: sa.Connection, page: Page) -> list[KeyedRow]:
    """The rows of a page that silver would not read with the same values from bronze as it is."""
    at = [row.at for row in page.rows if row.at]
    if not at:
        return list(page.rows)
    raw = sa.select(RAW).where(
        RAW.c.traded_at.between(min(at), max(at)),
        RAW.c.market == snapshots.storable_market(page.gap.market),
        RAW.c.key == sa.any_(sa.cast([row.key for row in page.rows], sa.ARRAY(sa.Text))),
    )
    validated = TRADE_STREAM.validated(raw.subquery("bronze")).subquery("row")
    trade = TRADE_STREAM.accepted_rows(validated).subquery("trade").c
    found = connection.execute(sa.select(trade.trade_id, trade.traded_at, trade.price, trade.volume, trade.taker))
    known = {str(trade_id): values for trade_id, *values in found}
    return [row for row in page.rows if known.get(row.key) != values_of(row)]


def values_of(row: KeyedRow) -> list[Any] | None:
    """Time, price, volume and taker of a trade; None if a figure is not a number."""
    price, volume, taker = fields(row.row, "trade_price", "trade_volume", "ask_bid")
    try:
        return [row.at, Decimal(price), Decimal(volume), taker]
    except ArithmeticError:
        return None


def as_records(page: Page, rows: Sequence[KeyedRow]) -> Records:
    received_at = page.reply.received_at if page.reply else None
    of = snapshots.storable_market(page.gap.market)
    return Records(
        ("market", "raw_data", "ingested_at", "traded_at", "key", "connection"),
        rows,
        lambda row: (of, row.row, received_at, row.at or page.gap.start, row.key, REST),
    )


def record_of(page: Page) -> Records:
    received_at = page.reply.received_at if page.reply else datetime.now(UTC)
    of = (snapshots.storable_market(page.gap.market), windows.at(page.start).start)
    covered: Range[datetime] = Range(page.start, page.end)
    names = ("market", "window_start", "covered", "rows", "problem", "ingested_at")
    return Records(names, [(*of, covered, len(page.rows), page.problem, received_at)])


@dataclass
class Progress:
    """What a run has requested so far, for its log every few seconds and its metadata."""

    context: AssetExecutionContext
    markets: set[str] = field(default_factory=set)
    requested: timedelta = timedelta()
    covered: timedelta = timedelta()
    pages: int = 0
    rows: int = 0
    too_old: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)

    def begin(self, gaps: Sequence[Gap]) -> None:
        self.markets = {gap.market for gap in gaps}
        self.requested = sum((gap.end - gap.start for gap in gaps), timedelta())
        if gaps:
            self.context.log.info(f"Trades of {len(self.markets)} markets may be missing: {named(self.markets)}.")

    def add(self, page: Page, new: int) -> None:
        self.pages, self.rows, self.covered = self.pages + 1, self.rows + new, self.covered + page.end - page.start
        if page.problem:
            self.problems[page.gap.market] = page.problem
        if time.monotonic() - self.logged_at >= LOG_EVERY:
            self.logged_at = time.monotonic()
            self.context.log.info(
                f"{self.covered / self.requested:.1%} of what is missing: {self.rows:,} trades in {self.pages:,} pages"
            )

    def metadata(self) -> Metadata:
        if not self.markets:
            return {"missing": "nothing"}
        return {
            "missing": f"trades of {len(self.markets)} markets: {named(self.markets)}",
            "requested over REST": f"{self.pages:,} pages, {self.rows:,} new trades",
            "seconds of requests": round(time.monotonic() - self.started, 1),
            **(
                {"too old to request": f"{self.too_old:,} intervals, over {TRADE_DAYS} days old"}
                if self.too_old
                else {}
            ),
            **({"unavailable": self.problems} if self.problems else {}),
        }
