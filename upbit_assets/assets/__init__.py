"""What the data mean: one module a layer, one function an asset."""

from collections.abc import Mapping
from typing import Any

from dagster import AssetKey, Backoff, RetryPolicy, TableColumnDep, TableColumnLineage

# what every asset here shares
HOUSE: dict[str, Any] = {"owners": ["team:upbit_assets"], "io_manager_key": "postgres"}

# for a database that restarts; each try is a whole transaction, so trying again is safe
retry = RetryPolicy(max_retries=2, delay=3, backoff=Backoff.EXPONENTIAL)


def lineage(upstream: str, columns: Mapping[str, str]) -> TableColumnLineage:
    """Each column's origin, which the UI draws: column → columns of the upstream asset, separated by spaces."""
    source = AssetKey(upstream)
    return TableColumnLineage(
        {column: [TableColumnDep(source, name) for name in names.split()] for column, names in columns.items()}
    )
