"""Every declared feed is complete."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import AssetKey

import upbit_assets
from upbit_assets import automation, retention
from upbit_assets.definitions import defs
from upbit_assets.feeds import FEEDS, GOLD_TABLES, Feed, GoldTable
from upbit_assets.partitions import days, windows
from upbit_assets.postgres.tables import metadata

BOARD = Path(upbit_assets.__file__).parent / "dashboard" / "static" / "board.js"
SQL = Path(upbit_assets.__file__).parent / "assets" / "sql"
GRAPH = defs.resolve_asset_graph()
each_feed = pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.name)
each_gold_table = pytest.mark.parametrize("gold", GOLD_TABLES, ids=lambda gold: gold.asset)


def table_of(asset: str) -> str:
    return GRAPH.get(AssetKey(asset)).metadata["dagster/table_name"]


def checks_of(asset: str) -> set[str]:
    return {key.name for key in GRAPH.get_check_keys_for_assets({AssetKey(asset)})}


def assets_of_job(name: str) -> set[str]:
    keys = defs.resolve_job_def(name).asset_layer.executable_asset_keys
    return {key.to_user_string() for key in keys}


def names(tables: Iterable[sa.Table]) -> set[str]:
    return {table.fullname for table in tables}


@each_feed
def test_a_feeds_assets_are_stored_in_its_tables(feed: Feed):
    assert table_of(feed.bronze_asset) == feed.refinement.bronze.fullname
    assert table_of(feed.silver_asset) == feed.refinement.silver.fullname


@each_gold_table
def test_a_gold_table_is_an_asset_made_of_its_feeds_by_two_sql_files(gold: GoldTable):
    assert table_of(gold.asset) == gold.table.fullname
    above = {key.to_user_string() for key in GRAPH.get(AssetKey(gold.asset)).parent_keys}
    assert above == {feed.silver_asset for feed in gold.feeds}
    assert {feed.axis for feed in gold.feeds} == {gold.axis}
    assert all((SQL / f"{table.name}.sql").exists() for table in (gold.table, gold.build))


def test_every_asset_is_a_feeds_or_a_gold_tables_or_the_market_list():
    declared = ["silver_market", *(name for feed in FEEDS for name in (feed.bronze_asset, feed.silver_asset))]
    declared += [gold.asset for gold in GOLD_TABLES]
    assert sorted(declared) == sorted(key.to_user_string() for key in GRAPH.get_all_asset_keys())


@each_feed
def test_a_feed_is_computed_into_gold(feed: Feed):
    assert any(feed in gold.feeds for gold in GOLD_TABLES)


@each_gold_table
def test_it_is_collected_and_refreshed(gold: GoldTable):
    collect, refresh = {windows: ("collect", "refresh"), days: ("collect_days", "refresh_days")}[gold.axis]
    assert gold.streamed or {*gold.bronze_assets, *gold.computed_assets} <= assets_of_job(collect)
    assert set(gold.computed_assets) <= assets_of_job(refresh)


@each_feed
def test_its_raw_rows_are_accounted_for(feed: Feed):
    assert "every_bronze_row_is_accounted_for" in checks_of(feed.silver_asset)


@each_feed
def test_nothing_is_computed_from_what_retention_dropped(feed: Feed):
    assert {feed.refinement.bronze, feed.refinement.silver} <= set(retention.BUILDS)


@each_feed
def test_a_past_day_gets_partitions_in_all_its_tables(feed: Feed):
    if not feed.history:
        assert feed.axis is windows
        return
    gold = [gold.table for gold in GOLD_TABLES if feed in gold.feeds]
    assert names(feed.history.downstream) == names([feed.refinement.silver, feed.refinement.rejected, *gold])
    assert feed.history.raw is feed.refinement.bronze


def test_the_board_listens_to_tables_that_there_are():
    (listed,) = re.findall(r"PARTS_OF_TABLE = \{(.*?)\}", BOARD.read_text(), re.DOTALL)
    assert set(re.findall(r'"([^"]+)": \[', listed)) <= set(metadata.tables)


def test_no_module_lists_the_feeds_again():
    """Names of assets in automation would be one more place to extend."""
    text = "".join(file.read_text() for file in Path(automation.__file__).parent.glob("*.py"))
    names = {name for feed in FEEDS for name in (feed.bronze_asset, feed.silver_asset)}
    assert names & set(re.findall(r"\w+", text)) == set()
