"""What must be true of the data, window by window."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    asset_check,
)

from upbit_assets.partitions import window_start, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import within
from upbit_assets.postgres.resource import Database

FRESH = timedelta(minutes=5)
MOST_NAMED = 10


@asset_check(asset="bronze_ticker_raw", partitions_def=windows)
def markets_match_the_market_list(context: AssetCheckExecutionContext, database: Database) -> AssetCheckResult:
    """The markets that have tickers in a window are those of the market list collected in it."""
    window = context.partition_time_window
    tickers, listed = (
        markets_of(tables.bronze_ticker_raw, window),
        markets_of(tables.bronze_market_raw, window),
    )
    with database.connect() as connection:
        without_ticker = connection.execute(sa.except_(listed, tickers)).all()
        # only where a list was collected: a window without one is told apart below
        unlisted = connection.execute(sa.except_(tickers, listed)).all()
        windows_with_list = connection.scalar(sa.select(sa.func.count(sa.distinct(listed.subquery().c.window))))
    return AssetCheckResult(
        passed=bool(windows_with_list) and not without_ticker and not unlisted,
        severity=AssetCheckSeverity.WARN,
        description=None if windows_with_list else "No market list was collected in this window.",
        metadata={
            "listed without a ticker": named(without_ticker),
            "ticker without a listing": named(unlisted),
        },
    )


def markets_of(table: sa.Table, window: Any) -> sa.Select[Any]:
    return sa.select(window_start(table.c.ingested_at).label("window"), table.c.market).where(within(table, window))


def named(rows: Iterable[Any]) -> str:
    names = sorted({row.market for row in rows})
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


@asset_check(asset="silver_ticker", partitions_def=windows)
def every_bronze_row_is_accounted_for(context: AssetCheckExecutionContext, database: Database) -> AssetCheckResult:
    """Raw rows = silver rows + rejected rows + duplicates, counted anew in each table."""
    window, built = context.partition_time_window, tables.silver_ticker_build
    duplicates = sa.select(sa.func.coalesce(sa.func.sum(built.c.duplicate_rows), 0)).where(within(built, window))
    with database.connect("REPEATABLE READ") as connection:
        raw, silver, rejected = (
            connection.scalar(sa.select(sa.func.count()).where(within(table, window))) or 0
            for table in (tables.bronze_ticker_raw, tables.silver_ticker, tables.silver_ticker_rejected)
        )
        superfluous = int(connection.scalar(duplicates) or 0)
    return AssetCheckResult(
        passed=raw == silver + rejected + superfluous,
        metadata={"raw": raw, "silver": silver, "rejected": rejected, "duplicates": superfluous},
    )


@asset_check(asset="silver_ticker", partitions_def=windows)
def no_price_is_missing(context: AssetCheckExecutionContext, database: Database) -> AssetCheckResult:
    """Every market that the window's raw rows name has a price in silver."""
    window = context.partition_time_window
    collected = markets_of(tables.bronze_ticker_raw, window)
    priced = markets_of(tables.silver_ticker, window)
    with database.connect() as connection:
        missing = connection.execute(sa.except_(collected, priced)).all()
    return AssetCheckResult(
        passed=not missing, severity=AssetCheckSeverity.WARN, metadata={"without a price": named(missing)}
    )


@asset_check(asset="gold_market_stats", partitions_def=windows)
def ranks_are_complete(context: AssetCheckExecutionContext, database: Database) -> AssetCheckResult:
    """Ranks start at 1 in each window, follow their figures, and every market of silver has one."""
    window, gold = context.partition_time_window, tables.gold_market_stats
    rows = sa.select(
        gold.c.window_start.label("window"), gold.c.market, gold.c.rank_volume, gold.c.rank_volatility,
        *(
            sa.func.rank().over(partition_by=gold.c.window_start, order_by=figure.desc().nulls_last()).label(name)
            for name, figure in (("by_turnover", gold.c.turnover_krw), ("by_volatility", gold.c.volatility))
        ),
    ).where(within(gold, window)).subquery("rows")  # fmt: skip
    wrong = sa.select(rows.c.market).where(
        (rows.c.rank_volume != rows.c.by_turnover) | (rows.c.rank_volatility != rows.c.by_volatility)
    )
    ranked = sa.select(rows.c.window, rows.c.market)
    with database.connect("REPEATABLE READ") as connection:
        wrongly_ranked = connection.execute(wrong).all()
        unranked = connection.execute(sa.except_(markets_of(tables.silver_ticker, window), ranked)).all()
    return AssetCheckResult(
        passed=not wrongly_ranked and not unranked,
        metadata={"wrongly ranked": named(wrongly_ranked), "not ranked": named(unranked)},
    )


@asset_check(asset="gold_market_stats")
def newest_window_is_fresh(database: Database) -> AssetCheckResult:
    """The newest figures are at most five minutes old; looked at every five minutes, whether or not anything runs."""
    newest = sa.select(tables.gold_market_stats.c.ingested_at).order_by(tables.gold_market_stats.c.ingested_at.desc())
    with database.connect() as connection:
        moment = connection.scalar(newest.limit(1))
    age = datetime.now(UTC) - moment if moment else None
    return AssetCheckResult(
        passed=age is not None and age < FRESH,
        severity=AssetCheckSeverity.WARN,
        description=f"The newest figures are of {moment:%Y-%m-%d %H:%M:%S %Z}."
        if moment
        else "There are no figures yet.",
        metadata={"age in seconds": round(age.total_seconds())} if age else {},
    )


all_checks = [
    markets_match_the_market_list,
    every_bronze_row_is_accounted_for,
    no_price_is_missing,
    ranks_are_complete,
    newest_window_is_fresh,
]
