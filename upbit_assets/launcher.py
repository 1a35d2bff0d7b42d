"""How runs start where the code location is a server of its own."""

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value


class CodeLocationRunLauncher(DefaultRunLauncher):
    """Runs inside the code location, and tells run monitoring of those that died with it.

    Dagster's own says nothing of a run whose server was killed: it would stay started for ever, hold its place in
    the queue, and keep its windows from being computed again.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        client = self._get_grpc_client_for_termination(run.run_id)  # there is no public way
        if client is None:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)  # it has ended meanwhile
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
        except DagsterUserCodeUnreachableError:
            return CheckRunHealthResult(WorkerStatus.RUNNING)  # unless the server says otherwise once it is back
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "The code location was restarted while the run was in it.")
