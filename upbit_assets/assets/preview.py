"""Previews of gold in the Dagster UI, as metadata of its materializations."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import MetadataValue, TimeWindow

from upbit_assets.postgres import tables
from upbit_assets.postgres_io import Metadata, in_window

EOK = Decimal(100_000_000)
JO = 10_000 * EOK
BAR = 20
JOINER = "\u2060"  # keeps a browser from breaking a market's code or an amount in two


def turnover_top10(connection: sa.Connection, window: TimeWindow) -> Metadata:
    """The turnover top 10 of the newest window written, as a table with bars."""
    stats = tables.gold_market_stats
    rows = newest(connection, stats, stats.c.window_start, window, stats.c.rank_volume)
    cells = [
        (
            *(str(row.rank_volume), code(row), format_decimal(row.trade_price), f"{row.change_rate:+.2%}"),
            *(
                JOINER.join(format_krw(row.turnover_krw)),
                bar(row.turnover_krw, rows),
                format_or_dash(row.volatility, ".2%"),
            ),
        )
        for row in rows
    ]
    return as_table("turnover top 10", "-# market -price -change -turnover_24_h bar -volatility", cells)


def daily_top10(connection: sa.Connection, window: TimeWindow) -> Metadata:
    """The turnover top 10 of the newest day written, as a table with bars."""
    daily = tables.gold_market_daily
    rows = newest(connection, daily, daily.c.day, window, daily.c.rank_turnover)
    cells = [
        (
            *(str(row.rank_turnover), code(row), format_decimal(row.closing_price)),
            f"{row.closing_price / row.opening_price - 1:+.2%}",
            *(JOINER.join(format_krw(row.turnover_krw)), bar(row.turnover_krw, rows)),
            *("–" if row.vwap is None else format_decimal(row.vwap, 8), row.vwap_source),
            *(format_or_dash(row.realized_volatility, ".2%"), str(row.minutes_missing)),
        )
        for row in rows
    ]
    head = "-# market -close -change -turnover bar -VWAP from -volatility -minutes_missing"
    return as_table("turnover top 10 of the day", head, cells)


def orderbook_spreads(connection: sa.Connection, window: TimeWindow) -> Metadata:
    """The tightest spreads of the newest window written, with the depth within 1 percent."""
    stats = tables.gold_orderbook_stats
    rows = newest(connection, stats, stats.c.window_start, window, stats.c.spread_bps)
    cells = [
        (
            *(code(row), f"{row.spread_bps:.2f}", format_decimal(row.best_bid), format_decimal(row.best_ask)),
            *(format_decimal(row.bid_depth_1, 2), format_decimal(row.ask_depth_1, 2)),
            format_or_dash(row.imbalance, "+.0%"),
        )
        for row in rows
        if row.spread_bps is not None
    ]
    head = "market -spread_(bps) -best_bid -best_ask -bids_within_1_% -asks_within_1_% -imbalance"
    return as_table("tightest spreads", head, cells)


def newest(
    connection: sa.Connection, table: sa.Table, start: sa.Column[Any], window: TimeWindow, order: sa.Column[Any]
) -> Sequence[sa.Row[Any]]:
    """The first ten rows of the newest window written."""
    return connection.execute(newest_ten(table, start, window, order)).all()


def newest_ten(
    table: sa.Table, start: sa.Column[Any], window: TimeWindow, order: sa.Column[Any]
) -> sa.Select[tuple[Any, ...]]:
    moment = table.c[table.info["window"]]  # the leading column of the index
    last = sa.select(start).where(in_window(table, window)).order_by(moment.desc()).limit(1).scalar_subquery()
    return sa.select(table).where(in_window(table, window), start == last).order_by(order, table.c.market).limit(10)


def as_table(name: str, head: str, rows: Sequence[Sequence[str]]) -> Metadata:
    """`head`: the columns' names, separated by spaces; "-" before a name aligns it right."""
    if not rows:
        return {}
    columns = head.split()
    titles = [column.removeprefix("-").replace("_", " ").replace("bar", "") for column in columns]
    rules = ["--:" if column.startswith("-") else ":--" for column in columns]
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows)]
    return {name: MetadataValue.md("\n".join(lines))}


def code(row: sa.Row[Any]) -> str:
    return row.market.replace("-", "-" + JOINER)


def bar(amount: Decimal | None, rows: Sequence[sa.Row[Any]]) -> str:
    largest = max((row.turnover_krw or 0 for row in rows), default=0) or 1
    return "█" * round(BAR * (amount or 0) / largest)


def format_decimal(figure: Decimal, decimals: int | None = None) -> str:
    """A decimal with thousands separators, without exponent and trailing zeros; rounded if `decimals` is given."""
    text = f"{figure:,f}" if decimals is None else f"{figure:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_or_dash(figure: Decimal | None, form: str) -> str:
    return "–" if figure is None else format(figure, form)


def format_krw(amount: Decimal | None) -> str:
    """KRW in Korean units: 1.23조, 456.7억, 89,012."""
    if amount is None:
        return "–"
    for unit, name in ((JO, "조"), (EOK, "억")):
        if amount >= unit:
            return f"{amount / unit:,.2f}{name}"
    return f"{amount:,.0f}"
