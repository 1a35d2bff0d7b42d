"""Upbit market data in PostgreSQL: bronze, silver and gold as Dagster assets."""

import warnings

# backfill policies and partitioned checks are what this project is built on; the exact versions are locked
warnings.filterwarnings(
    "ignore", message=r"Parameter `backfill_policy`|Specifying a partitions_def on an AssetCheckSpec"
)
