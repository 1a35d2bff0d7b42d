"""The API's endpoints: parameters, fields and SQL.

Decimals are returned as text with all their digits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from upbit_assets.dashboard.parameters import (
    MAX_ROWS,
    Page,
    Parameter,
    RequestError,
    choice,
    instant,
    market,
    number,
    one_of,
    page,
    window_key,
)
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.snapshot_source import computation_delay
from upbit_assets.settings import settings

Values = Mapping[str, Any]
DAY = timedelta(days=1)
STALE_AFTER = timedelta(minutes=3)  # figures are computed every minute, or when the window that is streamed is over
stats, book, candle, daily = (
    tables.gold_market_stats,
    tables.silver_orderbook,
    tables.silver_candle,
    tables.gold_market_daily,
)


def minutes(market: str, span: Page) -> sa.Subquery:
    """A market's one-minute candles: the collected ones, and those of the stream for minutes not collected yet."""
    names = ["started_at", "opening_price", "high_price", "low_price", "closing_price", "volume", "turnover"]
    live = sa.table("candle", *(sa.column(name, candle.c[name].type) for name in ("market", *names)), schema="live")

    def rows(of: sa.FromClause) -> sa.Select[Any]:
        in_span = (of.c.started_at >= span.start, of.c.started_at < span.end)
        return sa.select(*(of.c[name] for name in names)).where(of.c.market == market, *in_span)

    collected = rows(candle).cte("collected")
    others = rows(live).where(~sa.exists().where(collected.c.started_at == live.c.started_at))
    return sa.union_all(sa.select(collected), others).subquery("minutes")


@dataclass(frozen=True)
class Endpoint:
    """A path of the API.

    Args:
        answer: returns the JSON content for the parameters' values.
        fields: the columns of the response, or of its rows if it has `rows`.
    """

    path: str
    about: str
    answer: Callable[[sa.Connection, Values], dict[str, Any]]
    fields: tuple[sa.Column[Any], ...]
    parameters: tuple[Parameter, ...] = ()
    has_rows: bool = True


def fields_of(table: sa.Table, *excluded: str) -> tuple[sa.Column[Any], ...]:
    return tuple(column for column in table.columns if column.name not in {"id", "written_in", *excluded})


def field(comment: str, name: str, kind: Any = sa.Text) -> sa.Column[Any]:
    """A field that isn't a table's column."""
    return sa.Column(name, kind, comment=comment)


def exact(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The column as returned by the API: decimals as text, which PostgreSQL writes in full without an exponent."""
    match column.type:
        case sa.Integer() | sa.BigInteger():
            return column
        case sa.ARRAY(item_type=sa.Numeric()):
            return sa.cast(column, postgresql.ARRAY(sa.Text))
        case sa.Numeric():
            return sa.cast(column, sa.Text)
    return column


def as_text(columns: tuple[sa.Column[Any], ...]) -> list[sa.ColumnElement[Any]]:
    return [exact(column).label(column.name) for column in columns]


def fetch(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


newest = (
    sa.select(tables.gold_market_stats_build.c.window_start, tables.gold_market_stats_build.c.computed_at)
    .where(tables.gold_market_stats_build.c.gold_rows > 0)
    .order_by(tables.gold_market_stats_build.c.window_start.desc())
    .limit(1)
)


def status(connection: sa.Connection, _: Values) -> dict[str, Any]:
    start, computed_at = connection.execute(newest).one_or_none() or (None, None)
    of_window = (stats.c.ingested_at >= start, stats.c.ingested_at < start + WINDOW) if start else (sa.false(),)
    stale_after = STALE_AFTER + computation_delay(connection, datetime.now(UTC))
    return {
        "simulated": connection.scalar(sa.select(tables.bronze_origin.c.simulated)),
        "window_start": start,
        "computed_at": computed_at,
        "collected_at": connection.scalar(sa.select(sa.func.max(stats.c.ingested_at)).where(*of_window)),
        "received_at": connection.scalar(sa.text("SELECT received_at FROM bronze.newest_ticker")),
        "stale_after": int(stale_after.total_seconds()),
        "dagster": settings.UPBIT_DAGSTER_URL,
    }


def markets(connection: sa.Connection, values: Values) -> dict[str, Any]:
    start = values["window"] or connection.scalar(newest)
    if start is None:
        return page_of([], None)
    query = (
        sa.select(*as_text(MARKET_FIELDS), *NAME_FIELDS)
        .outerjoin(tables.silver_market, tables.silver_market.c.market == stats.c.market)
        .where(stats.c.window_start == start, stats.c.ingested_at >= start, stats.c.ingested_at < start + WINDOW)
        .order_by(*values["sort"], stats.c.market)
        .limit(values["limit"] + 1)
        .offset(values["offset"])
    )
    rows = fetch(connection, query.where(stats.c.quote_currency == values["quote"]) if values["quote"] else query)
    if values["window"] and not rows:
        raise RequestError(404, f"There are no such figures for {windows.key_of(start)}.")
    next_parameters = {"window": windows.key_of(start), "offset": values["offset"] + values["limit"]}
    return page_of(rows[: values["limit"]], next_parameters if len(rows) > values["limit"] else None)


def page_of(rows: list[dict[str, Any]], next_parameters: Values | None) -> dict[str, Any]:
    """Rows, and the parameters that change in the request for the next page."""
    return {"rows": rows, "next": next_parameters}


def series(connection: sa.Connection, values: Values, query: sa.Select[Any], span: Page | None) -> dict[str, Any]:
    """A market's rows, possibly none. Raises RequestError if the market doesn't exist."""
    rows = fetch(connection, query)
    # candles too, because a market configured by its code may have candles but no ticker
    market_exists = sa.or_(*(sa.exists().where(table.c.market == values["market"]) for table in (stats, daily, candle)))
    if not rows and not connection.scalar(sa.select(market_exists)):
        raise RequestError(404, f"There is no data for the market {values['market']}.")
    return page_of(rows, next_span(span, values) if span else None)


def next_span(span: Page, values: Values) -> Values | None:
    return {"from": span.next, "to": values["to"] or datetime.now(UTC)} if span.next else None


def windows_of_market(connection: sa.Connection, values: Values) -> dict[str, Any]:
    span = page(values, WINDOW, DAY)
    query = (
        sa.select(*as_text(MARKET_FIELDS))
        .where(stats.c.market == values["market"], stats.c.ingested_at >= span.start, stats.c.ingested_at < span.end)
        .order_by(stats.c.ingested_at)
    )
    return series(connection, values, query, span)


def candles(connection: sa.Connection, values: Values) -> dict[str, Any]:
    """Candles of any unit, aggregated from one-minute candles; the last minutes may be the stream's."""
    unit = values["unit"]
    span = page(values, unit, DAY)
    candle = minutes(values["market"], span)
    start = sa.func.date_bin(unit, candle.c.started_at, datetime(2000, 1, 1, tzinfo=UTC)).label("started_at")
    moment = candle.c.started_at

    def at(end: sa.ColumnElement[Any], price: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.array_agg(postgresql.aggregate_order_by(price, end), type_=sa.ARRAY(sa.Numeric))[1]

    figures = {
        "opening_price": at(moment.asc(), candle.c.opening_price),
        "high_price": sa.func.max(candle.c.high_price),
        "low_price": sa.func.min(candle.c.low_price),
        "closing_price": at(moment.desc(), candle.c.closing_price),
        "volume": sa.func.sum(candle.c.volume),
        "turnover": sa.func.sum(candle.c.turnover),
    }
    query = (
        sa.select(start, *(exact(figure).label(name) for name, figure in figures.items()))
        .group_by(start)
        .order_by(start)
    )
    return series(connection, values, query, span)


def days(connection: sa.Connection, values: Values) -> dict[str, Any]:
    span = page(values, DAY, 30 * DAY)
    query = (
        sa.select(*as_text(fields_of(daily)))
        .where(daily.c.market == values["market"], daily.c.day >= span.start, daily.c.day < span.end)
        .order_by(daily.c.day)
    )
    return series(connection, values, query, span)


def orderbook(connection: sa.Connection, values: Values) -> dict[str, Any]:
    """The newest book, and the newest spread, which may be from an earlier book."""
    levels, spread = (
        sa.select(*as_text(fields))
        .where(table.c.market == values["market"], table.c.ingested_at > datetime.now(UTC) - DAY)
        .order_by(table.c.ingested_at.desc())
        .limit(1)
        .subquery()
        for table, fields in ((book, BOOK_FIELDS), (tables.gold_orderbook_stats, SPREAD_FIELDS))
    )
    query = sa.select(levels, spread).select_from(levels.outerjoin(spread, sa.true()))
    return series(connection, values, query, None)


def coverage(connection: sa.Connection, values: Values) -> dict[str, Any]:
    span = page(values, WINDOW, DAY)
    silver, gold, trade = tables.silver_ticker_build, tables.gold_market_stats_build, tables.silver_trade_coverage.c
    kind = sa.DateTime(timezone=True)
    # bounded by constants, so that the planner sees which partitions it needs
    trades = (
        sa.select(
            trade.window_start,
            *(sa.func.count().filter(trade.state == state).label(each.name) for state, each in TRADES_BY_STATE.items()),
        )
        .where(trade.window_start >= span.start, trade.window_start < span.end)
        .group_by(trade.window_start)
        .subquery("trades")
    )
    start = sa.func.generate_series(span.start, span.end - WINDOW, WINDOW, type_=kind)
    window = start.table_valued(sa.column("start", kind)).alias("each_window").render_derived()
    query = (
        sa.select(
            window.c.start.label("window_start"),
            *as_text(fields_of(silver, "window_start", "computed_at")),
            gold.c.gold_rows,
            gold.c.computed_at,
            *(trades.c[each.name] for each in TRADES_BY_STATE.values()),
        )
        .select_from(window)
        .outerjoin(silver, silver.c.window_start == window.c.start)
        .outerjoin(gold, gold.c.window_start == window.c.start)
        .outerjoin(trades, trades.c.window_start == window.c.start)
        .order_by(window.c.start)
    )
    first = connection.scalar(sa.select(sa.func.min(silver.c.window_start))) or datetime.now(UTC)
    rows = [
        {"window": windows.key_of(row["window_start"]), "before_first": row["window_start"] < first, **row}
        for row in fetch(connection, query)
    ]
    return page_of(rows, next_span(span, values))


TRADES_BY_STATE = {
    state: field(f"{comment}; null if the window's trades were not verified", f"markets_{state}", sa.BigInteger)
    for state, comment in {
        "proved": "Markets of which all trades are there, by the exchange's day counters",
        "collected": "Markets whose trades were collected, without a proof or before there is one",
        "missing": "Markets of which trades may be missing",
    }.items()
}
MARKET_FIELDS = fields_of(stats)
NAME_FIELDS = fields_of(tables.silver_market, "market", "first_seen_at", "last_seen_at")
BOOK_FIELDS = fields_of(book, "computed_at")
SPREAD_FIELDS = fields_of(tables.gold_orderbook_stats, "ingested_at", "market", "computed_at")
UNITS = {str(minutes): timedelta(minutes=minutes) for minutes in (1, 3, 5, 10, 15, 30, 60, 240, 1440)}
SORTS = {
    "turnover": (stats.c.rank_volume,),
    "volatility": (stats.c.rank_volatility,),
    "change": (stats.c.change_rate.desc(),),
    "market": (),
}
QUOTES = {"KRW": "KRW", "BTC": "BTC", "USDT": "USDT"}
SINCE, UNTIL = (
    instant("from", "The start of the period; Seoul time unless it has a UTC offset"),
    instant("to", "The end of the period (exclusive); by default now"),
)
LIMIT = number("limit", "The most rows, or time steps, in one response", 1, MAX_ROWS, MAX_ROWS)

ENDPOINTS = (
    Endpoint(
        "/api/status",
        "The age of the data, and whether it is simulated",
        status,
        (
            field("Whether the data is the offline exchange's; null if there is none", "simulated", sa.Boolean),
            field("Start of the newest window that has figures", "window_start", tables.Moment),
            field("When those figures were computed", "computed_at", tables.Moment),
            field("When the newest of its data was collected", "collected_at", tables.Moment),
            field(
                "When the newest raw ticker of the last day was received, whether or not its figures are computed",
                "received_at",
                tables.Moment,
            ),
            field("Seconds after which the data is stale", "stale_after", sa.Integer),
            field("The URL of the Dagster UI", "dagster"),
        ),
        has_rows=False,
    ),
    Endpoint(
        "/api/markets",
        "The figures of all markets in one ten-minute window, by default the newest",
        markets,
        MARKET_FIELDS + NAME_FIELDS,
        (
            Parameter("window", "The window's key", {"type": "string", "examples": ["2026-01-29-14:00"]}, window_key),
            Parameter("quote", "Only markets of a quote currency", {"enum": list(QUOTES)}, one_of(QUOTES)),
            choice("sort", "The order of the rows", SORTS, "turnover"),
            LIMIT,
            number("offset", "The number of rows to skip", 0, 1_000_000, 0),
        ),
    ),
    Endpoint(
        "/api/markets/{market}/windows",
        "A market's figures by window, oldest first; by default for the last day",
        windows_of_market,
        MARKET_FIELDS,
        (market, SINCE, UNTIL, LIMIT),
    ),
    Endpoint(
        "/api/markets/{market}/candles",
        "A market's candles, oldest first; by default for the last day. Periods without trades have no candle",
        candles,
        fields_of(candle, "market", "last_traded_at", "ingested_at", "computed_at"),
        (market, choice("unit", "Minutes; a day begins at 09:00 KST", UNITS, "1"), SINCE, UNTIL, LIMIT),
    ),
    Endpoint(
        "/api/markets/{market}/orderbook",
        "A market's newest order book of the last day, and the newest window's spread and depths",
        orderbook,
        BOOK_FIELDS + SPREAD_FIELDS,
        (market,),
    ),
    Endpoint(
        "/api/markets/{market}/days",
        "A market's figures by the exchange's day (from 09:00 KST), oldest first; by default for the last 30 days",
        days,
        fields_of(daily),
        (market, SINCE, UNTIL, LIMIT),
    ),
    Endpoint(
        "/api/coverage",
        "What was collected in each ten-minute window, including empty ones; by default for the last day",
        coverage,
        (
            field("The window's key, which is its partition in Dagster", "window"),
            field("Whether nothing had been collected yet, of any window", "before_first", sa.Boolean),
            field("Start of the window", "window_start", tables.Moment),
            *fields_of(tables.silver_ticker_build, "window_start", "computed_at"),
            *fields_of(tables.gold_market_stats_build, "window_start", "silver_computed_at", "day_before_computed_at"),
            *TRADES_BY_STATE.values(),
        ),
        (SINCE, UNTIL, LIMIT),
    ),
)


def next_page(path: str, query: Mapping[str, str], next_parameters: Values | None) -> str | None:
    """The path of the next page of rows."""
    if not next_parameters:
        return None
    texts = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in next_parameters.items()
    }
    return f"{path}?{urlencode({**query, **texts})}"
