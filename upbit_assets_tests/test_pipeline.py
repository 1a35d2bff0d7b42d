"""The chain, end to end, in one process."""

from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.pipeline import CHAIN, materialize, now, rows, run_errors


def test_one_run_goes_from_the_exchange_to_the_ranking(database: Database, exchange: Handle):
    result = materialize(*CHAIN, first=now())

    assert result.success, run_errors(result)
    assert len(rows(database, tables.gold_market_stats)) == 30
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())
