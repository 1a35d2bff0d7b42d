"""Upbit market data in PostgreSQL: bronze, silver and gold as Dagster assets."""

import warnings

# this project relies on backfill policies and partitioned checks; the exact versions are locked
warnings.filterwarnings(
    "ignore", message=r"Parameter `backfill_policy`|Specifying a partitions_def on an AssetCheckSpec"
)
