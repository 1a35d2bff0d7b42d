"""The tests' uses of Dagster beyond its public API, to drive its daemon and create stored events; see
upbit_assets.dagster_internals."""

from dagster._core.launcher.base import WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.event_log import in_memory as events_in_memory
from dagster._core.storage.runs import in_memory as runs_in_memory
from dagster._core.storage.sql import get_alembic_config
from dagster._core.storage.tags import SCHEDULED_EXECUTION_TIME_TAG
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget, GrpcServerTarget
from dagster._daemon.monitoring import run_monitoring
from dagster._daemon.types import DaemonHeartbeat
from dagster._daemon.utils import DaemonErrorCapture
from dagster._grpc import server as grpc_server
from dagster._grpc import server_watcher

__all__ = [
    "SCHEDULED_EXECUTION_TIME_TAG",
    "DaemonErrorCapture",
    "DaemonHeartbeat",
    "EmptyWorkspaceTarget",
    "GrpcServerTarget",
    "InstigatorState",
    "InstigatorStatus",
    "InstigatorType",
    "RegisteredCodeLocationOrigin",
    "RemoteInstigatorOrigin",
    "RemoteRepositoryOrigin",
    "ScheduleInstigatorData",
    "SensorInstigatorData",
    "TickData",
    "TickStatus",
    "WorkerStatus",
    "WorkspaceProcessContext",
    "create_run_for_test",
    "events_in_memory",
    "get_alembic_config",
    "grpc_server",
    "run_monitoring",
    "runs_in_memory",
    "server_watcher",
]
