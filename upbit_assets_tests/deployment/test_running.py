"""What tells whether the deployment's parts, and the runs in them, are well."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from upbit_assets import health
from upbit_assets.definitions import defs
from upbit_assets.launcher import CodeLocationRunLauncher
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.stack import free_port
from upbit_assets_tests.deployment.conftest import an_instance, url_as
from upbit_assets_tests.pipeline import ask


@pytest.fixture(scope="module")
def broken_location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a code location that runs, but whose code does not load."""
    code = tmp_path_factory.mktemp("location") / "code.py"
    code.write_text("1 / 0")
    port = free_port(4100)
    command = ["api", "grpc", "--lazy-load-user-code", "--port", str(port), "--python-file", str(code)]
    with subprocess.Popen([Path(sys.executable).parent / "dagster", *command], stderr=subprocess.DEVNULL) as server:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield port
        server.kill()


class TestHealth:
    def test_a_location_whose_code_did_not_load_is_not_well(self, broken_location: int):
        assert "ZeroDivisionError" in (health.location(f"127.0.0.1:{broken_location}") or "")

    def test_nor_is_one_that_is_not_there(self):
        with pytest.raises(grpc.RpcError):
            health.location("127.0.0.1:1")

    def test_a_daemon_is_well_while_each_of_its_parts_is(self, deployed: EmbeddedPostgres, monkeypatch):
        url = url_as(deployed, "dagster", "dagster")
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
        with an_instance(deployed):
            assert health.daemon() == f"not alive: {', '.join(sorted(health.DAEMON))}"
            beat = (
                "INSERT INTO daemon_heartbeats (daemon_type, timestamp) VALUES (%s, timezone('UTC', now()) - %s) "
                "ON CONFLICT (daemon_type) DO UPDATE SET timestamp = excluded.timestamp"
            )
            for part in health.DAEMON:
                ask(url, beat, part, timedelta(0))
            assert health.daemon() is None
            ask(url, beat, "SENSOR", timedelta(minutes=4))
            assert health.daemon() == "not alive: SENSOR"

    def test_a_bad_answer_ends_the_check_with_an_error(self):
        check = [sys.executable, "-m", "upbit_assets.health", "http://127.0.0.1:1/"]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "refused" in done.stderr


class TestRuns:
    @pytest.fixture
    def instance(self) -> Iterator[DagsterInstance]:
        with DagsterInstance.ephemeral() as instance:
            yield instance

    def worker(self, instance: DagsterInstance, port: int, status: DagsterRunStatus) -> WorkerStatus:
        """What the launcher says of a run that was started on that port."""
        launcher = CodeLocationRunLauncher()
        launcher.register_instance(instance)
        tags = {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})}
        run = instance.create_run_for_job(defs.resolve_job_def("refresh"), tags=tags, status=status)
        return launcher.check_run_worker_health(run).status

    def test_one_that_its_code_location_does_not_know_has_died(self, instance: DagsterInstance, broken_location: int):
        assert self.worker(instance, broken_location, DagsterRunStatus.STARTED) is WorkerStatus.FAILED

    def test_one_whose_code_location_is_away_may_still_run(self, instance: DagsterInstance):
        assert self.worker(instance, 1, DagsterRunStatus.STARTED) is WorkerStatus.RUNNING

    def test_one_that_has_ended_meanwhile_has_not_died(self, instance: DagsterInstance):
        assert self.worker(instance, 1, DagsterRunStatus.SUCCESS) is WorkerStatus.SUCCESS
