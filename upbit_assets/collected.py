"""Which windows are materialized: those of which something was collected. Others would look as if they were there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dagster import Failure, OutputContext, TimeWindow

from upbit_assets.dagster_internals import materialize_only
from upbit_assets.feeds import GOLD_TABLES
from upbit_assets.partitions import Axis
from upbit_assets.postgres_io import time_window
from upbit_assets.retention import RetainingIOManager

NOT_COLLECTED = "Nothing was collected in"
NOT_COMPUTED = "Nothing was collected in, or no silver is computed of,"


@dataclass(frozen=True)
class Basis:
    """The tables of which a row tells that a window was collected, and what is true of the others."""

    axis: Axis
    tables: Sequence[sa.Table]
    absence: str

    def keys(self, connection: sa.Connection, span: TimeWindow) -> set[str]:
        axis, starts = self.axis, self.axis.starts_in(span)
        return {axis.key_of(start) for table in self.tables for start in axis.with_rows(connection, table, starts)}


def bases() -> dict[sa.Table, Basis]:
    """By the asset's table.

    The candles and trades of a day are computed together into one gold, so either's pages tell that it was collected:
    trades are to be had of the last days only, and a day in which nobody traded has no rows.
    """
    found = {}
    for gold in GOLD_TABLES:
        histories = [feed.history for feed in gold.feeds if feed.history]
        collected_into = [table for history in histories for table in (history.raw, history.page)]
        for feed in gold.feeds:
            kind = feed.refinement
            found[kind.silver] = Basis(feed.axis, (kind.silver, kind.build, *collected_into), NOT_COLLECTED)
            if feed.history:
                found[kind.bronze] = Basis(feed.axis, (feed.history.raw, feed.history.page), NOT_COLLECTED)
        found[gold.table] = Basis(gold.axis, (gold.table, gold.build, *collected_into), NOT_COMPUTED)
    return found


BASES = bases()


class CollectedIOManager(RetainingIOManager):
    """Materializes the windows of which something was collected, and names the others."""

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Write what the asset returned.

        Raises:
            Failure: nothing was collected in any of the run's windows; they are empty now.
        """
        basis, span = BASES.get(self.table_of(context)), time_window(context)
        if obj is None or basis is None or span is None:
            super().handle_output(context, obj)
            return
        there = self.collected(basis, span)  # one that the write empties counts
        super().handle_output(context, obj)
        leave_out(context, basis, there | self.collected(basis, span))

    def collected(self, basis: Basis, span: TimeWindow) -> set[str]:
        with self.connect() as connection:
            return basis.keys(connection, span)


def leave_out(context: OutputContext, basis: Basis, there: set[str]) -> None:
    asked_for, asset = context.asset_partition_keys, context.asset_key.to_user_string()
    missing = [key for key in asked_for if key not in there]
    if not missing:
        return
    absence = f"{basis.absence} {basis.axis.named([basis.axis.start_of(key) for key in missing])}"
    if len(missing) == len(asked_for):
        raise Failure(f"{absence}: {asset} has no rows there.", allow_retries=False)
    context.log.warning(
        f"{absence}: {asset} has no rows there. The other {len(asked_for) - len(missing):,} of the {len(asked_for):,} "
        "partitions asked for are materialized."
    )
    context.add_output_metadata({"not materialized": absence})
    materialize_only(context, [key for key in asked_for if key in there])
