"""What collecting tickers and order books has in common: they are as they are now, and have no past."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from dagster import AssetExecutionContext, Failure, MetadataValue, TimeWindow

from upbit_assets.exchange import Exchange
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import origin
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Load, Records, no_retry_on_interrupt
from upbit_assets.upbit import Reply, UpbitClient, UpbitError
from upbit_assets.upbit.clock import NOTEWORTHY, TOLERATED, in_words

Ask = Callable[[UpbitClient], Reply]
Beside = Callable[[UpbitClient, TimeWindow], dict[sa.Table, Records]]


def collect(
    context: AssetExecutionContext,
    exchange: Exchange,
    database: Database,
    table: sa.Table,
    ask: Ask,
    beside: Beside = lambda _client, _window: {},
) -> Load | None:
    """One more snapshot into the window now open, with what is stored beside it; nothing into a past one.

    Raises:
        Failure: a past window of which nothing was collected, or the exchange didn't give a snapshot in time.
    """
    span, now = context.partition_time_window, datetime.now(UTC)
    empty = past_windows_without_rows(database, table, span, now)
    if empty:
        raise Failure(no_history(empty, span), allow_retries=False)
    if span.end <= now:
        context.log.info("The window is over: its raw rows stay as they are.")
        context.add_output_metadata({"collected": "nothing: the window is over, its raw rows stay as they are"})
        return None
    open_window = TimeWindow(span.end - WINDOW, span.end)
    with no_retry_on_interrupt(), exchange.client() as client:
        reply = snapshot(client, ask, open_window)
        claim_origin(database, reply)
        warn_of_clock(context, reply)
        context.add_output_metadata(
            {
                "source": MetadataValue.url(reply.url[:2000]),
                "simulated": reply.simulated,
                "collected at": MetadataValue.timestamp(reply.received_at),
                "exchange answered in seconds": round(reply.seconds, 3),
            }
        )
        return Load({table: as_records(reply), **beside(client, open_window)})


def snapshot(client: UpbitClient, ask: Ask, window: TimeWindow) -> Reply:
    try:
        reply = ask(client)
    except UpbitError as error:  # the client has already tried again where that could help
        raise Failure(str(error), allow_retries=False) from error
    if reply.received_at >= window.end:
        raise Failure(
            f"The window {windows.key_of(window.start)} closed before the exchange's answer was in; its last moments "
            "are not collected. The next window is collected by its own run.",
            allow_retries=False,
        )
    return reply


def as_records(reply: Reply) -> Records:
    return Records(
        ("market", "raw_data", "ingested_at"),
        reply.rows,
        lambda row: (storable_market(row.market), row, reply.received_at),
    )


def storable_market(market: str) -> str:
    """The code cut to its column, without what text in PostgreSQL can't hold; the raw row keeps all of it."""
    return market.encode("utf-8", "ignore").decode().replace("\0", "")[:30]


def claim_origin(database: Database, reply: Reply) -> None:
    """Keep real and simulated data out of one database.

    Raises:
        Failure: the database holds data of the other kind.
    """
    try:
        with database.connect() as connection:
            origin.claim_origin(connection, reply.url, simulated=reply.simulated)
    except origin.OriginError as error:
        raise Failure(str(error), allow_retries=False) from error


def warn_of_clock(context: AssetExecutionContext, reply: Reply) -> None:
    """Tell while it is still tolerated that the clock goes wrong."""
    if abs(reply.clock_ahead) >= NOTEWORTHY:
        context.log.warning(
            f"This machine's clock is {in_words(reply.clock_ahead)}. Beyond {TOLERATED.seconds} seconds nothing is "
            "collected: have it kept by NTP."
        )


def past_windows_without_rows(database: Database, table: sa.Table, span: TimeWindow, now: datetime) -> list[datetime]:
    past = [start for start in windows.starts_in(span) if start + WINDOW <= now]
    with database.connect() as connection:
        filled = windows.with_rows(connection, table, past)
    return [start for start in past if start not in filled]


def no_history(empty: Sequence[datetime], span: TimeWindow) -> str:
    """What to tell a person who asks for windows that nobody collected."""
    gaps = set(empty)
    filled = [start for start in windows.starts_in(span) if start not in gaps]
    advice = (
        f" {len(filled)} of the {len(filled) + len(gaps)} windows asked for do hold rows: select those, or select "
        "silver and gold alone to rebuild what there is."
        if filled
        else ""
    )
    return (
        f"Nothing was collected in {windows.named(empty)}, and it can't be collected any more: what the exchange "
        f"says of the present has no history.{advice}"
    )
