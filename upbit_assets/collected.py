"""Materializes only windows with collected data, so that the UI doesn't show missing windows as materialized."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dagster import Failure, OutputContext, TimeWindow

from upbit_assets.assets.trade_proof import MISSING
from upbit_assets.dagster_internals import materialize_only
from upbit_assets.feeds import GOLD_TABLES
from upbit_assets.partitions import Axis
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import time_window
from upbit_assets.retention import RetainingIOManager

NOT_COLLECTED = "Nothing was collected in"
NOT_COMPUTED = "Nothing was collected in, or silver was not computed for,"

# other rows mean that nothing was collected
CONDITIONS = {tables.silver_trade_coverage: (tables.silver_trade_coverage.c.state != MISSING,)}


@dataclass(frozen=True)
class Basis:
    """The tables in which a row means that a window was collected, and the message for windows without rows."""

    axis: Axis
    tables: Sequence[sa.Table]
    absence: str

    def keys(self, connection: sa.Connection, span: TimeWindow) -> set[str]:
        axis, starts = self.axis, self.axis.starts_in(span)
        return {
            axis.key_of(start)
            for table in self.tables
            for start in axis.with_rows(connection, table, starts, *CONDITIONS.get(table, ()))
        }


def bases() -> dict[sa.Table, Basis]:
    """By the asset's table.

    Candles and trades of a day share a gold table, so the pages of either show that the day was collected: trades are
    available for the last days only, and a day without trades has no rows. The same applies to a window of the stream
    in which, by the exchange's counters, nobody traded.
    """
    found = {}
    for gold in GOLD_TABLES:
        histories = [feed.history for feed in gold.feeds if feed.history]
        collected_into = [table for history in histories for table in (history.raw, history.page)]
        collected_into += [feed.coverage for feed in gold.feeds if feed.streamed and feed.coverage is not None]
        for feed in gold.feeds:
            kind = feed.refinement
            found[kind.silver] = Basis(feed.axis, (kind.silver, kind.build, *collected_into), NOT_COLLECTED)
            if feed.history:
                found[kind.bronze] = Basis(feed.axis, (feed.history.raw, feed.history.page), NOT_COLLECTED)
        found[gold.table] = Basis(gold.axis, (gold.table, gold.build, *collected_into), NOT_COMPUTED)
    return found


BASES = bases()


class CollectedIOManager(RetainingIOManager):
    """Materializes the windows with collected data, and reports the others."""

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Write what the asset returned.

        Raises:
            Failure: none of the run's windows has collected data. They are empty now.
        """
        basis, span = BASES.get(self.table_of(context)), time_window(context)
        if obj is None or basis is None or span is None:
            super().handle_output(context, obj)
            return
        before = self.collected(basis, span)  # a window that the write empties counts too
        super().handle_output(context, obj)
        materialize(context, basis, before | self.collected(basis, span))

    def collected(self, basis: Basis, span: TimeWindow) -> set[str]:
        with self.connect() as connection:
            return basis.keys(connection, span)


def materialize(context: OutputContext, basis: Basis, collected: set[str]) -> None:
    requested, asset = context.asset_partition_keys, context.asset_key.to_user_string()
    missing = [key for key in requested if key not in collected]
    if not missing:
        return
    absence = f"{basis.absence} {basis.axis.named([basis.axis.start_of(key) for key in missing])}"
    if len(missing) == len(requested):
        raise Failure(f"{absence}: {asset} has no rows there.", allow_retries=False)
    context.log.warning(
        f"{absence}: {asset} has no rows there. The other {len(requested) - len(missing):,} of the {len(requested):,} "
        "requested partitions are materialized."
    )
    context.add_output_metadata({"not materialized": absence})
    materialize_only(context, [key for key in requested if key in collected])
