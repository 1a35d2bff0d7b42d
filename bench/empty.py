"""The chain as no-ops, to measure Dagster's overhead: same names, partitions, checks and executor."""

import gc
from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetChecksDefinition,
    AssetCheckSpec,
    BackfillPolicy,
    ConfigurableIOManager,
    Definitions,
    InputContext,
    OutputContext,
    asset,
    in_process_executor,
    multi_asset_check,
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


def checks(of: str, count: int) -> AssetChecksDefinition:
    specs = [AssetCheckSpec(f"check_{number}", asset=of) for number in range(count)]

    @multi_asset_check(name=f"{of}_checks", specs=specs, can_subset=True)
    def pass_all() -> Iterator[AssetCheckEvaluation]:
        for spec in specs:
            yield AssetCheckEvaluation(asset_key=spec.asset_key, check_name=spec.name, passed=True)

    return pass_all


defs = Definitions(
    assets=[bronze_ticker_raw, silver_ticker, gold_market_stats],
    asset_checks=[checks("bronze_ticker_raw", 1), checks("silver_ticker", 2), checks("gold_market_stats", 2)],
    resources={"postgres": NoIOManager()},
    executor=in_process_executor,
)

gc.freeze()  # as the project does
