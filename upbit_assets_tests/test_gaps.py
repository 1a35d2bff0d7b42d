"""Incomplete days are collected automatically: exactly those, newest first, one at a time."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunRequest, SkipReason, build_schedule_context
from psycopg.types.range import Range

from upbit_assets.assets import history, pages
from upbit_assets.automation import changed_windows, missing_days, schedules
from upbit_assets.automation.jobs import HISTORY
from upbit_assets.automation.schedules import collect_today
from upbit_assets.definitions import defs
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Records, copy_records
from upbit_assets.sandbox.server import Handle, running
from upbit_assets.upbit import client
from upbit_assets_tests.pipeline import Clock, ask, materialize, put_records
from upbit_assets_tests.test_automation import Daemon

NOON = datetime(2026, 7, 10, 12, tzinfo=UTC)
TODAY = datetime(2026, 7, 10, tzinfo=UTC)
MARKET = "BTC-HBAR"  # about 100 candles and trades a day
PAGE = {"candle": tables.bronze_candle_page, "trade": tables.bronze_trade_page}


class GapCloser(Daemon):
    """Evaluates close_gaps; its requests are pairs of a source and a day."""

    sensor = missing_days.close_gaps

    @staticmethod
    def _asked(request: RunRequest) -> Any:
        bronze, *_ = [key.to_user_string() for key in request.asset_selection or []]
        return bronze, request.tags["dagster/partition"]


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    with running(market_count=30, clock=lambda: Clock.moment) as handle:
        monkeypatch.setenv("UPBIT_API_URL", handle.url)
        yield handle


@pytest.fixture
def daemon(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[GapCloser]:
    """At noon, with one market and two days back."""
    for module in (changed_windows, missing_days, schedules, history, pages, client):
        monkeypatch.setattr(module, "datetime", Clock)
    Clock.moment = NOON
    for kind in ("CANDLE", "TRADE"):
        monkeypatch.setenv(f"UPBIT_{kind}_MARKETS", MARKET)
    monkeypatch.setenv("UPBIT_DAYS_BACK", "2")
    with DagsterInstance.ephemeral() as instance:
        yield GapCloser(instance)


def cover(database: Database, day: datetime, kind: str, hours: int = 24, market: str = MARKET) -> None:
    """Record the day's last hours as collected (proved if all of them), as a run without rows does."""
    covered = Range(day + DAY - timedelta(hours=hours), day + DAY)
    columns = ("market", "day", "covered", "rows", "ingested_at", "proved")
    note = Records(columns, [(market, day, covered, 0, Clock.moment, True if hours == 24 else None)])
    with database.engine.begin() as connection:
        copy_records(connection, PAGE[kind], note)


def requests_for(kind: str, back: int) -> set[tuple[str, str]]:
    return {(f"bronze_{kind}_raw", days.key_of(TODAY - back * DAY))}


ORDER = [("candle", 1), ("trade", 1), ("candle", 2), ("trade", 2)]


class TestCloseGaps:
    def test_days_are_filled_newest_first_and_candles_before_trades(
        self, daemon: GapCloser, market_url: str, exchange: Handle
    ):
        order = []
        while found := daemon.tick():
            order.append(found)
            daemon.work()
        assert order == [requests_for(*each) for each in ORDER]
        assert daemon.skipped == "Nothing is missing"
        whole = ask(market_url, "SELECT day, minutes_missing FROM silver.candle_coverage ORDER BY day DESC")
        assert whole == [(TODAY - DAY, 0), (TODAY - 2 * DAY, 0)]
        assert ask(market_url, "SELECT count(*) FROM gold.market_daily") == [(2,)]

    def test_a_partly_collected_day_is_completed_whatever_the_days_back(
        self, daemon: GapCloser, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_DAYS_BACK", "0")
        cover(database, TODAY, "candle", hours=1)
        for hours in (0, 1):
            Clock.moment = NOON + timedelta(hours=hours)
            assert daemon.tick() == set()
        Clock.moment = NOON + DAY
        assert daemon.tick() == requests_for("candle", 0)

    def test_one_day_at_a_time(self, daemon: GapCloser):
        job = defs.resolve_job_def("collect_days")
        run = daemon.instance.create_run_for_job(job, tags={HISTORY: "true"}, status=DagsterRunStatus.STARTED)
        assert daemon.tick() == set()
        assert daemon.skipped == "An earlier run is still collecting"
        daemon.instance.report_run_failed(run)
        assert daemon.tick() == requests_for("candle", 1)

    def test_a_manual_run_delays_nothing(self, daemon: GapCloser):
        daemon.instance.create_run_for_job(defs.resolve_job_def("collect_days"), status=DagsterRunStatus.STARTED)
        assert daemon.tick() == requests_for("candle", 1)

    def test_a_day_that_stays_incomplete_is_requested_at_growing_intervals(self, daemon: GapCloser, database: Database):
        for kind, back in ORDER[1:]:
            cover(database, TODAY - back * DAY, kind)
        asked_after = []
        for seconds in range(0, 240, 10):
            Clock.moment = NOON + timedelta(seconds=seconds)
            if daemon.tick():  # the request is not executed
                asked_after.append(seconds)
        assert asked_after == [0, 30, 90, 210]
        assert daemon.skipped == "1 days wait for a retry"

    def test_while_one_day_waits_the_next_is_collected(self, daemon: GapCloser):
        assert [daemon.tick() for _ in ORDER] == [requests_for(*each) for each in ORDER]
        assert daemon.tick() == set()

    def test_progress_resets_the_back_off(self, daemon: GapCloser, database: Database):
        assert daemon.tick() == requests_for("candle", 1)
        cover(database, TODAY - DAY, "candle", 5)
        assert daemon.tick() == requests_for("candle", 1)

    def test_a_day_partly_collected_long_ago_is_completed(self, daemon: GapCloser, database: Database):
        for kind, back in ORDER:
            cover(database, TODAY - back * DAY, kind)
        assert daemon.tick() == set()
        cover(database, TODAY - 900 * DAY, "candle", 7, market="KRW-BTC")
        cover(database, TODAY - 901 * DAY, "candle")
        assert daemon.tick() == requests_for("candle", 900)
        assert daemon.tick() == set()
        Clock.moment += timedelta(minutes=1)
        assert daemon.tick() == requests_for("candle", 900)
        cover(database, TODAY - 900 * DAY, "candle", market="KRW-BTC")
        Clock.moment += timedelta(hours=1)
        assert daemon.tick() == set()
        assert daemon.skipped == "Nothing is missing"

    def test_unavailable_markets_are_not_requested_again(
        self, daemon: GapCloser, exchange: Handle, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_DAYS_BACK", "1")
        exchange.faults.add("candles|trades", "status", status=404)
        for kind in PAGE:
            assert daemon.tick() == requests_for(kind, 1)
            daemon.work()
        Clock.moment += timedelta(hours=2)
        assert daemon.tick() == set()
        assert daemon.skipped == "Nothing is missing"

    def test_a_market_that_is_listed_later_in_the_day_is_collected(self, daemon: GapCloser, database: Database):
        for kind, back in ORDER[1:]:
            cover(database, TODAY - back * DAY, kind)
        day = TODAY - DAY
        unknown = (MARKET, day, Range(day, day), 0, "404", Clock.moment)
        columns = ("market", "day", "covered", "rows", "problem", "ingested_at")
        put_records(database, PAGE["candle"], Records(columns, [unknown]))
        assert daemon.tick() == set()
        cover(database, day, "candle", 5)
        assert daemon.tick() == requests_for("candle", 1)

    def test_the_days_back_may_be_none(self, daemon: GapCloser, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_DAYS_BACK", "0")
        assert daemon.tick() == set()

    def test_trades_are_requested_as_far_back_as_they_are_available(
        self, daemon: GapCloser, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_DAYS_BACK", "9")
        found: set[Any] = set()
        while more := daemon.tick():
            found |= more
        candles, trades = ({back for back in range(12) if requests_for(kind, back) <= found} for kind in PAGE)
        assert (candles, trades) == (set(range(1, 10)), set(range(1, 8)))

    def test_without_a_ranking_it_waits_for_one(self, daemon: GapCloser, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("UPBIT_TRADE_MARKETS")
        assert daemon.tick() == set()
        assert "There is no turnover ranking yet to choose the markets by" in str(daemon.skipped)

    def test_another_database_is_scanned_again(
        self, daemon: GapCloser, another_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        assert daemon.tick() == requests_for("candle", 1)
        monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
        assert daemon.tick() == requests_for("candle", 1)
        assert {key.partition("/")[0] for key in json.loads(daemon.cursor or "{}")["waiting"]} == set(PAGE)


class TestDropped:
    """Days whose raw rows were dropped by retention."""

    def test_a_day_that_is_requested_again_is_collected_whole(
        self, daemon: GapCloser, market_url: str, exchange: Handle, database: Database
    ):
        day = TODAY - DAY
        names = ("bronze_candle_raw", "silver_candle", "gold_market_daily")
        collect = lambda: materialize(*names, first=day, axis=days)  # noqa: E731
        assert collect().success
        whole = ask(market_url, "SELECT count(*) FROM silver.candle")
        ask(market_url, "DELETE FROM bronze.candle_raw")
        ask(market_url, "INSERT INTO bronze.retention VALUES ('bronze.candle_raw', %s, 'infinity')", day + DAY)
        assert not materialize(*names[1:], first=day, axis=days).success
        assert daemon.tick() != requests_for("candle", 1), "a complete day is not requested by the sensor"
        ask(market_url, "UPDATE bronze.retention SET dropped_at = %s", Clock.moment + timedelta(seconds=1))
        Clock.moment += timedelta(minutes=1)
        assert collect().success
        assert ask(market_url, "SELECT count(*) FROM bronze.candle_raw") == whole
        assert ask(market_url, "SELECT count(*) FROM silver.candle") == whole

    def test_a_dropped_day_does_not_cause_other_requests(self, daemon: GapCloser, market_url: str, exchange: Handle):
        first, last = TODAY - 2 * DAY, TODAY - DAY
        assert materialize("bronze_candle_raw", first=first, last=last, axis=days).success
        ask(market_url, "INSERT INTO bronze.retention VALUES ('bronze.candle_raw', %s, 'infinity')", last)
        pages = "SELECT count(*) FROM bronze.candle_page WHERE day = %s"
        before = ask(market_url, pages, last)
        assert materialize("bronze_candle_raw", first=first, last=last, axis=days).success
        assert ask(market_url, pages, last) == before


class TestCollectToday:
    @staticmethod
    def tick(instance: DagsterInstance) -> RunRequest | SkipReason:
        with build_schedule_context(
            instance, scheduled_execution_time=Clock.moment, resources={"database": Database()}
        ) as context:
            request = collect_today(context)
        assert isinstance(request, RunRequest | SkipReason)
        return request

    def test_today_alone_is_requested_and_collected(
        self, daemon: GapCloser, instance: DagsterInstance, market_url: str, exchange: Handle
    ):
        request = self.tick(instance)
        assert isinstance(request, RunRequest)
        assert (request.partition_key, request.asset_selection) == (days.key_of(TODAY), None)
        assert defs.resolve_job_def("collect_days").execute_in_process(partition_key=request.partition_key).success
        for table in ("bronze.candle_raw", "bronze.trade_raw", "silver.candle_coverage", "gold.market_daily"):
            assert ask(market_url, f"SELECT DISTINCT day FROM {table}") == [(TODAY,)]

    def test_a_partly_collected_day_is_completed_whatever_the_days_back(
        self, daemon: GapCloser, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_DAYS_BACK", "0")
        cover(database, TODAY, "candle", hours=1)
        for hours in (0, 1):
            Clock.moment = NOON + timedelta(hours=hours)
            assert daemon.tick() == set()
        Clock.moment = NOON + DAY
        assert daemon.tick() == requests_for("candle", 0)

    def test_one_day_at_a_time(self, daemon: GapCloser, instance: DagsterInstance):
        job = defs.resolve_job_def("collect_days")
        status, tags = DagsterRunStatus.STARTED, {"dagster/partition": days.key_of(TODAY)}
        run = instance.create_run_for_job(job, tags=tags, status=status)
        assert isinstance(self.tick(instance), SkipReason)
        instance.report_run_failed(run)
        assert isinstance(self.tick(instance), RunRequest)

    @pytest.mark.parametrize("second", [0, 1, 69, 70])
    def test_after_nine_in_seoul_today_is_the_new_day_once_there_is_something_of_it(
        self, daemon: GapCloser, instance: DagsterInstance, second: int
    ):
        Clock.moment = TODAY + DAY + timedelta(seconds=second)
        request = self.tick(instance)
        if second < 70:
            assert isinstance(request, SkipReason)
            assert "The day has just begun" in str(request.skip_message)
        else:
            assert isinstance(request, RunRequest)
            assert request.partition_key == days.key_of(TODAY + DAY)

    def test_without_a_ranking_it_waits_for_one(
        self, daemon: GapCloser, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.delenv("UPBIT_CANDLE_MARKETS")
        request = self.tick(instance)
        assert isinstance(request, SkipReason)
        assert request.skip_message == "There is no turnover ranking yet to choose the markets by."


class TestStaleDays:
    """Raw rows from another process cause requests of their day's silver and gold."""

    @pytest.mark.parametrize("kind", ["candle", "trade"])
    def test_a_late_row_requests_silver_and_gold_of_exactly_its_day(
        self, daemon: GapCloser, market_url: str, exchange: Handle, kind: str
    ):
        for each in ("candle", "trade"):
            names = (f"bronze_{each}_raw", f"silver_{each}", "gold_market_daily")
            with DagsterInstance.ephemeral() as instance:
                first, last = TODAY - 2 * DAY, TODAY - DAY
                assert materialize(*names, first=first, last=last, instance=instance, axis=days).success
        refresher = Refresher(daemon.instance)
        refresher.tick()
        refresher.work()
        assert refresher.tick() == set()
        ask(
            market_url,
            f"INSERT INTO bronze.{kind}_raw (market, raw_data, ingested_at, day, key) "
            f"SELECT market, raw_data, ingested_at, day, key FROM bronze.{kind}_raw WHERE day = %s LIMIT 1",
            TODAY - DAY,
        )
        day = days.key_of(TODAY - DAY)
        assert refresher.tick() == {("refresh_days", day, "gold_market_daily", f"silver_{kind}")}
        refresher.work()
        assert refresher.tick() == set()

    def test_an_empty_page_of_a_killed_run_requests_its_days_coverage(
        self, daemon: GapCloser, market_url: str, exchange: Handle, database: Database
    ):
        day = TODAY - DAY
        missing = "SELECT minutes_missing FROM silver.candle_coverage"
        cover(database, day, "candle", hours=20)
        assert materialize("silver_candle", first=day, axis=days).success
        assert ask(market_url, missing) == [(4 * 60,)]
        refresher = Refresher(daemon.instance)
        assert refresher.tick() == set()
        cover(database, day, "candle")
        assert refresher.tick() == {("refresh_days", days.key_of(day), "gold_market_daily", "silver_candle")}
        refresher.work()
        assert refresher.tick() == set()
        assert ask(market_url, missing) == [(0,)]


class Refresher(Daemon):
    @staticmethod
    def _asked(request: RunRequest) -> Any:
        names = [key.to_user_string() for key in request.asset_selection or []]
        return request.job_name, request.tags["dagster/partition"], *names
