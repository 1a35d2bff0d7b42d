"""Silver: bronze typed, validated and de-duplicated inside the database."""

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import AssetExecutionContext, asset
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by

from upbit_assets.assets import common_asset_args, lineage
from upbit_assets.assets.coverage import candle_coverage
from upbit_assets.assets.refine import (
    LARGEST,
    SMALLEST,
    Cases,
    Column,
    Refinement,
    amount,
    milliseconds,
    moment_of,
    number,
    plausible,
    positive,
)
from upbit_assets.assets.trade_proof import with_coverage
from upbit_assets.partitions import DAY, Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import Load, Rows, stored_in

YYYYMMDD = "^[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$"
HHMMSS = "^([01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]$"
RATE_TOLERANCE = Decimal("1e-6")  # the exchange rounds rates to ten decimals
HH_MM = "([01][0-9]|2[0-3]):[0-5][0-9]"


def silver(axis: Axis, source: str, table: sa.Table, raw: str, /, **columns: str) -> dict[str, Any]:
    """The arguments that silver assets share. `raw`: columns derived from the raw row; `columns`: origin of others."""
    origin = {"market": "market", "ingested_at": "ingested_at", **dict.fromkeys(raw.split(), "raw_data"), **columns}
    stored = stored_in(table, write="replace", lineage=lineage(f"bronze_{source}_raw", origin))
    return common_asset_args(axis, source, {"sql", "silver"}, stored)


ISO = 'YYYY-MM-DD"T"HH24:MI:SS'


def utc_text(moment: Column, form: str = ISO, zone: str = "UTC") -> Column:
    """A time in the exchange's format."""
    return sa.func.to_char(sa.func.timezone(zone, moment), form)


def kst_text(moment: Column, form: str = ISO) -> Column:
    return utc_text(moment, form, "Asia/Seoul")


def wrong_rate(row: Any) -> sa.ColumnElement[bool]:
    """Whether the rate contradicts the row's prices; NULL if the previous price is missing or 0."""
    previous = sa.func.nullif(row.prev_closing_price, 0)
    return sa.func.abs((row.signed_change_rate + 1) * previous - row.trade_price) > previous * RATE_TOLERANCE


def trade_date(row: Any) -> Column:
    """In KST; the hosts outside Korea send UTC only."""
    return sa.func.coalesce(row.trade_date, kst_text(moment_of(row.trade_timestamp), "YYYYMMDD"))


def trade_time(row: Any) -> Column:
    return sa.func.coalesce(row.trade_time, kst_text(moment_of(row.trade_timestamp), "HH24MISS"))


def wrong_trade_time(row: Any) -> Cases:
    """A ticker has its last trade's time twice; the reason is determined only if the two differ."""
    which = sa.case(
        (~row.trade_date.regexp_match(YYYYMMDD), "trade_date_kst: not YYYYMMDD"),
        (~row.trade_time.regexp_match(HHMMSS), "trade_time_kst: not HHMMSS"),
        else_="trade_date_kst, trade_time_kst: not the time that trade_timestamp says",
    )
    traded_at = kst_text(moment_of(row.trade_timestamp), "YYYYMMDDHH24MISS")
    return [(sa.func.concat(trade_date(row), trade_time(row)) != traded_at, which)]


TICKER = Refinement(
    axis=windows,
    bronze=tables.bronze_ticker_raw,
    silver=tables.silver_ticker,
    rejected=tables.silver_ticker_rejected,
    build=tables.silver_ticker_build,
    identity=("ingested_at", "market"),
    texts={"trade_date": "trade_date_kst", "trade_time": "trade_time_kst"},
    numbers=(
        "trade_price",
        "acc_trade_volume_24h",
        "acc_trade_price_24h",
        "signed_change_rate",
        "prev_closing_price",
        "trade_timestamp",
        "acc_trade_volume",
        "acc_trade_price",
    ),
    reasons=lambda row: [
        *positive(row.trade_price),
        *amount(row.acc_trade_volume_24h),
        *amount(row.acc_trade_price_24h),
        (row.signed_change_rate.is_(None), "signed_change_rate: not a number"),
        (
            (row.signed_change_rate < -1) | ~plausible(sa.func.abs(row.signed_change_rate)),
            "signed_change_rate: out of range",
        ),
        (~plausible(row.prev_closing_price), "prev_closing_price: negative or out of range"),
        (wrong_rate(row), "signed_change_rate: not the change from prev_closing_price to trade_price"),
        *milliseconds(row.trade_timestamp, row.ingested_at),
        *wrong_trade_time(row),
    ],
    columns=lambda good: [
        good.market,
        trade_date(good).label("trade_date"),
        trade_time(good).label("trade_time"),
        good.trade_price,
        good.acc_trade_volume_24h.label("acc_trade_volume"),
        good.ingested_at,
        good.acc_trade_price_24h.label("acc_trade_price"),
        good.signed_change_rate.label("change_rate"),
        moment_of(good.trade_timestamp).label("traded_at"),
        sa.case((plausible(good.acc_trade_volume), good.acc_trade_volume)).label("day_volume"),
        sa.case((plausible(good.acc_trade_price), good.acc_trade_price)).label("day_turnover"),
    ],
)


@asset(
    **silver(
        windows,
        "ticker",
        tables.silver_ticker,
        "trade_date trade_time trade_price acc_trade_volume acc_trade_price change_rate traded_at "
        "day_volume day_turnover",
    )
)
def silver_ticker(bronze_ticker_raw: sa.Select[Any]) -> Load:
    """One row per market and snapshot: the ticker's figures as exact numerics, its last trade's time in KST.

    If a snapshot has a market twice, the last row counts. Rows that can't be typed or are impossible go to
    `silver.ticker_rejected` with a reason; `silver.ticker_build` has the row counts.
    """
    return TICKER.load(bronze_ticker_raw)


SIDES = {"ask": 1, "bid": -1}  # asks ascend from the best price, bids descend
NUMBERS = sa.ARRAY(sa.Numeric)


def levels(fields: sa.Subquery) -> sa.FromClause:
    """A book's levels as arrays without the padding, and whether they are valid: best first, each with a size."""
    document = fields.c.orderbook_units
    listed = sa.case((sa.func.jsonb_typeof(document) == "array", document), else_=sa.cast([], JSONB))
    units = (
        sa.func.jsonb_array_elements(listed)
        .table_valued(sa.column("unit", JSONB), with_ordinality="nth", name="units")
        .render_derived()
    )
    names = [f"{side}_{figure}" for side in SIDES for figure in ("price", "size")]
    level = sa.select(units.c.nth, *(number(units.c.unit[name]).label(name) for name in names)).subquery("level")
    arrays, valid = [], []
    for side, direction in SIDES.items():
        price, size = level.c[f"{side}_price"], level.c[f"{side}_size"]

        def listed_by(figure: Column, order: Column, price: Column = price) -> Column:
            return sa.func.array_agg(aggregate_order_by(figure, order), type_=NUMBERS).filter(price != 0)

        arrays += [
            sa.func.coalesce(listed_by(figure, level.c.nth), sa.cast([], NUMBERS)).label(f"{figure.key}s")
            for figure in (price, size)
        ]
        padding = (price == 0) & (size == 0)
        real = price.between(SMALLEST, LARGEST) & size.between(SMALLEST, LARGEST)
        best_first = listed_by(price, level.c.nth).is_not_distinct_from(listed_by(price, price * direction))
        valid += [sa.func.bool_and(sa.func.coalesce(padding | real, False)), best_first]
    return sa.select(*arrays, sa.func.coalesce(sa.and_(*valid), False).label("valid")).lateral("levels")


ORDERBOOK = Refinement(
    axis=windows,
    bronze=tables.bronze_orderbook_raw,
    silver=tables.silver_orderbook,
    rejected=tables.silver_orderbook_rejected,
    build=tables.silver_orderbook_build,
    identity=("ingested_at", "market"),
    numbers=("total_ask_size", "total_bid_size", "timestamp"),
    documents=("orderbook_units",),
    join=levels,
    reasons=lambda row: [
        (~row.valid, "orderbook_units: not levels with a price and a size each, the best first"),
        (row.bid_prices[1] >= row.ask_prices[1], "orderbook_units: the best bid is not below the best ask"),
        *amount(row.total_ask_size),
        *amount(row.total_bid_size),
        *milliseconds(row.timestamp, row.ingested_at),
    ],
    columns=lambda good: [
        *(good.market, good.total_ask_size, good.total_bid_size),
        *(good.ask_prices, good.ask_sizes, good.bid_prices, good.bid_sizes),
        good.ingested_at,
        moment_of(good.timestamp).label("changed_at"),
    ],
)


@asset(
    **silver(
        windows,
        "orderbook",
        tables.silver_orderbook,
        "total_ask_size total_bid_size ask_prices ask_sizes bid_prices bid_sizes changed_at",
    )
)
def silver_orderbook(bronze_orderbook_raw: sa.Select[Any]) -> Load:
    """One row per market and snapshot: the order book's levels, the best first, without the exchange's padding.

    A crossed book, or one with malformed levels, goes to `silver.orderbook_rejected` with its reason.
    """
    return ORDERBOOK.load(bronze_orderbook_raw)


def minute_of(row: Any) -> Column:
    """The start of a candle by its time of day; its date is validated separately."""
    return row.day + sa.cast(sa.func.substr(row.started, 12, 8), sa.Interval)


def wrong_candle_time(row: Any) -> Cases:
    """The exchange's times have no zone: verify that those named UTC are not KST."""
    time, start = sa.func.coalesce(sa.func.substr(row.started, 11), ""), minute_of(row)
    return [
        (~time.regexp_match(f"^T{HH_MM}:00$"), "candle_date_time_utc: not the start of a minute"),
        (sa.func.substr(row.started, 1, 10) != utc_text(row.day, "YYYY-MM-DD"), "candle_date_time_utc: of another day"),
        (row.started != row.key, "candle_date_time_utc: not what bronze.key says"),
        (
            row.started_kst != kst_text(start),  # NULL from the hosts outside Korea
            "candle_date_time_kst: not nine hours after the UTC time",
        ),
        (moment_of(row.timestamp) < start, "timestamp: before the candle began"),
    ]


CANDLE = Refinement(
    axis=days,
    bronze=tables.bronze_candle_raw,
    silver=tables.silver_candle,
    rejected=tables.silver_candle_rejected,
    build=tables.silver_candle_build,
    identity=("market", "key"),
    texts={"started": "candle_date_time_utc", "started_kst": "candle_date_time_kst"},
    numbers=(
        *("opening_price", "high_price", "low_price", "trade_price"),
        *("candle_acc_trade_volume", "candle_acc_trade_price", "timestamp"),
    ),
    reasons=lambda row: [
        *positive(row.opening_price),
        *positive(row.high_price),
        *positive(row.low_price),
        *positive(row.trade_price),
        (
            (row.low_price > sa.func.least(row.opening_price, row.trade_price))
            | (row.high_price < sa.func.greatest(row.opening_price, row.trade_price)),
            "low_price, high_price: the other prices are not between them",
        ),
        *amount(row.candle_acc_trade_volume),
        *amount(row.candle_acc_trade_price),
        *milliseconds(row.timestamp, row.ingested_at),
        *wrong_candle_time(row),
    ],
    columns=lambda good: [
        good.market,
        minute_of(good).label("started_at"),
        *(good.opening_price, good.high_price, good.low_price),
        good.trade_price.label("closing_price"),
        good.candle_acc_trade_volume.label("volume"),
        good.candle_acc_trade_price.label("turnover"),
        moment_of(good.timestamp).label("last_traded_at"),
        good.ingested_at,
    ],
)


@asset(
    **silver(
        days,
        "candle",
        tables.silver_candle,
        "opening_price high_price low_price closing_price volume turnover last_traded_at",
        started_at="day raw_data",
    )
)
def silver_candle(context: AssetExecutionContext, bronze_candle_raw: sa.Select[Any]) -> Load:
    """One row per market and minute with trades: a candle's figures as exact numerics.

    Of a candle that was collected twice, the last row counts. `silver.candle_coverage` has the numbers of traded,
    silent and missing minutes of each market's day.
    """
    window = context.partition_time_window

    def coverage(validated: sa.TableClause) -> dict[sa.Table, Rows]:
        return {tables.silver_candle_coverage: candle_coverage(validated, window)}

    return CANDLE.load(bronze_candle_raw, coverage)


def wrong_id(row: Any) -> Cases:
    return [
        (row.sequential_id.is_(None), "sequential_id: not a number"),
        (sa.cast(row.sequential_id, sa.Text) != row.key, "sequential_id: not what bronze.key says"),
        (~row.key.regexp_match("^[1-9][0-9]{0,17}$"), "sequential_id: not a whole number of at most 18 digits"),
    ]


def no_side(row: Any) -> Cases:
    return [(sa.func.coalesce(row.taker, "").not_in(("ASK", "BID")), "ask_bid: neither ASK nor BID")]


TRADE = Refinement(
    axis=days,
    bronze=tables.bronze_trade_raw,
    silver=tables.silver_trade,
    rejected=tables.silver_trade_rejected,
    build=tables.silver_trade_build,
    identity=("day", "market", "key"),
    texts={"taker": "ask_bid", "date": "trade_date_utc", "time": "trade_time_utc"},
    numbers=("sequential_id", "trade_price", "trade_volume", "timestamp"),
    reasons=lambda row: [
        *wrong_id(row),
        *positive(row.trade_price),
        *positive(row.trade_volume),
        *milliseconds(row.timestamp, row.ingested_at),
        (~of_its_day(row), "timestamp: of another day"),
        (
            sa.func.concat(row.date, "T", row.time) != utc_text(moment_of(row.timestamp)),
            "trade_date_utc, trade_time_utc: not the time that timestamp says",
        ),
        *no_side(row),
    ],
    columns=lambda good: [
        good.market,
        sa.cast(good.sequential_id, sa.BigInteger).label("trade_id"),
        moment_of(good.timestamp).label("traded_at"),
        good.trade_price.label("price"),
        good.trade_volume.label("volume"),
        good.taker,
        good.ingested_at,
    ],
)


TRADE_STREAM = Refinement(
    axis=windows,
    bronze=tables.bronze_trade_stream_raw,
    silver=tables.silver_trade_stream,
    rejected=tables.silver_trade_stream_rejected,
    build=tables.silver_trade_stream_build,
    identity=("traded_at", "market", "key"),
    # the WebSocket's field, or REST's for trades that were backfilled
    code="code|market",
    texts={"taker": "ask_bid", "date": "trade_date|trade_date_utc", "time": "trade_time|trade_time_utc"},
    numbers=("sequential_id", "trade_price", "trade_volume", "trade_timestamp|timestamp"),
    reasons=lambda row: [
        *wrong_id(row),
        *positive(row.trade_price),
        *positive(row.trade_volume),
        *milliseconds(row.trade_timestamp, row.ingested_at),
        (moment_of(row.trade_timestamp) != row.traded_at, "trade_timestamp: not what bronze.traded_at says"),
        (
            sa.func.concat(row.date, "T", row.time) != utc_text(row.traded_at),
            "trade_date, trade_time: not the time that trade_timestamp says",
        ),
        *no_side(row),
    ],
    columns=lambda good: [
        good.market,
        sa.cast(good.sequential_id, sa.BigInteger).label("trade_id"),
        good.traded_at,
        good.trade_price.label("price"),
        good.trade_volume.label("volume"),
        good.taker,
        good.ingested_at,
        sa.case((good.connection == "rest", "rest"), else_="stream").label("source"),
    ],
)


def of_its_day(row: Any) -> sa.ColumnElement[bool]:
    at = moment_of(row.timestamp)
    return (at >= row.day) & (at < row.day + DAY)


@asset(
    **silver(
        days,
        "trade",
        tables.silver_trade,
        "traded_at price volume taker",
        trade_id="key raw_data",
    )
)
def silver_trade(bronze_trade_raw: sa.Select[Any]) -> Load:
    """One row per trade: its time to the millisecond, price, volume, and the taker's side.

    The key is the exchange's id: different trades may have the same time, price and volume.
    """
    return TRADE.load(bronze_trade_raw)


@asset(
    **silver(
        windows,
        "trade_stream",
        tables.silver_trade_stream,
        "price volume taker",
        trade_id="key raw_data",
        traded_at="traded_at",
        source="connection",
    )
)
def silver_trade_stream(context: AssetExecutionContext, bronze_trade_stream_raw: sa.Select[Any]) -> Load:
    """One row per trade of any market, by the time of the trade; computed when the window is over.

    Trades received twice, from two connections or after resubscribing, count once. `silver.all_trades` is the union
    with `silver_trade`, without duplicates. `silver.trade_coverage` has whether they are complete.
    """
    return with_coverage(
        TRADE_STREAM.load(bronze_trade_stream_raw), context.partition_time_window, TICKER, TRADE_STREAM
    )
