"""Checks by window. `silver.check_result` has which window fails which check, since when and why.

To Dagster these checks are not partitioned: for a partitioned one, every poll of a page that shows the asset recomputes
the status of all windows, which for a year of windows takes a minute per check. Instead, each evaluation reports all
currently failing windows, so it doesn't pass because another window does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    MetadataValue,
    Output,
    TimeWindow,
    multi_asset_check,
)
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.dagster_internals import AssetCheckEvaluationTargetMaterializationData as Target
from upbit_assets.partitions import DAY, SEOUL, WINDOW, Axis
from upbit_assets.postgres.instance import CHECKS
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import bronze_retention, kept_from, metadata
from upbit_assets.postgres.tables import silver_check_result as check_result
from upbit_assets.postgres_io import lock_key, locked

MAX_NAMED, MAX_OTHERS_NAMED = DAY // WINDOW, 10


@dataclass(frozen=True)
class Result:
    """The result of a check, for one window or for the current state."""

    passed: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the window fails, as text."""
        details = (f"{name}: {value}" for name, value in self.details.items() if value != "")
        return None if self.passed else "; ".join([*([self.note] if self.note else []), *details])


Results = Mapping[datetime, Result]


Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Check(Generic[Function]):
    """A check of an asset, with the function's name and docstring."""

    function: Function
    severity: AssetCheckSeverity

    @property
    def name(self) -> str:
        return self.function.__name__

    def spec(self, asset: str) -> AssetCheckSpec:
        return AssetCheckSpec(self.name, asset=asset, description=self.function.__doc__)


class WindowCheck(Check[Callable[[sa.Connection, TimeWindow], Results]]):
    """A check of each window of a span."""


@dataclass(frozen=True)
class SampledCheck(WindowCheck):
    """A check of a sample of past windows and of those that fail it, independent of a run's windows.

    Args:
        sample: returns the starts of the windows.
    """

    sample: Callable[[sa.Connection], Sequence[datetime]]


class CurrentStateCheck(Check[Callable[[sa.Connection], Result]]):
    """A check of the current state, independent of a run's windows."""


def window_check(
    severity: AssetCheckSeverity = AssetCheckSeverity.ERROR,
) -> Callable[[Callable[[sa.Connection, TimeWindow], Results]], WindowCheck]:
    return lambda function: WindowCheck(function, severity)


def checks_of(
    asset: str,
    axis: Axis,
    *checks: WindowCheck | CurrentStateCheck,
    table: sa.Table | None = None,
    step: str | None = None,
) -> AssetChecksDefinition:
    """The checks of an asset, all in one step, for the run's windows.

    A run without windows (of checks only) evaluates the failing windows and the newest one.

    Args:
        table: the table whose retention applies; None: the one that the asset is named after.
        step: distinguishes several steps of an asset; None: its only one.
    """
    key = AssetKey(asset)
    retained = metadata.tables[asset.replace("_", ".", 1)] if table is None else table
    name = "_".join(filter(None, [asset, step])) + CHECKS

    @multi_asset_check(name=name, specs=[check.spec(asset) for check in checks], can_subset=True)
    def run_checks(
        context: AssetCheckExecutionContext, database: Database
    ) -> Iterator[AssetCheckEvaluation | Output[None]]:
        chosen = [each for each in checks if AssetCheckKey(key, each.name) in context.selected_asset_check_keys]
        log = CheckLog(asset, axis, retained, context.run.run_id)
        own = axis.of_run(context.run.tags)
        if own:  # evaluated by a sensor and a schedule, as they don't concern the run's windows
            chosen = [each for each in chosen if not isinstance(each, CurrentStateCheck | SampledCheck)]
        with exclusively(database, asset) as connection:
            results = {
                each: log.results(connection, each, own or log.windows_of(connection, each))
                for each in chosen
                if isinstance(each, WindowCheck)
            }
            log.store(connection, results)
            failing = log.failing(connection, sorted({start for each in results.values() for start in each}))
            for check in chosen:
                if isinstance(check, CurrentStateCheck):
                    yield evaluate_current(asset, check, connection, context.instance)
                else:
                    result = log.summary(check, results[check], failing.get(check.name, []))
                    yield evaluation(asset, check, result, context.instance)
                yield Output(None, output_name=check.spec(asset).get_python_identifier())

    return run_checks


def evaluate_current(
    asset: str, check: CurrentStateCheck, connection: sa.Connection, instance: DagsterInstance
) -> AssetCheckEvaluation:
    return evaluation(asset, check, check.function(connection), instance)


def evaluation(asset: str, check: Check[Any], result: Result, instance: DagsterInstance) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=AssetKey(asset),
        check_name=check.name,
        passed=result.passed,
        metadata=result.details,
        description=result.note,
        severity=check.severity,
        target_materialization_data=newest_materialization(instance, AssetKey(asset)),
    )


def newest_materialization(instance: DagsterInstance, asset: AssetKey) -> Target | None:
    """The target of an evaluation; Dagster's own lookup takes most of a second with many partitions."""
    for record in instance.fetch_materializations(AssetRecordsFilter(asset), limit=1).records:
        return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
    return None


@contextmanager
def exclusively(database: Database, asset: str) -> Iterator[sa.Connection]:
    """A transaction with an exclusive lock on the asset's checks, so that a later evaluation includes earlier ones."""
    with (
        database.connect() as connection,
        locked(connection, [lock_key(f"checks of {asset}")]) as locking,
        locking.begin(),
    ):
        yield locking


@dataclass(frozen=True)
class CheckLog:
    """The stored results of an asset's windows, as read and written by one run."""

    asset: str
    axis: Axis
    table: sa.Table
    run_id: str

    def windows_of(self, connection: sa.Connection, check: WindowCheck) -> list[datetime]:
        """The failing windows and the newest one; for a sampled check, its sample and its newest failing windows."""
        if isinstance(check, SampledCheck):
            own = sa.select(check_result.c.window_start).where(
                self.is_failing(), check_result.c.check_name == check.name
            )
            failing = connection.scalars(own.order_by(check_result.c.window_start.desc()).limit(MAX_OTHERS_NAMED))
            return sorted({*failing, *check.sample(connection)})
        newest = sa.select(sa.func.max(check_result.c.window_start)).where(check_result.c.asset == self.asset)
        fails = sa.select(check_result.c.window_start).where(self.is_failing())
        found = {start for start in connection.scalars(sa.union(newest, fails)) if start}
        return sorted(found) or [self.axis.at(datetime.now(UTC)).start]

    def is_failing(self) -> sa.ColumnElement[bool]:
        """SQL: whether a window fails; windows whose data was dropped by retention don't count."""
        kept = sa.func.coalesce(check_result.c.window_start >= kept_from(self.table), True)
        return sa.and_(check_result.c.asset == self.asset, ~check_result.c.passed, kept)

    def results(self, connection: sa.Connection, check: WindowCheck, starts: Sequence[datetime]) -> Results:
        found: dict[datetime, Result] = {}
        for span in self.axis.spans(starts):
            found |= check.function(connection, span)
        return {start: found[start] for start in starts}

    def store(self, connection: sa.Connection, results: Mapping[WindowCheck, Results]) -> None:
        now = datetime.now(UTC)
        rows = [
            {
                "asset": self.asset,
                "check_name": check.name,
                "window_start": start,
                "passed": result.passed,
                "severity": check.severity.value,
                "reason": result.reason,
                "failing_since": None if result.passed else now,
                "checked_at": now,
                "run_id": self.run_id,
            }
            for check, each in results.items()
            for start, result in each.items()
        ]
        if not rows:
            return
        added = insert(check_result)
        new = added.excluded
        values = {name: new[name] for name in ("passed", "severity", "reason", "checked_at", "run_id")}
        since = sa.case((~new.passed, sa.func.coalesce(check_result.c.failing_since, new.failing_since)))
        replaced = {**values, "failing_since": since}
        connection.execute(added.on_conflict_do_update(constraint=check_result.primary_key, set_=replaced), rows)

    def failing(self, connection: sa.Connection, starts: Sequence[datetime]) -> dict[str, list[sa.Row[Any]]]:
        """Each check's failing windows, newest first: those of the run, and a few others.

        Each row has the total count.
        """
        name, start = check_result.c.check_name, check_result.c.window_start
        own = (start == sa.any_(sa.cast(list(starts), sa.ARRAY(start.type)))).label("own")
        count = sa.func.count().over(partition_by=name).label("failing")
        nth = sa.func.row_number().over(partition_by=(name, own), order_by=start.desc()).label("nth")
        fails = sa.select(check_result, own, count, nth).where(self.is_failing()).subquery()
        named = fails.c.nth <= sa.case((fails.c.own, MAX_NAMED), else_=MAX_OTHERS_NAMED)
        order = (fails.c.check_name, fails.c.own.desc(), fails.c.nth)
        rows = connection.execute(sa.select(fails).where(named).order_by(*order)).all()
        return {name: list(windows) for name, windows in groupby(rows, lambda row: row.check_name)}

    def summary(self, check: WindowCheck, results: Results, failing: Sequence[sa.Row[Any]]) -> Result:
        """The result to report to Dagster: it passes only if no window fails, and describes the run's own windows."""
        starts = list(results)
        if not starts:
            return Result(True, note="There are no windows to check.")
        what = self.axis.key_of(starts[0])
        if isinstance(check, SampledCheck):
            what = self.axis.named(starts)
        elif len(starts) > 1:
            what += f" to {self.axis.key_of(starts[-1])}, {len(starts)} windows"
        note = [f"Checked: {what}."]
        details: dict[str, Any] = {}
        if len(starts) == 1:
            (only,) = results.values()
            details |= {name: value for name, value in only.details.items() if value != ""}
            note += [only.note] if only.note else []
        if failing:
            count = failing[0].failing
            note.append(f"{count} {'window fails' if count == 1 else 'windows fail'}.")
            details["failing windows"] = MetadataValue.md("\n".join(self.as_table(failing, count)))
        return Result(not failing, details, " ".join(note))

    def as_table(self, failing: Sequence[sa.Row[Any]], count: int) -> Iterable[str]:
        yield from ("| window | failing since | reason | checked by |", "|---|---|---|---|")
        for row in failing:
            key = self.axis.key_of(row.window_start)
            window = f"[{key}](/assets/{self.asset}?view=partitions&partition={quote(key)})"
            since = f"{row.failing_since.astimezone(SEOUL):%Y-%m-%d %H:%M:%S}"
            yield f"| {window} | {since} | {in_cell(row.reason)} | [run {row.run_id[:8]}](/runs/{row.run_id}) |"
        if count > len(failing):
            yield f"\nAnd {count - len(failing)} more, all of them in `silver.check_result` where `NOT passed`."


def delete_dropped_results(connection: sa.Connection) -> int:
    """Delete the results of windows whose data was dropped by retention; returns the number.

    A statement for each table, because joined to a table in a DELETE, Citus requires the privilege to change that too.
    """
    kept = connection.execute(sa.select(bronze_retention.c.table_name, bronze_retention.c.kept_from)).all()
    of, start = check_result.c.asset, check_result.c.window_start
    delete = (sa.delete(check_result).where(of == name.replace(".", "_"), start < since) for name, since in kept)
    return sum(connection.execute(each).rowcount for each in delete)


def in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
