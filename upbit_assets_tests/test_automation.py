"""Schedules and sensors request exactly what is needed, whatever happened while they were off."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    SensorResult,
    SkipReason,
    TimeWindowPartitionsDefinition,
    build_schedule_context,
    build_sensor_context,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from upbit_assets.assets.gold import gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.automation import changed_windows, schedules
from upbit_assets.automation.jobs import make_table_partitions
from upbit_assets.automation.schedules import collect_every_minute
from upbit_assets.checks import newest_window_is_fresh
from upbit_assets.definitions import defs
from upbit_assets.feeds import MARKET_STATS
from upbit_assets.partitions import DAY, RANGE_END, RANGE_START, SEOUL, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database, engine_for
from upbit_assets.sandbox.server import Handle
from upbit_assets.stale import collected_between, committed
from upbit_assets_tests.pipeline import PAST, ask, compute, materialize, now, put_bronze, rows, ticker

TICKERS = {"bronze_ticker_raw", "silver_ticker", "gold_market_stats"}
ORDERBOOKS = {"bronze_orderbook_raw", "silver_orderbook", "gold_orderbook_stats"}

Asked = tuple[str, str, bool]  # first and last window, and whether gold alone
NOTED = "INSERT INTO live.snapshot VALUES (%s)"
PUT = "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at) VALUES ('KRW-BTC', %s, %s)"


class Clock(datetime):
    """The sensor's clock: real time, unless a test advances it."""

    passed = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + cls.passed


class Daemon:
    """Evaluates the sensor as the daemon does, and executes its requests on demand."""

    sensor = changed_windows.refresh_changed_windows

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.requests: list[RunRequest] = []

    def tick(self) -> set[Asked]:
        """The sensor's current requests."""
        context = build_sensor_context(
            self.instance,
            cursor=self.cursor,
            definitions=defs,
            sensor_name=self.sensor.name,
            resources={"database": Database()},
        )
        # through Dagster's own evaluation, which also rejects unknown partitions
        outcome = self.sensor.evaluate_tick(context)
        self.cursor, self.requests = outcome.cursor, list(outcome.run_requests or [])
        self.skipped = outcome.skip_message
        return {self._asked(request) for request in self.requests}

    def work(self) -> None:
        """Execute the last tick's requests."""
        for request in self.requests:
            job = defs.resolve_job_def(str(request.job_name or self.sensor.job_name))
            tags = request.tags
            selection = list(request.asset_selection) if request.asset_selection else None
            assert job.execute_in_process(instance=self.instance, tags=tags, asset_selection=selection).success

    def settle(self) -> None:
        """Tick and execute until nothing is requested."""
        while self.tick():
            self.work()

    @property
    def waiting(self) -> set[str]:
        return {key.partition("/")[2] for key in json.loads(self.cursor or "{}")["waiting"]}

    @staticmethod
    def _asked(request: RunRequest) -> Asked:
        one = request.tags.get("dagster/partition", "")
        gold_alone = request.asset_selection == [AssetKey("gold_market_stats")]
        return request.tags.get(RANGE_START, one), request.tags.get(RANGE_END, one), gold_alone


@pytest.fixture
def daemon(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that has scanned an empty database."""
    for module in (changed_windows, schedules):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(Clock, "passed", timedelta(0))
    # as most tests here are about past windows
    monkeypatch.setattr(changed_windows, "EVERYTHING_EVERY", timedelta(0))
    with DagsterInstance.ephemeral() as instance:
        daemon = Daemon(instance)
        assert daemon.tick() == set()
        yield daemon


def put(database: Database, *minutes: float) -> None:
    for each in minutes:
        put_bronze(
            database, PAST + timedelta(minutes=each), {"KRW-BTC": ticker("KRW-BTC", trade_timestamp="1769600000000")}
        )


def both(*minutes: int) -> set[Asked]:
    """Silver and gold of the windows at these minutes after the first, each in a separate run."""
    return {
        (windows.key_of(PAST + timedelta(minutes=each)), windows.key_of(PAST + timedelta(minutes=each)), False)
        for each in minutes
    }


def tick_at(moment: datetime, instance: DagsterInstance) -> RunRequest | SkipReason:
    # left open, it would leave an instance behind that other tests' runs would use
    with build_schedule_context(instance, moment, resources={"database": Database()}) as context:
        asked = collect_every_minute(context)
    assert isinstance(asked, RunRequest | SkipReason)
    return asked


def requested(instance: DagsterInstance) -> set[str]:
    asked = tick_at(now(), instance)
    assert isinstance(asked, RunRequest)
    return {key.to_user_string() for key in asked.asset_selection or ()}


class TestSchedule:
    def test_a_tick_requests_the_open_window(self, market_url: str, instance: DagsterInstance):
        moment = now()
        asked = tick_at(moment, instance)
        assert isinstance(asked, RunRequest)
        assert asked.partition_key == windows.key_of(windows.at(moment).start)

    def test_a_tick_requests_all_layers_in_one_run(self, database: Database, instance: DagsterInstance):
        assert requested(instance) == TICKERS
        put_bronze(database, now(), {"KRW-BTC": ticker("KRW-BTC")})
        assert materialize("silver_ticker", "gold_market_stats", first=now()).success
        assert requested(instance) == TICKERS | ORDERBOOKS

    def test_a_tick_only_collects_while_the_previous_run_is_unfinished(
        self, market_url: str, instance: DagsterInstance
    ):
        run = instance.create_run_for_job(defs.resolve_job_def("collect"), status=DagsterRunStatus.STARTED)
        assert requested(instance) == {"bronze_ticker_raw"}
        instance.report_run_failed(run)
        assert requested(instance) == TICKERS

    def test_a_tick_requests_nothing_while_the_stream_collects_and_gold_is_fresh(
        self, database: Database, instance: DagsterInstance, market_url: str
    ):
        put_bronze(database, now() - timedelta(minutes=12), {"KRW-BTC": ticker("KRW-BTC")})
        assert materialize("silver_ticker", "gold_market_stats", first=now() - timedelta(minutes=12)).success
        ask(market_url, NOTED, now())
        assert isinstance(skipped := tick_at(now(), instance), SkipReason)
        assert "The stream collects the window" in str(skipped.skip_message)
        ask(market_url, "UPDATE live.snapshot SET taken_at = taken_at - interval '2 minutes'")  # the stream has died
        assert requested(instance) == TICKERS | ORDERBOOKS

    def test_a_tick_requests_a_run_if_gold_is_late_despite_the_stream(self, instance: DagsterInstance, market_url: str):
        ask(market_url, NOTED, now())
        assert requested(instance) == TICKERS

    def test_a_tick_is_carried_out_as_one_more_snapshot(
        self, database: Database, exchange: Handle, instance: DagsterInstance
    ):
        asked = tick_at(now(), instance)
        assert isinstance(asked, RunRequest)
        collect = defs.resolve_job_def("collect")
        assert collect.execute_in_process(
            partition_key=asked.partition_key, asset_selection=list(asked.asset_selection or [])
        ).success
        assert len(rows(database, tables.bronze_ticker_raw)) == 30
        assert len(rows(database, tables.gold_market_stats)) == 30

    def test_a_tick_more_than_a_minute_late_is_skipped_with_a_reason(self, instance: DagsterInstance):
        planned = datetime.now(UTC) - timedelta(seconds=61)
        skipped = tick_at(planned, instance)
        assert isinstance(skipped, SkipReason)
        assert "is too late; past snapshots can't be collected" in str(skipped.skip_message)

    def test_the_tables_partitions_are_made_ahead(self, market_url: str, database: Database):
        tomorrow = f"{datetime.now(windows.partitions.start.tzinfo) + timedelta(days=1):%Y%m%d}"
        there = f"SELECT to_regclass('silver.ticker_{tomorrow}') IS NOT NULL"
        ask(market_url, f"DROP TABLE silver.ticker_{tomorrow}")
        assert make_table_partitions.execute_in_process(resources={"database": database}).success
        assert ask(market_url, there) == [(True,)]


class TestChanges:
    def test_late_rows_are_found(self, daemon: Daemon, database: Database):
        put(database, 0)
        daemon.settle()
        put(database, 1)
        assert daemon.tick() == both(0)

    def test_rows_put_in_by_hand_are_found(self, daemon: Daemon, market_url: str):
        ask(market_url, PUT, ticker("KRW-BTC"), PAST)
        assert daemon.tick() == both(0)

    def test_rows_committed_out_of_order_are_found(self, daemon: Daemon, database: Database, market_url: str):
        with psycopg.connect(market_url) as slow:
            slow.execute(PUT, (ticker("KRW-BTC"), PAST))
            put(database, 30)  # later id and transaction, but committed first
            assert daemon.tick() == both(30)
            daemon.work()
            assert daemon.tick() == set()
        assert daemon.tick() == both(0)

    def test_separate_windows_are_all_found(self, daemon: Daemon, database: Database):
        put(database, 0, 20, 40, 90, 1200)
        assert daemon.tick() == both(0, 20, 40, 90, 1200)

    def test_neighbouring_windows_are_one_run(self, daemon: Daemon, database: Database):
        put(database, 0, 10, 20, 40)
        assert daemon.tick() == {("2026-01-29-14:00", "2026-01-29-14:20", False), *both(40)}
        daemon.work()
        assert daemon.tick() == set()
        assert len(rows(database, tables.gold_market_stats)) == 4

    def test_a_run_is_a_day_long_at_most(self, daemon: Daemon, database: Database):
        put(database, *range(0, 1450, 10))
        assert sorted(daemon.tick()) == [
            ("2026-01-29-14:00", "2026-01-30-13:50", False),
            ("2026-01-30-14:00", "2026-01-30-14:00", False),
        ]

    def test_without_changes_nothing_is_requested(self, daemon: Daemon, database: Database):
        put(database, 0)
        daemon.settle()
        assert daemon.tick() == set()
        assert daemon.skipped == "Nothing changed"

    def test_an_unchanged_window_is_never_rebuilt(self, daemon: Daemon, database: Database, market_url: str):
        put(database, 0, 10)
        daemon.settle()
        built = ask(market_url, "SELECT * FROM silver.ticker_build WHERE window_start = %s", PAST)
        put(database, 11)
        assert daemon.tick() == both(10)
        daemon.settle()
        assert ask(market_url, "SELECT * FROM silver.ticker_build WHERE window_start = %s", PAST) == built

    def test_silver_built_elsewhere_requests_only_gold(self, daemon: Daemon, database: Database):
        put(database, 0)
        daemon.settle()
        assert materialize("silver_ticker", first=PAST).success
        assert daemon.tick() == {("2026-01-29-14:00", "2026-01-29-14:00", True)}
        daemon.work()
        assert daemon.tick() == set()

    def test_new_silver_requests_the_gold_24_hours_later(self, daemon: Daemon, database: Database, market_url: str):
        put(database, 1440)
        daemon.settle()
        assert ask(market_url, "SELECT change_rate_24h FROM gold.market_stats") == [(None,)]
        put(database, 0)
        daemon.settle()
        changes = ask(market_url, "SELECT change_rate_24h FROM gold.market_stats ORDER BY ingested_at")
        assert changes == [(None,), (0,)]

    def test_rows_outside_of_every_partition_stop_nothing(self, daemon: Daemon, database: Database):
        for stray in (windows.partitions.start - DAY, now() + DAY):
            put_bronze(database, stray, {"KRW-BTC": ticker("KRW-BTC")})
        put(database, 0)
        assert daemon.tick() == both(0)

    def test_rows_that_came_in_while_the_first_partition_was_a_later_one_are_found(
        self, daemon: Daemon, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        fmt, zone = windows.partitions.fmt, str(SEOUL)
        later = TimeWindowPartitionsDefinition(PAST + DAY, fmt, cron_schedule="*/10 * * * *", timezone=zone)
        with monkeypatch.context() as moved:
            moved.setitem(vars(windows), "partitions", later)
            put(database, 0, 1440)
            assert daemon.tick() == both(1440)
        assert daemon.tick() == both(0)


@dataclass
class Writer:
    """Sessions that insert a raw row into a window, and commit on demand."""

    url: str
    open: dict[int, tuple[psycopg.Connection[Any], datetime]] = field(default_factory=dict)

    def begin(self, slot: int, window: datetime) -> None:
        self.commit(slot)
        connection = psycopg.connect(self.url)
        connection.execute(PUT, (ticker("KRW-BTC"), window))
        self.open[slot] = connection, window

    def commit(self, slot: int) -> set[datetime]:
        """The window that was committed."""
        if slot not in self.open:
            return set()
        connection, window = self.open.pop(slot)
        connection.commit()
        connection.close()
        return {window}


AGES = [timedelta(minutes=10), timedelta(hours=30), 3 * DAY, 40 * DAY, 200 * DAY]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.sampled_from(AGES)),
        st.tuples(st.just("commit"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from([10, 60, 300, 3600, -300, -86400])),
    ),
    max_size=14,
)


class TestLooks:
    """Recent rows are found at the next tick, rows of any age within ten minutes."""

    examples = 0

    @staticmethod
    def found(database: Database, cursor: dict[str, Any], moment: datetime) -> set[datetime]:
        """The windows that the sensor finds changed at that time."""
        with database.connect() as connection:
            windows_found = {
                window.start for _, window in changed_windows.find_stale_windows(connection, cursor, moment)
            }
        cursor["waiting"] = {changed_windows.waiting_key(MARKET_STATS, start): ["", 0, 0] for start in windows_found}
        return windows_found

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(STEPS)
    @example([("write", 0, AGES[0]), ("write", 1, AGES[4]), ("commit", 1), ("wait", 10), ("commit", 0)])
    @pytest.mark.long
    def test_any_commit_into_any_window_is_found_in_time(
        self, database: Database, market_url: str, steps: list[tuple[Any, ...]]
    ):
        self.examples += 1  # each has separate windows
        moment = now()
        started = moment - self.examples * WINDOW
        writer, cursor = Writer(market_url), dict[str, Any]()
        self.found(database, cursor, moment)
        committed: dict[datetime, timedelta] = {}  # each changed window, and since when by a clock that isn't set back
        for what, *details in [*steps, *(("commit", slot) for slot in range(3)), ("wait", 10), ("wait", 600)]:
            if what == "write":
                slot, age = details
                done = writer.commit(slot)
                writer.begin(slot, windows.at(started - age).start)
            elif what == "commit":
                done = writer.commit(*details)
            else:
                done = set[datetime]()
                passed = timedelta(seconds=details[0])
                moment += passed
                committed = {window: max(ago + passed, timedelta(0)) for window, ago in committed.items()}
                found = self.found(database, cursor, moment)
                for window, ago in committed.items():
                    is_recent = moment - changed_windows.RECENT <= window < moment + DAY
                    assert window in found or not (is_recent or ago >= changed_windows.EVERYTHING_EVERY)
            committed |= {window: timedelta(0) for window in done - committed.keys()}

    @pytest.mark.long
    def test_a_tick_opens_the_same_number_of_partitions_however_many_exist(self, another_url: str, monkeypatch):
        monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
        moment = now()
        few = self.locks_of_a_tick(moment)
        ask(another_url, "SELECT bronze.make_partitions(now() - interval '60 days', now())")
        engine_for(another_url).dispose()
        # a plan may use an index more or less; opening all partitions would take hundreds of locks
        assert self.locks_of_a_tick(moment) < few + 10

    def locks_of_a_tick(self, moment: datetime) -> int:
        """The number of locks of a tick that finds a changed window, with prepared statements."""
        put_bronze(Database(), moment, {"KRW-BTC": ticker("KRW-BTC")})
        cursor: dict[str, Any] = {}
        for _ in range(12):
            assert windows.at(moment).start in self.found(Database(), cursor, moment)
        with Database().engine.begin() as connection:  # holds its locks until its end
            changed_windows.find_stale_windows(connection, cursor, moment)
            locks = sa.text("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'")
            return connection.scalar(locks) or 0

    def test_a_long_transaction_causes_no_repeated_requests(self, database: Database, market_url: str):
        cursor: dict[str, Any] = {}
        with psycopg.connect(market_url) as idle:
            idle.execute("SELECT pg_current_xact_id()")
            self.found(database, cursor, now())
            put(database, 0)
            before = cursor["everything"]
            with database.connect() as connection:
                _, after = committed(connection)
                assert collected_between(connection, MARKET_STATS, before, after) == {PAST}
                assert collected_between(connection, MARKET_STATS, after, committed(connection)[1]) == set()


class TestStreamedWindows:
    """A window whose snapshots the stream takes is computed once, by one run, when it is over."""

    def put(self, database: Database, market_url: str) -> datetime:
        """Snapshots and trades of the open window."""
        moment = now()
        put_bronze(database, moment, {"KRW-BTC": ticker("KRW-BTC")})
        ask(market_url, "DELETE FROM live.snapshot")
        ask(market_url, NOTED, moment)
        ask(
            market_url,
            "INSERT INTO bronze.trade_stream_raw (market, raw_data, ingested_at, traded_at, key, connection) "
            "VALUES ('KRW-BTC', '{}', %s, %s, '1', 'trades-1')",
            moment,
            moment,
        )
        return windows.at(moment).start

    def test_a_streamed_window_is_requested_with_its_bronze_when_it_is_over(
        self, daemon: Daemon, database: Database, market_url: str
    ):
        start = self.put(database, market_url)
        assert daemon.tick() == set()
        Clock.passed = start + WINDOW + timedelta(seconds=40) - datetime.now(UTC)
        ask(market_url, "UPDATE live.snapshot SET taken_at = %s", Clock.now(UTC))
        daemon.tick()
        (request,) = daemon.requests
        assert {key.to_user_string() for key in request.asset_selection or ()} == TICKERS | {
            "bronze_trade_stream_raw",
            "silver_trade_stream",
            "gold_trade_stats",
        }

    def test_a_stream_that_died_leaves_nothing_undone(self, daemon: Daemon, database: Database, market_url: str):
        start = self.put(database, market_url)
        assert daemon.tick() == set()
        Clock.passed = timedelta(minutes=2)
        assert (windows.key_of(start), windows.key_of(start), False) in daemon.tick()

    def test_a_past_windows_run_materializes_its_bronze_too(self, daemon: Daemon, database: Database):
        put(database, 0)
        daemon.settle()
        known = daemon.instance.get_materialized_partitions(AssetKey("bronze_ticker_raw"))
        assert known == {windows.key_of(PAST)}
        assert len(rows(database, tables.gold_market_stats)) == 1


class TestFailures:
    def test_a_window_whose_run_failed_is_requested_again_at_growing_intervals(
        self, daemon: Daemon, database: Database
    ):
        put(database, 0)
        asked_after = []
        for seconds in range(0, 240, 10):
            Clock.passed = timedelta(seconds=seconds)
            if daemon.tick():  # the request is not executed
                asked_after.append(seconds)
            assert daemon.waiting == {"2026-01-29-14:00"}
        assert asked_after in ([0, 30, 90, 210], [0, 40, 100, 220])

        daemon.settle()
        Clock.passed = timedelta(hours=2)
        daemon.settle()
        assert daemon.waiting == set()

    def test_new_rows_end_the_wait(self, daemon: Daemon, database: Database):
        put(database, 0)
        assert daemon.tick() == both(0)
        assert daemon.tick() == set()
        assert daemon.skipped == "1 changed windows wait for their run"
        put(database, 1)
        assert daemon.tick() == both(0)

    @pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED])
    def test_a_window_with_an_unfinished_run_is_not_requested_twice(self, daemon: Daemon, database: Database, status):
        tags = {RANGE_START: windows.key_of(PAST), RANGE_END: windows.key_of(PAST + WINDOW)}
        run = daemon.instance.create_run_for_job(defs.resolve_job_def("refresh"), tags=tags, status=status)
        put(database, 0, 10, 20)
        assert daemon.tick() == both(20)

        daemon.instance.report_run_failed(run)
        assert daemon.tick() == {("2026-01-29-14:00", "2026-01-29-14:10", False)}

    def test_a_window_that_is_being_collected_is_left_to_that_run(self, daemon: Daemon, database: Database):
        tags = {"dagster/partition": windows.key_of(PAST)}
        job = defs.resolve_job_def("collect")
        run = daemon.instance.create_run_for_job(job, tags=tags, status=DagsterRunStatus.STARTED)
        put(database, 0)
        assert daemon.tick() == set()
        daemon.instance.report_run_failed(run)
        assert daemon.tick() == both(0)


class TestFreshness:
    def test_freshness_is_reported_without_a_run(self, market_url: str, instance: DagsterInstance):
        with build_sensor_context(instance, resources={"database": Database()}) as context:
            result = schedules.check_freshness(context)
        assert isinstance(result, SensorResult)
        told = [
            (e.check_name, e.passed, e.description) for e in result.asset_events if isinstance(e, AssetCheckEvaluation)
        ]
        assert told == [
            ("newest_window_is_fresh", False, "There are no figures yet."),
            ("named_markets_are_listed", True, "There is no market list yet."),
        ]

    @pytest.mark.parametrize(
        ("age", "streamed", "passed"), [(4, False, True), (6, False, False), (14, True, True), (16, True, False)]
    )
    def test_figures_may_be_a_window_older_while_the_stream_runs(
        self, database: Database, market_url: str, age: int, streamed: bool, passed: bool
    ):
        at = now() - timedelta(minutes=age)
        put_bronze(database, at, {"KRW-BTC": ticker("KRW-BTC")})
        for asset in (silver_ticker, gold_market_stats):
            compute(database, asset, at)
        if streamed:
            ask(market_url, NOTED, now())
        with database.connect() as connection:
            assert newest_window_is_fresh(connection).passed is passed


class TestAnUnknownDatabase:
    """Its past is scanned, a day per tick, newest first."""

    @staticmethod
    def past_of(database: Database) -> list[datetime]:
        open_window = windows.at(now()).start
        starts = [open_window - days * DAY for days in (0, 1, 3)]
        for start in starts:
            put_bronze(database, start, {"KRW-BTC": ticker("KRW-BTC")})
        return starts

    @staticmethod
    def found_by(daemon: Daemon) -> list[str]:
        found = []
        for _ in range(5):
            # only gold is requested again when silver of the day before was computed
            found += [first for first, _, gold_alone in daemon.tick() if not gold_alone]
            daemon.work()
        return found

    def test_without_a_cursor_the_past_is_scanned(self, daemon: Daemon, database: Database):
        starts = self.past_of(database)
        daemon.cursor = None
        assert self.found_by(daemon) == [windows.key_of(start) for start in starts]
        assert len(rows(database, tables.gold_market_stats)) == 3

    def test_the_cursor_of_a_version_that_knew_tickers_only_is_reset(self, daemon: Daemon, database: Database):
        starts, here = self.past_of(database), json.loads(daemon.cursor or "{}")["database"]
        old = {"database": here, "seen": 2**60, "past": None, "waiting": {"2026-01-29-14:00": ["1", 1, 9e9]}}
        daemon.cursor = json.dumps(old)
        assert self.found_by(daemon) == [windows.key_of(start) for start in starts]

    def test_another_database_is_scanned_from_the_start(
        self, daemon: Daemon, database: Database, another_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
        starts = self.past_of(Database())
        assert self.found_by(daemon) == [windows.key_of(start) for start in starts]
