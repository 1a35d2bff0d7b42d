"""What recomputing silver and gold from bronze with the present code would change.

The windows are written as in a run, in a transaction that is rolled back.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from dagster import AssetsDefinition, Config, Failure, MetadataValue, OpExecutionContext, TimeWindow, job, op
from pydantic import Field
from tabulate import tabulate

from upbit_assets.assets import gold, silver
from upbit_assets.dagster_internals import output_of
from upbit_assets.feeds import FEEDS, GOLD_TABLES
from upbit_assets.partitions import SEOUL, Axis, days, windows
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import metadata
from upbit_assets.postgres_io import Difference, WindowDiff, Writer, compare, in_window, locked, moment_of
from upbit_assets.postgres_io.diff import EXAMPLES
from upbit_assets.postgres_io.locks import locks
from upbit_assets.retention import require_kept

# per transaction: a write of the same windows waits for it, a second or two
MAX_SPAN = timedelta(hours=1)
RANGE = "..."


class DiffError(ValueError):
    """Unknown partitions or assets, or their raw rows were dropped; the message says which."""


@dataclass
class Diff:
    """What would change.

    Args:
        windows: each table's windows with rows before or after.
        examples: the largest differences of each column.
    """

    axis: Axis
    windows: list[WindowDiff] = field(default_factory=list)
    examples: list[Difference] = field(default_factory=list)

    @property
    def differing(self) -> list[WindowDiff]:
        return [each for each in self.windows if each.differs]

    def tables(self, form: str) -> dict[str, str]:
        """The totals of each table and the largest differences, formatted by tabulate as `form`."""
        parts = {"silver and gold": self.totals(), "largest differences": self.largest()}
        return {
            name: tabulate(rows, headers="keys", tablefmt=form, disable_numparse=True)
            for name, rows in parts.items()
            if rows
        }

    def totals(self) -> list[dict[str, Any]]:
        rows = []
        for table in dict.fromkeys(each.table for each in self.windows):
            own = [each for each in self.windows if each.table is table]
            columns = sum((Counter(each.columns) for each in own), Counter[str]())
            counts = {
                name: sum(getattr(each, name) for each in own) for name in ("before", "after", "added", "removed")
            }
            rows.append(
                {
                    "table": table.fullname,
                    **{"rows" if name == "before" else name: f"{count:,}" for name, count in counts.items()},
                    "changed": f"{sum(each.changed for each in own):,}",
                    "changed columns": ", ".join(f"{name}: {count:,}" for name, count in columns.most_common()),
                }
            )
        return rows

    def largest(self) -> list[dict[str, str]]:
        rows, seen = [], Counter[tuple[sa.Table, str]]()
        for each in sorted(self.examples, key=lambda each: (each.share is not None, -(each.share or 0))):
            seen[each.table, each.column] += 1
            if seen[each.table, each.column] > EXAMPLES:
                continue
            key = dict(each.key)
            start = self.axis.at(key.pop(moment := moment_of(each.table).name)).start
            if (at := each.key[moment]) != start:
                key[moment] = at.astimezone(SEOUL).isoformat(" ")
            rows.append(
                {
                    "table": each.table.fullname,
                    "window": self.axis.key_of(start),
                    "market": key.pop("market", ""),
                    "row": ", ".join(f"{name} {value}" for name, value in key.items()),
                    "column": each.column,
                    "now": "" if each.before is None else each.before,
                    "recomputed": "" if each.after is None else each.after,
                    "difference": "" if each.share is None else f"{float(100 * each.share):.3g} %",
                }
            )
        return sorted(rows, key=lambda row: (row["table"], row["column"]))


def diff(database: Database, partitions: str, assets: Sequence[str] = ()) -> Diff:
    """Compute silver and gold of these partitions from bronze, and compare them with the stored rows.

    Works through an hour of windows, or a day, per transaction. Nothing is written; a write of the same windows waits
    for one such transaction at most.

    Args:
        partitions: a window, a day, or a range of them: `FIRST...LAST`.
        assets: of silver and gold; empty: all with such partitions. Gold whose silver is not among them is computed
            from the stored silver.

    Raises:
        DiffError: unknown partitions or assets, or their raw rows were dropped.
        DatabaseError: the database is unreachable or rejected the query.
    """
    axis, span = span_of(partitions)
    return diff_of_span(database, axis, span, chosen(axis, assets))


def diff_of_span(database: Database, axis: Axis, span: TimeWindow, names: frozenset[str]) -> Diff:
    found = Diff(axis)
    length = max(axis.length, MAX_SPAN)
    start = span.start
    while start < span.end:
        part = TimeWindow(start, min(start + length, span.end))
        try:
            add(found, database, names, part, span)
        except Failure as error:
            raise DiffError(str(error.description)) from error
        start = part.end
    return found


def span_of(partitions: str) -> tuple[Axis, TimeWindow]:
    first, _, last = partitions.partition(RANGE)
    keys = (first, last or first)
    axis = next((axis for axis in (windows, days) if all(map(axis.has, keys))), None)
    if axis is None:
        raise DiffError(
            f"{partitions} is not a partition: name a window like 2026-01-29-14:00, a day like 2026-01-29, or a range "
            f"like 2026-01-28{RANGE}2026-01-29."
        )
    start, end = map(axis.start_of, keys)
    if axis.at(start).start != start or axis.at(end).start != end:
        raise DiffError(f"{partitions}: windows are ten minutes long, and begin at minutes that end with 0.")
    if end < start:
        raise DiffError(f"{partitions} runs backwards: name the first partition, then the last.")
    return axis, TimeWindow(start, end + axis.length)


def computed_assets(axis: Axis) -> list[str]:
    """In the order of computation: silver, then gold."""
    return [
        *(feed.silver_asset for feed in FEEDS if feed.axis is axis),
        *(of.asset for of in GOLD_TABLES if of.axis is axis),
    ]


def chosen(axis: Axis, assets: Sequence[str]) -> frozenset[str]:
    known = computed_assets(axis)
    if unknown := set(assets) - set(known):
        raise DiffError(f"No asset {', '.join(sorted(unknown))} with such partitions. There are {', '.join(known)}.")
    return frozenset(assets or known)


def add(found: Diff, database: Database, names: frozenset[str], part: TimeWindow, requested: TimeWindow) -> None:
    """Add the diff of a part of the requested windows."""
    axis = found.axis
    steps = [
        *((name, earlier, False) for name, earlier in earlier_silver(names, part, requested)),
        *((name, part, True) for name in computed_assets(axis) if name in names),
    ]
    with database.connect() as connection, ExitStack() as held:
        writers = []
        for name, window, _ in steps:
            table, keys = metadata.tables[name.replace("_", ".", 1)], list(map(axis.key_of, axis.starts_in(window)))
            locking = held.enter_context(locked(connection, *locks(table, keys)))
            writers.append(Writer(locking, keys, window, Counter()))
        transaction = connection.begin()
        try:
            for (name, window, compared), writer in zip(steps, writers, strict=True):
                load = output_of(asset_of(name), window, **inputs(connection, asset_of(name), window))
                diffs, examples = compare(writer, load, axis.floor, ignored)
                if compared:
                    found.windows += diffs
                    found.examples += examples
        finally:
            transaction.rollback()


def earlier_silver(names: frozenset[str], part: TimeWindow, requested: TimeWindow) -> Iterator[tuple[str, TimeWindow]]:
    """Silver of the earlier windows that gold compares with, if they are among the requested ones."""
    for of in GOLD_TABLES:
        for source in of.sources:
            start, end = max(part.start - source.older, requested.start), min(part.end - source.older, requested.end)
            if source.older and {of.asset, source.feed.silver_asset} <= names and start < end:
                yield source.feed.silver_asset, TimeWindow(start, end)


def asset_of(name: str) -> AssetsDefinition:
    found: AssetsDefinition = getattr(silver if name.startswith("silver_") else gold, name)
    return found


def inputs(connection: sa.Connection, asset: AssetsDefinition, window: TimeWindow) -> dict[str, sa.Select[Any]]:
    """The asset's inputs as loaded by the IO manager. Raises Failure if their rows were dropped by retention."""
    tables = {name: metadata.tables[name.replace("_", ".", 1)] for name in asset.keys_by_input_name}
    for table in tables.values():
        require_kept(connection, table, window)
    return {name: sa.select(table).where(in_window(table, window)) for name, table in tables.items()}


def ignored(column: sa.Column[Any]) -> bool:
    """Whether a column differs after every computation: ids and times of computation."""
    return column.identity is not None or column.server_default is not None or column.name.endswith("_computed_at")


class DiffConfig(Config):
    """Configuration of the job `diff`."""

    partitions: str = Field(
        description="A window like 2026-01-29-14:00, a day like 2026-01-29, or a range: FIRST...LAST"
    )
    assets: list[str] = Field(
        default=[], description="Assets of silver and gold, like gold_market_stats; empty: all with such partitions"
    )


@op(description="Computes silver and gold of some windows from bronze, and reports what would change")
def compute_diff(context: OpExecutionContext, config: DiffConfig, database: Database) -> None:
    try:
        found = diff(database, config.partitions, config.assets)
    except DiffError as error:
        raise Failure(str(error), allow_retries=False) from error
    context.log.info(summary(found))
    context.add_output_metadata(
        {
            "summary": summary(found),
            **{name: MetadataValue.md(table) for name, table in found.tables("github").items()},
        }
    )


def summary(found: Diff) -> str:
    starts = sorted({each.start for each in found.differing})
    if not found.windows:
        return "There are no rows, neither before nor after."
    return f"Something would change in {found.axis.named(starts)}." if starts else "Nothing would change."


@job(name="diff", description="What recomputing silver and gold of some windows would change; writes nothing")
def diff_job() -> None:
    compute_diff()
