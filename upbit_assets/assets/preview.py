"""What a person sees on gold's materializations in the Dagster UI."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import MarkdownMetadataValue, MetadataValue, TimeWindow

from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import Metadata, within

EOK = Decimal(100_000_000)
JO = 10_000 * EOK
BAR = 20
JOINER = "\u2060"  # keeps a browser from breaking a market's code or an amount in two


def turnover_top10(connection: sa.Connection, window: TimeWindow) -> Metadata:
    """The turnover top 10 of the newest window written, as a table with bars."""
    stats = tables.gold_market_stats
    newest = sa.select(sa.func.max(stats.c.window_start)).where(within(stats, window)).scalar_subquery()
    rows = connection.execute(
        sa.select(stats)
        .where(within(stats, window), stats.c.window_start == newest)
        .order_by(stats.c.rank_volume)
        .limit(10)
    ).all()
    return {"turnover top 10": as_table(rows)} if rows else {}


def as_table(rows: Sequence[sa.Row[Any]]) -> MarkdownMetadataValue:
    largest = max((row.turnover_krw or 0 for row in rows), default=0) or 1
    lines = []
    for row in rows:
        bar = "█" * round(BAR * (row.turnover_krw or 0) / largest)
        cells = (
            plain(row.trade_price),
            f"{row.change_rate:+.2%}",
            JOINER.join(won(row.turnover_krw)),
            bar,
            f"{row.volatility:.2%}",
        )
        lines.append(f"| {row.rank_volume} | {row.market.replace('-', '-' + JOINER)} | {' | '.join(cells)} |")
    head = ["| # | market | price | change | turnover 24 h | | volatility |", "|--:|:--|--:|--:|--:|:--|--:|"]
    return MetadataValue.md("\n".join([*head, *lines]))


def plain(figure: Decimal) -> str:
    """A decimal with thousands, without an exponent and without the zeros that say nothing."""
    text = f"{figure:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def won(amount: Decimal | None) -> str:
    """KRW as people write it: 1.23조, 456.7억, 89,012."""
    if amount is None:
        return "–"
    for unit, name in ((JO, "조"), (EOK, "억")):
        if amount >= unit:
            return f"{amount / unit:,.2f}{name}"
    return f"{amount:,.0f}"
