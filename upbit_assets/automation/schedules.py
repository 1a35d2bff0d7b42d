"""The schedules, and the sensor that evaluates freshness."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from dagster import (
    AssetKey,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)

from upbit_assets.assets import selection
from upbit_assets.assets.history import SETTLED
from upbit_assets.automation.jobs import (
    PRIORITY,
    STILL_COLLECTING,
    check_figures,
    collect,
    collect_days,
    list_markets,
    make_table_partitions,
    unfinished,
)
from upbit_assets.check_results import evaluate_current
from upbit_assets.checks import FRESHNESS, LISTED, newest_window_is_fresh
from upbit_assets.feeds import FEEDS, GOLD_TABLES, MARKET_STATS, TICKER, Feed
from upbit_assets.partitions import MINUTE, PARTITION, SEOUL, days, windows
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.snapshot_source import stream_takes_snapshots

LATE = timedelta(minutes=1)


@schedule(
    cron_schedule="* * * * *",
    job=collect,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Collects the open window and computes its silver and gold, unless the stream collects it; a missed "
    "minute stays missed",
)
def collect_every_minute(context: ScheduleEvaluationContext, database: Database) -> RunRequest | SkipReason:
    """Collects the open window. A missed minute stays missed, because past tickers can't be requested."""
    now, planned = datetime.now(UTC), context.scheduled_execution_time
    if now - planned > LATE:
        return SkipReason(f"The tick of {planned:%H:%M} is too late; past snapshots can't be collected.")
    with database.connect() as connection:
        if stream_takes_snapshots(connection, now) and newest_window_is_fresh(connection).passed:
            return SkipReason("The stream collects the window; silver and gold are computed when it is over.")
    by_run = [gold for gold in GOLD_TABLES if gold.axis is windows and not gold.streamed]
    golds = [gold for gold in by_run if markets_are_chosen(database, gold.feeds, now)]
    # only collect while an earlier run is still computing; the sensor requests the rest
    busy = unfinished(context.instance, job_name=collect.name)
    names = [name for gold in golds for name in [*gold.bronze_assets, *([] if busy else gold.computed_assets)]]
    return RunRequest(
        run_key=planned.isoformat(),
        partition_key=windows.key_of(windows.at(now).start),
        asset_selection=[AssetKey(name) for name in names],
    )


@schedule(
    cron_schedule="*/10 * * * *",
    job=collect_days,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Collects today's new candles and trades",
)
def collect_today(context: ScheduleEvaluationContext, database: Database) -> RunRequest | SkipReason:
    """Collects today's new candles and trades. A missed tick needs no catch-up: the next one collects everything."""
    now = datetime.now(UTC)
    if not markets_are_chosen(database, [feed for feed in FEEDS if feed.axis is days], now):
        return SkipReason("There is no turnover ranking yet to choose the markets by.")
    if days.at(now - SETTLED - MINUTE) != days.at(now):
        return SkipReason("The day has just begun; none of its data is final yet.")
    today = days.key_of(days.at(now).start)
    # a second one would wait for the first, and occupy a slot of the queue
    if unfinished(context.instance, job_name=collect_days.name, tags={PARTITION: today}):
        return SkipReason(STILL_COLLECTING)
    return RunRequest(run_key=context.scheduled_execution_time.isoformat(), partition_key=today, tags={PRIORITY: "5"})


def markets_are_chosen(database: Database, feeds: Sequence[Feed], now: datetime) -> bool:
    """Whether the feeds' markets can be selected."""
    with database.connect() as connection:
        try:
            for chosen in filter(None, (feed.selection for feed in feeds)):
                chosen.markets(connection, [days.at(now).start])
        except selection.NoRankingError:
            return False
    return True


list_markets_every_window = ScheduleDefinition(
    name="list_markets_every_window",
    cron_schedule="2-59/10 * * * *",
    job=list_markets,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Adds the window's market list to silver.market",
)


make_table_partitions_daily = ScheduleDefinition(
    name="make_table_partitions_daily",
    cron_schedule="20 3 * * *",
    job=make_table_partitions,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Creates the tables' partitions for the next two weeks",
)


check_figures_nightly = ScheduleDefinition(
    name="check_figures_nightly",
    cron_schedule="30 4 * * *",
    job=check_figures,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Checks whether the figures of sampled past windows equal what the present code computes from bronze",
)


@sensor(
    minimum_interval_seconds=300,
    default_status=DefaultSensorStatus.RUNNING,
    description="Checks every five minutes that data is fresh and the named markets are listed, even if nothing runs",
)
def check_freshness(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Evaluates the checks of the current state, without the cost of a run."""
    with database.connect() as connection:
        fresh = evaluate_current(MARKET_STATS.asset, FRESHNESS, connection, context.instance)
        listed = evaluate_current(TICKER.bronze_asset, LISTED, connection, context.instance)
    return SensorResult(asset_events=[fresh, listed], skip_reason=fresh.description)
