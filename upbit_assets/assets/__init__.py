"""The assets: one module per layer, one function per asset."""

from collections.abc import Iterable, Mapping
from typing import Any

from dagster import AssetKey, BackfillPolicy, Backoff, RetryPolicy, TableColumnDep, TableColumnLineage

from upbit_assets.partitions import Axis

MAX_NAMED = 10
# survives a restart of the database; each attempt is one transaction, so retrying is safe
RETRY = RetryPolicy(max_retries=2, delay=3, backoff=Backoff.EXPONENTIAL)


def common_asset_args(axis: Axis, source: str, kinds: set[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that all assets share."""
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
    """Column lineage for the UI: column → columns of the upstream asset, separated by spaces."""
    source = AssetKey(upstream)
    return TableColumnLineage(
        {column: [TableColumnDep(source, name) for name in names.split()] for column, names in columns.items()}
    )


def named(markets: Iterable[str]) -> str:
    """The markets as text for metadata and logs; only the first few if there are many."""
    first = sorted(markets)
    more = len(first) - MAX_NAMED
    return ", ".join(first[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
