"""Silver: bronze, typed, checked and de-duplicated, inside the database."""

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import AssetExecutionContext, BackfillPolicy, MetadataValue, TimeWindow, asset

from upbit_assets.assets import HOUSE, lineage, retry
from upbit_assets.partitions import window_start, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import Load, Metadata, stored_in, within

# Upbit's figures stay far inside these; jsonb would take 1e-400 and 1e400
SMALLEST, LARGEST = Decimal("1e-20"), Decimal("1e20")
UPBIT_OPENED_MS = 1_506_816_000_000  # 2017-10-01; no trade is older
CLOCK_TOLERANCE_MS = 600_000

FROM_RAW = (
    "trade_date",
    "trade_time",
    "trade_price",
    "acc_trade_volume",
    "acc_trade_price",
    "change_rate",
    "traded_at",
)
LINEAGE = lineage(
    "bronze_ticker_raw",
    {"market": "market", "ingested_at": "ingested_at", **dict.fromkeys(FROM_RAW, "raw_data")},
)
YYYYMMDD = "^[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$"
HHMMSS = "^([01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]$"


@asset(
    **HOUSE,
    group_name="ticker",
    kinds={"postgres", "sql", "silver"},
    partitions_def=windows,
    backfill_policy=BackfillPolicy.single_run(),
    retry_policy=retry,
    metadata=stored_in(tables.silver_ticker, write="replace", lineage=LINEAGE),
)
def silver_ticker(context: AssetExecutionContext, bronze_ticker_raw: sa.Select[Any]) -> Load:
    """One row per market and snapshot: the ticker's figures as exact numerics, its last trade's time in KST.

    A market that a snapshot names twice counts once, the last time. What can't be typed or is impossible goes to
    `silver.ticker_rejected` with its reason, and what was built from how much to `silver.ticker_build`.
    """
    bronze, window = bronze_ticker_raw.subquery("bronze"), context.partition_time_window
    return Load(
        {
            tables.silver_ticker: accepted(bronze, latest=True),
            tables.silver_ticker_rejected: rejected(bronze, window),
            tables.silver_ticker_build: build(bronze, window),
        },
        describe=describe,
    )


def judged(bronze: sa.Subquery) -> sa.Subquery:
    """Every raw row with its figures typed, and the reason why silver can't take it, if there is one."""
    raw = bronze.c.raw_data
    # OFFSET 0 keeps the planner from taking each field out of the JSON once a use
    fields = (
        sa.select(
            *(bronze.c.id, bronze.c.market, bronze.c.ingested_at, bronze.c.raw_data),
            raw["market"].astext.label("code"),
            raw["trade_date_kst"].astext.label("trade_date"),
            raw["trade_time_kst"].astext.label("trade_time"),
            *(raw[name].label(name) for name in NUMBERS),
        )
        .offset(0)
        .subquery("fields")
    )
    typed = (
        sa.select(
            *(fields.c.id, fields.c.market, fields.c.ingested_at, fields.c.raw_data),
            *(fields.c.code, fields.c.trade_date, fields.c.trade_time),
            *(number(fields.c[name]).label(name) for name in NUMBERS),
        )
        .offset(0)
        .subquery("typed")
    )
    return sa.select(typed, reason(typed.c).label("reason")).subquery("judged")


NUMBERS = (
    "trade_price",
    "acc_trade_volume_24h",
    "acc_trade_price_24h",
    "signed_change_rate",
    "trade_timestamp",
)


def number(field: sa.ColumnElement[Any]) -> sa.ColumnElement[Decimal]:
    return sa.case((sa.func.jsonb_typeof(field) == "number", sa.cast(field, sa.Numeric)))


def reason(row: Any) -> sa.ColumnElement[str]:
    """Why silver can't take a row; NULL where it can."""
    newest = sa.extract("epoch", row.ingested_at) * 1000 + CLOCK_TOLERANCE_MS
    size = sa.func.abs(row.signed_change_rate)
    return sa.case(
        (
            row.code.is_(None) & (sa.func.jsonb_typeof(row.raw_data) == "string"),
            "raw row: kept as text, jsonb refused it",
        ),
        (row.code.is_(None), "market: missing"),
        (row.code != row.market, "market: longer than 30 characters, or not what bronze.market says"),
        (~row.code.regexp_match("^[A-Z0-9]+-[A-Z0-9]+$"), "market: not a market code"),
        (row.trade_price.is_(None), "trade_price: not a number"),
        (~row.trade_price.between(SMALLEST, LARGEST), "trade_price: not positive, or out of range"),
        *amount(row.acc_trade_volume_24h),
        *amount(row.acc_trade_price_24h),
        (row.signed_change_rate.is_(None), "signed_change_rate: not a number"),
        ((size != 0) & ~size.between(SMALLEST, LARGEST), "signed_change_rate: out of range"),
        (row.trade_timestamp.is_(None), "trade_timestamp: not a number"),
        (
            ~row.trade_timestamp.between(UPBIT_OPENED_MS, newest),
            "trade_timestamp: before Upbit opened, or in the future",
        ),
        (~sa.func.coalesce(row.trade_date, "").regexp_match(YYYYMMDD), "trade_date_kst: not YYYYMMDD"),
        (~sa.func.coalesce(row.trade_time, "").regexp_match(HHMMSS), "trade_time_kst: not HHMMSS"),
    )


def amount(figure: sa.ColumnElement[Any]) -> list[tuple[sa.ColumnElement[bool], str]]:
    return [
        (figure.is_(None), f"{figure.key}: not a number"),
        ((figure != 0) & ~figure.between(SMALLEST, LARGEST), f"{figure.key}: negative or out of range"),
    ]


def accepted(bronze: sa.Subquery, *, latest: bool) -> sa.Select[Any]:
    """The good rows of each market and snapshot: the last said, or those it makes superfluous."""
    row = judged(bronze)
    place = sa.func.row_number().over(partition_by=[row.c.ingested_at, row.c.market], order_by=row.c.id.desc())
    good = sa.select(row, place.label("place")).where(row.c.reason.is_(None)).subquery("good")
    return sa.select(
        good.c.market,
        good.c.trade_date,
        good.c.trade_time,
        good.c.trade_price,
        good.c.acc_trade_volume_24h.label("acc_trade_volume"),
        good.c.ingested_at,
        good.c.acc_trade_price_24h.label("acc_trade_price"),
        good.c.signed_change_rate.label("change_rate"),
        sa.func.to_timestamp(good.c.trade_timestamp / 1000).label("traded_at"),
    ).where(good.c.place == 1 if latest else good.c.place > 1)


def rejected(bronze: sa.Subquery, window: TimeWindow) -> sa.Select[Any]:
    """The raw rows that have a reason."""
    row = judged(doubtful(bronze, window))
    return sa.select(row.c.market, row.c.raw_data, row.c.reason, row.c.ingested_at, row.c.id.label("bronze_id")).where(
        row.c.reason.is_not(None)
    )


def doubtful(bronze: sa.Subquery, window: TimeWindow) -> sa.Subquery:
    """The raw rows of every market and snapshot that has more of them than silver took: few to judge again."""
    market, silver = [bronze.c.ingested_at, bronze.c.market], tables.silver_ticker
    taken = sa.select(silver.c.ingested_at, silver.c.market).where(within(silver, window))
    surplus = sa.except_all(sa.select(*market), taken).subquery("surplus")
    return sa.select(bronze).where(sa.tuple_(*market).in_(sa.select(surplus))).subquery("doubtful")


def build(bronze: sa.Subquery, window: TimeWindow) -> sa.Select[Any]:
    """What became of each window's raw rows, counted in the tables that were just written."""
    start = window_start(bronze.c.ingested_at).label("window_start")
    raw = sa.select(start, sa.func.count().label("rows")).group_by(start).subquery("raw")
    taken = rows_a_window(tables.silver_ticker, window)
    refused = rows_a_window(tables.silver_ticker_rejected, window)
    silver_rows, rejected_rows = sa.func.coalesce(taken.c.rows, 0), sa.func.coalesce(refused.c.rows, 0)
    further = accepted(doubtful(bronze, window), latest=False).subquery("further")
    start = window_start(further.c.ingested_at).label("window_start")
    superfluous = sa.select(start, sa.func.count().label("rows")).group_by(start).subquery("superfluous")
    return (
        sa.select(
            raw.c.window_start,
            raw.c.rows.label("bronze_rows"),
            silver_rows.label("silver_rows"),
            rejected_rows.label("rejected_rows"),
            sa.func.coalesce(superfluous.c.rows, 0).label("duplicate_rows"),
        )
        .outerjoin_from(raw, taken, taken.c.window_start == raw.c.window_start)
        .outerjoin(refused, refused.c.window_start == raw.c.window_start)
        .outerjoin(superfluous, superfluous.c.window_start == raw.c.window_start)
    )


def rows_a_window(table: sa.Table, window: TimeWindow) -> sa.Subquery:
    start = window_start(table.c.ingested_at).label("window_start")
    return sa.select(start, sa.func.count().label("rows")).where(within(table, window)).group_by(start).subquery()


def describe(connection: sa.Connection, window: TimeWindow) -> Metadata:
    """The books of the windows just written, and the commonest reasons for a rejection."""
    built, refused = tables.silver_ticker_build, tables.silver_ticker_rejected
    names = ("bronze_rows", "silver_rows", "rejected_rows", "duplicate_rows")
    totals = connection.execute(
        sa.select(*(sa.func.coalesce(sa.func.sum(built.c[name]), 0) for name in names)).where(within(built, window))
    ).one()
    books = {name.replace("_", " "): int(total) for name, total in zip(names, totals, strict=True)}
    if not books["rejected rows"]:
        return books
    reasons = connection.execute(
        sa.select(refused.c.reason, sa.func.count(), sa.func.min(refused.c.market))
        .where(within(refused, window))
        .group_by(refused.c.reason)
        .order_by(sa.func.count().desc())
        .limit(10)
    )
    lines = [f"| {reason} | {rows} | {market} |" for reason, rows, market in reasons]
    return books | {"rejected": MetadataValue.md("\n".join(["| reason | rows | e.g. |", "|---|---|---|", *lines]))}
