"""Trades that the stream missed, asked for over REST: of exactly the markets and spans of which the counters tell."""

import time
from collections.abc import Iterator, Sequence
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
from upbit_assets.postgres.migrate import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Metadata, Records, Writer, in_window, no_retry_on_interrupt, writer
from upbit_assets.upbit import UpbitClient, UpbitError

RAW, PAGE = tables.bronze_trade_stream_raw, tables.bronze_trade_stream_page
REST = "rest"  # in the place of a connection's name
STORED = 2.0  # seconds, within which the stream has written what it heard before a snapshot
JUST_NOW = timedelta(seconds=5)


def collect(context: AssetExecutionContext, exchange: Exchange, database: Database) -> MaterializeResult:
    """Ask for what is missing of the run's windows, as far as the exchange still tells it.

    What it doesn't tell now stays missing, and keeps nothing from being computed from what is there.

    Raises:
        Failure: there is neither a trade nor a snapshot that tells of any.
    """
    span, progress = context.partition_time_window, Progress(context)
    # from one snapshot to the next the trades may lie in the windows beside them
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
            progress.problems["not asked further"] = str(error)
            context.log.warning(f"{error} What is missing stays so, and is asked for again.")
        rows = connection.scalar(sa.select(sa.func.count()).where(in_window(RAW, span))) or 0
        if not rows and not is_told_of(connection, span):
            raise Failure(
                "The stream collected nothing there, and no snapshot tells what was traded. Without it running, "
                "`upbit-assets stream`, nothing comes in.",
                allow_retries=False,
            )
    return MaterializeResult(metadata={**out.metadata(), **progress.metadata(), "dagster/partition_row_count": rows})


def take_snapshot(
    context: AssetExecutionContext, client: UpbitClient, database: Database, connection: sa.Connection, out: Writer
) -> None:
    """See that there is a snapshot by which the windows can be judged up to their end, or to now."""
    now, end = datetime.now(UTC), context.partition_time_window.end
    came = tables.bronze_ticker_raw.c.ingested_at
    later = sa.select(came).where(came >= min(end, now - JUST_NOW), came < end + FAR).limit(1)
    if now >= end + WINDOW or connection.scalar(later):
        return
    reply = client.tickers()
    snapshots.claim_origin(database, reply)
    out.append(Load({tables.bronze_ticker_raw: snapshots.as_records(reply)}))
    time.sleep(STORED)


def missing(database: Database, span: TimeWindow, around: TimeWindow) -> list[Gap]:
    """What to ask for, the newest first: what is missing of the span, with what of it lies around."""
    parts = missing_trades(database, span, TICKER, TRADE_STREAM)
    # what reaches the span's edge goes on in the window beside it
    before = around.start if any(start == span.start for _, start, _ in parts) else span.start
    after = around.end if any(end == span.end for _, _, end in parts) else span.end
    if (before, after) != (span.start, span.end):
        parts = missing_trades(database, TimeWindow(before, after), TICKER, TRADE_STREAM)
    found = [
        Gap(day, market, max(start, day), min(end, day + DAY))
        for market, start, end in parts
        if start <= span.end and end >= span.start
        for day in days.starts_in(TimeWindow(days.at(start).start, days.at(end - MILLISECOND).end))
    ]
    return sorted(found, key=lambda gap: gap.end, reverse=True)


def is_told_of(connection: sa.Connection, span: TimeWindow) -> bool:
    """Whether the stream had begun, and there is a snapshot by which a window without trades can be judged."""
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
    """Ask for the gaps page by page, and store each page with its note before the next. Raises UpbitError."""
    oldest = days.at(datetime.now(UTC)).start - TRADE_DAYS * DAY
    told = [gap for gap in gaps if gap.day >= oldest]
    progress.too_old = len(gaps) - len(told)
    with closing(interleave_concurrently((pages(client, gap, progress) for gap in told), CONCURRENT_REQUESTS)) as found:
        for page in snapshots.with_known_origin(found, database, progress.context.log):
            new = new_rows(connection, page)
            out.append(Load({RAW: as_records(page, new), PAGE: note(page)}))
            progress.add(page, len(new))


def pages(client: UpbitClient, gap: Gap, progress: "Progress") -> Iterator[Page]:
    """A gap's pages; one of a market that can't be had keeps no other waiting."""
    try:
        yield from trade_pages(client, gap)
    except NoProgressError as error:
        progress.problems[gap.market] = str(error)


def new_rows(connection: sa.Connection, page: Page) -> list[KeyedRow]:
    """The rows of a page that silver would not read just so in bronze, whoever told them."""
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
    known = {str(trade_id): said for trade_id, *said in found}
    return [row for row in page.rows if known.get(row.key) != says(row)]


def says(row: KeyedRow) -> list[Any] | None:
    """When, at what price, how much, and who took; None where it doesn't plainly say."""
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


def note(page: Page) -> Records:
    received_at = page.reply.received_at if page.reply else datetime.now(UTC)
    of = (snapshots.storable_market(page.gap.market), windows.at(page.start).start)
    covered: Range[datetime] = Range(page.start, page.end)
    names = ("market", "window_start", "covered", "rows", "problem", "ingested_at")
    return Records(names, [(*of, covered, len(page.rows), page.problem, received_at)])


@dataclass
class Progress:
    """What a run has asked for so far, told in its log every few seconds and at its end."""

    context: AssetExecutionContext
    markets: set[str] = field(default_factory=set)
    asked: timedelta = timedelta()
    covered: timedelta = timedelta()
    pages: int = 0
    rows: int = 0
    too_old: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)

    def begin(self, gaps: Sequence[Gap]) -> None:
        self.markets = {gap.market for gap in gaps}
        self.asked = sum((gap.end - gap.start for gap in gaps), timedelta())
        if gaps:
            self.context.log.info(f"Trades may be missing of {len(self.markets)} markets: {named(self.markets)}.")

    def add(self, page: Page, new: int) -> None:
        self.pages, self.rows, self.covered = self.pages + 1, self.rows + new, self.covered + page.end - page.start
        if page.problem:
            self.problems[page.gap.market] = page.problem
        if time.monotonic() - self.logged_at >= LOG_EVERY:
            self.logged_at = time.monotonic()
            self.context.log.info(
                f"{self.covered / self.asked:.1%} of what is missing: {self.rows:,} trades in {self.pages:,} pages"
            )

    def metadata(self) -> Metadata:
        if not self.markets:
            return {"missing": "nothing"}
        return {
            "missing": f"trades of {len(self.markets)} markets: {named(self.markets)}",
            "asked for over REST": f"{self.pages:,} pages, {self.rows:,} trades that were not known",
            "seconds of asking": round(time.monotonic() - self.started, 1),
            **(
                {"too old to ask for": f"{self.too_old:,} spans, from before {TRADE_DAYS} days"} if self.too_old else {}
            ),
            **({"not to be had": self.problems} if self.problems else {}),
        }
