"""Each check passes on good data and names the markets in bad data."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity, DagsterInstance

from upbit_assets import checks
from upbit_assets.check_results import evaluate_current
from upbit_assets.partitions import WINDOW
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Records, copy_records
from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.pipeline import CHAIN, PAST, ask, evaluate, materialize, now, put_bronze, ticker
from upbit_assets_tests.pipeline import checks as evaluated

MARKETS = [f"KRW-{n:02}" for n in range(15)]
ACCOUNTS = "every_bronze_row_is_accounted_for"
OF_A_WINDOW = {
    "markets_match_the_market_list": "bronze_ticker_raw",
    ACCOUNTS: "silver_ticker",
    "no_price_is_missing": "silver_ticker",
    "ranks_are_complete": "gold_market_stats",
}
FRESHNESS = ("gold_market_stats", "newest_window_is_fresh")


@pytest.fixture
def url(market_url: str, database: Database) -> str:
    """A database with two adjacent windows of good data."""
    for at in (PAST, PAST + WINDOW):
        put_bronze(database, at, {market: ticker(market) for market in MARKETS})
        listing = Records(("market", "raw_data", "ingested_at"), [(market, "{}", at) for market in MARKETS])
        with database.engine.begin() as connection:
            copy_records(connection, tables.bronze_market_raw, listing)
    assert materialize("silver_ticker", "gold_market_stats", first=PAST, last=PAST + WINDOW).success
    return market_url


def shown(evaluation: AssetCheckEvaluation) -> Mapping[str, Any]:
    return {name: getattr(entry, "value", entry) for name, entry in evaluation.metadata.items()}


def test_good_data_passes_each_check_of_a_window(url: str):
    for name, asset in OF_A_WINDOW.items():
        evaluation = evaluate(asset, name, PAST)
        assert evaluation.passed
        assert evaluation.description == "Checked: 2026-01-29-14:00."


@pytest.mark.parametrize(
    ("name", "damage", "culprits"),
    [
        (
            "markets_match_the_market_list",
            "DELETE FROM bronze.market_raw WHERE market = 'KRW-03' AND {window}",
            {"listed without a ticker": "", "ticker without a listing": "KRW-03"},
        ),
        (
            "markets_match_the_market_list",
            "DELETE FROM bronze.ticker_raw WHERE market < 'KRW-11' AND {window}",
            {
                "listed without a ticker": ", ".join(MARKETS[:10]) + " and 1 more",
                "ticker without a listing": "",
            },
        ),
        (
            "every_bronze_row_is_accounted_for",
            "DELETE FROM silver.ticker WHERE market = 'KRW-03' AND {window}",
            {"raw": 15, "silver": 14, "rejected": 0, "duplicates": 0},
        ),
        (
            "no_price_is_missing",
            "DELETE FROM silver.ticker WHERE market IN ('KRW-03', 'KRW-04') AND {window}",
            {"without a price": "KRW-03, KRW-04"},
        ),
        (
            "ranks_are_complete",
            "UPDATE gold.market_stats SET rank_volume = 99 WHERE market = 'KRW-03' AND {window}",
            {"wrongly ranked": "KRW-03", "not ranked": ""},
        ),
        (
            "ranks_are_complete",
            "UPDATE gold.market_stats SET rank_volatility = 0 WHERE market = 'KRW-04' AND {window}",
            {"wrongly ranked": "KRW-04", "not ranked": ""},
        ),
        (
            "ranks_are_complete",
            "DELETE FROM gold.market_stats WHERE market = 'KRW-14' AND {window}",
            {"wrongly ranked": "", "not ranked": "KRW-14"},
        ),
    ],
)
def test_bad_data_fails_only_its_window_and_names_the_markets(url: str, name: str, damage: str, culprits: Any):
    ask(url, damage.format(window=f"ingested_at = '{PAST.isoformat()}'"))

    evaluation = evaluate(OF_A_WINDOW[name], name, PAST)
    assert not evaluation.passed
    named = {name: value for name, value in culprits.items() if value != ""}
    assert shown(evaluation).items() >= named.items()
    evaluate(OF_A_WINDOW[name], name, PAST + WINDOW)
    passed = "SELECT window_start, passed FROM silver.check_result WHERE check_name = %s ORDER BY 1"
    assert ask(url, passed, name) == [(PAST, False), (PAST + WINDOW, True)]


def test_raw_rows_newer_than_silver_are_reported_but_do_not_fail(url: str, database: Database):
    put_bronze(database, PAST + WINDOW / 2, {"KRW-03": ticker("KRW-03")})
    evaluation = evaluate("silver_ticker", ACCOUNTS, PAST)
    assert evaluation.passed
    assert evaluation.description == "Checked: 2026-01-29-14:00. 1 raw rows were added after silver was computed."
    ask(url, "DELETE FROM silver.ticker WHERE market = 'KRW-03'")
    assert not evaluate("silver_ticker", ACCOUNTS, PAST).passed


def test_a_window_without_a_market_list_is_reported(url: str):
    ask(url, "DELETE FROM bronze.market_raw")
    evaluation = evaluate("bronze_ticker_raw", "markets_match_the_market_list", PAST)
    assert not evaluation.passed
    assert "No market list was collected in this window." in (evaluation.description or "")


def test_wrong_figures_are_errors_and_possible_faults_of_the_exchange_warnings(url: str):
    ask(url, "DELETE FROM silver.ticker; DELETE FROM gold.market_stats; DELETE FROM bronze.market_raw")
    severity = {name: evaluate(asset, name, PAST).severity for name, asset in OF_A_WINDOW.items()}
    severe = {name for name, each in severity.items() if each is AssetCheckSeverity.ERROR}
    assert severe == {"every_bronze_row_is_accounted_for", "ranks_are_complete"}


def test_current_figures_are_fresh(database: Database, exchange: Handle):
    assert materialize(*CHAIN, first=now()).success
    evaluation = evaluate(*FRESHNESS)
    assert evaluation.passed
    assert shown(evaluation)["age in seconds"] < 60


def test_freshness_targets_the_newest_materialization(database: Database, exchange: Handle, tmp_path: Path):
    result = materialize(*CHAIN, first=now(), instance=DagsterInstance.local_temp(str(tmp_path)))
    assert FRESHNESS[1] not in evaluated(result), "each run has its own result"
    with database.connect() as connection, DagsterInstance.local_temp(str(tmp_path)) as instance:
        evaluation = evaluate_current(FRESHNESS[0], checks.FRESHNESS, connection, instance)
    target = evaluation.target_materialization_data
    assert target
    assert target.run_id == result.run_id


def test_old_figures_are_not_fresh_and_their_time_is_reported(url: str):
    evaluation = evaluate(*FRESHNESS)
    assert not evaluation.passed
    assert evaluation.severity is AssetCheckSeverity.WARN
    assert evaluation.description == "The newest figures are of 2026-01-29 14:10:00 KST."
    assert shown(evaluation)["age in seconds"] > timedelta(days=1).total_seconds()


def test_an_empty_table_is_not_fresh(market_url: str):
    evaluation = evaluate(*FRESHNESS)
    assert (evaluation.passed, evaluation.description) == (False, "There are no figures yet.")
