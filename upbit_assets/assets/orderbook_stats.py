"""The figures of a window's order books: spread, depth and imbalance."""

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow

from upbit_assets.assets.figures import RATE_DIGITS, written
from upbit_assets.partitions import windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import within

DEPTHS = {name: Decimal(percent) / 100 for name, percent in tables.DEPTHS.items()}


def orderbook_stats(silver: sa.Subquery) -> sa.Select[Any]:
    start = windows.floor(silver.c.ingested_at)
    bid, ask = silver.c.bid_prices[1], silver.c.ask_prices[1]
    mid = (bid + ask) * Decimal("0.5")  # divided by 2 it would lose a 17th digit
    spread = (ask - bid) / mid * 10_000
    market = [start, silver.c.market]
    book = (
        sa.select(
            silver,
            start.label("window_start"),
            *(bid.label("best_bid"), ask.label("best_ask"), mid.label("mid_price"), spread.label("spread_bps")),
            sa.func.avg(spread).over(partition_by=market).label("spread_bps_mean"),
            sa.func.row_number().over(partition_by=market, order_by=silver.c.ingested_at.desc()).label("recency"),
        )
        .where(bid.is_not(None), ask.is_not(None))
        .subquery("book")
    )
    last = sa.select(book).where(book.c.recency == 1).subquery("last")
    sides = {side: depths(last, side) for side in ("bid", "ask")}
    bids, asks = (side.c.depth_1 for side in sides.values())
    reach = sa.func.least(*(sa.func.abs(side.c.farthest / last.c.mid_price - 1) for side in sides.values()))
    return (
        sa.select(
            *(last.c.ingested_at, last.c.market),
            sa.func.split_part(last.c.market, "-", 1).label("quote_currency"),
            *(last.c.best_bid, last.c.best_ask, last.c.mid_price),
            *(sa.func.round(last.c[name], RATE_DIGITS).label(name) for name in ("spread_bps", "spread_bps_mean")),
            *(sides[side].c[f"depth_{name}"].label(f"{side}_depth_{name}") for name in DEPTHS for side in sides),
            sa.func.round((bids - asks) / sa.func.nullif(bids + asks, 0), RATE_DIGITS).label("imbalance"),
            sa.func.round(reach, RATE_DIGITS).label("reach"),
            last.c.window_start,
        )
        .join_from(last, sides["bid"], sa.true())
        .join(sides["ask"], sa.true())
    )


def depths(last: sa.Subquery, side: str) -> sa.FromClause:
    """What one side of a book offers near the middle, and the price it reaches."""
    prices, sizes = last.c[f"{side}_prices"], last.c[f"{side}_sizes"]
    level = sa.func.unnest(prices, sizes).table_valued("price", "size", name=f"{side}_level").render_derived()
    price, size = (sa.type_coerce(level.c[name], sa.Numeric) for name in ("price", "size"))
    distance = sa.func.abs(price - last.c.mid_price)
    worth = sa.func.sum(price * size)
    near = [
        sa.func.coalesce(worth.filter(distance <= last.c.mid_price * share), 0).label(f"depth_{name}")
        for name, share in DEPTHS.items()
    ]
    farthest = (sa.func.min if side == "bid" else sa.func.max)(price)
    return sa.select(*near, farthest.label("farthest")).select_from(level).lateral(side)


def orderbook_stats_build(window: TimeWindow) -> sa.Select[Any]:
    silver, ours = tables.silver_orderbook_build, written(tables.gold_orderbook_stats.c.window_start, window)
    return (
        sa.select(
            silver.c.window_start,
            sa.func.coalesce(ours.c.rows, 0).label("gold_rows"),
            silver.c.computed_at.label("silver_computed_at"),
        )
        .outerjoin_from(silver, ours, ours.c.window_start == silver.c.window_start)
        .where(within(silver, window))
    )
