"""What must be true of the data, window by window."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetRecordsFilter,
    Output,
    TimeWindow,
    multi_asset_check,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,  # has no public name, though a public class takes it
)

from upbit_assets.assets.refine import Refinement
from upbit_assets.assets.silver import TICKER
from upbit_assets.partitions import Axis, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import within
from upbit_assets.postgres.resource import Database

FRESH = timedelta(minutes=5)
MOST_NAMED = 10


@dataclass(frozen=True)
class Verdict:
    """What a check says of one window."""

    passed: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None


Verdicts = Mapping[datetime, Verdict]
Judge = Callable[[sa.Connection, TimeWindow], Verdicts]


def window_check(
    asset: str, severity: AssetCheckSeverity = AssetCheckSeverity.ERROR, *, axis: Axis = windows
) -> Callable[[Judge], AssetChecksDefinition]:
    """A check that judges each window of a run for itself, in a backfill too.

    Dagster's own `@asset_check` gives one verdict a run, and leaves the windows of a range as skipped.
    """

    def decorate(judge: Judge) -> AssetChecksDefinition:
        spec = AssetCheckSpec(judge.__name__, asset=asset, description=judge.__doc__, partitions_def=axis.partitions)

        @multi_asset_check(name=f"{asset}_{judge.__name__}", specs=[spec])
        def check(context: AssetCheckExecutionContext, database: Database) -> Iterator[Any]:
            span = context.partition_time_window
            with database.connect("REPEATABLE READ") as connection:
                verdicts = judge(connection, span)
            keys = {start: axis.key_of(start) for start in axis.starts_in(span)}
            targets = newest_materializations(context, spec.asset_key, list(keys.values()))
            for start, key in keys.items():
                yield evaluation(spec, verdicts[start], severity, targets.get(key), partition=key)
            yield Output(None, output_name=spec.get_python_identifier())

        return check

    return decorate


def evaluation(
    spec: AssetCheckSpec,
    verdict: Verdict,
    severity: AssetCheckSeverity,
    target: Target | None,
    partition: str | None = None,
) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=verdict.passed,
        metadata=verdict.metadata,
        description=verdict.description,
        severity=severity,
        partition=partition,
        target_materialization_data=target,
    )


def newest_materializations(
    context: AssetCheckExecutionContext, asset: AssetKey, keys: Sequence[str] | None = None
) -> dict[str | None, Target]:
    """The materialization of each window that its verdict is about; without `keys`, the newest of all."""
    found = context.instance.fetch_materializations(
        AssetRecordsFilter(asset, asset_partitions=keys), limit=1 if keys is None else len(keys)
    )
    return {
        record.partition_key: Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
        for record in reversed(found.records)
    }


@window_check("bronze_ticker_raw", AssetCheckSeverity.WARN)
def markets_match_the_market_list(connection: sa.Connection, span: TimeWindow) -> Verdicts:
    """The markets that have tickers in a window are those of the market list collected in it."""
    tickers, listed = markets_of(tables.bronze_ticker_raw, span), markets_of(tables.bronze_market_raw, span)
    without_ticker = by_window(connection, sa.except_(listed, tickers))
    unlisted = by_window(connection, sa.except_(tickers, listed))
    have_list = by_window(connection, listed.distinct())
    return {
        start: Verdict(
            start in have_list and not without_ticker[start] and not unlisted[start],
            {
                "listed without a ticker": named(without_ticker[start]),
                "ticker without a listing": named(unlisted[start]),
            }
            if start in have_list
            else {},
            None if start in have_list else "No market list was collected in this window.",
        )
        for start in windows.starts_in(span)
    }


def accounted_for(asset: str, refinement: Refinement) -> AssetChecksDefinition:
    @window_check(asset, axis=refinement.axis)
    def every_bronze_row_is_accounted_for(connection: sa.Connection, span: TimeWindow) -> Verdicts:
        """Raw rows = silver rows + rejected rows + duplicates, counted anew in each table.

        Raw rows that came after silver was computed are not silver's to account for; the sensor asks for it again.
        """
        built = refinement.build
        noted = sa.select(built.c.window_start, built.c.duplicate_rows, built.c.bronze_rows).where(within(built, span))
        superfluous, read = {}, {}
        for start, duplicates, bronze_rows in connection.execute(noted):
            superfluous[start], read[start] = duplicates, bronze_rows
        counted = {
            "raw": counts(connection, refinement.bronze, span, refinement.axis),
            "silver": counts(connection, refinement.silver, span, refinement.axis),
            "rejected": counts(connection, refinement.rejected, span, refinement.axis),
            "duplicates": superfluous,
        }
        books = {
            start: {name: rows.get(start, 0) for name, rows in counted.items()}
            for start in refinement.axis.starts_in(span)
        }
        verdicts = {}
        for start, book in books.items():
            later = max(book["raw"] - read.get(start, book["raw"]), 0)
            told = f"{later} raw rows came after silver was computed." if later else None
            verdicts[start] = Verdict(2 * book["raw"] - later == sum(book.values()), book, told)
        return verdicts

    return every_bronze_row_is_accounted_for


@window_check("silver_ticker", AssetCheckSeverity.WARN)
def no_price_is_missing(connection: sa.Connection, span: TimeWindow) -> Verdicts:
    """Every market that the window's raw rows name has a price in silver."""
    collected, priced = markets_of(tables.bronze_ticker_raw, span), markets_of(tables.silver_ticker, span)
    missing = by_window(connection, sa.except_(collected, priced))
    return {
        start: Verdict(not missing[start], {"without a price": named(missing[start])})
        for start in windows.starts_in(span)
    }


def ranked(
    asset: str, axis: Axis, start: sa.Column[Any], silver: sa.Table, ranks: Mapping[str, str]
) -> AssetChecksDefinition:
    """`start`: gold's column that names the window; `ranks`: {rank: the figure that it follows}."""
    gold = start.table

    @window_check(asset, axis=axis)
    def ranks_are_complete(connection: sa.Connection, span: TimeWindow) -> Verdicts:
        """Ranks start at 1, follow their figures, and every market of silver has one."""
        in_place = [
            gold.c[rank] == sa.func.rank().over(partition_by=start, order_by=gold.c[figure].desc().nulls_last())
            for rank, figure in ranks.items()
        ]
        rows = sa.select(start.label("window"), gold.c.market, sa.and_(*in_place).label("right"))
        row = rows.where(within(gold, span)).subquery("row")
        there = sa.select(row.c.window, row.c.market)
        wrong = by_window(connection, there.where(~row.c.right))
        unranked = by_window(connection, sa.except_(markets_of(silver, span, axis), there))
        return {
            start: Verdict(
                not wrong[start] and not unranked[start],
                {"wrongly ranked": named(wrong[start]), "not ranked": named(unranked[start])},
            )
            for start in axis.starts_in(span)
        }

    return ranks_are_complete


def markets_of(table: sa.Table, span: TimeWindow, axis: Axis = windows) -> sa.Select[Any]:
    start = axis.floor(table.c[table.info["window"]]).label("window")
    return sa.select(start, table.c.market).where(within(table, span))


def counts(connection: sa.Connection, table: sa.Table, span: TimeWindow, axis: Axis = windows) -> dict[datetime, int]:
    start = axis.floor(table.c[table.info["window"]])
    rows = sa.select(start, sa.func.count()).where(within(table, span)).group_by(start)
    return dict(connection.execute(rows).tuples().all())


def by_window(connection: sa.Connection, markets: sa.Executable) -> defaultdict[datetime, list[str]]:
    """Rows of (window, market) as the markets of each window."""
    found = defaultdict(list)
    for start, market in connection.execute(markets):
        found[start].append(market)
    return found


def named(markets: list[str]) -> str:
    """The markets in words, the first few of many; shown in a check's metadata."""
    more = len(markets) - MOST_NAMED
    return ", ".join(sorted(markets)[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


FRESHNESS = AssetCheckSpec(
    "newest_window_is_fresh",
    asset="gold_market_stats",
    description="The newest figures are at most five minutes old; asked every five minutes, even when nothing runs.",
)


# not Dagster's own @asset_check, which looks most of a second for what a backfill of a day has materialized
@multi_asset_check(name="gold_market_stats_newest_window_is_fresh", specs=[FRESHNESS])
def newest_window_is_fresh(context: AssetCheckExecutionContext, database: Database) -> Iterator[Any]:
    with database.connect() as connection:
        verdict = freshness(connection)
    (target,) = newest_materializations(context, FRESHNESS.asset_key).values() or (None,)
    yield evaluation(FRESHNESS, verdict, AssetCheckSeverity.WARN, target)
    yield Output(None, output_name=FRESHNESS.get_python_identifier())


def freshness(connection: sa.Connection) -> Verdict:
    at = tables.gold_market_stats.c.ingested_at
    newest = connection.scalar(sa.select(at).order_by(at.desc()).limit(1))
    if newest is None:
        return Verdict(False, description="There are no figures yet.")
    age = datetime.now(UTC) - newest
    return Verdict(
        age < FRESH,
        {"age in seconds": round(age.total_seconds())},
        f"The newest figures are of {newest:%Y-%m-%d %H:%M:%S %Z}.",
    )


all_checks = [
    markets_match_the_market_list,
    accounted_for("silver_ticker", TICKER),
    no_price_is_missing,
    ranked(
        "gold_market_stats",
        windows,
        tables.gold_market_stats.c.window_start,
        tables.silver_ticker,
        {"rank_volume": "turnover_krw", "rank_volatility": "volatility"},
    ),
    newest_window_is_fresh,
]
