"""Checks of tickers and the trade stream, by window, and of freshness."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import AssetChecksDefinition, AssetCheckSeverity, TimeWindow

from upbit_assets import feeds
from upbit_assets.assets import named, snapshots
from upbit_assets.assets.refine import Refinement
from upbit_assets.assets.selection import candles, orderbooks, trades
from upbit_assets.assets.trade_proof import MISSING, STATES, counted_states
from upbit_assets.check_results import CurrentStateCheck, Result, Results, WindowCheck, checks_of, window_check
from upbit_assets.partitions import Axis, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.snapshot_source import computation_delay
from upbit_assets.postgres_io import in_window

FRESH = timedelta(minutes=5)


@window_check(AssetCheckSeverity.WARN)
def markets_match_the_market_list(connection: sa.Connection, span: TimeWindow) -> Results:
    """The markets with tickers in a window are those of its market list, and every snapshot has all of them."""
    tickers, listed = markets_of(tables.bronze_ticker_raw, span), markets_of(tables.bronze_market_raw, span)
    at_times = by_window(connection, sa.intersect(listed, in_some_snapshots(tables.bronze_ticker_raw, span)))
    without_ticker = by_window(connection, sa.except_(listed, tickers))
    unlisted = by_window(connection, sa.except_(tickers, listed))
    have_list = by_window(connection, listed.distinct())
    return {
        start: Result(
            start in have_list and not without_ticker[start] and not at_times[start] and not unlisted[start],
            {
                "listed without a ticker": named(without_ticker[start]),
                "without a ticker in some snapshots": named(at_times[start]),
                "ticker without a listing": named(unlisted[start]),
            }
            if start in have_list
            else {},
            None if start in have_list else "No market list was collected in this window.",
        )
        for start in windows.starts_in(span)
    }


def in_some_snapshots(table: sa.Table, span: TimeWindow) -> sa.Select[Any]:
    """The markets that are in some of a window's snapshots, but not in all."""
    start = windows.floor(table.c.ingested_at).label("window")
    snapshots = sa.func.count(table.c.ingested_at.distinct()).label("snapshots")
    rows = sa.select(start, snapshots).where(in_window(table, span))
    whole, each = rows.group_by(start).subquery(), rows.add_columns(table.c.market).group_by(start, table.c.market)
    own = each.subquery()
    return (
        sa.select(own.c.window, own.c.market)
        .join(whole, own.c.window == whole.c.window)
        .where(own.c.snapshots < whole.c.snapshots)
    )


def named_markets_are_listed(connection: sa.Connection) -> Result:
    """The markets named in settings are on the newest market list; others can't be collected."""
    listed = snapshots.listed_markets(connection)
    if not listed:
        return Result(True, note="There is no market list yet.")
    chosen = ((each.setting.name, each.setting.value) for each in (orderbooks, candles, trades))
    unlisted = {name: set(codes) - listed for name, codes in chosen if isinstance(codes, tuple)}
    return Result(not any(unlisted.values()), {name: named(codes) for name, codes in unlisted.items() if codes})


LISTED = CurrentStateCheck(named_markets_are_listed, AssetCheckSeverity.WARN)


def accounted_for(refinement: Refinement) -> WindowCheck:
    @window_check()
    def every_bronze_row_is_accounted_for(connection: sa.Connection, span: TimeWindow) -> Results:
        """Raw rows = silver rows + rejected rows + duplicates, counted in the tables.

        Raw rows added after silver was computed don't count; the sensor requests a recomputation.
        """
        built = refinement.build
        recorded = sa.select(built.c.window_start, built.c.duplicate_rows, built.c.bronze_rows).where(
            in_window(built, span)
        )
        duplicates, read = {}, {}
        for start, duplicate_rows, bronze_rows in connection.execute(recorded):
            duplicates[start], read[start] = duplicate_rows, bronze_rows
        counted = {
            "raw": counts(connection, refinement.bronze, span, refinement.axis),
            "silver": counts(connection, refinement.silver, span, refinement.axis),
            "rejected": counts(connection, refinement.rejected, span, refinement.axis),
            "duplicates": duplicates,
        }
        row_counts = {
            start: {name: rows.get(start, 0) for name, rows in counted.items()}
            for start in refinement.axis.starts_in(span)
        }
        results = {}
        for start, rows in row_counts.items():
            later = max(rows["raw"] - read.get(start, rows["raw"]), 0)
            note = f"{later} raw rows were added after silver was computed." if later else None
            results[start] = Result(2 * rows["raw"] - later == sum(rows.values()), rows, note)
        return results

    return every_bronze_row_is_accounted_for


@window_check(AssetCheckSeverity.WARN)
def no_price_is_missing(connection: sa.Connection, span: TimeWindow) -> Results:
    """Every market with raw rows in the window has a price in silver."""
    collected, priced = markets_of(tables.bronze_ticker_raw, span), markets_of(tables.silver_ticker, span)
    missing = by_window(connection, sa.except_(collected, priced))
    return {
        start: Result(not missing[start], {"without a price": named(missing[start])})
        for start in windows.starts_in(span)
    }


def ranked(axis: Axis, start: sa.Column[Any], silver: sa.Table, ranks: Mapping[str, str]) -> WindowCheck:
    """`start`: gold's column with the start of the window; `ranks`: {rank column: ranked column}."""
    gold = start.table

    @window_check()
    def ranks_are_complete(connection: sa.Connection, span: TimeWindow) -> Results:
        """Ranks start at 1 and follow their figures; every market of silver with a figure has one."""
        correct = []
        for rank, figure in ((gold.c[rank], gold.c[figure]) for rank, figure in ranks.items()):
            position = sa.func.rank().over(partition_by=start, order_by=figure.desc().nulls_last())
            expected = sa.case((figure.is_not(None), position)) if rank.nullable else position
            correct.append(rank.is_not_distinct_from(expected))
        rows = sa.select(start.label("window"), gold.c.market, sa.and_(*correct).label("correct"))
        row = rows.where(in_window(gold, span)).subquery("row")
        ranked = sa.select(row.c.window, row.c.market)
        wrong = by_window(connection, ranked.where(~row.c.correct))
        unranked = by_window(connection, sa.except_(markets_of(silver, span, axis), ranked))
        return {
            start: Result(
                not wrong[start] and not unranked[start],
                {"wrongly ranked": named(wrong[start]), "not ranked": named(unranked[start])},
            )
            for start in axis.starts_in(span)
        }

    return ranks_are_complete


@window_check(AssetCheckSeverity.WARN)
def every_trade_is_there(connection: sa.Connection, span: TimeWindow) -> Results:
    """The window's trades add up to what the exchange's day counters gained, volume and turnover, market by market.

    From the last snapshot before the window to the first one after it. `silver.trade_coverage` has each market's state.
    """
    coverage = tables.silver_trade_coverage
    states = counted_states(connection, span)
    lacking = sa.select(coverage.c.window_start, coverage.c.market).where(in_window(coverage, span))
    missing = by_window(connection, lacking.where(coverage.c.state == MISSING))
    return {
        start: Result(
            not missing[start],
            {
                **{f"markets {state}": states.get(start, {}).get(state, 0) for state in STATES},
                "markets with missing trades": named(missing[start]),
            },
            None if start in states else "There are neither snapshots nor trades around this window.",
        )
        for start in windows.starts_in(span)
    }


def markets_of(table: sa.Table, span: TimeWindow, axis: Axis = windows) -> sa.Select[Any]:
    start = axis.floor(table.c[table.info["window"]]).label("window")
    return sa.select(start, table.c.market).where(in_window(table, span))


def counts(connection: sa.Connection, table: sa.Table, span: TimeWindow, axis: Axis = windows) -> dict[datetime, int]:
    start = axis.floor(table.c[table.info["window"]])
    rows = sa.select(start, sa.func.count()).where(in_window(table, span)).group_by(start)
    return dict(connection.execute(rows).tuples().all())


def by_window(connection: sa.Connection, markets: sa.Executable) -> defaultdict[datetime, list[str]]:
    """Rows of (window, market) as the markets of each window."""
    found = defaultdict(list)
    for start, market in connection.execute(markets):
        found[start].append(market)
    return found


def newest_window_is_fresh(connection: sa.Connection) -> Result:
    """The newest figures are at most five minutes old, or fifteen while the stream takes the snapshots, as a window
    is then computed when it is over. Evaluated every five minutes, even if nothing runs."""
    at = tables.gold_market_stats.c.ingested_at
    newest = connection.scalar(sa.select(at).order_by(at.desc()).limit(1))
    if newest is None:
        return Result(False, note="There are no figures yet.")
    now = datetime.now(UTC)
    age = now - newest
    return Result(
        age < FRESH + computation_delay(connection, now),
        {"age in seconds": round(age.total_seconds())},
        f"The newest figures are of {newest:%Y-%m-%d %H:%M:%S %Z}.",
    )


FRESHNESS = CurrentStateCheck(newest_window_is_fresh, AssetCheckSeverity.WARN)

all_checks: list[AssetChecksDefinition] = [
    checks_of("bronze_ticker_raw", windows, markets_match_the_market_list, LISTED),
    checks_of("silver_ticker", windows, accounted_for(feeds.TICKER.refinement), no_price_is_missing),
    checks_of(
        "gold_market_stats",
        windows,
        ranked(
            windows,
            tables.gold_market_stats.c.window_start,
            tables.silver_ticker,
            {"rank_volume": "turnover_krw", "rank_volatility": "volatility"},
        ),
        FRESHNESS,
    ),
    checks_of("silver_trade_stream", windows, accounted_for(feeds.TRADE_STREAM.refinement), every_trade_is_there),
    checks_of(
        "gold_trade_stats",
        windows,
        ranked(
            windows,
            tables.gold_trade_stats.c.window_start,
            tables.silver_trade_stream,
            {"rank_turnover": "turnover_krw", "rank_trades": "trades"},
        ),
    ),
]
