"""The schema, once: every table and column with its meaning.

Types and constraints are checked against the migrations by a test; the comments go from here to the database
(`upbit-assets migrate`), to the Dagster UI and to whoever reads this file.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData()

Moment = sa.DateTime(timezone=True)
THIS_TRANSACTION = sa.text("(pg_current_xact_id()::text)::bigint")


def table(name: str, *columns: sa.Column[Any] | sa.Constraint | sa.Index, comment: str, window: str) -> sa.Table:
    """A table whose partitions in Dagster are told by its column `window`."""
    schema, _, bare = name.partition(".")
    return sa.Table(bare, metadata, *columns, schema=schema, comment=comment, info={"window": window})


def column(name: str, kind: Any, comment: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, comment=comment, nullable=nullable, **options)


def identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False, comment="고유 식별자")


def market(comment: str = "종목 코드, e.g. KRW-BTC") -> sa.Column[Any]:
    return column("market", sa.String(30), comment)


def ingested_at() -> sa.Column[Any]:
    return column(
        "ingested_at",
        Moment,
        "데이터 적재 시각: when the exchange's reply was in; the partition and repair axis",
    )


def computed_at() -> sa.Column[Any]:
    return column("computed_at", Moment, "When this row was computed", server_default=sa.func.now())


def written_in() -> sa.Column[Any]:
    return column(
        "written_in",
        sa.BigInteger,
        "The transaction that wrote the row: how late and outside writes are found",
        server_default=THIS_TRANSACTION,
    )


def raw_table(name: str, comment: str) -> sa.Table:
    bare = name.partition(".")[2]
    return table(
        name,
        identity(),
        market("종목 코드 as the raw row says it, cut at 30; empty where it says none"),
        column("raw_data", JSONB, "API 응답 원본: one row of the reply, untouched"),
        ingested_at(),
        written_in(),
        sa.PrimaryKeyConstraint("ingested_at", "market", "id"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=comment,
        window="ingested_at",
    )


bronze_ticker_raw = raw_table("bronze.ticker_raw", "Tickers as the exchange sent them; append-only")
bronze_market_raw = raw_table(
    "bronze.market_raw", "The market list, once a window, as the exchange sent it; append-only"
)

bronze_origin = table(
    "bronze.origin",
    column("simulated", sa.Boolean, "Whether this database holds the offline exchange's data; never both"),
    column("first_seen", Moment, "When the first snapshot came", server_default=sa.func.now()),
    sa.Index("uq_origin", sa.text("(true)"), unique=True),
    comment="One row: real or simulated data",
    window="first_seen",
)

bronze_retention = table(
    "bronze.retention",
    column("table_name", sa.Text, "A table of any layer that old rows were dropped from"),
    column("kept_from", Moment, "The first moment whose rows were not dropped"),
    sa.PrimaryKeyConstraint("table_name"),
    comment="From when on tables are kept, where retention has dropped something",
    window="kept_from",
)

silver_ticker = table(
    "silver.ticker",
    identity(),
    market(),
    column("trade_date", sa.String(8), "거래 일자 (KST) YYYYMMDD, of the last trade"),
    column("trade_time", sa.String(6), "거래 시각 (KST) HHMMSS, of the last trade"),
    column("trade_price", sa.Numeric, "거래 가격: the last trade's price, in the quote currency"),
    column("acc_trade_volume", sa.Numeric, "누적 거래량 (24h): rolling, in units of the coin"),
    ingested_at(),
    column("acc_trade_price", sa.Numeric, "누적 거래대금 (24h): rolling turnover, in the quote currency"),
    column("change_rate", sa.Numeric, "전일 대비: (price - previous close) / previous close; rolls at 09:00 KST"),
    column("traded_at", Moment, "Time of the last trade"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_ticker_market_ingested_at", "market", "ingested_at"),
    comment="Tickers typed, checked and de-duplicated: one row per market and snapshot",
    window="ingested_at",
)

silver_ticker_rejected = table(
    "silver.ticker_rejected",
    identity(),
    market("종목 코드 as bronze has it"),
    column("raw_data", JSONB, "The raw row"),
    column("reason", sa.Text, "Why silver could not take it"),
    ingested_at(),
    column("bronze_id", sa.BigInteger, "bronze.ticker_raw.id"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market", "bronze_id"),
    comment="Raw rows that can't be typed or are impossible, each with its reason",
    window="ingested_at",
)

silver_ticker_build = table(
    "silver.ticker_build",
    column("window_start", Moment, "Start of the ten-minute window"),
    column("bronze_rows", sa.BigInteger, "Raw rows that were there when silver was built"),
    column("silver_rows", sa.BigInteger, "Rows taken"),
    column("rejected_rows", sa.BigInteger, "Rows rejected, each with its reason"),
    column("duplicate_rows", sa.BigInteger, "Further good rows of a market in one snapshot; the last one counts"),
    computed_at(),
    written_in(),
    sa.PrimaryKeyConstraint("window_start"),
    sa.Index("ix_ticker_build_written_in", "written_in"),
    comment="What silver.ticker was built from, window by window",
    window="window_start",
)

gold_market_stats = table(
    "gold.market_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last snapshot in the window"),
    market(),
    column("trade_price", sa.Numeric, "현재가, in the quote currency"),
    column("daily_volume", sa.Numeric, "24시간 누적 거래량, in units of the coin"),
    column("rank_volume", sa.Integer, "거래대금 순위: RANK() by turnover_krw, the largest first"),
    column("quote_currency", sa.String(30), "The currency of price and turnover: KRW, BTC, USDT"),
    column("turnover", sa.Numeric, "24시간 누적 거래대금, in the quote currency"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover in KRW, at KRW-BTC or KRW-USDT of the same snapshot; NULL where there is no rate",
        nullable=True,
    ),
    column("rank_note", sa.Text, "Why the market ranks last, where it has no turnover_krw", nullable=True),
    column("change_rate", sa.Numeric, "전일 대비: (price - previous close) / previous close; rolls at 09:00 KST"),
    column(
        "change_rate_24h",
        sa.Numeric,
        "price / price 24 h before - 1, against the nearest snapshot in the same ten minutes of the day before; "
        "NULL where none was collected",
        nullable=True,
    ),
    column("window_high", sa.Numeric, "Highest trade_price among the window's snapshots"),
    column("window_low", sa.Numeric, "Lowest trade_price among the window's snapshots"),
    column("volatility", sa.Numeric, "(window_high - window_low) / window_low, to 10 decimals"),
    column("rank_volatility", sa.Integer, "변동성 순위: RANK() by volatility, the largest first"),
    column("window_start", Moment, "Start of the ten-minute window that the figures are of"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_market_stats_market_ingested_at", "market", "ingested_at"),
    sa.Index("ix_market_stats_window_start_rank_volume", "window_start", "rank_volume"),
    comment="KPIs of each market at its last snapshot of the window",
    window="ingested_at",
)

gold_market_stats_build = table(
    "gold.market_stats_build",
    column("window_start", Moment, "Start of the ten-minute window"),
    column("gold_rows", sa.BigInteger, "Markets ranked"),
    column("silver_computed_at", Moment, "The silver that it was computed from", nullable=True),
    column("day_before_computed_at", Moment, "The silver 24 h before that it was computed from", nullable=True),
    computed_at(),
    sa.PrimaryKeyConstraint("window_start"),
    comment="What gold.market_stats was computed from, window by window",
    window="window_start",
)
