"""Launching runs, and detecting dead ones."""

import time
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher

from upbit_assets.dagster_internals import CheckRunHealthResult, RunLauncher, WorkerStatus, instance_of

GRACE_SECONDS = 60  # a process that just started, or whose database restarts, has no heartbeat for a while


class RunHealthMixin(RunLauncher):
    """Reports runs whose process is gone to run monitoring, on any machine and also for runs of the command line.

    Dagster itself doesn't detect a power failure or a killed command-line process: the run would stay started forever,
    occupy a slot of the queue, and block recomputation of its windows.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._gone_since: dict[str, float] = {}

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        alive = instance_of(self).event_log_storage.has_heartbeat(run.run_id)  # type: ignore[attr-defined]
        return self.health_result(alive, run, "The run's process is gone: it was killed, or its machine stopped.")

    def health_result(self, alive: bool, run: DagsterRun, problem: str) -> CheckRunHealthResult:
        """RUNNING, or FAILED with the problem after GRACE_SECONDS without a heartbeat."""
        if alive:
            self._gone_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        gone = time.monotonic() - self._gone_since.setdefault(run.run_id, time.monotonic())
        if gone < GRACE_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._gone_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, problem)


class WatchedRunLauncher(RunHealthMixin, DefaultRunLauncher):
    """Launches runs as processes of the code location."""
