"""Nightly: whether the stored figures of sampled past windows equal what the present code computes from bronze."""

from datetime import UTC, date, datetime

import sqlalchemy as sa
from dagster import AssetChecksDefinition, AssetCheckSeverity, AssetSelection, TimeWindow

from upbit_assets.check_results import Result, Results, SampledCheck, checks_of
from upbit_assets.diff import Diff, DiffError, diff_of_span
from upbit_assets.feeds import GOLD_TABLES, GoldTable
from upbit_assets.partitions import DAY, SEOUL, days, windows
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import kept_from
from upbit_assets.stale import stale

SAMPLES_PER_NIGHT = {windows: 6, days: 1}


def figures_follow(gold: GoldTable) -> SampledCheck:
    names = frozenset([*(feed.silver_asset for feed in gold.feeds), gold.asset])

    def every_figure_follows_from_the_raw_rows(_connection: sa.Connection, span: TimeWindow) -> Results:
        """Silver and gold of sampled past windows equal what the present code computes from bronze.

        The sample differs each night. For a failing window, `upbit-assets diff --partition …` shows what would change;
        materializing it again fixes it.
        """
        try:
            found = diff_of_span(Database(), gold.axis, span, names)
        except DiffError as error:
            return {start: Result(False, note=str(error)) for start in gold.axis.starts_in(span)}
        return {start: result_of(found, start) for start in gold.axis.starts_in(span)}

    def sample(connection: sa.Connection) -> list[datetime]:
        return sampled(connection, gold, datetime.now(SEOUL).date())

    return SampledCheck(every_figure_follows_from_the_raw_rows, AssetCheckSeverity.ERROR, sample)


def result_of(found: Diff, start: datetime) -> Result:
    differing = {
        each.table.fullname: ", ".join(
            [
                f"{each.added} rows added, {each.removed} removed, {each.changed} changed",
                *(f"{name}: {count}" for name, count in each.columns.items()),
            ]
        )
        for each in found.differing
        if each.start == start
    }
    return Result(not differing, differing)


def sampled(connection: sa.Connection, gold: GoldTable, night: date) -> list[datetime]:
    """A sample of computed windows whose raw rows were not dropped, the same all night.

    Windows whose bronze has changed since are left out, as the sensor rebuilds them anyway.
    """
    start, before = gold.build.c.window_start, datetime.now(UTC) - gold.axis.length - DAY
    kept = [
        sa.func.coalesce(start - source.older >= kept_from(table), True)
        for source in gold.sources
        for table in (source.feed.refinement.silver, *([] if source.older else [source.feed.refinement.bronze]))
    ]
    shuffled = sa.func.md5(sa.func.concat(str(night), "/", sa.extract("epoch", start)))
    rows = sa.select(start).where(start < before, *kept).order_by(shuffled, start).limit(SAMPLES_PER_NIGHT[gold.axis])
    drawn = set(connection.scalars(rows))
    return sorted(drawn - {each.start for each in stale(connection, gold, drawn)})


all_checks: list[AssetChecksDefinition] = [
    checks_of(gold.asset, gold.axis, figures_follow(gold), step="figures") for gold in GOLD_TABLES
]
FIGURE_CHECKS = AssetSelection.checks(*all_checks)
