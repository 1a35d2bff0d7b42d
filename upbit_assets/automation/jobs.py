"""The jobs, and lookup of their unfinished runs."""

from typing import Any

from dagster import (
    AssetSelection,
    DagsterInstance,
    DagsterRunStatus,
    OpExecutionContext,
    RunsFilter,
    define_asset_job,
    job,
    op,
)

from upbit_assets.feeds import GOLD_TABLES, TRADE_STATS
from upbit_assets.figure_checks import FIGURE_CHECKS
from upbit_assets.partitions import Axis, days, windows
from upbit_assets.postgres.partitioning import make_partitions_ahead
from upbit_assets.postgres.resource import Database

PRIORITY, HISTORY = "dagster/priority", "upbit_assets/history"
UNFINISHED = [
    status
    for status in DagsterRunStatus
    if status not in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
]
STILL_COLLECTING = "An earlier run is still collecting"


def assets_of(axis: Axis, *, collecting: bool) -> AssetSelection:
    """The assets partitioned by this axis; with `collecting`, bronze too, without what the stream collects."""
    golds = [gold for gold in GOLD_TABLES if gold.axis is axis and not (collecting and gold.streamed)]
    rebuilt = {name for gold in golds for feed in gold.feeds for name in feed.rebuilt_assets}
    collected = {name for gold in golds if collecting for name in gold.bronze_assets}
    return AssetSelection.assets(*sorted(rebuilt | collected | {gold.asset for gold in golds})) - FIGURE_CHECKS


check_figures = define_asset_job(
    "check_figures",
    FIGURE_CHECKS,
    description="Checks whether silver and gold of sampled past windows equal what the present code computes from "
    "bronze",
)


collect = define_asset_job(
    "collect",
    assets_of(windows, collecting=True),
    description="A snapshot of all tickers and of the selected order books in the current window, and the window's "
    "silver and gold",
    tags={PRIORITY: "10"},
)


refresh = define_asset_job(
    "refresh",
    assets_of(windows, collecting=False),
    description="Silver and gold of some windows, recomputed from bronze",
    tags={PRIORITY: "5"},
)


repair_trades = define_asset_job(
    "repair_trades",
    AssetSelection.assets(*TRADE_STATS.computed_assets) - FIGURE_CHECKS,
    description="Trades of some windows that the stream missed, requested over REST, and the windows' silver and gold",
)


collect_days = define_asset_job(
    "collect_days",
    assets_of(days, collecting=True),
    description="Missing candles and trades of some days, and their silver and gold",
)


refresh_days = define_asset_job(
    "refresh_days",
    assets_of(days, collecting=False),
    description="Silver and gold of some days, recomputed from bronze",
    tags={PRIORITY: "5"},
)


list_markets = define_asset_job(
    "list_markets",
    AssetSelection.assets("silver_market"),
    description="Adds the newest market list to silver.market: names, warnings and cautions",
)


REFRESHES = {windows: refresh, days: refresh_days}


def unfinished(instance: DagsterInstance, **which: Any) -> bool:
    """Whether any of these runs is unfinished."""
    return bool(instance.get_runs(RunsFilter(statuses=UNFINISHED, **which), limit=1))


@op(description="Creates the tables' daily and monthly partitions for the next two weeks")
def partitions_ahead(context: OpExecutionContext, database: Database) -> None:
    with database.connect() as connection:
        context.log.info(f"{make_partitions_ahead(connection)} partitions created")


@job(description="Creates the tables' partitions in advance")
def make_table_partitions() -> None:
    partitions_ahead()
