"""Dagster continues after a wrong clock: ticks, queue and health checks."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, job

from upbit_assets.dagster_clock import date_back
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets_tests.dagster_internals import (
    SCHEDULED_EXECUTION_TIME_TAG,
    DaemonHeartbeat,
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from upbit_assets_tests.deployment.conftest import an_instance, url_as
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.postgres.lab import until

COMPILER = shutil.which("cc")
# only the wall clock is wrong, as when an administrator sets it; sleeps and waits use the monotonic clock
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("CLOCK_AHEAD_FILE"), "r") : NULL;
  long seconds = 0;
  if (file) {
    if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
    fclose(file);
  }
  return result;
}
"""
AHEAD = timedelta(minutes=90)
CODE = """
import dagster as dg

@dg.op
def nothing(): ...

@dg.job
def quick(): nothing()

@dg.schedule(cron_schedule="* * * * *", job=quick, default_status=dg.DefaultScheduleStatus.RUNNING)
def minutely(): return dg.RunRequest()

@dg.sensor(job=quick, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def often(): return dg.SkipReason("nothing to do")

defs = dg.Definitions(jobs=[quick], schedules=[minutely], sensors=[often])
"""


@pytest.fixture
def instance(deployed: EmbeddedPostgres) -> Iterator[DagsterInstance]:
    with an_instance(deployed) as instance:
        instance.wipe_daemon_heartbeats()  # other tests may leave invalid ones
        yield instance
        instance.wipe()
        instance.schedule_storage.wipe()  # type: ignore[union-attr]
        instance.wipe_daemon_heartbeats()


def instigator(instance: DagsterInstance, kind: InstigatorType, data: Any) -> InstigatorState:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "there")
    origin = RemoteInstigatorOrigin(repository, kind.value.lower())
    return instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.DECLARED_IN_CODE, data))


def tick(instance: DagsterInstance, state: InstigatorState, at: float, *runs: str) -> int:
    data = TickData(
        state.instigator_origin_id,
        state.instigator_name,
        state.instigator_type,
        TickStatus.SUCCESS if runs else TickStatus.STARTED,
        at,
        run_ids=list(runs),
        selector_id=state.selector_id,
    )
    return int(instance.create_tick(data).tick_id)


def test_timestamps_in_the_future_are_shifted_back_and_others_stay(
    instance: DagsterInstance, caplog: pytest.LogCaptureFixture
):
    @job
    def quick() -> None: ...

    now = time.time()
    later = now + AHEAD.total_seconds()
    schedule = instigator(instance, InstigatorType.SCHEDULE, ScheduleInstigatorData("* * * * *", now - 9, later - 60))
    sensor = instigator(
        instance, InstigatorType.SENSOR, SensorInstigatorData(later, cursor="c", last_tick_start_timestamp=later)
    )
    run = instance.create_run_for_job(quick, tags={SCHEDULED_EXECUTION_TIME_TAG: "2026-11-29T06:00:00+00:00"})
    right = tick(instance, schedule, now - 60, run.run_id)
    wrong = [tick(instance, schedule, later - 60, run.run_id), tick(instance, sensor, later)]
    instance.add_daemon_heartbeat(DaemonHeartbeat(later - 5, "SENSOR", None, []))

    ahead = date_back(instance)

    assert ahead is not None
    assert abs(ahead - AHEAD) <= timedelta(seconds=2)
    assert re.search("1:(30:00|29:5.) later than this machine's clock", caplog.text)
    assert date_back(instance) is None
    storage = instance.schedule_storage
    assert storage is not None
    assert storage.get_tick(right).timestamp == now - 60
    dated = [storage.get_tick(each).timestamp for each in wrong]
    assert now - 61 <= dated[0] <= time.time() - 60
    assert now - 1 <= dated[1] <= time.time()
    by_kind = {state.instigator_type: state.instigator_data for state in instance.all_instigator_state()}
    assert by_kind[InstigatorType.SCHEDULE].start_timestamp == now - 9  # type: ignore[union-attr]
    assert by_kind[InstigatorType.SCHEDULE].last_iteration_timestamp <= time.time()  # type: ignore[union-attr,operator]
    assert by_kind[InstigatorType.SENSOR].last_tick_start_timestamp <= time.time()  # type: ignore[union-attr,operator]
    assert by_kind[InstigatorType.SENSOR].cursor == "c"  # type: ignore[union-attr]
    assert instance.get_daemon_heartbeats() == {}
    known = instance.get_run_by_id(run.run_id)
    assert known
    assert datetime.fromisoformat(known.tags[SCHEDULED_EXECUTION_TIME_TAG]) <= datetime.now(UTC)


class Daemon:
    """A real dagster-daemon with a schedule and a sensor, whose clock can be set."""

    def __init__(self, server: EmbeddedPostgres, instance: DagsterInstance, folder: Path) -> None:
        self.url, self.offset, self.log = url_as(server, "dagster", "dagster"), folder / "clock", folder / "log"
        (folder / "code.py").write_text(CODE)
        (folder / "clock.c").write_text(CLOCK)
        subprocess.run(
            [COMPILER or "cc", "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c", "-ldl"], check=True
        )
        self.set_clock(timedelta(0))
        clock = {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK_AHEAD_FILE": str(self.offset)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "dagster-daemon", "run", "-f", folder / "code.py"],
                env=os.environ | clock | {"DAGSTER_HOME": instance.root_directory, "DAGSTER_POSTGRES_URL": self.url},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def set_clock(self, ahead: timedelta) -> None:
        self.offset.write_text(f"{round(ahead.total_seconds())}")

    def newest(self, kind: str) -> timedelta:
        """The age of the newest tick."""
        found = ask(self.url, "SELECT timezone('UTC', now()) - max(timestamp) FROM job_ticks WHERE type = %s", kind)
        return found[0][0] or timedelta.max


@contextmanager
def a_daemon(server: EmbeddedPostgres, instance: DagsterInstance, folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(server, instance, folder)
    try:
        yield daemon
    finally:
        daemon.process.terminate()
        daemon.process.wait(60)
        # its code server doesn't end with it if it has seen the clock go back
        with suppress(ProcessLookupError):
            os.killpg(daemon.process.pid, signal.SIGKILL)


@pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs a C compiler, to set the clock")
@pytest.mark.timeout(420)
@pytest.mark.long
def test_schedules_sensors_and_queue_continue_after_a_clock_that_was_ahead(
    deployed: EmbeddedPostgres, instance: DagsterInstance, tmp_path: Path
):
    def finished() -> int:
        return instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.SUCCESS]))

    def ticks_are_of_now(daemon: Daemon) -> bool:
        sensor, schedule = daemon.newest("SENSOR"), daemon.newest("SCHEDULE")
        return timedelta(0) <= sensor < timedelta(seconds=20) and timedelta(0) <= schedule < timedelta(seconds=70)

    def tick_is_ahead(daemon: Daemon) -> bool:
        return max(daemon.newest("SENSOR"), daemon.newest("SCHEDULE")) < -AHEAD / 2

    with a_daemon(deployed, instance, tmp_path) as daemon:
        until(lambda: daemon.newest("SENSOR") < timedelta(seconds=10), "the first tick", 90)
        daemon.set_clock(AHEAD)
        until(lambda: tick_is_ahead(daemon), "ticks from the future", 150, pause=1)
        daemon.set_clock(timedelta(0))
        before = finished()
        until(lambda: ticks_are_of_now(daemon) and finished() > before, "ticks and runs of now", 120, pause=1)
        assert daemon.process.poll() is None
        assert "later than this machine's clock" in daemon.log.read_text()
