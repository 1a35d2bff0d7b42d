"""Gold: each market's standing at the end of a window, by window functions inside the database."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import AssetExecutionContext, BackfillPolicy, TimeWindow, asset
from sqlalchemy.dialects.postgresql import aggregate_order_by

from upbit_assets.assets import HOUSE, lineage, retry
from upbit_assets.assets.coverage import covered
from upbit_assets.assets.preview import daily_top10, orderbook_spreads, turnover_top10
from upbit_assets.partitions import DAY, WINDOW, Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import Load, stored_in, within

RATE_DIGITS = 10  # as the exchange rounds its own rates
PRICE_DIGITS = 16


def gold(axis: Axis, source: str, table: sa.Table, upstream: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """What the gold assets share. `columns`: each one's origin in the upstream asset."""
    return {
        **HOUSE,
        "group_name": source,
        "kinds": {"postgres", "sql", "gold"},
        "partitions_def": axis.partitions,
        "backfill_policy": BackfillPolicy.single_run(),
        "retry_policy": retry,
        "metadata": stored_in(table, write="replace", lineage=lineage(upstream, columns)),
    }


@asset(
    **gold(
        windows,
        "ticker",
        tables.gold_market_stats,
        "silver_ticker",
        {
            **{name: name for name in ("ingested_at", "market", "trade_price", "change_rate")},
            "daily_volume": "acc_trade_volume",
            "quote_currency": "market",
            "turnover": "acc_trade_price",
            "window_start": "ingested_at",
            **dict.fromkeys(("turnover_krw", "rank_volume"), "acc_trade_price trade_price market"),
            **dict.fromkeys(("window_high", "window_low", "volatility", "rank_volatility"), "trade_price"),
            "change_rate_24h": "trade_price ingested_at",
            "vwap": "day_turnover day_volume",
        },
    )
)
def gold_market_stats(context: AssetExecutionContext, silver_ticker: sa.Select[Any]) -> Load:
    """One row per market and window: its last snapshot's figures, ranked by turnover (거래대금) and by volatility.

    Turnover is compared in KRW; BTC- and USDT-markets are converted at KRW-BTC and KRW-USDT of the same snapshot.
    A market whose quote currency has no such rate ranks last, with a note that says so.
    """
    window = context.partition_time_window
    return Load(
        {
            tables.gold_market_stats: market_stats(silver_ticker.subquery("silver"), day_before(window)),
            tables.gold_market_stats_build: build(window),
        },
        describe=turnover_top10,
    )


def day_before(window: TimeWindow) -> sa.Subquery:
    """The same windows of the day before, for the rolling change."""
    earlier = TimeWindow(window.start - DAY, window.end - DAY)
    return sa.select(tables.silver_ticker).where(within(tables.silver_ticker, earlier)).subquery("day_before")


def market_stats(silver: sa.Subquery, before: sa.Subquery) -> sa.Select[Any]:
    row = with_change(with_turnover_krw(silver, last_snapshots(silver)), before)
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
        sa.func.round(row.c.traded_turnover / sa.func.nullif(row.c.traded_volume, 0), PRICE_DIGITS).label("vwap"),
    )


def rank(figure: sa.ColumnElement[Any], window: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.rank().over(partition_by=window, order_by=figure.desc().nulls_last())


def last_snapshots(silver: sa.Subquery) -> sa.Subquery:
    """Each market's last row in each window, with the window's highest and lowest price and what was traded in it."""
    step = traded_since_the_last(silver)
    market = [step.c.window_start, step.c.market]
    recency = sa.func.row_number().over(partition_by=market, order_by=step.c.ingested_at.desc())
    rows = sa.select(
        step,
        sa.func.split_part(step.c.market, "-", 1).label("quote_currency"),
        sa.func.max(step.c.trade_price).over(partition_by=market).label("window_high"),
        sa.func.min(step.c.trade_price).over(partition_by=market).label("window_low"),
        *(sa.func.sum(step.c[f"more_{name}"]).over(partition_by=market).label(f"traded_{name}") for name in TRADED),
        recency.label("recency"),
    ).subquery("rows")
    return sa.select(rows).where(rows.c.recency == 1).subquery("last")


TRADED = ("volume", "turnover")


def traded_since_the_last(silver: sa.Subquery) -> sa.Subquery:
    """Each snapshot with what was traded since the one before in its window; the exchange counts anew at 09:00 KST."""
    start = windows.floor(silver.c.ingested_at)
    more = []
    for name in TRADED:
        now = silver.c[f"day_{name}"]
        last = sa.func.lag(now).over(partition_by=[start, silver.c.market], order_by=silver.c.ingested_at)
        more.append(sa.case((now >= last, now - last), (now < last, now)).label(f"more_{name}"))
    return sa.select(silver, start.label("window_start"), *more).subquery("step")


def with_turnover_krw(silver: sa.Subquery, last: sa.Subquery) -> sa.Subquery:
    """`last` with its turnover in KRW: for a quote currency Q, at the price of KRW-Q in the same snapshot."""
    rate = sa.select(silver.c.ingested_at, silver.c.market, silver.c.trade_price).subquery("rate")
    krw = sa.case(
        (last.c.quote_currency == "KRW", last.c.acc_trade_price),
        else_=last.c.acc_trade_price * rate.c.trade_price,
    )
    at_rate = (rate.c.ingested_at == last.c.ingested_at) & (rate.c.market == "KRW-" + last.c.quote_currency)
    return sa.select(last, krw.label("turnover_krw")).outerjoin_from(last, rate, at_rate).subquery("in_krw")


def with_change(row: sa.Subquery, before: sa.Subquery) -> sa.Subquery:
    """`row` with the change against the snapshot of the day before whose time of day is nearest."""
    wanted = sa.select(row.c.window_start, row.c.ingested_at).distinct().subquery("wanted")
    there = sa.select(before.c.ingested_at).distinct().subquery("there")
    nearest = (
        sa.select(wanted.c.ingested_at, there.c.ingested_at.label("day_before"))
        .distinct(wanted.c.ingested_at)
        .join_from(
            wanted,
            there,
            (there.c.ingested_at >= wanted.c.window_start - DAY)
            & (there.c.ingested_at < wanted.c.window_start - DAY + WINDOW),
        )
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


def build(window: TimeWindow) -> sa.Select[Any]:
    """Which silver each window was computed from, so that a newer one is noticed."""
    silver, gold = tables.silver_ticker_build, tables.gold_market_stats
    earlier = silver.alias("earlier")
    return (
        sa.select(
            silver.c.window_start,
            rows_of(gold, gold.c.window_start, silver, window).label("gold_rows"),
            silver.c.computed_at.label("silver_computed_at"),
            earlier.c.computed_at.label("day_before_computed_at"),
        )
        .outerjoin_from(silver, earlier, earlier.c.window_start == silver.c.window_start - DAY)
        .where(within(silver, window))
    )


DEPTHS = {"01": Decimal("0.001"), "05": Decimal("0.005"), "1": Decimal("0.01")}


@asset(
    **gold(
        windows,
        "orderbook",
        tables.gold_orderbook_stats,
        "silver_orderbook",
        {
            **{name: name for name in ("ingested_at", "market")},
            "quote_currency": "market",
            "window_start": "ingested_at",
            "best_bid": "bid_prices",
            "best_ask": "ask_prices",
            **dict.fromkeys(("mid_price", "spread_bps", "spread_bps_mean", "reach"), "bid_prices ask_prices"),
            **{f"{side}_depth_{name}": f"{side}_prices {side}_sizes" for side in ("bid", "ask") for name in DEPTHS},
            "imbalance": "bid_prices bid_sizes ask_prices ask_sizes",
        },
    )
)
def gold_orderbook_stats(context: AssetExecutionContext, silver_orderbook: sa.Select[Any]) -> Load:
    """One row per market and window: spread, depth and imbalance of its last order book, and the window's mean spread.

    A book that has no bids or no asks has no spread, and so no row.
    """
    window = context.partition_time_window
    return Load(
        {
            tables.gold_orderbook_stats: orderbook_stats(silver_orderbook.subquery("silver")),
            tables.gold_orderbook_stats_build: orderbook_build(window),
        },
        describe=orderbook_spreads,
    )


def orderbook_stats(silver: sa.Subquery) -> sa.Select[Any]:
    start = windows.floor(silver.c.ingested_at)
    bid, ask = silver.c.bid_prices[1], silver.c.ask_prices[1]
    mid = (bid + ask) / 2
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
            sa.func.round((bids - asks) / (bids + asks), RATE_DIGITS).label("imbalance"),
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


def orderbook_build(window: TimeWindow) -> sa.Select[Any]:
    silver, gold = tables.silver_orderbook_build, tables.gold_orderbook_stats
    return sa.select(
        silver.c.window_start,
        rows_of(gold, gold.c.window_start, silver, window).label("gold_rows"),
        silver.c.computed_at.label("silver_computed_at"),
    ).where(within(silver, window))


def rows_of(gold: sa.Table, start: sa.ColumnElement[Any], silver: sa.FromClause, window: TimeWindow) -> Any:
    """How many rows of gold were just written for each window of silver's books."""
    rows = sa.select(sa.func.count()).where(start == silver.c.window_start, within(gold, window))
    return rows.scalar_subquery().correlate(silver)


@asset(
    **gold(
        days,
        "daily",
        tables.gold_market_daily,
        "silver_candle",
        {
            "market": "market",
            "quote_currency": "market",
            "day": "started_at",
            **{
                name: name
                for name in ("opening_price", "high_price", "low_price", "closing_price", "volume", "turnover")
            },
            **dict.fromkeys(("turnover_krw", "rank_turnover"), "turnover volume market"),
            "vwap": "turnover volume",
            **dict.fromkeys(("realized_volatility", "rank_volatility"), "closing_price"),
            **dict.fromkeys(("minutes_traded", "minutes_silent", "minutes_missing"), "started_at"),
        },
    )
)
def gold_market_daily(
    context: AssetExecutionContext, silver_candle: sa.Select[Any], silver_trade: sa.Select[Any]
) -> Load:
    """One row per market and exchange's day (from 09:00 KST): prices, turnover, VWAP and realized volatility, ranked.

    Of the markets whose candles are collected. The VWAP is of every trade where the whole day's trades are there, else
    of the candles, and `vwap_source` says which. Ranks are among the collected markets.
    """
    window = context.partition_time_window
    return Load(
        {
            tables.gold_market_daily: market_daily(
                silver_candle.subquery("candle"), silver_trade.subquery("trade"), window
            ),
            tables.gold_market_daily_build: daily_build(window),
        },
        describe=daily_top10,
    )


def market_daily(candle: sa.Subquery, trade: sa.Subquery, window: TimeWindow) -> sa.Select[Any]:
    row, traded, coverage = day_candles(candle), traded_whole(trade, window), tables.silver_candle_coverage
    of_candles = row.c.turnover / sa.func.nullif(row.c.volume, 0)
    vwap = sa.func.round(sa.func.coalesce(traded.c.vwap, of_candles, row.c.closing_price), PRICE_DIGITS)
    priced = (
        sa.select(
            row,
            sa.func.split_part(row.c.market, "-", 1).label("quote_currency"),
            vwap.label("vwap"),
            sa.case((traded.c.vwap.is_not(None), "trades"), else_="candles").label("vwap_source"),
        )
        .outerjoin_from(row, traded, (traded.c.day == row.c.day) & (traded.c.market == row.c.market))
        .subquery("priced")
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
    """The VWAP of each market's day all of whose trades were collected."""
    day, whole = days.floor(trade.c.traded_at), covered(tables.bronze_trade_page, window)
    sums = (
        sa.select(
            day.label("day"),
            trade.c.market,
            (sa.func.sum(trade.c.price * trade.c.volume) / sa.func.sum(trade.c.volume)).label("vwap"),
        )
        .group_by(day, trade.c.market)
        .subquery("sums")
    )
    all_day = sa.func.tstzrange(whole.c.day, whole.c.day + DAY)
    return (
        sa.select(sums)
        .join_from(sums, whole, (whole.c.day == sums.c.day) & (whole.c.market == sums.c.market))
        .where(whole.c.covered.op("@>", is_comparison=True)(all_day))
        .subquery("traded")
    )


def daily_build(window: TimeWindow) -> sa.Select[Any]:
    """Which candles and trades each day was computed from, so that newer ones are noticed."""
    candle, trade, gold = tables.silver_candle_build, tables.silver_trade_build, tables.gold_market_daily
    return (
        sa.select(
            candle.c.window_start,
            rows_of(gold, gold.c.day, candle, window).label("gold_rows"),
            candle.c.computed_at.label("candle_computed_at"),
            trade.c.computed_at.label("trade_computed_at"),
        )
        .outerjoin_from(candle, trade, trade.c.window_start == candle.c.window_start)
        .where(within(candle, window))
    )
