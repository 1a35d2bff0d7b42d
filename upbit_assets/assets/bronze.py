"""Bronze: what the exchange said, to the letter."""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from dagster import AssetExecutionContext, BackfillPolicy, Failure, MetadataValue, TimeWindow, asset
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.assets import HOUSE, retry
from upbit_assets.exchange import Exchange
from upbit_assets.partitions import WINDOW, key_of, windows, windows_in, windows_with_rows
from upbit_assets.postgres import tables
from upbit_assets.postgres.copy import Records
from upbit_assets.postgres.io_manager import Load, stored_in
from upbit_assets.postgres.resource import Database
from upbit_assets.upbit import Reply, UpbitClient, UpbitError


@asset(
    **HOUSE,
    group_name="ticker",
    kinds={"upbit", "postgres", "bronze"},
    partitions_def=windows,
    backfill_policy=BackfillPolicy.single_run(),
    retry_policy=retry,
    metadata=stored_in(tables.bronze_ticker_raw, write="append"),
)
def bronze_ticker_raw(context: AssetExecutionContext, exchange: Exchange, database: Database) -> Load | None:
    """One row per market and snapshot: the ticker as the exchange sent it, never changed.

    Materializing the window now open collects one more snapshot into it, and once a window the market list into
    `bronze.market_raw`. A past window keeps the rows it has; tickers have no history, so one that has none fails.
    """
    span, now = context.partition_time_window, datetime.now(UTC)
    empty = past_windows_without_rows(database, span, now)
    if empty:
        raise Failure(no_history(empty, span), allow_retries=False)
    if span.end <= now:
        context.log.info("The window is over: its raw rows stay as they are.")
        context.add_output_metadata({"collected": "nothing: the window is over, its raw rows stay as they are"})
        return None
    open_window = TimeWindow(span.end - WINDOW, span.end)
    with exchange.client() as client:
        return collect(context, client, database, open_window)


def collect(context: AssetExecutionContext, client: UpbitClient, database: Database, window: TimeWindow) -> Load:
    """One snapshot of all tickers, and the market list if the window has none yet."""
    try:
        tickers = client.tickers()
    except UpbitError as error:  # the client has already tried again where that could help
        raise Failure(str(error), allow_retries=False) from error
    if not tickers.rows:
        raise Failure(f"{tickers.url} answered an empty list: no ticker was collected.", allow_retries=False)
    if tickers.received_at >= window.end:
        raise Failure(
            f"The window {key_of(window.start)} closed before the exchange's answer was in; its last moments are not "
            "collected. The next window is collected by its own run.",
            allow_retries=False,
        )
    claim_origin(database, tickers)
    snapshot = {tables.bronze_ticker_raw: as_records(tickers)}
    with database.connect() as connection:
        listed = windows_with_rows(connection, tables.bronze_market_raw, [window.start])
    if not listed:
        snapshot |= market_list(context, client, window)
    context.add_output_metadata(
        {
            "source": MetadataValue.url(tickers.url),
            "simulated": tickers.simulated,
            "collected at": MetadataValue.timestamp(tickers.received_at),
            "exchange answered in seconds": round(tickers.seconds, 3),
        }
    )
    return Load(snapshot)


def market_list(context: AssetExecutionContext, client: UpbitClient, window: TimeWindow) -> dict[sa.Table, Records]:
    try:
        markets = client.markets()
    except UpbitError as error:  # the tickers at hand are worth more; the check on the list tells that it is missing
        context.log.warning(f"The market list was not collected: {error}")
        return {}
    return {tables.bronze_market_raw: as_records(markets)} if markets.received_at < window.end else {}


def as_records(reply: Reply) -> Records:
    return Records(
        ("market", "raw_data", "ingested_at"),
        [(storable_market(row.market), row.text, reply.received_at) for row in reply.rows],
    )


def storable_market(market: str) -> str:
    """The code cut to its column, without what text in PostgreSQL can't hold; the raw row keeps all of it."""
    return market.encode("utf-8", "ignore").decode().replace("\0", "")[:30]


def claim_origin(database: Database, reply: Reply) -> None:
    """Keep real and simulated data out of one database.

    Raises:
        Failure: the database holds data of the other kind.
    """
    origin, kind = tables.bronze_origin, {True: "simulated", False: "real"}
    with database.connect() as connection:
        connection.execute(insert(origin).values(simulated=reply.simulated).on_conflict_do_nothing())
        held = connection.execute(sa.select(origin.c.simulated)).scalar_one()
    if held != reply.simulated:
        raise Failure(
            f"This database holds {kind[held]} data and {reply.url} gives {kind[reply.simulated]} data; they never "
            "share one. Set UPBIT_POSTGRES_URL to another database, or UPBIT_API_URL to the other exchange.",
            allow_retries=False,
        )


def past_windows_without_rows(database: Database, span: TimeWindow, now: datetime) -> list[datetime]:
    past = [start for start in windows_in(span) if start + WINDOW <= now]
    with database.connect() as connection:
        filled = windows_with_rows(connection, tables.bronze_ticker_raw, past)
    return [start for start in past if start not in filled]


def no_history(empty: Sequence[datetime], span: TimeWindow) -> str:
    """What to tell a person who asks for windows that nobody collected."""
    gaps = set(empty)
    filled = [start for start in windows_in(span) if start not in gaps]
    names = ", ".join(map(key_of, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    advice = (
        f" {len(filled)} of the {len(filled) + len(gaps)} windows asked for do hold rows: select those, or select "
        "silver_ticker and gold_market_stats alone to rebuild what there is."
        if filled
        else ""
    )
    return (
        f"Nothing was collected in {names}, and it can't be collected any more: the exchange's tickers have no "
        f"history.{advice}"
    )
