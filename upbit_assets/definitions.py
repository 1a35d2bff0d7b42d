"""The front door: everything that Dagster loads, and nothing computed here."""

from dagster import Definitions, in_process_executor

from upbit_assets import automation, checks, retention
from upbit_assets.assets.bronze import bronze_ticker_raw
from upbit_assets.assets.gold import gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.exchange import Exchange
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import metadata


class MarketDataIOManager(retention.RetainingIOManager):
    """Assets in the tables of the data dictionary."""

    tables = metadata


database = Database()

defs = Definitions(
    assets=[bronze_ticker_raw, silver_ticker, gold_market_stats],
    asset_checks=checks.all_checks,
    jobs=[
        automation.collect,
        automation.refresh,
        automation.watch,
        automation.make_table_partitions,
        retention.drop_old_data,
    ],
    schedules=[
        automation.collect_every_minute,
        automation.watch_freshness,
        automation.make_table_partitions_daily,
        retention.drop_old_data_daily,
    ],
    sensors=[automation.refresh_changed_windows],
    resources={
        "database": database,
        "exchange": Exchange(),
        "postgres": MarketDataIOManager(database=database),
    },
    # a process a step would take three times as long, and the work is PostgreSQL's
    executor=in_process_executor,
)
