"""What happens by the clock, whatever the data say."""

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
from upbit_assets.assets.coverage import MINUTE
from upbit_assets.assets.history import SETTLED
from upbit_assets.automation.jobs import (
    PRIORITY,
    STILL_COLLECTING,
    collect,
    collect_days,
    make_table_partitions,
    unfinished,
)
from upbit_assets.check_results import evaluate_present
from upbit_assets.checks import FRESHNESS, LISTED
from upbit_assets.feeds import FEEDS, GOLD_TABLES, MARKET_STATS, TICKER, Feed
from upbit_assets.partitions import PARTITION, SEOUL, days, windows
from upbit_assets.postgres.resource import Database

LATE = timedelta(minutes=1)


@schedule(
    cron_schedule="* * * * *",
    job=collect,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Collects the open window and computes its silver and gold; a missed minute stays missed",
)
def collect_every_minute(context: ScheduleEvaluationContext, database: Database) -> RunRequest | SkipReason:
    """Collects the open window. A missed minute stays missed: yesterday's tickers can't be asked for."""
    now, planned = datetime.now(UTC), context.scheduled_execution_time
    if now - planned > LATE:
        return SkipReason(f"The tick of {planned:%H:%M} came too late; a past snapshot can't be taken.")
    by_run = [gold for gold in GOLD_TABLES if gold.axis is windows and not gold.streamed]
    golds = [gold for gold in by_run if markets_are_chosen(database, gold.feeds, now)]
    # what computes may be held up, what collects must not be: the sensor asks for what is left undone
    held_up = unfinished(context.instance, job_name=collect.name)
    names = [name for gold in golds for name in [*gold.bronze_assets, *([] if held_up else gold.computed_assets)]]
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
    description="Collects today's candles and trades, as far as they are new",
)
def collect_today(context: ScheduleEvaluationContext, database: Database) -> RunRequest | SkipReason:
    """Collects what is new of today's candles and trades. A missed tick needs no other: the next one finds it all."""
    now = datetime.now(UTC)
    if not markets_are_chosen(database, [feed for feed in FEEDS if feed.axis is days], now):
        return SkipReason("There is no turnover ranking yet to choose the markets by.")
    if days.at(now - SETTLED - MINUTE) != days.at(now):
        return SkipReason("The day has only begun: nothing of it is settled yet.")
    today = days.key_of(days.at(now).start)
    # more than one would wait for one another, in the places of the minutes' runs
    if unfinished(context.instance, job_name=collect_days.name, tags={PARTITION: today}):
        return SkipReason(STILL_COLLECTING)
    return RunRequest(run_key=context.scheduled_execution_time.isoformat(), partition_key=today, tags={PRIORITY: "5"})


def markets_are_chosen(database: Database, feeds: Sequence[Feed], now: datetime) -> bool:
    """Whether there is something to choose the feeds' markets by."""
    with database.connect() as connection:
        try:
            for chosen in filter(None, (feed.selection for feed in feeds)):
                chosen.markets(connection, [days.at(now).start])
        except selection.NoRankingError:
            return False
    return True


make_table_partitions_daily = ScheduleDefinition(
    name="make_table_partitions_daily",
    cron_schedule="20 3 * * *",
    job=make_table_partitions,
    execution_timezone=str(SEOUL),
    default_status=DefaultScheduleStatus.RUNNING,
    description="Makes the tables' partitions for the next two weeks",
)


@sensor(
    minimum_interval_seconds=300,
    default_status=DefaultSensorStatus.RUNNING,
    description="Asks every five minutes whether data still come in, and of all named markets, also while nothing runs",
)
def check_freshness(context: SensorEvaluationContext, database: Database) -> SensorResult:
    """Checks whether the newest figures are fresh and the named markets listed, without a run: not worth a process."""
    with database.connect() as connection:
        fresh = evaluate_present(MARKET_STATS.asset, FRESHNESS, connection, context.instance)
        listed = evaluate_present(TICKER.bronze_asset, LISTED, connection, context.instance)
    return SensorResult(asset_events=[fresh, listed], skip_reason=fresh.description)
