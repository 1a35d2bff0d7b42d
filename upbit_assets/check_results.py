"""Checks by window: which window fails which check, since when and why, in `silver.check_result`.

To Dagster these checks have no partitions: for one that has, it works out the state of every window anew whenever a
page that shows the asset is polled, which at a year of windows takes a minute a check. Instead, each evaluation tells
of all windows that fail now, so it doesn't turn green because another window passes.
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

MOST_NAMED, MOST_OTHERS_NAMED = DAY // WINDOW, 10


@dataclass(frozen=True)
class Result:
    """What a check found, of one window or of the present."""

    passed: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the window fails, in words."""
        details = (f"{name}: {value}" for name, value in self.details.items() if value != "")
        return None if self.passed else "; ".join([*([self.note] if self.note else []), *details])


Results = Mapping[datetime, Result]


# the results of windows whose data retention has dropped
DROPPED = sa.delete(check_result).where(
    sa.func.replace(bronze_retention.c.table_name, ".", "_") == check_result.c.asset,
    check_result.c.window_start < bronze_retention.c.kept_from,
)
Judge = TypeVar("Judge", bound=Callable[..., Any])


@dataclass(frozen=True)
class Check(Generic[Judge]):
    """What can be asked of an asset; the function names and describes it."""

    judge: Judge
    severity: AssetCheckSeverity

    @property
    def name(self) -> str:
        return self.judge.__name__

    def spec(self, asset: str) -> AssetCheckSpec:
        return AssetCheckSpec(self.name, asset=asset, description=self.judge.__doc__)


class WindowCheck(Check[Callable[[sa.Connection, TimeWindow], Results]]):
    """A check of each window of a span for itself."""


class PresentCheck(Check[Callable[[sa.Connection], Result]]):
    """A check of how things are now, whatever windows a run is about."""


def window_check(
    severity: AssetCheckSeverity = AssetCheckSeverity.ERROR,
) -> Callable[[Callable[[sa.Connection, TimeWindow], Results]], WindowCheck]:
    return lambda judge: WindowCheck(judge, severity)


def checks_of(
    asset: str, axis: Axis, *checks: WindowCheck | PresentCheck, table: sa.Table | None = None
) -> AssetChecksDefinition:
    """The checks of an asset, all in one step: of the run's windows, in a backfill too.

    A run without windows, as that of a check alone, looks at the windows that fail and at the newest one.

    Args:
        table: whose retention counts; None: the one that the asset is named after.
    """
    key, of = AssetKey(asset), metadata.tables[asset.replace("_", ".", 1)] if table is None else table

    @multi_asset_check(name=asset + CHECKS, specs=[check.spec(asset) for check in checks], can_subset=True)
    def run_checks(
        context: AssetCheckExecutionContext, database: Database
    ) -> Iterator[AssetCheckEvaluation | Output[None]]:
        chosen = [each for each in checks if AssetCheckKey(key, each.name) in context.selected_asset_check_keys]
        log = CheckLog(asset, axis, of, context.run.run_id)
        by_window = [each for each in chosen if isinstance(each, WindowCheck)]
        with alone(database, asset) as connection:
            own = axis.of_run(context.run.tags)
            starts = own or (log.worth_a_look(connection) if by_window else [])
            results = {each: log.results(connection, each, starts) for each in by_window}
            log.store(connection, results)
            failing = log.failing(connection, starts)
            for check in chosen:
                if isinstance(check, PresentCheck):
                    if own:  # what has just been computed says nothing of what the sensor asks
                        continue
                    yield evaluate_present(asset, check, connection, context.instance)
                else:
                    result = log.summary(results[check], failing.get(check.name, []))
                    yield evaluation(asset, check, result, context.instance)
                yield Output(None, output_name=check.spec(asset).get_python_identifier())

    return run_checks


def evaluate_present(
    asset: str, check: PresentCheck, connection: sa.Connection, instance: DagsterInstance
) -> AssetCheckEvaluation:
    return evaluation(asset, check, check.judge(connection), instance)


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
    """What an evaluation is about; Dagster's own way takes most of a second where there are many partitions."""
    for record in instance.fetch_materializations(AssetRecordsFilter(asset), limit=1).records:
        return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
    return None


@contextmanager
def alone(database: Database, asset: str) -> Iterator[sa.Connection]:
    """A transaction in which nobody else checks the asset: an evaluation stored later knows all that an earlier did."""
    with (
        database.connect() as connection,
        locked(connection, [lock_key(f"checks of {asset}")]) as locking,
        locking.begin(),
    ):
        yield locking


@dataclass(frozen=True)
class CheckLog:
    """What is known of an asset's windows, from the point of view of one run."""

    asset: str
    axis: Axis
    table: sa.Table
    run_id: str

    def worth_a_look(self, connection: sa.Connection) -> list[datetime]:
        """The windows that fail, and the newest."""
        newest = sa.select(sa.func.max(check_result.c.window_start)).where(check_result.c.asset == self.asset)
        fails = sa.select(check_result.c.window_start).where(self.is_failing())
        found = {start for start in connection.scalars(sa.union(newest, fails)) if start}
        return sorted(found) or [self.axis.at(datetime.now(UTC)).start]

    def is_failing(self) -> sa.ColumnElement[bool]:
        """Of windows whose data retention has dropped nothing can be said any more."""
        kept = sa.func.coalesce(check_result.c.window_start >= kept_from(self.table), True)
        return sa.and_(check_result.c.asset == self.asset, ~check_result.c.passed, kept)

    def results(self, connection: sa.Connection, check: WindowCheck, starts: Sequence[datetime]) -> Results:
        found: dict[datetime, Result] = {}
        for span in spans(starts, self.axis):
            found |= check.judge(connection, span)
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
        """Of each check the windows that fail, newest first: those of the run, and a few of the others.

        Each row knows how many there are.
        """
        name, start = check_result.c.check_name, check_result.c.window_start
        own = (start == sa.any_(sa.cast(list(starts), sa.ARRAY(start.type)))).label("own")
        count = sa.func.count().over(partition_by=name).label("failing")
        nth = sa.func.row_number().over(partition_by=(name, own), order_by=start.desc()).label("nth")
        fails = sa.select(check_result, own, count, nth).where(self.is_failing()).subquery()
        named = fails.c.nth <= sa.case((fails.c.own, MOST_NAMED), else_=MOST_OTHERS_NAMED)
        order = (fails.c.check_name, fails.c.own.desc(), fails.c.nth)
        rows = connection.execute(sa.select(fails).where(named).order_by(*order)).all()
        return {name: list(of) for name, of in groupby(rows, lambda row: row.check_name)}

    def summary(self, results: Results, failing: Sequence[sa.Row[Any]]) -> Result:
        """What a run's evaluation says of a check: of its own windows, and of all that fail."""
        starts = list(results)
        what = self.axis.key_of(starts[0])
        if len(starts) > 1:
            what += f" to {self.axis.key_of(starts[-1])}, {len(starts)} windows"
        said = [f"Checked: {what}."]
        details: dict[str, Any] = {}
        if len(starts) == 1:
            (only,) = results.values()
            details |= {name: value for name, value in only.details.items() if value != ""}
            said += [only.note] if only.note else []
        if failing:
            count = failing[0].failing
            said.append(f"{count} {'window fails' if count == 1 else 'windows fail'}.")
            details["failing windows"] = MetadataValue.md("\n".join(self.as_table(failing, count)))
        return Result(not failing, details, " ".join(said))

    def as_table(self, failing: Sequence[sa.Row[Any]], count: int) -> Iterable[str]:
        yield from ("| window | fails since | why | checked by |", "|---|---|---|---|")
        for row in failing:
            key = self.axis.key_of(row.window_start)
            window = f"[{key}](/assets/{self.asset}?view=partitions&partition={quote(key)})"
            since = f"{row.failing_since.astimezone(SEOUL):%Y-%m-%d %H:%M:%S}"
            yield f"| {window} | {since} | {in_cell(row.reason)} | [run {row.run_id[:8]}](/runs/{row.run_id}) |"
        if count > len(failing):
            yield f"\nAnd {count - len(failing)} more, all of them in `silver.check_result` where `NOT passed`."


def in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def spans(starts: Sequence[datetime], axis: Axis) -> Iterator[TimeWindow]:
    """The windows, in order, as spans of neighbours."""
    first = None
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        first = first or start
        if following != start + axis.length:
            yield TimeWindow(first, start + axis.length)
            first = None
