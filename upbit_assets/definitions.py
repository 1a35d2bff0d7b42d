"""The front door: everything that Dagster loads, and nothing computed here."""

import gc

from dagster import Definitions, in_process_executor, load_assets_from_modules

from upbit_assets import automation, checks, day_checks, retention
from upbit_assets.assets import bronze, gold, silver
from upbit_assets.collected import CollectedIOManager
from upbit_assets.exchange import Exchange
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import metadata
from upbit_assets.settings import check

check()


class MarketDataIOManager(CollectedIOManager):
    """Assets in the tables of the data dictionary."""

    tables = metadata


database = Database()

defs = Definitions(
    assets=load_assets_from_modules([bronze, silver, gold]),
    asset_checks=[*checks.all_checks, *day_checks.all_checks],
    jobs=[
        automation.collect,
        automation.refresh,
        automation.collect_days,
        automation.refresh_days,
        automation.make_table_partitions,
        retention.drop_old_data,
    ],
    schedules=[
        automation.collect_every_minute,
        automation.collect_today,
        automation.make_table_partitions_daily,
        retention.drop_old_data_daily,
    ],
    sensors=[automation.refresh_changed_windows, automation.close_gaps, automation.check_freshness],
    resources={
        "database": database,
        "exchange": Exchange(),
        "postgres": MarketDataIOManager(database=database),
    },
    # a process a step would take three times as long, and the work is PostgreSQL's
    executor=in_process_executor,
)

# what is loaded stays until the process ends; looking through it once more then takes half a second of each run
gc.freeze()
