"""Launching runs on Celery workers, and detecting those whose worker died."""

import time
from typing import Any, Self

from dagster import DagsterRun
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from upbit_assets.dagster_internals import CheckRunHealthResult, WorkerStatus, instance_of
from upbit_assets.launcher import RunHealthMixin
from upbit_assets.settings import SettingError, settings

QUEUE = "dagster"
REPLY_SECONDS = 5
WEEK = 7 * 24 * 3600
CONFIG = {
    # a worker takes a run only when it has a free slot
    "task_acks_late": True,
    "worker_prefetch_multiplier": 1,
    # Redis doesn't redeliver the run of a killed worker: run monitoring fails it, and its windows are requested again
    "broker_transport_options": {"visibility_timeout": WEEK},
    "broker_connection_retry_on_startup": True,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}


def celery_options() -> dict[str, Any]:
    """Options that the launcher and the workers share.

    Raises:
        SettingError: UPBIT_REDIS_URL is not set.
    """
    url = settings.UPBIT_REDIS_URL
    if not url:
        raise SettingError("UPBIT_REDIS_URL is not set: set it to Redis's URL, e.g. redis://127.0.0.1:6379/0")
    return {"broker": url, "backend": url, "config_source": CONFIG}


class WorkerRunLauncher(RunHealthMixin, CeleryRunLauncher):
    """Launches runs on workers, and reports those whose worker died to run monitoring.

    Dagster's own launcher queries only Redis, where the run of a killed worker stays started forever.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(default_queue=QUEUE, **options)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Self:  # noqa: ARG003
        return cls(**celery_options(), inst_data=inst_data)

    def terminate(self, run_id: str) -> bool:
        """Kill the run's process, which rolls back its transaction; after an interrupt Dagster would retry the step.

        Returns False for a run in a command line's own process, which can't be reached from here.
        """
        instance = instance_of(self)
        run = instance.get_run_by_id(run_id)
        if run is None or not on_a_worker(run):
            return False
        instance.report_run_canceling(run)
        task = self._task_of(run)
        task.revoke(terminate=True, signal="SIGKILL")
        for _ in range(REPLY_SECONDS):
            if task.ready():
                instance.report_run_canceled(run)
                break
            time.sleep(1)  # if no worker replies, run monitoring cancels it later
        return True

    def _task_of(self, run: DagsterRun) -> Any:
        return self.celery.AsyncResult(run.tags[DAGSTER_CELERY_TASK_ID_TAG])

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if not on_a_worker(run):
            return super().check_run_worker_health(run)
        task = self._task_of(run)
        if task.ready():  # Dagster reloads the run before failing it
            return CheckRunHealthResult(WorkerStatus.FAILED, "The worker finished its task, but the run did not end.")
        return self.health_result(
            self._is_active(task), run, "No worker executes the run: its worker was killed or restarted."
        )

    def _is_active(self, task: Any) -> bool:
        """Whether the worker that started the task reports it; a worker that lost Redis forgets its tasks."""
        if task.state != "STARTED":
            return False
        worker = self.celery.control.inspect(destination=[task.info["hostname"]], timeout=REPLY_SECONDS)
        return any(task.id in tasks for tasks in (worker.query_task(task.id) or {}).values())


def on_a_worker(run: DagsterRun) -> bool:
    """Whether the run is on a worker, rather than in a command line's own process."""
    return DAGSTER_CELERY_TASK_ID_TAG in run.tags
