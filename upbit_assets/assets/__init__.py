"""What the data mean: one module a layer, one function an asset."""

from typing import Any

from dagster import Backoff, Jitter, RetryPolicy

# what every asset here shares
HOUSE: dict[str, Any] = {"owners": ["team:upbit_assets"], "io_manager_key": "postgres"}

# for a database that restarts; each try is a whole transaction, so trying again is safe
retry = RetryPolicy(max_retries=2, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
