"""Health checks of the deployment's parts, and detection of dead runs."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    OpExecutionContext,
    RunsFilter,
    job,
    op,
)

from upbit_assets import health, launcher
from upbit_assets.partitions import windows
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.instance import EventLog
from upbit_assets_tests.dagster_internals import (
    EmptyWorkspaceTarget,
    WorkerStatus,
    WorkspaceProcessContext,
    run_monitoring,
)
from upbit_assets_tests.deployment.conftest import an_instance, code_location, url_as
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.postgres.lab import until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def broken_location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a running code location whose code doesn't load."""
    with code_location(tmp_path_factory.mktemp("location"), "1 / 0") as (_, port):
        yield port


class TestHealth:
    def test_a_location_with_a_load_error_is_unhealthy(self, broken_location: int):
        assert "ZeroDivisionError" in (health.location(f"127.0.0.1:{broken_location}") or "")

    def test_an_unreachable_location_is_unhealthy(self):
        with pytest.raises(grpc.RpcError):
            health.location("127.0.0.1:1")

    def test_a_daemon_is_healthy_while_all_its_threads_are(self, deployed: EmbeddedPostgres, monkeypatch):
        url = url_as(deployed, "dagster", "dagster")
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
        with an_instance(deployed):
            assert health.daemon() == f"no heartbeat: {', '.join(sorted(health.DAEMON))}"
            beat = (
                "INSERT INTO daemon_heartbeats (daemon_type, timestamp) VALUES (%s, timezone('UTC', now()) - %s) "
                "ON CONFLICT (daemon_type) DO UPDATE SET timestamp = excluded.timestamp"
            )
            for part in health.DAEMON:
                ask(url, beat, part, timedelta(0))
            assert health.daemon() is None
            ask(url, beat, "SENSOR", timedelta(minutes=4))
            assert health.daemon() == "no heartbeat: SENSOR"

    def test_a_bad_answer_ends_the_check_with_an_error(self):
        check = [sys.executable, "-m", "upbit_assets.health", "http://127.0.0.1:1/"]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "refused" in done.stderr


class TestRuns:
    """A dead run is detected, however it was started."""

    @pytest.fixture
    def instance(self, deployed: EmbeddedPostgres) -> Iterator[DagsterInstance]:
        with an_instance(deployed) as instance:
            yield instance

    @staticmethod
    def alive(instance: DagsterInstance, run: DagsterRun) -> bool:
        assert isinstance(instance.event_log_storage, EventLog)
        return instance.event_log_storage.has_heartbeat(run.run_id)

    @staticmethod
    def health(instance: DagsterInstance, run: DagsterRun) -> WorkerStatus:
        return instance.run_launcher.check_run_worker_health(run).status

    def test_a_killed_command_line_run_is_failed(
        self, instance: DagsterInstance, deployed: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
        monkeypatch.setenv("UPBIT_POSTGRES_URL", url_as(deployed, "pipeline"))
        partition = windows.key_of(windows.at(datetime.now(UTC)).start)
        command = [*("asset", "materialize", "--module-name", "upbit_assets.definitions"), "--select", "silver_ticker"]
        with psycopg.connect(deployed.url("upbit")) as lock:
            lock.execute("LOCK TABLE silver.ticker IN ACCESS EXCLUSIVE MODE")
            process = subprocess.Popen([Path(sys.executable).parent / "dagster", *command, "--partition", partition])
            [run] = until(lambda: instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])), "a run")
            until(lambda: self.alive(instance, run), "its sign of life")
            monkeypatch.setattr(launcher, "GRACE_SECONDS", 0)
            assert self.health(instance, run) is WorkerStatus.RUNNING
            process.kill()
            process.wait()
            until(lambda: not self.alive(instance, run), "the end of its session")
            monkeypatch.setattr(launcher, "GRACE_SECONDS", 60)
            assert self.health(instance, run) is WorkerStatus.RUNNING, "its database may have started again"
            monkeypatch.setattr(launcher, "GRACE_SECONDS", 0)
            assert self.health(instance, run) is WorkerStatus.FAILED

    @pytest.mark.parametrize("launched", [False, True])
    def test_a_run_killed_before_its_start_is_failed_in_two_minutes(
        self, instance: DagsterInstance, launched: bool, monkeypatch: pytest.MonkeyPatch
    ):
        @job
        def never_started() -> None: ...

        run = instance.create_run_for_job(never_started)
        if launched:
            instance.report_dagster_event(
                DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, never_started.name), run.run_id
            )

        def status_after(seconds: float) -> DagsterRunStatus:
            monkeypatch.setattr(run_monitoring, "get_current_timestamp", lambda: time.time() + seconds)
            with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
                found = list(run_monitoring.execute_run_monitoring_iteration(workspace, logging.getLogger()))
            assert not any(found)
            return instance.get_runs(RunsFilter(run_ids=[run.run_id]))[0].status

        assert status_after(60) is (DagsterRunStatus.STARTING if launched else DagsterRunStatus.NOT_STARTED)
        assert status_after(120 - instance.run_monitoring_poll_interval_seconds) is DagsterRunStatus.FAILURE

    def test_a_run_killed_while_running_is_failed_in_two_minutes(self, instance: DagsterInstance):
        # looked at first, and again, up to an interval late
        assert launcher.GRACE_SECONDS + 2 * instance.run_monitoring_poll_interval_seconds <= 120
        assert instance.run_monitoring_cancel_timeout_seconds + instance.run_monitoring_poll_interval_seconds <= 120

    def test_a_queued_run_waits_ten_minutes_for_its_code_location(self, instance: DagsterInstance):
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_user_code_failure_retries * queue.user_code_failure_retry_delay >= 600

    def test_a_run_has_a_heartbeat_until_its_end_even_if_its_session_is_lost(
        self, instance: DagsterInstance, deployed: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("upbit_assets.postgres.instance.HEARTBEAT_SECONDS", 0.1)

        @op
        def lose_its_session(context: OpExecutionContext) -> None:
            until(lambda: self.alive(instance, context.run), "a sign of life")
            ends = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE %s"
            assert ask(deployed.url("dagster"), ends, f"%{context.run.run_id}") == [(True,)]
            until(lambda: self.alive(instance, context.run), "another")

        @job
        def lasting() -> None:
            lose_its_session()

        result = lasting.execute_in_process(instance=instance)
        until(lambda: not self.alive(instance, result.dagster_run), "the end of its session")
