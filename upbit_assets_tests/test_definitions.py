"""The definitions that Dagster loads, and their descriptions."""

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
from upbit_assets.partitions import days, windows
from upbit_assets.postgres import tables

ASSETS = {
    "bronze_ticker_raw": ("ticker", tables.bronze_ticker_raw, set()),
    "silver_ticker": ("ticker", tables.silver_ticker, {"bronze_ticker_raw"}),
    "gold_market_stats": ("ticker", tables.gold_market_stats, {"silver_ticker"}),
    "bronze_orderbook_raw": ("orderbook", tables.bronze_orderbook_raw, set()),
    "silver_orderbook": ("orderbook", tables.silver_orderbook, {"bronze_orderbook_raw"}),
    "gold_orderbook_stats": ("orderbook", tables.gold_orderbook_stats, {"silver_orderbook"}),
    "bronze_candle_raw": ("candle", tables.bronze_candle_raw, set()),
    "silver_candle": ("candle", tables.silver_candle, {"bronze_candle_raw"}),
    "bronze_trade_raw": ("trade", tables.bronze_trade_raw, set()),
    "silver_trade": ("trade", tables.silver_trade, {"bronze_trade_raw"}),
    "bronze_trade_stream_raw": ("trade_stream", tables.bronze_trade_stream_raw, set()),
    "silver_trade_stream": ("trade_stream", tables.silver_trade_stream, {"bronze_trade_stream_raw"}),
    "gold_trade_stats": ("trade_stream", tables.gold_trade_stats, {"silver_trade_stream"}),
    "silver_market": ("ticker", tables.silver_market, {"bronze_ticker_raw"}),
    "gold_market_daily": ("daily", tables.gold_market_daily, {"silver_candle", "silver_trade"}),
}


def spec_of(name: str) -> AssetSpec:
    return defs.resolve_assets_def(name).get_asset_spec(AssetKey(name))


def test_every_definition_loads():
    defs.validate_loadable(defs)


def test_the_assets_are_three_layers_and_follow_one_another():
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {name: above for name, (_, _, above) in ASSETS.items()}


@pytest.mark.parametrize("name", ASSETS)
class TestEachAsset:
    def test_an_asset_has_description_owner_and_table(self, name: str):
        spec = spec_of(name)
        assert spec.description
        assert spec.owners == ["team:upbit_assets"]
        group, table, _ = ASSETS[name]
        assert spec.group_name == group
        assert {"postgres", name.partition("_")[0]} <= spec.kinds
        assert spec.metadata["dagster/table_name"] == table.fullname

    def test_explains_every_column(self, name: str):
        schema = spec_of(name).metadata["dagster/column_schema"]
        assert isinstance(schema, TableSchema)
        assert [column.name for column in schema.columns] == ASSETS[name][1].columns.keys()
        assert all(column.type and column.description for column in schema.columns)

    def test_is_partitioned_by_window_and_a_range_is_one_run(self, name: str):
        if name == "silver_market":
            assert spec_of(name).partitions_def is None, "it is of no time"
            return
        by_day = ASSETS[name][0] in ("candle", "trade", "daily")
        assert spec_of(name).partitions_def == (days if by_day else windows).partitions
        assert defs.resolve_asset_graph().get(AssetKey(name)).backfill_policy == BackfillPolicy.single_run()


@pytest.mark.parametrize(
    "name",
    ["collect", "refresh", "repair_trades", "collect_days", "refresh_days", "make_table_partitions", "drop_old_data"],
)
def test_a_job_has_a_description_and_runs_in_one_process(name: str):
    job = defs.resolve_job_def(name)
    assert job.description
    assert job.executor_def is in_process_executor


@pytest.mark.parametrize(
    ("name", "cron"),
    [
        ("collect_every_minute", "* * * * *"),
        ("collect_today", "*/10 * * * *"),
        ("make_table_partitions_daily", "20 3 * * *"),
    ],
)
def test_a_schedule_runs_from_the_start_on_seouls_clock(name: str, cron: str):
    schedule = defs.resolve_schedule_def(name)
    assert schedule.cron_schedule == cron
    assert schedule.execution_timezone == "Asia/Seoul"
    assert schedule.default_status is DefaultScheduleStatus.RUNNING
    assert schedule.description


@pytest.mark.parametrize("name", ["refresh_changed_windows", "close_gaps", "close_trade_gaps", "check_freshness"])
def test_a_sensor_runs_from_the_start(name: str):
    sensor = defs.resolve_sensor_def(name)
    assert sensor.default_status is DefaultSensorStatus.RUNNING
    assert sensor.description


def test_every_check_has_a_description():
    specs = [spec for checks in defs.asset_checks or () for spec in checks.check_specs]
    assert len(specs) == 21
    assert all(spec.description for spec in specs)
