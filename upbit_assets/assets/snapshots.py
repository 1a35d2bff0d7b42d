"""Collecting snapshots (tickers, order books), which are available for the present only."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import sqlalchemy as sa
from dagster import AssetExecutionContext, Failure, MetadataValue, TimeWindow

from upbit_assets import archive
from upbit_assets.assets import named, selection
from upbit_assets.assets.pages import Page, fields
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import EPOCH, MILLISECOND, SEOUL, WINDOW, days, windows
from upbit_assets.postgres import origin, tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Records, no_retry_on_interrupt
from upbit_assets.upbit import Reply, StatusError, UpbitClient, UpbitError
from upbit_assets.upbit.clock import NOTEWORTHY, TOLERATED, in_words

Extra = Callable[[UpbitClient, TimeWindow], dict[sa.Table, Records]]
MAX_CALLS = 50  # to find the unknown market codes by bisection
OUTDATED = timedelta(seconds=30)


class SnapshotError(RuntimeError):
    """There is no snapshot; the message says why."""


class Request(Protocol):
    """The request for a snapshot."""

    @property
    def unknown(self) -> AbstractSet[str]:
        """Requested market codes that the exchange doesn't know."""
        ...

    def replies(self, client: UpbitClient) -> Sequence[Reply]:
        """The snapshot, in as few replies as possible."""
        ...

    def flaws(self, replies: Sequence[Reply]) -> Mapping[str, str]:
        """Problems that another request may solve: {problem: the markets or time concerned}."""
        ...


def collect(
    context: AssetExecutionContext,
    exchange: Exchange,
    database: Database,
    table: sa.Table,
    prepare: Callable[[sa.Connection], Request],
    extra: Extra = lambda _client, _window: {},
) -> Load | None:
    """A snapshot for the current window, with the rows of `extra`; None for a past window, which is left unchanged.

    Raises:
        Failure: a past window has no rows, or the exchange didn't return a snapshot in time.
    """
    span, now = context.partition_time_window, datetime.now(UTC)
    empty = past_windows_without_rows(database, table, span, now)
    if archive.restore_missing(context, database, [table], empty):
        empty = past_windows_without_rows(database, table, span, now)
    if empty:
        raise Failure(no_history(empty, span), allow_retries=False)
    if span.end <= now:
        context.log.info("The window is over: its raw rows are left unchanged.")
        context.add_output_metadata({"collected": "nothing: the window is over, its raw rows are left unchanged"})
        return None
    open_window = TimeWindow(span.end - WINDOW, span.end)
    with database.connect() as connection:
        request = prepare(connection)
    with no_retry_on_interrupt(), exchange.client() as client:
        try:
            replies = snapshot(context.log, client, request, open_window)
        except SnapshotError as error:
            raise Failure(str(error), allow_retries=False) from error
        reply = replies[-1]
        claim_origin(database, reply)
        context.add_output_metadata(
            {
                "source": MetadataValue.url(reply.url[:2000]),
                "simulated": reply.simulated,
                "collected at": MetadataValue.timestamp(reply.received_at),
                "response time in seconds": round(reply.seconds, 3),
                **request.flaws(replies),
            }
        )
        if request.unknown:
            context.add_output_metadata({"unknown to the exchange": named(request.unknown)})
        return Load({table: as_records(*replies), **extra(client, open_window)})


def snapshot(log: logging.Logger, client: UpbitClient, request: Request, window: TimeWindow) -> Sequence[Reply]:
    """The replies received before the window's end. A flawed snapshot is requested once more; if both are flawed, both
    are kept.

    Raises:
        SnapshotError: there is no reply, or not before the window's end.
    """
    try:
        replies = request.replies(client)
    except UpbitError as error:  # the client has already retried what is retryable
        raise SnapshotError(str(error)) from error
    if flaws := request.flaws(replies):
        log.warning(f"{in_one_line(flaws)}. Requesting the snapshot once more.")
        try:
            again = request.replies(client)
        except UpbitError as error:
            log.warning(f"The second request failed, so the first snapshot is kept: {error}")
        else:
            replies = [*replies, *again] if request.flaws(again) else again
            if flaws := request.flaws(replies):
                log.warning(f"After two requests: {in_one_line(flaws)}.")
    if request.unknown:
        log.warning(f"The exchange doesn't know {named(request.unknown)}; the others are collected.")
    warn_of_clock(log, replies[-1])
    in_time = [reply for reply in replies if reply.received_at < window.end]
    if not in_time:
        raise SnapshotError(
            f"The window {windows.key_of(window.start)} ended before the response arrived, so this snapshot is not "
            "stored. The next window is collected by its own run."
        )
    return in_time


def in_one_line(flaws: Mapping[str, str]) -> str:
    return "; ".join(f"{what}: {which}" for what, which in flaws.items())


@dataclass(frozen=True)
class OneCall:
    """A snapshot by a single call; `expected`: the markets that the reply must contain."""

    ask: Callable[[UpbitClient], Reply]
    expected: AbstractSet[str] = frozenset()
    unknown: AbstractSet[str] = frozenset()

    def replies(self, client: UpbitClient) -> Sequence[Reply]:
        return [self.ask(client)]

    def flaws(self, replies: Sequence[Reply]) -> Mapping[str, str]:
        return missing(self.expected, replies)


class Tickers(OneCall):
    """The tickers of all markets."""

    def flaws(self, replies: Sequence[Reply]) -> Mapping[str, str]:
        return {**super().flaws(replies), **outdated(replies)}


@dataclass
class Orderbooks:
    """The order books of some markets; `listed`: the markets on the newest market list.

    The exchange rejects the whole call if it doesn't know one of the codes; `unknown` collects those.
    """

    markets: Sequence[str]
    listed: AbstractSet[str]
    unknown: set[str] = field(default_factory=set)

    def replies(self, client: UpbitClient) -> Sequence[Reply]:
        """The books of all markets that the exchange knows.

        Raises:
            UpbitError: it knows none of them, or the call failed for another reason.
        """
        parts = [[market for market in self.markets if market not in self.unknown]]
        replies, failure, calls = list[Reply](), None, 0
        while parts and (calls := calls + 1) <= MAX_CALLS:
            part = parts.pop()
            try:
                replies.append(client.orderbook(part))
            except UpbitError as error:
                failure = error
                if not (isinstance(error, StatusError) and error.unknown_market):
                    break
                if len(part) == 1:
                    self.unknown.update(part)
                else:
                    parts += self.split(part)
        if failure and not replies:
            raise failure
        return replies

    def split(self, markets: list[str]) -> tuple[list[str], list[str]]:
        """Two parts to find an unknown code by: the unlisted codes and the others if there are both, else halves."""
        unlisted = [market for market in markets if market not in self.listed]
        if 0 < len(unlisted) < len(markets):
            return unlisted, [market for market in markets if market in self.listed]
        return markets[: len(markets) // 2], markets[len(markets) // 2 :]

    def flaws(self, replies: Sequence[Reply]) -> Mapping[str, str]:
        return missing(set(self.markets) - self.unknown, replies)


def all_tickers(connection: sa.Connection) -> Tickers:
    return Tickers(UpbitClient.tickers, active_markets(connection))


def chosen_orderbooks(connection: sa.Connection) -> Orderbooks:
    """The selected markets' order books. Raises NoRankingError: there is no ranking yet to select them by."""
    chosen = selection.orderbooks.markets(connection, [days.at(datetime.now(UTC)).start])
    return Orderbooks([market for _, market in chosen], listed_markets(connection))


def market_list(
    log: logging.Logger, connection: sa.Connection, client: UpbitClient, window: TimeWindow
) -> dict[sa.Table, Records]:
    """The market list, if the window has none yet and the exchange returns it in time."""
    if windows.with_rows(connection, tables.bronze_market_raw, [window.start]):
        return {}
    try:
        markets = client.markets()
    except UpbitError as error:  # keep the tickers; a check reports the missing list
        log.warning(f"The market list was not collected: {error}")
        return {}
    return {tables.bronze_market_raw: as_records(markets)} if markets.received_at < window.end else {}


def missing(expected: AbstractSet[str], replies: Sequence[Reply]) -> dict[str, str]:
    received = {row.market for reply in replies for row in reply.rows}
    return {"not in the response": named(expected - received)} if expected - received else {}


def outdated(replies: Sequence[Reply]) -> dict[str, str]:
    """Some market trades every second, so a reply whose newest ticker is older comes from a cache."""
    reply = replies[-1]
    stamps = (fields(row, "timestamp")[0] for row in reply.rows)
    newest = max((int(stamp) for stamp in stamps if re.fullmatch(r"\d{1,14}", stamp)), default=None)
    if newest is None or reply.received_at - (at := EPOCH + newest * MILLISECOND) <= OUTDATED:
        return {}
    return {"the newest ticker is of": f"{at.astimezone(SEOUL):%Y-%m-%d %H:%M:%S %Z}"}


def as_records(*replies: Reply) -> Records:
    return Records(
        ("market", "raw_data", "ingested_at"),
        [(row, reply.received_at) for reply in replies for row in reply.rows],
        lambda each: (storable_market(each[0].market), *each),
    )


def listed_markets(connection: sa.Connection) -> set[str]:
    """The markets on the newest collected market list; empty if there is none."""
    listing = tables.bronze_market_raw.c
    newest = connection.scalar(sa.select(listing.ingested_at).order_by(listing.ingested_at.desc()).limit(1))
    return set(connection.scalars(sa.select(listing.market).where(listing.ingested_at == newest)))


def active_markets(connection: sa.Connection) -> set[str]:
    """The markets that had a ticker in the last ten minutes and were not delisted since."""
    rows = tables.bronze_ticker_raw.c
    recent = rows.ingested_at > datetime.now(UTC) - WINDOW
    active = set(connection.scalars(sa.select(rows.market).where(recent).distinct()))
    return active & (listed_markets(connection) or active)


def storable_market(market: str) -> str:
    """The code truncated to its column's length, without NUL characters; the raw row keeps it whole."""
    return market.encode("utf-8", "ignore").decode().replace("\0", "")[:30]


def with_known_origin(pages: Iterable[Page], database: Database, log: logging.Logger) -> Iterator[Page]:
    """The pages, once the first reply's exchange is known to be the database's and its clock compared with ours."""
    claimed = False
    for page in pages:
        if page.reply and not claimed:
            claim_origin(database, page.reply)
            warn_of_clock(log, page.reply)
            claimed = True
        yield page


def claim_origin(database: Database, reply: Reply) -> None:
    """Keep real and simulated data out of one database.

    Raises:
        Failure: the database holds data of the other kind.
    """
    try:
        with database.connect("READ COMMITTED") as connection, connection.begin():
            origin.claim_origin(connection, reply.url, simulated=reply.simulated)
    except origin.OriginError as error:
        raise Failure(str(error), allow_retries=False) from error


def warn_of_clock(log: logging.Logger, reply: Reply) -> None:
    """Warn about a clock offset before it exceeds what is tolerated."""
    if abs(reply.clock_ahead) >= NOTEWORTHY:
        log.warning(
            f"This machine's clock is {in_words(reply.clock_ahead)}. Beyond {TOLERATED.seconds} seconds nothing is "
            "collected: synchronize it by NTP."
        )


def past_windows_without_rows(database: Database, table: sa.Table, span: TimeWindow, now: datetime) -> list[datetime]:
    past = [start for start in windows.starts_in(span) if start + WINDOW <= now]
    with database.connect() as connection:
        filled = windows.with_rows(connection, table, past)
    return [start for start in past if start not in filled]


def no_history(empty: Sequence[datetime], span: TimeWindow) -> str:
    """The error message for past windows without rows."""
    gaps = set(empty)
    filled = [start for start in windows.starts_in(span) if start not in gaps]
    advice = (
        f" {len(filled)} of the {len(filled) + len(gaps)} requested windows have rows: select those, or select only "
        "silver and gold to rebuild them."
        if filled
        else ""
    )
    return (
        f"Nothing was collected in {windows.named(empty)}, and it can't be collected any more: the exchange has no "
        f"history of snapshots.{advice}"
    )
