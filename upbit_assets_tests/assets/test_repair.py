"""The recovery guide: a bad range is deleted from silver by hand and rebuilt from bronze."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import AssetKey, DagsterInstance
from psycopg import sql

from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.pipeline import CHAIN, PAST, ask, evaluate, materialize, put_bronze, rows, run_errors, ticker

pytestmark = pytest.mark.long

PROJECT = Path(__file__).parents[2]
AS_TYPED = "DELETE FROM silver.ticker WHERE ingested_at BETWEEN '2026-01-29 14:00:00' AND '2026-01-29 14:10:00'"
NEXT = PAST + WINDOW
ACCOUNTS = "every_bronze_row_is_accounted_for"
REPAIR = ("silver_ticker", "gold_market_stats")
DERIVED = (
    tables.silver_ticker,
    tables.silver_ticker_rejected,
    tables.silver_ticker_build,
    tables.gold_market_stats,
)
LAST_MOMENT = WINDOW - timedelta(microseconds=1)


@pytest.fixture
def built(database: Database) -> Database:
    """The window, the one before and two after, each with valid, invalid and duplicate rows, up to its edges."""
    for window in range(-1, 3):
        for n, offset in enumerate([timedelta(0), timedelta(minutes=5), LAST_MOMENT]):
            # the next window's first row is a little later: BETWEEN reaching it is tested separately
            at = PAST + window * WINDOW + (offset or timedelta(microseconds=window == 1))
            good = [(f"KRW-{m}", ticker(f"KRW-{m}", trade_price=f"{100 + m * n}.5")) for m in range(5)]
            put_bronze(database, at, [*good, ("KRW-0", ticker("KRW-0")), ("KRW-X", ticker("KRW-X", trade_price="0"))])
    assert materialize(*REPAIR, first=PAST - WINDOW, last=PAST + 2 * WINDOW).success
    return database


def as_the_pipeline(url: str, statement: str) -> int:
    with psycopg.connect(url) as connection:
        connection.execute("SET ROLE upbit_pipeline")
        return connection.execute(statement).rowcount


def derived(database: Database) -> list[Any]:
    return [
        rows(database, table, leave_out=("id", "computed_at", "written_in", "silver_computed_at")) for table in DERIVED
    ]


def neighbours(url: str, first: datetime = PAST, end: datetime = NEXT) -> list[Any]:
    """All rows outside the repaired windows, with their ids and times of computation."""
    outside = "WHERE ingested_at < %s OR ingested_at >= %s ORDER BY id"
    names = ("silver.ticker", "silver.ticker_rejected", "gold.market_stats", "bronze.ticker_raw")
    return [ask(url, f"SELECT * FROM {name} {outside}", first, end) for name in names]


@pytest.mark.parametrize("assets", [REPAIR, CHAIN], ids=["silver and gold", "all three"])
@pytest.mark.parametrize("last", [None, PAST], ids=["partition", "range"])
def test_a_range_deleted_by_hand_comes_back_identical(market_url: str, built: Database, assets, last):
    before, around = derived(built), neighbours(market_url)
    assert as_the_pipeline(market_url, AS_TYPED) == 15

    result = materialize(*assets, first=PAST, last=last)
    assert result.success, run_errors(result)
    assert derived(built) == before
    assert neighbours(market_url) == around


def test_a_repair_does_not_change_bronze(market_url: str, built: Database):
    before = rows(built, tables.bronze_ticker_raw, leave_out=())
    as_the_pipeline(market_url, AS_TYPED)
    assert materialize(*CHAIN, first=PAST).success

    assert rows(built, tables.bronze_ticker_raw, leave_out=()) == before


class TestTheRowAtTheLastMoment:
    """BETWEEN is inclusive: it also deletes a row of 14:10:00 sharp, which belongs to the next window."""

    @pytest.fixture(autouse=True)
    def _deleted(self, market_url: str, built: Database) -> None:
        self.database = built
        put_bronze(built, NEXT, {"KRW-1": ticker("KRW-1")})
        assert materialize(*REPAIR, first=NEXT).success
        self.whole = derived(built)
        assert as_the_pipeline(market_url, AS_TYPED) == 16

    def test_a_range_including_the_next_window_restores_its_row(self):
        assert materialize(*REPAIR, first=PAST, last=NEXT).success
        assert derived(self.database) == self.whole

    def test_without_the_next_window_its_row_is_missing_and_its_check_fails(self):
        assert materialize(*REPAIR, first=PAST).success
        silver, whole = derived(self.database)[0], self.whole[0]
        assert len(whole) - len(silver) == 1

        assert evaluate("silver_ticker", ACCOUNTS, PAST).passed
        assert not evaluate("silver_ticker", ACCOUNTS, NEXT).passed
        assert materialize(*REPAIR, first=NEXT).success
        assert derived(self.database) == self.whole


def test_a_day_is_repaired_in_one_run_and_one_write_a_table(market_url: str, database: Database):
    midnight = PAST.replace(hour=0)
    for n in range(144):
        both = {market: ticker(market, trade_timestamp="1769600000000") for market in ("KRW-BTC", "KRW-ETH")}
        put_bronze(database, midnight + n * WINDOW, both)
    result = materialize(*REPAIR, first=midnight, last=midnight + 143 * WINDOW)

    assert result.success, run_errors(result)
    assert len(result.get_asset_materialization_events()) == 2 * 144
    for name, rows_of_all in (("silver.ticker", 288), ("silver.ticker_build", 144), ("gold.market_stats", 288)):
        assert ask(market_url, f"SELECT count(DISTINCT xmin::text), count(*) FROM {name}") == [(1, rows_of_all)]


@pytest.mark.long
class TestCommandLine:
    """The commands of the recovery guide, each as a separate process."""

    @pytest.fixture(autouse=True)
    def _instance(self, server: EmbeddedPostgres, built: Database, market_url: str, tmp_path: Path) -> Iterator[None]:
        self.database, self.url = built, market_url
        shutil.copy(PROJECT / "dagster.yaml", tmp_path)
        name = sql.Identifier("instance")
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
            self.environment = {
                **os.environ,
                "DAGSTER_HOME": str(tmp_path),
                "DAGSTER_POSTGRES_URL": server.url("instance"),
                "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME": "upbit_assets.definitions",
            }
            yield
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def type_in(self, *command: str) -> None:
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run(
            [program, *command[1:]], env=self.environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Exception while storing event batch" not in done.stderr

    def recorded(self, monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
        for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
            monkeypatch.setenv(name, self.environment[name])
        with DagsterInstance.get() as instance:
            runs = instance.get_runs()
            for asset in REPAIR:
                assert instance.get_materialized_partitions(AssetKey(asset)) == {
                    windows.key_of(PAST),
                    windows.key_of(NEXT),
                }
        assert all(run.is_success for run in runs)
        return [run.tags for run in reversed(runs)]

    def test_each_way_to_type_the_repair_heals_and_is_recorded_in_one_instance(self, monkeypatch: pytest.MonkeyPatch):
        before, first, last = derived(self.database), windows.key_of(PAST), windows.key_of(NEXT)
        select = ("--select", "silver_ticker,gold_market_stats")
        for command in (
            ("dagster", "asset", "materialize", *select, "--partition", first),
            ("dagster", "asset", "materialize", *select, "--partition-range", f"{first}...{last}"),
            ("dg", "launch", "--assets", "silver_ticker,gold_market_stats", "--partition", first),
        ):
            as_the_pipeline(self.url, AS_TYPED)
            self.type_in(*command)
            assert derived(self.database) == before

        one, range_, launched = self.recorded(monkeypatch)
        assert one["dagster/partition"] == launched["dagster/partition"] == first
        assert range_["dagster/asset_partition_range_start"] == first
        assert range_["dagster/asset_partition_range_end"] == last
