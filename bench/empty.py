"""The chain with nothing in it: what Dagster alone takes, with the same names, partitions, checks and executor."""

import gc
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    BackfillPolicy,
    ConfigurableIOManager,
    Definitions,
    InputContext,
    OutputContext,
    asset,
    asset_check,
    in_process_executor,
)

from upbit_assets.partitions import windows

LAYER: dict[str, Any] = {
    "io_manager_key": "postgres",
    "partitions_def": windows.partitions,
    "backfill_policy": BackfillPolicy.single_run(),
}


class NoIOManager(ConfigurableIOManager):
    """Stores nothing."""

    def handle_output(self, context: OutputContext, obj: object) -> None: ...

    def load_input(self, context: InputContext) -> None: ...


@asset(**LAYER)
def bronze_ticker_raw() -> Any: ...


@asset(**LAYER)
def silver_ticker(bronze_ticker_raw: Any) -> Any: ...


@asset(**LAYER)
def gold_market_stats(silver_ticker: Any) -> Any: ...


def check(of: str, number: int) -> AssetChecksDefinition:
    @asset_check(asset=of, name=f"check_{number}")
    def passes() -> AssetCheckResult:
        return AssetCheckResult(passed=True)

    return passes


CHECKED = ("bronze_ticker_raw", "silver_ticker", "silver_ticker", "gold_market_stats", "gold_market_stats")

defs = Definitions(
    assets=[bronze_ticker_raw, silver_ticker, gold_market_stats],
    asset_checks=[check(of, number) for number, of in enumerate(CHECKED)],
    resources={"postgres": NoIOManager()},
    executor=in_process_executor,
)

gc.freeze()  # as the project does
