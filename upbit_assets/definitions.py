"""Everything that Dagster loads."""

import gc

from dagster import Definitions, in_process_executor, load_assets_from_modules

from upbit_assets import archive, checks, day_checks, diff, figure_checks, retention
from upbit_assets.assets import bronze, gold, markets, silver
from upbit_assets.automation import changed_windows, jobs, missing_days, missing_trades, schedules
from upbit_assets.collected import CollectedIOManager
from upbit_assets.dagster_internals import fork_runs
from upbit_assets.exchange import Exchange
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import metadata
from upbit_assets.settings import check

check()


class MarketDataIOManager(CollectedIOManager):
    """Stores assets in the tables of this project."""

    tables = metadata


database = Database()

defs = Definitions(
    assets=load_assets_from_modules([bronze, silver, gold, markets]),
    asset_checks=[*checks.all_checks, *day_checks.all_checks, *figure_checks.all_checks],
    jobs=[
        jobs.collect,
        jobs.refresh,
        jobs.repair_trades,
        jobs.collect_days,
        jobs.refresh_days,
        jobs.list_markets,
        jobs.make_table_partitions,
        jobs.check_figures,
        diff.diff_job,
        retention.drop_old_data,
    ],
    schedules=[
        schedules.collect_every_minute,
        schedules.collect_today,
        schedules.list_markets_every_window,
        schedules.make_table_partitions_daily,
        schedules.check_figures_nightly,
        retention.drop_old_data_daily,
    ],
    sensors=[
        changed_windows.refresh_changed_windows,
        missing_days.close_gaps,
        missing_trades.close_trade_gaps,
        schedules.check_freshness,
    ],
    resources={
        "database": database,
        "exchange": Exchange(),
        "postgres": MarketDataIOManager(database=database),
    },
    # a process per step would take three times as long, and PostgreSQL does the work
    executor=in_process_executor,
)

if archive.is_configured():
    from upbit_assets.archive import assets as archives

    defs = Definitions.merge(
        defs,
        Definitions(
            assets=archives.assets,
            asset_checks=archives.all_checks,
            jobs=[archives.archive],
            schedules=[archives.archive_daily],
        ),
    )

fork_runs("upbit_assets.run_imports")

# don't traverse loaded modules at exit, which takes half a second of each run
gc.freeze()
