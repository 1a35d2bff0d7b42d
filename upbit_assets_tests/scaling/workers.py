"""Real runs on workers: `make test-celery` starts Redis, two workers and Dagster's daemon, and kills a worker.

It takes minutes, as a worker is given a minute to answer, and needs redis-server; it fails where there is none.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.sandbox.server import running
from upbit_assets.settings import PROJECT
from upbit_assets_tests.postgres import lab

PASSWORD = secrets.token_urlsafe()
WORKERS = ("one", "two")
BEFORE_A_RUN = 150  # a schedule's minute, and the daemon's and the code's start
UNTIL_FAILED = 120  # a minute without heartbeat, and run monitoring's interval


def until(true: Callable[[], Any], what: str, seconds: int) -> Any:
    return lab.until(true, what, seconds, pause=0.5)


class Stack:
    """The daemon, which launches and monitors runs, and the workers."""

    def __init__(self, home: Path, market_url: str, instance: DagsterInstance) -> None:
        self.home, self.market_url, self.instance = home, market_url, instance
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        with (self.home / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [Path(sys.executable).parent / command[0], *command[1:]],
                cwd=PROJECT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill a process and its children, as when a container ends."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait()

    def runs(self, job: str, *statuses: DagsterRunStatus) -> list[DagsterRun]:
        found = self.instance.get_runs(RunsFilter(job_name=job, statuses=list(statuses)))
        return [run for run in found if DAGSTER_CELERY_TASK_ID_TAG in run.tags]

    def status(self, run: DagsterRun) -> DagsterRunStatus:
        found = self.instance.get_run_by_id(run.run_id)
        assert found
        return found.status

    def execution_of(self, run: DagsterRun) -> dict[str, Any]:
        """The worker that executes the run, and the pid of its process."""
        task = self.instance.run_launcher.celery.AsyncResult(run.tags[DAGSTER_CELERY_TASK_ID_TAG])  # type: ignore[attr-defined]
        return task.info

    def worker_of(self, run: DagsterRun) -> str:
        return str(self.execution_of(run)["hostname"]).partition("@")[0]

    def process_of(self, run: DagsterRun) -> psutil.Process:
        return psutil.Process(self.execution_of(run)["pid"])

    def held_up(self) -> DagsterRun:
        """A run that waits for the lock: one already past silver would end normally."""

        def still_there() -> list[DagsterRun]:
            before = {run.run_id for run in self.runs("collect", DagsterRunStatus.STARTED)}
            time.sleep(5)
            return [run for run in self.runs("collect", DagsterRunStatus.STARTED) if run.run_id in before]

        return until(still_there, "a run that waits for the lock", BEFORE_A_RUN)[0]

    def restart_workers(self) -> None:
        """As `docker compose restart worker` does."""
        for name in WORKERS:
            if name in self.processes:
                self.kill(name)
                self.start(name, *worker(name))

    def wait_for_another(self, job: str) -> None:
        """Wait until one more run of the job has succeeded."""
        before = len(self.runs(job, DagsterRunStatus.SUCCESS))
        until(lambda: len(self.runs(job, DagsterRunStatus.SUCCESS)) > before, f"a run of {job}", BEFORE_A_RUN)

    @contextmanager
    def silver_locked(self) -> Iterator[None]:
        """Pauses the runs that refresh silver, halfway."""
        with psycopg.connect(self.market_url) as connection:
            connection.execute("LOCK TABLE silver.ticker IN ACCESS EXCLUSIVE MODE")
            yield


class Redis:
    """A Redis on loopback, with a password."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing; on Debian and Ubuntu: apt-get install redis-server"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        self.folder, self.url = folder, f"redis://127.0.0.1:{port}/0"
        self.command = [program, "-", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self.process.stdin
        self.process.stdin.write(f'requirepass "{PASSWORD}"\n')
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def stack(
    redis: Redis, server: EmbeddedPostgres, market_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("home")
    settings = instance_of_the_image()
    settings = settings.replace("poll_interval_seconds: 15", "poll_interval_seconds: 5")
    (home / "dagster.yaml").write_text(settings.replace("base_dir: /tmp/dagster", f"base_dir: {home}"))
    (home / "redis").write_text(PASSWORD)
    with ExitStack() as started:
        environment = started.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": server.url("dagster"),
            "UPBIT_POSTGRES_URL": market_database,
            "UPBIT_API_URL": started.enter_context(running(market_count=30)).url,
            "UPBIT_REDIS_URL": redis.url,
            "UPBIT_REDIS_PASSWORD_FILE": str(home / "redis"),
        }.items():
            environment.setenv(name, value)
        instance = started.enter_context(DagsterInstance.from_config(str(home)))
        stack = Stack(home, market_database, instance)
        for name in WORKERS:
            stack.start(name, *worker(name))
        stack.start("daemon", "dagster-daemon", "run", "--module-name", "upbit_assets.definitions")
        yield stack
        for name in list(stack.processes):
            stack.kill(name)


def instance_of_the_image() -> str:
    """The dagster.yaml of the workers' image, created as in its Dockerfile."""
    image = "".join((PROJECT / path).read_text() for path in ("dagster.yaml", "deploy/instance.yaml"))
    [script] = re.findall(r"sed -i '(.+)' /opt/dagster", (PROJECT / "deploy" / "celery" / "Dockerfile").read_text())
    return subprocess.run(["sed", script], input=image, capture_output=True, text=True, check=True).stdout


def worker(name: str) -> list[str]:
    """The command of docker-compose.celery.yml, with a name that identifies the worker."""
    return [
        *("celery", "--app=upbit_assets.workers.app", "worker", "--concurrency=3", "--max-tasks-per-child=1"),
        *("--include=upbit_assets.definitions", "--loglevel=WARNING", f"--hostname={name}@%h"),
    ]


def test_scheduled_runs_succeed_on_the_workers_and_gold_follows(stack: Stack):
    until(lambda: stack.runs("collect", DagsterRunStatus.SUCCESS), "a run of collect", BEFORE_A_RUN)
    with psycopg.connect(stack.market_url) as connection:
        assert connection.execute("SELECT count(*) FROM gold.turnover_top10").fetchone() == (10,)


def test_a_run_of_a_killed_worker_fails_and_another_worker_recomputes_its_windows(stack: Stack):
    with stack.silver_locked():
        held = stack.held_up()
        until(lambda: stack.instance.run_launcher.check_run_worker_health(held).status.name == "RUNNING", "health", 10)
        stack.kill(stack.worker_of(held))
        killed_at = time.time()
    until(lambda: stack.status(held) == DagsterRunStatus.FAILURE, "the end of the killed run", UNTIL_FAILED)

    def recomputed() -> bool:
        records = stack.instance.get_run_records(RunsFilter(job_name="collect", statuses=[DagsterRunStatus.SUCCESS]))
        return any((record.start_time or 0) > killed_at for record in records)

    until(recomputed, "the window computed by the other worker", BEFORE_A_RUN)


def test_a_canceled_run_ends_on_its_worker(stack: Stack):
    with stack.silver_locked():
        held = stack.held_up()
        process = stack.process_of(held)
        assert process.is_running()
        assert stack.instance.run_launcher.terminate(held.run_id)
        until(lambda: not process.is_running(), "the end of its process", 10)
        until(lambda: stack.status(held) == DagsterRunStatus.CANCELED, "the end of the canceled run", 10)


def test_when_redis_dies_running_runs_fail_and_restarted_workers_continue(stack: Stack, redis: Redis):
    with stack.silver_locked():
        held = stack.held_up()
        redis.kill()
        redis.start()
        until(lambda: stack.status(held) == DagsterRunStatus.FAILURE, "the end of the run", UNTIL_FAILED)
    stack.restart_workers()
    stack.wait_for_another("collect")
