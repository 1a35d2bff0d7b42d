"""What the figures of gold have in common."""

from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.postgres.io_manager import within

RATE_DIGITS = 10  # as the exchange rounds its own rates
PRICE_DIGITS = 16
FINEST = 40  # decimals of the smallest price × the smallest size that silver takes


def quotient(dividend: sa.ColumnElement[Any], divisor: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """An average price to PRICE_DIGITS; NULL where the divisor is 0.

    PostgreSQL divides to 16 significant digits, or to as many decimals as the dividend is given with.
    """
    return sa.func.round(sa.func.round(dividend, FINEST) / sa.func.nullif(divisor, 0), PRICE_DIGITS)


def rank(figure: sa.ColumnElement[Any], window: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.rank().over(partition_by=window, order_by=figure.desc().nulls_last())


def written(start: sa.Column[Any], window: TimeWindow) -> sa.Subquery:
    """How many `rows` of gold were just written for each window, which gold says in `start`."""
    rows = sa.select(start.label("window_start"), sa.func.count().label("rows"))
    return rows.where(within(start.table, window)).group_by(start).subquery("written")
