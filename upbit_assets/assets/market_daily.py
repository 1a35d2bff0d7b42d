"""The figures of a day, from its candles and trades."""

from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow
from sqlalchemy.dialects.postgresql import aggregate_order_by

from upbit_assets.assets.coverage import covered
from upbit_assets.assets.figures import RATE_DIGITS, quotient, rank, written
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import within


def market_daily(candle: sa.Subquery, trade: sa.Subquery, window: TimeWindow) -> sa.Select[Any]:
    row, traded, coverage = day_candles(candle), traded_whole(trade, window), tables.silver_candle_coverage
    of_candles = quotient(row.c.turnover, row.c.volume)
    vwap = sa.func.coalesce(traded.c.vwap, of_candles, row.c.closing_price)
    priced = (
        sa.select(
            row,
            sa.func.split_part(row.c.market, "-", 1).label("quote_currency"),
            vwap.label("vwap"),
            sa.case((traded.c.vwap.is_not(None), "trades"), else_="candles").label("vwap_source"),
        )
        .outerjoin_from(row, traded, (traded.c.day == row.c.day) & (traded.c.market == row.c.market))
        .cte("priced")  # which is read twice, and computed once
    )
    rate = priced.alias("rate")
    krw = sa.case((priced.c.quote_currency == "KRW", priced.c.turnover), else_=priced.c.turnover * rate.c.vwap)
    volatility = sa.func.round(priced.c.realized_volatility, RATE_DIGITS)
    minutes = ("minutes_traded", "minutes_silent", "minutes_missing")
    prices = ("opening_price", "high_price", "low_price", "closing_price", "volume", "turnover")
    return (
        sa.select(
            *(priced.c.day, priced.c.market, priced.c.quote_currency),
            *(priced.c[name] for name in prices),
            krw.label("turnover_krw"),
            rank(krw, priced.c.day).label("rank_turnover"),
            *(priced.c.vwap, priced.c.vwap_source),
            volatility.label("realized_volatility"),
            rank(volatility, priced.c.day).label("rank_volatility"),
            *(coverage.c[name] for name in minutes),
        )
        .outerjoin_from(
            priced, rate, (rate.c.day == priced.c.day) & (rate.c.market == "KRW-" + priced.c.quote_currency)
        )
        .join(coverage, (coverage.c.day == priced.c.day) & (coverage.c.market == priced.c.market))
    )


def day_candles(candle: sa.Subquery) -> sa.Subquery:
    """Each market's minutes of a day made one candle, with their realized volatility."""
    day = days.floor(candle.c.started_at)
    before = sa.func.lag(candle.c.closing_price).over(partition_by=[day, candle.c.market], order_by=candle.c.started_at)
    minute = sa.select(candle, day.label("day"), (candle.c.closing_price / before - 1).label("change")).subquery(
        "minute"
    )

    def at_the(end: sa.UnaryExpression[Any], price: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.array_agg(aggregate_order_by(price, end), type_=sa.ARRAY(sa.Numeric))[1]

    squares = sa.func.sum(minute.c.change * minute.c.change)
    return (
        sa.select(
            *(minute.c.day, minute.c.market),
            at_the(minute.c.started_at.asc(), minute.c.opening_price).label("opening_price"),
            sa.func.max(minute.c.high_price).label("high_price"),
            sa.func.min(minute.c.low_price).label("low_price"),
            at_the(minute.c.started_at.desc(), minute.c.closing_price).label("closing_price"),
            sa.func.sum(minute.c.volume).label("volume"),
            sa.func.sum(minute.c.turnover).label("turnover"),
            sa.func.sqrt(sa.func.coalesce(squares, 0)).label("realized_volatility"),
        )
        .group_by(minute.c.day, minute.c.market)
        .subquery("row")
    )


def traded_whole(trade: sa.Subquery, window: TimeWindow) -> sa.Subquery:
    """The VWAP of each market's day all of whose trades were collected and taken."""
    day = days.floor(trade.c.traded_at)
    whole = covered(tables.bronze_trade_page, tables.bronze_trade_raw, window)
    sums = (
        sa.select(
            day.label("day"),
            trade.c.market,
            quotient(sa.func.sum(trade.c.price * trade.c.volume), sa.func.sum(trade.c.volume)).label("vwap"),
        )
        .group_by(day, trade.c.market)
        .subquery("sums")
    )
    refused = tables.silver_trade_rejected
    wrong = sa.exists().where(within(refused, window), refused.c.day == sums.c.day, refused.c.market == sums.c.market)
    all_day = sa.func.tstzrange(whole.c.day, whole.c.day + DAY)
    return (
        sa.select(sums)
        .join_from(sums, whole, (whole.c.day == sums.c.day) & (whole.c.market == sums.c.market))
        .where(whole.c.covered.op("@>", is_comparison=True)(all_day), ~wrong)
        .subquery("traded")
    )


def market_daily_build(window: TimeWindow) -> sa.Select[Any]:
    """Which candles and trades each day was computed from, so that newer ones are noticed."""
    candle, trade = tables.silver_candle_build, tables.silver_trade_build
    ours = written(tables.gold_market_daily.c.day, window)
    return (
        sa.select(
            candle.c.window_start,
            sa.func.coalesce(ours.c.rows, 0).label("gold_rows"),
            candle.c.computed_at.label("candle_computed_at"),
            trade.c.computed_at.label("trade_computed_at"),
        )
        .outerjoin_from(candle, trade, trade.c.window_start == candle.c.window_start)
        .outerjoin(ours, ours.c.window_start == candle.c.window_start)
        .where(within(candle, window))
    )
