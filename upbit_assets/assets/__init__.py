"""What the data mean: one module a layer, one function an asset."""

from collections.abc import Iterable, Mapping
from typing import Any

from dagster import AssetKey, BackfillPolicy, Backoff, RetryPolicy, TableColumnDep, TableColumnLineage

from upbit_assets.partitions import Axis

MOST_NAMED = 10
# for a database that restarts; each try is a whole transaction, so trying again is safe
RETRY = RetryPolicy(max_retries=2, delay=3, backoff=Backoff.EXPONENTIAL)


def common_asset_args(axis: Axis, source: str, kinds: set[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What every asset here shares."""
    return {
        "owners": ["team:upbit_assets"],
        "io_manager_key": "postgres",
        "group_name": source,
        "kinds": {"postgres", *kinds},
        "partitions_def": axis.partitions,
        "backfill_policy": BackfillPolicy.single_run(),
        "retry_policy": RETRY,
        "metadata": metadata,
    }


def lineage(upstream: str, columns: Mapping[str, str]) -> TableColumnLineage:
    """Each column's origin, which the UI draws: column → columns of the upstream asset, separated by spaces."""
    source = AssetKey(upstream)
    return TableColumnLineage(
        {column: [TableColumnDep(source, name) for name in names.split()] for column, names in columns.items()}
    )


def named(markets: Iterable[str]) -> str:
    """The markets in words, the first few of many; shown in metadata and logs."""
    first = sorted(markets)
    more = len(first) - MOST_NAMED
    return ", ".join(first[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
