"""What Dagster's database keeps of a run: what people look for, and no more."""

from collections import Counter
from datetime import timedelta

import pytest
from dagster import DagsterEventType

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.instance import NOT_STORED
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.deployment.conftest import an_instance
from upbit_assets_tests.pipeline import PAST, materialize, put_bronze, ticker

REPEATED = "dagster/column_lineage"  # which the definition has


@pytest.fixture
def log(deployed: EmbeddedPostgres, database: Database) -> list[tuple[DagsterEventType | None, str]]:
    """What is stored of a window's silver and gold: (event, its text)."""
    put_bronze(database, PAST + timedelta(minutes=1), {"KRW-BTC": ticker("KRW-BTC")})
    with an_instance(deployed) as instance:
        result = materialize("silver_ticker", "gold_market_stats", first=PAST, instance=instance)
        assert result.success
        return [(each.dagster_event_type, each.to_json()) for each in instance.all_logs(result.run_id)]


def test_of_a_run_what_people_look_for_is_stored(log: list[tuple[DagsterEventType | None, str]]):
    stored = Counter(kind for kind, _ in log)
    assert not NOT_STORED & set(stored)
    for kind, count in {
        DagsterEventType.STEP_SUCCESS: 4,
        DagsterEventType.STEP_OUTPUT: 2,
        DagsterEventType.ASSET_MATERIALIZATION: 2,
        DagsterEventType.ASSET_CHECK_EVALUATION: 4,
        DagsterEventType.RUN_SUCCESS: 1,
    }.items():
        assert stored[kind] == count


def test_what_the_definition_says_is_not_said_again_by_every_run(log: list[tuple[DagsterEventType | None, str]]):
    assert [text for _, text in log if REPEATED in text] == []
