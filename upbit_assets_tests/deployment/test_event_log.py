"""Dagster's database stores the relevant events of a run, and no others."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dagster
import psycopg
import pytest
from dagster import AssetCheckKey, AssetKey, DagsterEventType, EventLogEntry

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.instance import NOT_STORED
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.deployment.conftest import an_instance, url_as
from upbit_assets_tests.pipeline import PAST, ask, materialize, put_bronze, ticker

PASSES, FAILS = (
    AssetCheckKey(AssetKey("silver_ticker"), name)
    for name in ("every_bronze_row_is_accounted_for", "no_price_is_missing")
)
REPEATED = "dagster/column_lineage"  # part of the definition


@pytest.fixture
def log(deployed: EmbeddedPostgres, database: Database) -> list[tuple[DagsterEventType | None, str]]:
    """The stored events of a window's silver and gold: (type, text)."""
    put_bronze(database, PAST + timedelta(minutes=1), {"KRW-BTC": ticker("KRW-BTC")})
    with an_instance(deployed) as instance:
        result = materialize("silver_ticker", "gold_market_stats", first=PAST, instance=instance)
        assert result.success
        return [(each.dagster_event_type, each.to_json()) for each in instance.all_logs(result.run_id)]


def test_a_runs_relevant_events_are_stored(log: list[tuple[DagsterEventType | None, str]]):
    stored = Counter(kind for kind, _ in log)
    assert not NOT_STORED & set(stored)
    for kind, count in {
        DagsterEventType.STEP_START: 2,
        DagsterEventType.STEP_SUCCESS: 2,
        DagsterEventType.STEP_OUTPUT: 2,
        DagsterEventType.ASSET_MATERIALIZATION: 2,
        DagsterEventType.RUN_SUCCESS: 1,
    }.items():
        assert stored[kind] == count
    assert stored[None] == 0, "events that repeat a materialization or a check's history are not stored"


def test_definition_metadata_is_not_repeated_by_every_run(log: list[tuple[DagsterEventType | None, str]]):
    assert [text for _, text in log if REPEATED in text] == []


def test_a_passed_check_is_only_in_its_history_and_a_failed_one_also_in_the_runs_log(
    deployed: EmbeddedPostgres, database: Database
):
    unpriced = ticker("KRW-ETH", trade_price="0")
    put_bronze(database, PAST + timedelta(minutes=1), {"KRW-BTC": ticker("KRW-BTC"), "KRW-ETH": unpriced})
    with an_instance(deployed) as instance:
        run_id = materialize("silver_ticker", first=PAST, instance=instance).run_id
        for check, status in ((PASSES, "SUCCEEDED"), (FAILS, "FAILED")):
            (last,) = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
            assert (last.run_id, last.status.value) == (run_id, status)
        evaluations = instance.all_logs(run_id, of_type={DagsterEventType.ASSET_CHECK_EVALUATION})
    assert [check_of(each) for each in evaluations] == [FAILS]


class TestHistory:
    @pytest.fixture
    def history(self, deployed: EmbeddedPostgres, database: Database) -> Iterator[Callable[[], list[Any]]]:
        """The check's results, the newest first, of which an earlier run's pass is the last."""
        put_bronze(database, PAST + timedelta(minutes=1), {"KRW-BTC": ticker("KRW-BTC")})
        with an_instance(deployed) as instance:
            assert materialize("silver_ticker", first=PAST, instance=instance).success
            yield lambda: list(instance.event_log_storage.get_asset_check_execution_history(PASSES, limit=9))

    def again(self, deployed: EmbeddedPostgres) -> str:
        with an_instance(deployed) as instance:
            return materialize("silver_ticker", first=PAST, instance=instance).run_id

    def test_of_ten_minutes_has_one_pass_the_latest(self, deployed: EmbeddedPostgres, history: Callable[[], list[Any]]):
        count = len(history())
        run_id = self.again(deployed)
        assert len(history()) <= count + 1, "this test may cross into the next ten minutes"
        assert (history()[0].run_id, history()[0].status.value) == (run_id, "SUCCEEDED")
        assert len({record.run_id for record in history()}) == len(history())

    @pytest.mark.parametrize(
        "change",
        ["create_timestamp = create_timestamp - interval '10 minutes'", "execution_status = 'FAILED'", "run_id = ''"],
    )
    def test_keeps_older_passes_failures_and_those_of_no_run(
        self, deployed: EmbeddedPostgres, history: Callable[[], list[Any]], change: str
    ):
        before = len(history())
        ask(url_as(deployed, "dagster", "dagster"), f"UPDATE asset_check_executions SET {change}")
        run_id = self.again(deployed)
        assert len(history()) == before + 1
        assert history()[0].run_id == run_id


def check_of(entry: EventLogEntry) -> AssetCheckKey:
    return entry.get_dagster_event().asset_check_evaluation_data.asset_check_key


def test_rows_are_compressed(deployed: EmbeddedPostgres, log: list[tuple[DagsterEventType | None, str]]):
    short = {kind.value for kind, _ in log if kind and kind.value.startswith("STEP_")}
    assert short
    sizes = "SELECT count(*) FROM event_logs WHERE dagster_event_type LIKE 'STEP_%' AND pg_column_size(event) > 1000"
    assert ask(url_as(deployed, "dagster", "dagster"), sizes) == [(0,)]


def test_a_failed_run_is_a_few_lines_of_the_log_and_its_stack_trace_is_stored(
    deployed: EmbeddedPostgres, capfd: pytest.CaptureFixture[str]
):
    @dagster.asset
    def unreachable() -> None:
        psycopg.connect("host=127.0.0.1 port=1")

    with an_instance(deployed) as instance:
        run_id = dagster.materialize([unreachable], instance=instance, raise_on_error=False).run_id
        [failure] = instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE)
    _, _, printed = capfd.readouterr().err.partition("STEP_FAILURE")
    step_failure, _, _ = printed.partition("RUN_FAILURE")
    assert "127.0.0.1" in step_failure
    assert f'File "{__file__}"' in step_failure, "where"
    assert len(step_failure.splitlines()) < 8
    stored = failure.get_dagster_event().step_failure_data.error
    assert stored is not None
    assert stored.cause is not None
    assert len(stored.cause.stack) > 1
