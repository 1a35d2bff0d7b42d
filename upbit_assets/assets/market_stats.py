"""The figures of a window: each market's last ticker, ranked, and what the window's tickers tell together."""

from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets.figures import RATE_DIGITS, quotient, rank, written
from upbit_assets.partitions import DAY, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import within


def day_before(window: TimeWindow) -> sa.Subquery:
    """The same windows of the day before, for the rolling change."""
    earlier = TimeWindow(window.start - DAY, window.end - DAY)
    return sa.select(tables.silver_ticker).where(within(tables.silver_ticker, earlier)).subquery("day_before")


def market_stats(silver: sa.Subquery, before: sa.Subquery) -> sa.Select[Any]:
    row = with_change(with_turnover_krw(silver, last_snapshots(silver)), silver, before)
    volatility = sa.func.round((row.c.window_high - row.c.window_low) / row.c.window_low, RATE_DIGITS)
    return sa.select(
        row.c.ingested_at,
        row.c.market,
        row.c.trade_price,
        row.c.acc_trade_volume.label("daily_volume"),
        rank(row.c.turnover_krw, row.c.window_start).label("rank_volume"),
        row.c.quote_currency,
        row.c.acc_trade_price.label("turnover"),
        row.c.turnover_krw,
        sa.case(
            (
                row.c.turnover_krw.is_(None),
                "no rate: no KRW-" + row.c.quote_currency + " in the same snapshot",
            )
        ).label("rank_note"),
        row.c.change_rate,
        row.c.change_rate_24h,
        row.c.window_high,
        row.c.window_low,
        volatility.label("volatility"),
        rank(volatility, row.c.window_start).label("rank_volatility"),
        row.c.window_start,
        window_vwap(row).label("vwap"),
    )


def last_snapshots(silver: sa.Subquery) -> sa.Subquery:
    """Each market's last row in each window, the window's highest and lowest price, and the first row's counters."""
    start = windows.floor(silver.c.ingested_at)
    market = [start, silver.c.market]
    latest_first: Any = {"partition_by": market, "order_by": silver.c.ingested_at.desc()}
    rows = sa.select(
        silver,
        start.label("window_start"),
        sa.func.split_part(silver.c.market, "-", 1).label("quote_currency"),
        sa.func.max(silver.c.trade_price).over(partition_by=market).label("window_high"),
        sa.func.min(silver.c.trade_price).over(partition_by=market).label("window_low"),
        *(
            sa.func.last_value(silver.c[name]).over(**latest_first, range_=(None, None)).label(f"first_{name}")
            for name in ("traded_at", "day_volume", "day_turnover")
        ),
        sa.func.row_number().over(**latest_first).label("recency"),
    ).subquery("rows")
    return sa.select(rows).where(rows.c.recency == 1).subquery("last")


def window_vwap(row: sa.Subquery) -> sa.ColumnElement[Any]:
    """By what the day's counters gained since the window's first snapshot; a new day's began at 0.

    Counters that went back, or of which one stood still, say nothing.
    """
    new_day = days.floor(row.c.traded_at) > days.floor(row.c.first_traded_at)
    volume, turnover = (
        row.c[name] - sa.case((new_day, 0), else_=row.c[f"first_{name}"]) for name in ("day_volume", "day_turnover")
    )
    return sa.case(((volume > 0) & (turnover > 0), quotient(turnover, volume)))


def with_turnover_krw(silver: sa.Subquery, last: sa.Subquery) -> sa.Subquery:
    """`last` with its turnover in KRW: for a quote currency Q, at the price of KRW-Q in the same snapshot."""
    rate = sa.select(silver.c.ingested_at, silver.c.market, silver.c.trade_price).subquery("rate")
    krw = sa.case(
        (last.c.quote_currency == "KRW", last.c.acc_trade_price),
        else_=last.c.acc_trade_price * rate.c.trade_price,
    )
    at_rate = (rate.c.ingested_at == last.c.ingested_at) & (rate.c.market == "KRW-" + last.c.quote_currency)
    return sa.select(last, krw.label("turnover_krw")).outerjoin_from(last, rate, at_rate).subquery("in_krw")


def with_change(row: sa.Subquery, silver: sa.Subquery, before: sa.Subquery) -> sa.Subquery:
    """`row` with the change against the snapshot in the day before's window whose time of day is nearest."""
    wanted, there = snapshots(silver, "wanted"), snapshots(before, "there")
    nearest = (
        sa.select(wanted.c.ingested_at, there.c.ingested_at.label("day_before"))
        .distinct(wanted.c.ingested_at)
        .join_from(wanted, there, there.c.window_start == wanted.c.window_start - DAY)
        .order_by(
            wanted.c.ingested_at,
            sa.func.abs(sa.extract("epoch", wanted.c.ingested_at - DAY - there.c.ingested_at)),
            there.c.ingested_at,
        )
        .subquery("nearest")
    )
    change = sa.func.round(row.c.trade_price / before.c.trade_price - 1, RATE_DIGITS)
    return (
        sa.select(row, change.label("change_rate_24h"))
        .outerjoin_from(row, nearest, nearest.c.ingested_at == row.c.ingested_at)
        .outerjoin(before, (before.c.ingested_at == nearest.c.day_before) & (before.c.market == row.c.market))
        .subquery("with_change")
    )


def snapshots(silver: sa.Subquery, name: str) -> sa.Subquery:
    """When there were snapshots, each with its window."""
    start = windows.floor(silver.c.ingested_at).label("window_start")
    return sa.select(start, silver.c.ingested_at).distinct().subquery(name)


def market_stats_build(window: TimeWindow) -> sa.Select[Any]:
    """Which silver each window was computed from, so that a newer one is noticed."""
    silver, ours = tables.silver_ticker_build, written(tables.gold_market_stats.c.window_start, window)
    earlier = silver.alias("earlier")
    return (
        sa.select(
            silver.c.window_start,
            sa.func.coalesce(ours.c.rows, 0).label("gold_rows"),
            silver.c.computed_at.label("silver_computed_at"),
            earlier.c.computed_at.label("day_before_computed_at"),
        )
        .outerjoin_from(silver, earlier, earlier.c.window_start == silver.c.window_start - DAY)
        .outerjoin(ours, ours.c.window_start == silver.c.window_start)
        .where(within(silver, window))
    )
