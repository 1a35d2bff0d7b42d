"""Old data is dropped, partition by partition, and nothing else."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import (
    AssetCheckResult,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    RunRequest,
    StaticPartitionsDefinition,
    asset,
    asset_check,
    build_schedule_context,
)
from dagster import materialize as dagster_materialize
from psycopg import sql

from upbit_assets import dagster_internals, retention
from upbit_assets.definitions import defs
from upbit_assets.feeds import MARKET_STATS
from upbit_assets.partitions import SEOUL, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.partitioning import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.stale import stale
from upbit_assets_tests.conftest import copy_of_upbit, empty
from upbit_assets_tests.deployment.conftest import an_instance
from upbit_assets_tests.pipeline import PAST, ask, materialize, now, put_bronze, rows, run_errors, ticker

DAY = timedelta(days=1)
MIDNIGHT = OLD = EDGE = PAST  # replaced by today
UNSET = [f"UPBIT_KEEP_{what}_DAYS" for what in ("BRONZE", "SILVER", "GOLD", "DAGSTER")]


@pytest.fixture(scope="module")
def dagster_url(server: EmbeddedPostgres) -> str:
    """Dagster's database, with its tables."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER DATABASE dagster SET timezone = 'UTC'")
    with an_instance(server, "postgres"):
        return server.url("dagster")


@pytest.fixture(autouse=True)
def today() -> None:
    """The times that tests use, on a day that doesn't end meanwhile. OLD is always of a month before EDGE's."""
    global MIDNIGHT, OLD, EDGE
    MIDNIGHT = now().astimezone(SEOUL).replace(hour=0, minute=0, second=0, microsecond=0)
    OLD, EDGE = MIDNIGHT - 45 * DAY, MIDNIGHT - 10 * DAY


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, dagster_url: str) -> None:
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url)


@pytest.fixture(scope="module")
def separate_database(server: EmbeddedPostgres) -> Iterator[str]:
    """For tests that drop partitions."""
    with copy_of_upbit(server, "retention") as url:
        yield url


@pytest.fixture
def market(separate_database: str, today: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database with partitions for OLD and for the days around EDGE, which is also UPBIT_POSTGRES_URL."""
    empty(separate_database)
    monkeypatch.setenv("UPBIT_POSTGRES_URL", separate_database)
    for first, last in ((OLD, OLD), (EDGE - 2 * DAY, EDGE + DAY)):
        ask(separate_database, "SELECT bronze.make_partitions(%s, %s)", first, last)
    return separate_database


def put(*moments: datetime) -> None:
    for moment in moments:
        put_bronze(Database(), moment, {"KRW-BTC": ticker("KRW-BTC")})


def moments(table: Any) -> list[datetime]:
    return sorted(
        moment for (moment,) in rows(Database(), table, leave_out=set(table.columns.keys()) - {"ingested_at"})
    )


def partitions_of(url: str, table: str) -> set[str]:
    found = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
    return {name for (name,) in ask(url, found, table)}


def as_pipeline(url: str, statement: str) -> None:
    with psycopg.connect(url, options="-c role=upbit_pipeline") as connection:
        connection.execute(sql.SQL(statement))


def drop_old_data(instance: DagsterInstance | None = None) -> Any:
    return defs.resolve_job_def("drop_old_data").execute_in_process(instance=instance, raise_on_error=False)


class TestDropping:
    def test_partitions_older_than_configured_are_dropped(self, market: str, monkeypatch: pytest.MonkeyPatch):
        put(OLD, EDGE - timedelta(microseconds=1), EDGE, MIDNIGHT)
        before = partitions_of(market, "bronze.ticker_raw")
        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")

        assert drop_old_data().success

        dropped = {f"bronze.ticker_raw_{day:%Y%m%d}" for day in (OLD, EDGE - 2 * DAY, EDGE - DAY)}
        assert before - partitions_of(market, "bronze.ticker_raw") == dropped
        assert moments(tables.bronze_ticker_raw) == [EDGE, MIDNIGHT]
        assert partitions_of(market, "silver.ticker") > {f"silver.ticker_{OLD:%Y%m%d}"}, "silver is kept forever"

    def test_a_large_drop_goes_a_few_partitions_at_a_time(self, market: str, monkeypatch):
        first = EDGE - 75 * DAY
        with Database().connect() as connection:
            make_partitions(connection, first, EDGE, [tables.bronze_market_raw])
        before = partitions_of(market, "bronze.market_raw")
        [(dropped, _)] = ask(market, "SELECT * FROM bronze.drop_partitions('bronze.market_raw', %s)", EDGE)
        noted = "SELECT kept_from FROM bronze.retention WHERE table_name = 'bronze.market_raw'"
        assert dropped == 50
        assert ask(market, noted) == [(first + 50 * DAY,)], (
            "the oldest are dropped first, and the rest is not recorded as dropped"
        )

        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")
        assert drop_old_data().success
        gone = {f"bronze.market_raw_{EDGE - day * DAY:%Y%m%d}" for day in range(1, 76)}
        assert before - partitions_of(market, "bronze.market_raw") == gone
        assert ask(market, noted) == [(EDGE,)]

    def test_old_rows_in_the_default_partition_are_dropped_too(self, market: str, monkeypatch: pytest.MonkeyPatch):
        put(OLD - 300 * DAY, MIDNIGHT + 300 * DAY)
        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")
        assert drop_old_data().success
        assert moments(tables.bronze_ticker_raw) == [MIDNIGHT + 300 * DAY]

    def test_gold_is_dropped_by_whole_months(self, market: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_KEEP_GOLD_DAYS", "10")
        assert drop_old_data().success
        first_kept = f"gold.market_stats_{EDGE:%Y%m}"
        assert min(partitions_of(market, "gold.market_stats") - {"gold.market_stats_default"}) == first_kept
        noted = ask(market, "SELECT kept_from FROM bronze.retention WHERE table_name = 'gold.market_stats'")
        assert noted == [(EDGE.replace(day=1),)], "kept data is not recorded as dropped"

    def test_check_results_are_deleted_with_their_windows(self, market: str, monkeypatch: pytest.MonkeyPatch):
        put(OLD, EDGE)
        for moment in (OLD, EDGE):
            assert materialize("silver_ticker", first=moment).success
        windows = "SELECT DISTINCT window_start FROM silver.check_result ORDER BY 1"
        assert ask(market, windows) == [(OLD,), (EDGE,)]
        monkeypatch.setenv("UPBIT_KEEP_SILVER_DAYS", "10")
        assert drop_old_data().success
        assert ask(market, windows) == [(EDGE,)]

    def test_unset_keeps_everything(self, market: str):
        put(OLD - 300 * DAY)
        before = partitions_of(market, "bronze.ticker_raw")
        assert drop_old_data().success
        assert partitions_of(market, "bronze.ticker_raw") == before
        assert moments(tables.bronze_ticker_raw) == [OLD - 300 * DAY]

    def test_a_long_write_of_one_table_delays_no_other(self, market: str, monkeypatch):
        put(OLD, MIDNIGHT)
        ask(market, "ALTER FUNCTION bronze.drop_partitions SET lock_timeout = '100ms'")
        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")
        with psycopg.connect(market) as writing:
            columns = "market, raw_data, ingested_at, day, key"
            one = f"INSERT INTO bronze.candle_raw ({columns}) VALUES ('KRW-BTC', '1', now(), %s, '')"
            writing.execute(one.encode(), (OLD,))
            result = drop_old_data()
        ask(market, "ALTER FUNCTION bronze.drop_partitions SET lock_timeout = '30s'")
        assert not result.success
        assert "Some data was not dropped; the next night's run retries. bronze." in run_errors(result)
        assert moments(tables.bronze_ticker_raw) == [MIDNIGHT]

    def test_the_simulated_or_real_mark_stays(self, market: str, monkeypatch: pytest.MonkeyPatch):
        ask(market, "INSERT INTO bronze.origin (simulated, first_seen) VALUES (true, %s)", OLD)
        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "2")
        assert drop_old_data().success
        assert rows(Database(), tables.bronze_origin) == [(True, OLD)]

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati"])
    @pytest.mark.parametrize("style", ["ISO, MDY", "German", "SQL, DMY"])
    def test_the_sessions_zone_and_style_do_not_matter(self, market: str, zone: str, style: str):
        with psycopg.connect(market) as connection:
            connection.execute(
                "SELECT set_config('timezone', %s, false), set_config('datestyle', %s, false)", [zone, style]
            )
            connection.execute("SELECT bronze.drop_partitions('silver.ticker', %s)", [EDGE + timedelta(hours=23)])
        assert min(partitions_of(market, "silver.ticker") - {"silver.ticker_default"}) == f"silver.ticker_{EDGE:%Y%m%d}"


class TestRefusals:
    @pytest.mark.parametrize("table", ["bronze.ticker_raw", "silver.ticker", "gold.market_stats"])
    @pytest.mark.parametrize("before", ["now()", "now() - interval '1 day'", "'infinity'", "'2999-01-01'"])
    def test_the_last_two_days_are_not_dropped(self, market_url: str, table: str, before: str):
        with pytest.raises(psycopg.errors.RaiseException, match="the last two days of"):
            as_pipeline(market_url, f"SELECT bronze.drop_partitions('{table}', {before})")

    @pytest.mark.parametrize(
        "table", ["public.alembic_version", "bronze.origin", "pg_catalog.pg_class", "silver.ticker_build"]
    )
    def test_only_partitioned_tables_of_the_layers_are_dropped(self, market_url: str, table: str):
        with pytest.raises(psycopg.errors.NoDataFound):
            as_pipeline(market_url, f"SELECT bronze.drop_partitions('{table}', '2020-01-01')")

    @pytest.mark.parametrize("days", ["1", "0", "-3", "ten", "2.5"])
    def test_a_senseless_number_of_days_stops_the_job_and_is_named(self, market: str, monkeypatch, days: str):
        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", days)
        put(OLD)
        result = drop_old_data()
        assert "UPBIT_KEEP_BRONZE_DAYS is" in run_errors(result)
        assert moments(tables.bronze_ticker_raw) == [OLD]


class TestAfterwards:
    """Results of dropped rows are not replaced by empty ones."""

    @pytest.fixture
    def dropped(self, market: str, monkeypatch: pytest.MonkeyPatch) -> str:
        """A database whose silver and gold outlived bronze."""
        put(OLD, MIDNIGHT)
        for moment in (OLD, MIDNIGHT):
            assert materialize("silver_ticker", "gold_market_stats", first=moment).success
        monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")
        assert drop_old_data().success
        return market

    def test_silver_of_a_dropped_window_is_unchanged(self, dropped: str):
        before = rows(Database(), tables.silver_ticker)
        result = materialize("silver_ticker", first=OLD)
        assert not result.success
        assert f"bronze.ticker_raw is kept from {EDGE:%Y-%m-%d %H:%M} on" in run_errors(result)
        assert rows(Database(), tables.silver_ticker) == before

    def test_silver_is_not_replaced_from_incomplete_raw_rows(self, dropped: str):
        put_bronze(Database(), OLD + DAY, {name: ticker(name) for name in ("KRW-BTC", "KRW-ETH")})
        assert materialize("silver_ticker", first=OLD + DAY).success  # never computed before, so nothing can be lost
        assert drop_old_data().success
        put(OLD + DAY)
        before = rows(Database(), tables.silver_ticker)
        assert not materialize("silver_ticker", first=OLD + DAY).success
        assert rows(Database(), tables.silver_ticker) == before

    def test_silver_is_not_replaced_by_a_range_that_is_partly_dropped(self, dropped: str):
        last_dropped = EDGE - WINDOW
        put(last_dropped)
        assert materialize("silver_ticker", first=last_dropped).success
        assert drop_old_data().success
        before = rows(Database(), tables.silver_ticker)
        result = materialize("silver_ticker", "gold_market_stats", first=last_dropped, last=EDGE)
        assert f"in {last_dropped:%Y-%m-%d-%H:%M}" in run_errors(result)
        assert rows(Database(), tables.silver_ticker) == before

    def test_gold_is_recomputed_while_silver_exists(self, dropped: str):
        assert materialize("gold_market_stats", first=OLD).success
        assert moments(tables.gold_market_stats) == [OLD, MIDNIGHT]

    def test_gold_outlives_silver(self, dropped: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_KEEP_SILVER_DAYS", "10")
        assert drop_old_data().success
        assert moments(tables.silver_ticker) == [MIDNIGHT]
        assert not materialize("gold_market_stats", first=OLD).success
        assert moments(tables.gold_market_stats) == [OLD, MIDNIGHT]

    def test_kept_windows_are_computed_as_usual(self, dropped: str):
        assert materialize("silver_ticker", "gold_market_stats", first=MIDNIGHT).success

    def test_restored_rows_are_computed(self, dropped: str):
        put(OLD)
        assert materialize("silver_ticker", "gold_market_stats", first=OLD).success

    def test_the_sensor_ignores_a_partly_restored_window(self, dropped: str):
        put(OLD, MIDNIGHT)
        with Database().connect() as connection:
            asked = stale(connection, MARKET_STATS, {OLD, MIDNIGHT})
        assert [each.start for each in asked] == [MIDNIGHT]

    def test_a_window_that_was_not_collected_was_not_dropped(self, market: str):
        assert f"Nothing was collected in {windows.key_of(OLD)}" in run_errors(materialize("silver_ticker", first=OLD))


class TestSchedule:
    def test_runs_every_night_as_dagsters_own_log_is_never_kept_for_ever(self):
        assert isinstance(retention.drop_old_data_daily(build_schedule_context()), RunRequest)
        assert retention.days("dagster") == 30


WINDOWS = ["first", "second", "third"]


@asset(partitions_def=StaticPartitionsDefinition(WINDOWS))
def watched() -> None: ...


@asset_check(asset=watched)
def evaluated_check() -> AssetCheckResult:
    return AssetCheckResult(passed=True)


class TestDagstersLog:
    @pytest.fixture
    def instance(self, server: EmbeddedPostgres, market_url: str) -> Iterator[DagsterInstance]:
        with an_instance(server, "postgres") as instance:
            yield instance

    def run(self, instance: DagsterInstance, window: str) -> str:
        result = dagster_materialize([watched, evaluated_check], instance=instance, partition_key=window)
        assert result.success
        return result.run_id

    def age(self, server: EmbeddedPostgres, *run_ids: str) -> None:
        ask(server.url("dagster"), "UPDATE runs SET update_timestamp = %s WHERE run_id = ANY(%s)", OLD, list(run_ids))

    def test_old_runs_are_deleted_and_the_materialization_status_stays(
        self, server: EmbeddedPostgres, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ):
        old = [self.run(instance, window) for window in (*WINDOWS, *WINDOWS[:2])]
        new = self.run(instance, WINDOWS[0])
        self.age(server, *old)
        monkeypatch.setenv("UPBIT_KEEP_DAGSTER_DAYS", "10")
        before = newest(instance)

        assert drop_old_data(instance).success

        assert not set(old) & {run.run_id for run in instance.get_runs()}
        assert instance.get_run_by_id(new) is not None
        assert instance.get_materialized_partitions(watched.key) == set(WINDOWS)
        assert newest(instance) == before, "the last materialization of each window, whole"
        left = ask(server.url("dagster"), "SELECT dagster_event_type FROM event_logs WHERE run_id = ANY(%s)", old)
        # the newest run materialized the first window again
        assert left == [("ASSET_MATERIALIZATION",)] * 2
        assert instance.all_logs(new)
        checks = ask(server.url("dagster"), "SELECT DISTINCT run_id FROM asset_check_executions")
        assert checks == [(new,)], "the checks' last results stay"

    def test_the_uis_partition_cache_is_updated_nightly(self, instance: DagsterInstance):
        key = AssetKey("bronze_ticker_raw")
        instance.report_runless_asset_event(AssetMaterialization(key, partition=windows.key_of(PAST)))
        assert drop_old_data(instance).success
        (record,) = instance.get_asset_records([key])
        assert record.asset_entry.cached_status
        known = record.asset_entry.cached_status.deserialize_materialized_partition_subsets(windows.partitions)
        assert list(known.get_partition_keys()) == [windows.key_of(PAST)]

    def test_a_run_leaves_no_files_behind(self, instance: DagsterInstance):
        self.run(instance, WINDOWS[0])
        assert [file.name for file in Path(instance.root_directory).rglob("*") if file.is_file()] == ["dagster.yaml"]

    def test_unfinished_runs_are_never_deleted(self, server: EmbeddedPostgres, instance: DagsterInstance, monkeypatch):
        run = instance.create_run_for_job(defs.resolve_job_def("collect"))
        self.age(server, run.run_id)
        monkeypatch.setenv("UPBIT_KEEP_DAGSTER_DAYS", "10")
        assert drop_old_data(instance).success
        assert instance.get_run_by_id(run.run_id) is not None

    def test_kept_events_of_a_deleted_run_are_deleted_once_replaced(
        self, server: EmbeddedPostgres, instance: DagsterInstance, monkeypatch
    ):
        monkeypatch.setenv("UPBIT_KEEP_DAGSTER_DAYS", "10")
        for _ in range(2):
            run = self.run(instance, WINDOWS[2])
            self.age(server, run)
            assert drop_old_data(instance).success
        left = "SELECT run_id FROM event_logs WHERE asset_key = %s AND partition = %s"
        assert ask(server.url("dagster"), left, watched.key.to_string(), WINDOWS[2]) == [(run,)]
        orphans = "SELECT FROM asset_event_tags WHERE event_id NOT IN (SELECT id FROM event_logs)"
        assert ask(server.url("dagster"), orphans) == []

    def test_tables_of_an_unknown_dagster_are_left_alone(
        self, server: EmbeddedPostgres, instance: DagsterInstance, monkeypatch
    ):
        old = self.run(instance, WINDOWS[0])
        self.age(server, old)
        monkeypatch.setenv("UPBIT_KEEP_DAGSTER_DAYS", "10")
        monkeypatch.setattr(dagster_internals, "REVISIONS", frozenset({"an older one"}))
        result = drop_old_data(instance)
        assert "Dagster's database has the schema" in run_errors(result)
        assert "Install the Dagster version in requirements.lock" in run_errors(result)
        assert instance.get_run_by_id(old) is not None

    def test_more_runs_than_a_batch_are_deleted(self, server: EmbeddedPostgres, instance: DagsterInstance, monkeypatch):
        old = [self.run(instance, WINDOWS[0]) for _ in range(3)]
        self.age(server, *old)
        monkeypatch.setenv("UPBIT_KEEP_DAGSTER_DAYS", "10")
        monkeypatch.setattr(dagster_internals, "PRUNE_BATCH", 1)
        assert drop_old_data(instance).success
        assert not set(old) & {run.run_id for run in instance.get_runs()}


def newest(instance: DagsterInstance) -> dict[str, str]:
    """The run of each window's last materialization."""
    return {
        window: record.event_log_entry.run_id
        for window in WINDOWS
        for record in [
            instance.fetch_materializations(
                AssetRecordsFilter(asset_key=watched.key, asset_partitions=[window]), limit=1
            ).records[0]
        ]
    }
