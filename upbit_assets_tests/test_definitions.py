"""What Dagster loads, and what a person finds there."""

import pytest
from dagster import (
    AssetKey,
    AssetSpec,
    BackfillPolicy,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    TableSchema,
    in_process_executor,
)

from upbit_assets.definitions import defs
from upbit_assets.partitions import windows
from upbit_assets.postgres import tables

ASSETS = {
    "bronze_ticker_raw": tables.bronze_ticker_raw,
    "silver_ticker": tables.silver_ticker,
    "gold_market_stats": tables.gold_market_stats,
}


def spec_of(name: str) -> AssetSpec:
    return defs.resolve_assets_def(name).get_asset_spec(AssetKey(name))


def test_every_definition_loads():
    defs.validate_loadable(defs)


def test_the_assets_are_the_three_layers_and_follow_one_another():
    graph = defs.resolve_asset_graph()
    parents = {key.to_user_string(): graph.get(key).parent_keys for key in graph.get_all_asset_keys()}
    assert parents == {
        "bronze_ticker_raw": set(),
        "silver_ticker": {AssetKey("bronze_ticker_raw")},
        "gold_market_stats": {AssetKey("silver_ticker")},
    }


@pytest.mark.parametrize("name", ASSETS)
class TestEachAsset:
    def test_says_what_it_is_whose_it_is_and_where_it_lives(self, name: str):
        spec = spec_of(name)
        assert spec.description
        assert spec.owners == ["team:upbit_assets"]
        assert spec.group_name == "ticker"
        assert {"postgres", name.partition("_")[0]} <= spec.kinds
        assert spec.metadata["dagster/table_name"] == ASSETS[name].fullname

    def test_explains_every_column(self, name: str):
        schema = spec_of(name).metadata["dagster/column_schema"]
        assert isinstance(schema, TableSchema)
        assert [column.name for column in schema.columns] == ASSETS[name].columns.keys()
        assert all(column.type and column.description for column in schema.columns)

    def test_is_partitioned_by_window_and_a_range_is_one_run(self, name: str):
        assert spec_of(name).partitions_def == windows
        assert defs.resolve_asset_graph().get(AssetKey(name)).backfill_policy == BackfillPolicy.single_run()


@pytest.mark.parametrize("name", ["collect", "refresh", "watch", "make_table_partitions"])
def test_a_job_says_what_it_does_and_runs_in_one_process(name: str):
    job = defs.resolve_job_def(name)
    assert job.description
    assert job.executor_def is in_process_executor


@pytest.mark.parametrize(
    ("name", "cron"),
    [
        ("collect_every_minute", "* * * * *"),
        ("watch_freshness", "*/5 * * * *"),
        ("make_table_partitions_daily", "20 3 * * *"),
    ],
)
def test_a_schedule_runs_from_the_start_on_seouls_clock(name: str, cron: str):
    schedule = defs.resolve_schedule_def(name)
    assert schedule.cron_schedule == cron
    assert schedule.execution_timezone == "Asia/Seoul"
    assert schedule.default_status is DefaultScheduleStatus.RUNNING
    assert schedule.description


def test_the_sensor_runs_from_the_start():
    sensor = defs.resolve_sensor_def("refresh_changed_windows")
    assert sensor.default_status is DefaultSensorStatus.RUNNING
    assert sensor.description


def test_every_check_says_what_it_looks_for():
    specs = [spec for checks in defs.asset_checks or () for spec in checks.check_specs]
    assert len(specs) == 5
    assert all(spec.description for spec in specs)
