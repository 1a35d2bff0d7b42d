"""All that this project takes from Dagster past its public API, for what the API can't do; ruff forbids it elsewhere.

A later Dagster may change any of it: test_dagster_internals.py says what, and the tables are looked at before each use.
health.py alone reads Dagster's heartbeats by itself, as it must not take the seconds that importing Dagster takes.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from dagster import AssetsDefinition, DagsterInstance, OutputContext, TimeWindow
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.instance.types import MayHaveInstanceWeakref
from dagster._core.launcher.base import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick
from dagster._core.storage.tags import SCHEDULED_EXECUTION_TIME_TAG

from upbit_assets.postgres.resource import instance_url
from upbit_assets.postgres.url import sqlalchemy_url

# what is used elsewhere under its own name
__all__ = [
    "SCHEDULED_EXECUTION_TIME_TAG",  # by which Dagster knows whether a schedule has asked for a run of that time
    "AssetCheckEvaluationTargetMaterializationData",  # what a check looked at, which the public evaluation takes
    "CheckRunHealthResult",  # a launcher's answer to run monitoring
    "InstigatorState",  # where a schedule or sensor goes on from
    "InstigatorTick",  # one time that it was asked
    "RunLauncher",  # what a mixin of all launchers is made of: only the default one is public
    "WorkerStatus",  # the answer's kinds
    "dagster_tables",
    "instance_of",
    "materialize_only",
    "output_of",
    "prune",
    "share",
]


def instance_of(part: MayHaveInstanceWeakref[DagsterInstance]) -> DagsterInstance:
    """The instance of a launcher or coordinator, which has no public name for whoever derives from it."""
    return part._instance


def materialize_only(context: OutputContext, partitions: Iterable[str]) -> None:
    """Have an output materialize these of its partitions; Dagster takes all of a run's range to be there after it."""
    context._asset_partitions_subset = context.asset_partitions_def.subset_with_partition_keys(list(partitions))


def output_of(asset: AssetsDefinition, window: TimeWindow, **inputs: Any) -> Any:
    """What an asset's function returns for a span of windows; a context that Dagster builds knows of one alone."""
    function: Any = asset.op.compute_fn
    context = [SimpleNamespace(partition_time_window=window)] if function.has_context_arg() else []
    return function.decorated_fn(*context, **inputs)


# How storages ask what tables and columns their database has, which they do before most statements.
QUESTIONS = (
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


def share(engine: sa.Engine, storages: Iterable[Any]) -> None:
    """Have storages, whose tables are there, take their connections from the engine, and ask for a table only once.

    Dagster's own open a connection for each statement, and ask each time: 700 connections and 400 questions a minute,
    which were two thirds of PostgreSQL's work.
    """
    for storage in storages:
        storage._engine = engine
        for question in QUESTIONS:
            if hasattr(storage, question):
                setattr(storage, question, Remembered(getattr(storage, question)))


class Remembered:
    """A question to the database that is asked until the answer is yes: what is there once is not taken away."""

    def __init__(self, ask: Callable[..., bool]) -> None:
        self.ask, self.known = ask, set[tuple[str, ...]]()

    def __call__(self, *about: Any) -> bool:
        names = tuple(each for each in about if isinstance(each, str))  # the others are connections
        if names not in self.known and self.ask(*about):
            self.known.add(names)
        return names in self.known


REVISIONS = frozenset({"29b539ebc72a"})  # Dagster's own schema, as its alembic_version says: those known here
RUNS_AT_ONCE = 200

OLD_RUNS = sa.text("""
SELECT id, run_id FROM runs
WHERE id > :after AND status IN ('SUCCESS', 'FAILURE', 'CANCELED') AND update_timestamp < :before
ORDER BY id LIMIT :most
""")

LAST_RESULTS = sa.text("""
SELECT array_agg(asset_key) AS assets, array_agg(check_name) AS checks, array_agg(last) AS last
FROM (SELECT asset_key, check_name, max(id) AS last FROM asset_check_executions GROUP BY asset_key, check_name) AS each
""")

# All of it is found by an index; statistics that lag behind must not make the planner read the whole log instead.
BY_INDEX = sa.text("""
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)
""")

# What an earlier call left as a window's last materialization, and these runs have replaced since.
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

# The last materialization of each window stays, and with it what Dagster knows to be there; so does each check's last
# result.
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
    """Dagster's tables are not those that were known here; nothing was done to them."""


def dagster_tables() -> sa.Engine:
    """Dagster's database, where its tables are those known here.

    Raises:
        UnknownDagsterSchemaError: they are not.
    """
    url = sqlalchemy_url(instance_url())
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        require_known(connection)
    return engine


def require_known(connection: sa.Connection) -> None:
    there = connection.scalar(sa.text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    found = connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all() if there else []
    if not found or not REVISIONS.issuperset(found):
        raise UnknownDagsterSchemaError(
            f"Dagster's database has the schema {', '.join(found) or 'of no version'}, and this version of "
            f"upbit_assets knows {', '.join(sorted(REVISIONS))} only, so it left Dagster's tables as they are. Install "
            "the Dagster that requirements.lock names, or a newer upbit_assets."
        )


def prune(engine: sa.Engine, before: datetime) -> int:
    """Delete finished runs and their log from Dagster's database; returns how many runs.

    Dagster's own way of deleting a run takes its materializations along. A transaction is of a few runs, so that no
    lock is held for long; what was deleted before it was stopped is not looked at again.
    """
    old = {"before": before.astimezone(UTC).replace(tzinfo=None), "most": RUNS_AT_ONCE}
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
