"""All uses of Dagster beyond its public API, which ruff forbids elsewhere.

A newer Dagster may change any of it: test_dagster_internals.py reports what, and the tables' schema is verified before
each use. Only health.py reads Dagster's heartbeats itself, because importing Dagster takes seconds.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from logging import Logger
from tempfile import gettempdir
from textwrap import shorten
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetKey,
    AssetsDefinition,
    DagsterEvent,
    DagsterInstance,
    OutputContext,
    PartitionsDefinition,
    TimeWindow,
)
from dagster._core import log_manager
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.instance.types import MayHaveInstanceWeakref
from dagster._core.launcher.base import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.tags import SCHEDULED_EXECUTION_TIME_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.utils import DaemonErrorCapture
from dagster._utils.error import ExceptionInfo, serializable_error_info_from_exc_info
from dagster_shared.error import SerializableErrorInfo

from upbit_assets.postgres.resource import instance_url
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.settings import PROJECT

# names that are re-exported
__all__ = [
    "SCHEDULED_EXECUTION_TIME_TAG",  # by which Dagster finds the run of a schedule's tick
    "AssetCheckEvaluationTargetMaterializationData",  # an argument of the public AssetCheckEvaluation
    "CheckRunHealthResult",  # the result type of a launcher's check_run_worker_health
    "InstigatorState",  # the state of a schedule or sensor
    "InstigatorTick",  # a tick of it
    "RunLauncher",  # the base class for a mixin; only the default launcher is public
    "WorkerStatus",  # part of CheckRunHealthResult
    "dagster_tables",
    "fork_runs",
    "instance_of",
    "log_errors_briefly",
    "materialize_only",
    "output_of",
    "prune",
    "share_connections",
    "update_partition_statuses",
    "watch_code_less_often",
]


def instance_of(part: MayHaveInstanceWeakref[DagsterInstance]) -> DagsterInstance:
    """The instance of a launcher or coordinator; subclasses have no public access to it."""
    return part._instance


def materialize_only(context: OutputContext, partitions: Iterable[str]) -> None:
    """Materialize only these partitions of an output; by default Dagster marks the run's whole range."""
    context._asset_partitions_subset = context.asset_partitions_def.subset_with_partition_keys(list(partitions))


def update_partition_statuses(instance: DagsterInstance, assets: Mapping[AssetKey, PartitionsDefinition]) -> None:
    """Update the UI's cache of materialized partitions; without that, the first page after a year takes 48 s."""
    for asset, partitions in assets.items():
        get_and_update_asset_status_cache_value(instance, asset, partitions)


def output_of(asset: AssetsDefinition, window: TimeWindow, **inputs: Any) -> Any:
    """What an asset's function returns for a span of windows; contexts built by Dagster support only a single one."""
    function: Any = asset.op.compute_fn
    context = [SimpleNamespace(partition_time_window=window)] if function.has_context_arg() else []
    return function.decorated_fn(*context, **inputs)


# methods of Dagster's storages that query which tables and columns exist, called before most statements
SCHEMA_QUERIES = (
    "_has_asset_daemon_asset_evaluations_table",
    "_has_asset_key_col_on_connection",
    "_has_instigators_table",
    "has_backfill_id_column",
    "has_backfill_tags_table",
    "has_bulk_action_job_name_column",
    "has_bulk_actions_selector_cols",
    "has_built_index",
    "has_instigators_table",
    "has_run_stats_index_cols",
    "has_secondary_index",
    "has_secondary_index_table",
    "has_table",
)


def share_connections(engine: sa.Engine, storages: Iterable[Any]) -> None:
    """Let storages use the engine's connection pool, and query only once whether a table exists.

    By default they open a connection per statement and repeat these queries: 700 connections and 400 queries a minute,
    two thirds of PostgreSQL's work.
    """
    for storage in storages:
        storage._engine = engine
        for name in SCHEMA_QUERIES:
            if hasattr(storage, name):
                setattr(storage, name, CachedWhenTrue(getattr(storage, name)))


class CachedWhenTrue:
    """A schema query whose result is cached once it is true: tables and columns are never removed."""

    def __init__(self, query: Callable[..., bool]) -> None:
        self.query, self.known = query, set[tuple[str, ...]]()

    def __call__(self, *arguments: Any) -> bool:
        names = tuple(each for each in arguments if isinstance(each, str))  # the others are connections
        if names not in self.known and self.query(*arguments):
            self.known.add(names)
        return names in self.known


MAX_TEMPORARY_FOLDER = 70  # bytes; the process that forks has a socket there, whose path has at most 107


def fork_runs(preload: str) -> None:
    """In a code location's server: fork each run from a process that has imported the module `preload`.

    By default each run is a new Python process, whose imports take half of its CPU time. So it stays if the path of
    the folder for temporary files is too long.
    """
    server = sys.modules.get("dagster._grpc.server")
    if server is None or len(os.fsencode(gettempdir())) > MAX_TEMPORARY_FOLDER:
        return
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["dagster._cli", "dagster._grpc.impl", preload])
    # a property takes precedence over the attribute, which the server has set before it loads the code
    server.DagsterApiServer._mp_ctx = property(lambda _server: forking, lambda _server, _default: None)


START_WATCH_THREAD = WorkspaceProcessContext._start_watch_thread


def watch_code_less_often() -> None:
    """Let the webserver and the daemon look every five seconds whether the code location was reloaded.

    By default they look every second, each time over a new channel, which was a sixth of an idle stack's CPU time.
    """
    WorkspaceProcessContext._start_watch_thread = start_watch_thread  # type: ignore[method-assign, assignment]


def start_watch_thread(context: WorkspaceProcessContext, origin: Any) -> None:
    from dagster._grpc import server_watcher  # takes 10 MB, which runs don't need

    server_watcher.WATCH_INTERVAL = 5
    START_WATCH_THREAD(context, origin)


ERROR_LENGTH = 500  # characters of each message
OURS = f'File "{PROJECT / "upbit_assets"}'


def log_errors_briefly() -> None:
    """Let Dagster's processes log the messages of errors without their stack traces, which the UI has.

    With them a failed run is some hundred lines of the log, and no setting leaves them out.
    """
    log_manager._error_str_for_event = brief_error_of_event
    DaemonErrorCapture.process_exception = staticmethod(log_briefly)


def brief_error_of_event(event: DagsterEvent) -> str | None:
    error = getattr(event.event_specific_data, "error", None)
    return f"\n{brief(error)}" if error else None


def log_briefly(exc_info: ExceptionInfo, logger: Logger, log_message: str) -> SerializableErrorInfo:
    """Log what the daemon failed to do, a tick of a schedule for example; the result is stored with it."""
    error = serializable_error_info_from_exc_info(exc_info)
    logger.error("%s\n%s", log_message, brief(error))
    return error


def brief(error: SerializableErrorInfo) -> str:
    """A line for the error, for each of its causes, and for the place in this project where the first arose."""
    errors = [error]
    while cause := errors[-1].cause or errors[-1].context:
        errors.append(cause)
    stack = errors[-1].stack
    places = [frame for frame in stack if OURS in frame] or [*stack]
    lines = [shorten(each.message, ERROR_LENGTH, placeholder=" …") for each in errors]
    lines += [place.strip().partition("\n")[0] for place in places[-1:]]
    return "\n".join(f"  {line}" for line in lines)


REVISIONS = frozenset({"29b539ebc72a"})  # supported revisions of Dagster's schema (alembic_version)
PRUNE_BATCH = 200  # runs

OLD_RUNS = sa.text("""
SELECT id, run_id FROM runs
WHERE id > :after AND status IN ('SUCCESS', 'FAILURE', 'CANCELED') AND update_timestamp < :before
ORDER BY id LIMIT :most
""")

LAST_RESULTS = sa.text("""
SELECT array_agg(asset_key) AS assets, array_agg(check_name) AS checks, array_agg(last) AS last
FROM (SELECT asset_key, check_name, max(id) AS last FROM asset_check_executions GROUP BY asset_key, check_name) AS each
""")

# force index scans: with outdated statistics the planner would read the whole log
BY_INDEX = sa.text("""
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)
""")

# materializations that earlier calls kept as a window's last one, and that these runs have superseded
DELETE_REPLACED = sa.text("""
WITH events AS (
  DELETE FROM event_logs AS event USING event_logs AS newer
  WHERE newer.run_id = ANY(:runs) AND newer.dagster_event_type = 'ASSET_MATERIALIZATION'
    AND event.asset_key = newer.asset_key AND event.partition = newer.partition
    AND event.dagster_event_type = 'ASSET_MATERIALIZATION' AND event.id < newer.id
    AND NOT EXISTS (SELECT FROM runs WHERE runs.run_id = event.run_id)
  RETURNING event.id
)
DELETE FROM asset_event_tags USING events WHERE event_id = events.id
""")

# keeps each window's last materialization, and so its status in Dagster, and each check's last result
DELETE_RUNS = sa.text("""
WITH events AS (
  DELETE FROM event_logs AS event
  WHERE run_id = ANY(:runs) AND (dagster_event_type IS DISTINCT FROM 'ASSET_MATERIALIZATION' OR EXISTS (
    SELECT FROM event_logs AS newer
    WHERE newer.asset_key = event.asset_key AND newer.partition = event.partition
      AND newer.dagster_event_type = 'ASSET_MATERIALIZATION' AND newer.id > event.id))
  RETURNING id
), tags AS (
  DELETE FROM asset_event_tags USING events WHERE event_id = events.id
), results AS (
  DELETE FROM asset_check_executions AS result
  USING unnest(CAST(:assets AS text[]), CAST(:checks AS text[]), CAST(:last AS bigint[])) AS each (asset, name, last)
  WHERE result.asset_key = each.asset AND result.check_name = each.name
    AND result.run_id = ANY(:runs) AND result.id < each.last
)
DELETE FROM runs WHERE run_id = ANY(:runs)
""")


class UnknownDagsterSchemaError(RuntimeError):
    """Dagster's schema has an unsupported revision; its tables were left unchanged."""


def dagster_tables() -> sa.Engine:
    """Dagster's database.

    Raises:
        UnknownDagsterSchemaError: its schema has an unsupported revision.
    """
    url = sqlalchemy_url(instance_url())
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        require_known(connection)
    return engine


def require_known(connection: sa.Connection) -> None:
    stamped = connection.scalar(sa.text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    found = connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all() if stamped else []
    if not found or not REVISIONS.issuperset(found):
        raise UnknownDagsterSchemaError(
            f"Dagster's database has the schema revision {', '.join(found) or '(none)'}, but this version of "
            f"upbit_assets supports only {', '.join(sorted(REVISIONS))}, so it left Dagster's tables unchanged. "
            "Install the Dagster version in requirements.lock, or a newer upbit_assets."
        )


def prune(engine: sa.Engine, before: datetime) -> int:
    """Delete finished runs and their logs from Dagster's database; returns the number of runs.

    Dagster's own deletion of a run would delete its materializations too. Each batch of runs is a transaction, so that
    locks are short and an interrupted call keeps its progress.
    """
    old = {"before": before.astimezone(UTC).replace(tzinfo=None), "most": PRUNE_BATCH}
    pruned, after = 0, 0
    with engine.connect() as connection:
        last = connection.execute(LAST_RESULTS).mappings().one()
    while True:
        with engine.begin() as connection:
            found = connection.execute(OLD_RUNS, {**old, "after": after}).all()
            if not found:
                return pruned
            connection.execute(BY_INDEX)
            runs = [row.run_id for row in found]
            connection.execute(DELETE_REPLACED, {"runs": runs})
            pruned += connection.execute(DELETE_RUNS, {"runs": runs, **last}).rowcount
        after = found[-1].id
