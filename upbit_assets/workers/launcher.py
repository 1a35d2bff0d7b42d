"""How runs get to the workers, and what becomes of those whose worker dies."""

import time
from typing import Any, Self

from dagster import DagsterRun
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from upbit_assets.dagster_internals import CheckRunHealthResult, WorkerStatus, instance_of
from upbit_assets.launcher import RunHealthMixin
from upbit_assets.settings import SettingError, settings

QUEUE = "dagster"
ANSWER_SECONDS = 5
WEEK = 7 * 24 * 3600
CONFIG = {
    # A worker takes a run when it has a place for it, not one to wait behind its others.
    "task_acks_late": True,
    "worker_prefetch_multiplier": 1,
    # Nobody gets the run of a killed worker from Redis: run monitoring fails it, and its windows are asked for again.
    "broker_transport_options": {"visibility_timeout": WEEK},
    "broker_connection_retry_on_startup": True,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}


def celery_options() -> dict[str, Any]:
    """What the launcher and the workers must agree on.

    Raises:
        SettingError: UPBIT_REDIS_URL is not set.
    """
    url = settings.UPBIT_REDIS_URL
    if not url:
        raise SettingError("UPBIT_REDIS_URL is not set: say where Redis is, e.g. redis://127.0.0.1:6379/0")
    return {"broker": url, "backend": url, "config_source": CONFIG}


class WorkerRunLauncher(RunHealthMixin, CeleryRunLauncher):
    """Launches runs to the workers, and tells run monitoring of those that died with theirs.

    Dagster's own asks Redis only, where a run whose worker was killed stays started for ever.
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
        """Kill the run's process, whose transaction goes with it: Dagster tries an interrupted step again.

        False for a command line's own process, which is out of reach here.
        """
        instance = instance_of(self)
        run = instance.get_run_by_id(run_id)
        if run is None or not on_a_worker(run):
            return False
        instance.report_run_canceling(run)
        task = self._task_of(run)
        task.revoke(terminate=True, signal="SIGKILL")
        for _ in range(ANSWER_SECONDS):
            if task.ready():
                instance.report_run_canceled(run)
                break
            time.sleep(1)  # where no worker answers, run monitoring cancels it in a while
        return True

    def _task_of(self, run: DagsterRun) -> Any:
        return self.celery.AsyncResult(run.tags[DAGSTER_CELERY_TASK_ID_TAG])

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if not on_a_worker(run):
            return super().check_run_worker_health(run)
        task = self._task_of(run)
        if task.ready():  # the run is looked at once more before it is failed
            return CheckRunHealthResult(WorkerStatus.FAILED, "The worker is done with the run, which did not end.")
        return self.health_result(self._is_held(task), run, "No worker has the run: its own was killed or restarted.")

    def _is_held(self, task: Any) -> bool:
        """Whether the worker that began with the task says that it has it; one that lost Redis forgets its tasks."""
        if task.state != "STARTED":
            return False
        worker = self.celery.control.inspect(destination=[task.info["hostname"]], timeout=ANSWER_SECONDS)
        return any(task.id in tasks for tasks in (worker.query_task(task.id) or {}).values())


def on_a_worker(run: DagsterRun) -> bool:
    """Whether it is on a worker, or in a command line's own process."""
    return DAGSTER_CELERY_TASK_ID_TAG in run.tags
