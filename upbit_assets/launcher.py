"""How runs start, and how it is noticed that one has died."""

import time
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher

from upbit_assets.dagster_internals import CheckRunHealthResult, RunLauncher, WorkerStatus, instance_of

PATIENCE_SECONDS = 60  # a process that has just begun, or whose database starts again, shows no life for a while


class RunHealthMixin(RunLauncher):
    """Tells run monitoring of the runs whose process is gone, whoever started it and wherever it was.

    Dagster itself notices nothing where the machine lost power, or where a command line's process was killed: the run
    would stay started for ever, hold its place in the queue, and keep its windows from being computed again.
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

    def health_result(self, alive: bool, run: DagsterRun, what_is_wrong: str) -> CheckRunHealthResult:
        """That it is well, or that it has failed where it has not been alive for a while."""
        if alive:
            self._gone_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        gone = time.monotonic() - self._gone_since.setdefault(run.run_id, time.monotonic())
        if gone < PATIENCE_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._gone_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, what_is_wrong)


class WatchedRunLauncher(RunHealthMixin, DefaultRunLauncher):
    """Runs as processes of the code location."""
