"""What the figures of gold have in common."""

from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.postgres.io_manager import within

RATE_DIGITS = 10  # as the exchange rounds its own rates
PRICE_DIGITS = 16


def rank(figure: sa.ColumnElement[Any], window: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.rank().over(partition_by=window, order_by=figure.desc().nulls_last())


def rows_of(gold: sa.Table, start: sa.ColumnElement[Any], silver: sa.FromClause, window: TimeWindow) -> Any:
    """How many rows of gold were just written for each window of silver's books."""
    rows = sa.select(sa.func.count()).where(start == silver.c.window_start, within(gold, window))
    return rows.scalar_subquery().correlate(silver)
