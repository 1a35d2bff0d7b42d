"""The schema, once: every table and column with its meaning.

Types and constraints are checked against the migrations by a test; the comments go from here to the database
(`upbit-assets migrate`), to the Dagster UI and to whoever reads this file.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, TSTZRANGE

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


def written_after(table: sa.Table, snapshot: str) -> sa.ColumnElement[bool]:
    """Whether a row was committed after `snapshot`, a pg_snapshot's text: its transaction was open then, or to come.

    A row restored from another server may bear a transaction that is yet to come here.
    """
    _, next_one, still_open = snapshot.split(":")
    newest = sa.text("(pg_snapshot_xmax(pg_current_snapshot())::text)::bigint")
    began = (table.c.written_in >= int(next_one)) & (table.c.written_in < newest)
    return began | table.c.written_in.in_(map(int, still_open.split(","))) if still_open else began


def quote_currency() -> sa.Column[Any]:
    return column("quote_currency", sa.String(30), "The currency of price and turnover: KRW, BTC, USDT")


def day() -> sa.Column[Any]:
    return column("day", Moment, "거래일: start of the exchange's day, 09:00 KST; the partition and repair axis")


def raw_table(name: str, comment: str, *keys: sa.Column[Any]) -> sa.Table:
    """Raw rows, found by when they were collected or, where `keys` begins with `day`, by the day they are of."""
    bare = name.partition(".")[2]
    window, *others = [key.name for key in keys] or ["ingested_at"]
    return table(
        name,
        identity(),
        market("종목 코드 as the raw row says it, cut at 30; empty where it says none"),
        column("raw_data", JSONB, "API 응답 원본: one row of the reply, untouched"),
        ingested_at(),
        *keys,
        written_in(),
        sa.PrimaryKeyConstraint(window, "market", *others, "id"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=comment,
        window=window,
    )


def history_table(name: str, key: str, comment: str) -> sa.Table:
    """Raw rows that have a past, by the exchange's day, each with what tells it from the market's others."""
    return raw_table(name, comment, day(), column("key", sa.String(30), key))


def page_table(name: str, of: str) -> sa.Table:
    bare = name.partition(".")[2]
    return table(
        name,
        identity(),
        market("종목 코드 that was asked for"),
        day(),
        column("covered", TSTZRANGE, "The part of the day of which this page gave all there is; empty where none"),
        column("rows", sa.BigInteger, "Rows it had"),
        column("problem", sa.Text, "Why there is no more to be had of this market, where that is so", nullable=True),
        ingested_at(),
        written_in(),
        sa.PrimaryKeyConstraint("day", "market", "id"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=f"The pages by which {of} were collected: what is covered is not asked for again; append-only",
        window="day",
    )


def rejected_table(name: str, of: str, window: str = "ingested_at") -> sa.Table:
    return table(
        name,
        identity(),
        market("종목 코드 as bronze has it"),
        column("raw_data", JSONB, "The raw row"),
        column("reason", sa.Text, "Why silver could not take it"),
        day() if window == "day" else ingested_at(),
        column("bronze_id", sa.BigInteger, f"{of}.id"),
        computed_at(),
        sa.PrimaryKeyConstraint(window, "market", "bronze_id"),
        comment="Raw rows that can't be typed or are impossible, each with its reason",
        window=window,
    )


def silver_books(name: str, of: str) -> sa.Table:
    bare = name.partition(".")[2]
    return table(
        name,
        window_start(),
        column("bronze_rows", sa.BigInteger, "Raw rows that were there when silver was built"),
        column("silver_rows", sa.BigInteger, "Rows taken"),
        column("rejected_rows", sa.BigInteger, "Rows rejected, each with its reason"),
        column("duplicate_rows", sa.BigInteger, "Further good rows of the same thing; the last one counts"),
        computed_at(),
        written_in(),
        sa.PrimaryKeyConstraint("window_start"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=f"What {of} was built from, window by window",
        window="window_start",
    )


def gold_books(name: str, of: str, **sources: str) -> sa.Table:
    return table(
        name,
        window_start(),
        column("gold_rows", sa.BigInteger, "Markets that have figures"),
        *(column(source, Moment, comment, nullable=True) for source, comment in sources.items()),
        computed_at(),
        sa.PrimaryKeyConstraint("window_start"),
        sa.Index(f"ix_{name.partition('.')[2]}_computed_at", "computed_at"),
        comment=f"What {of} was computed from, window by window",
        window="window_start",
    )


def window_start() -> sa.Column[Any]:
    return column("window_start", Moment, "Start of the window: ten minutes, or the exchange's day")


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
    column("dropped_at", Moment, "When rows were dropped last"),
    sa.PrimaryKeyConstraint("table_name"),
    comment="From when on tables are kept, where retention has dropped something",
    window="kept_from",
)


def kept_from(table: sa.Table) -> sa.ScalarSelect[Any]:
    """From when on a table's rows were not dropped; NULL where none were."""
    noted = bronze_retention.c
    return sa.select(noted.kept_from).where(noted.table_name == table.fullname).scalar_subquery()


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
    column("day_volume", sa.Numeric, "거래량 since 09:00 KST, in units of the coin", nullable=True),
    column("day_turnover", sa.Numeric, "거래대금 since 09:00 KST, in the quote currency", nullable=True),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_ticker_market_ingested_at", "market", "ingested_at"),
    comment="Tickers typed, checked and de-duplicated: one row per market and snapshot",
    window="ingested_at",
)

silver_ticker_rejected = rejected_table("silver.ticker_rejected", "bronze.ticker_raw")
silver_ticker_build = silver_books("silver.ticker_build", "silver.ticker")

gold_market_stats = table(
    "gold.market_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last snapshot in the window"),
    market(),
    column("trade_price", sa.Numeric, "현재가, in the quote currency"),
    column("daily_volume", sa.Numeric, "24시간 누적 거래량, in units of the coin"),
    column("rank_volume", sa.Integer, "거래대금 순위: RANK() by turnover_krw, the largest first"),
    quote_currency(),
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
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격 of what was traded between the window's first and last snapshot, to 16 decimals; NULL "
        "where nothing was",
        nullable=True,
    ),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_market_stats_market_ingested_at", "market", "ingested_at"),
    sa.Index("ix_market_stats_window_start_rank_volume", "window_start", "rank_volume"),
    comment="KPIs of each market at its last snapshot of the window",
    window="ingested_at",
)

gold_market_stats_build = gold_books(
    "gold.market_stats_build",
    "gold.market_stats",
    silver_computed_at="The silver that it was computed from",
    day_before_computed_at="The silver 24 h before that it was computed from",
)

silver_check_result = table(
    "silver.check_result",
    column("asset", sa.Text, "The asset, of any layer, that the check is of"),
    column("check_name", sa.Text, "The check, as in Dagster"),
    window_start(),
    column("passed", sa.Boolean, "Whether the window passed when it was checked last"),
    column("severity", sa.Text, "ERROR: figures are wrong; WARN: it may be the exchange's fault"),
    column("reason", sa.Text, "Why the window fails; NULL where it passes", nullable=True),
    column("failing_since", Moment, "When it was first found failing; NULL where it passes", nullable=True),
    column("checked_at", Moment, "When it was checked last"),
    column("run_id", sa.Text, "The Dagster run that checked it last"),
    sa.PrimaryKeyConstraint("asset", "check_name", "window_start"),
    sa.Index("ix_check_result_failing", "asset", "check_name", "window_start", postgresql_where=sa.text("NOT passed")),
    comment="Which windows pass which checks, and why not: the latest result of each, of all layers",
    window="window_start",
)

bronze_orderbook_raw = raw_table("bronze.orderbook_raw", "Order books as the exchange sent them; append-only")


def levels(name: str, comment: str) -> sa.Column[Any]:
    return column(name, sa.ARRAY(sa.Numeric), f"{comment}, the best first; without the padding")


silver_orderbook = table(
    "silver.orderbook",
    identity(),
    market(),
    column("total_ask_size", sa.Numeric, "매도 총 잔량: all sell orders, in units of the coin"),
    column("total_bid_size", sa.Numeric, "매수 총 잔량: all buy orders, in units of the coin"),
    levels("ask_prices", "매도 호가: sell prices, in the quote currency"),
    levels("ask_sizes", "매도 잔량: what is offered at each, in units of the coin"),
    levels("bid_prices", "매수 호가: buy prices, in the quote currency"),
    levels("bid_sizes", "매수 잔량: what is wanted at each, in units of the coin"),
    ingested_at(),
    column("changed_at", Moment, "Time of the book's last change"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_orderbook_market_ingested_at", "market", "ingested_at"),
    comment="Order books (호가) typed and checked: one row per market and snapshot",
    window="ingested_at",
)
silver_orderbook_rejected = rejected_table("silver.orderbook_rejected", "bronze.orderbook_raw")
silver_orderbook_build = silver_books("silver.orderbook_build", "silver.orderbook")

DEPTHS = {"01": "0.1", "05": "0.5", "1": "1"}  # as columns are named: percent


def depth(side: str, name: str, percent: str) -> sa.Column[Any]:
    return column(
        f"{side}_depth_{name}",
        sa.Numeric,
        f"Σ price × size of the {side}s within {percent} percent of mid_price, in the quote currency",
    )


gold_orderbook_stats = table(
    "gold.orderbook_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last book in the window"),
    market(),
    quote_currency(),
    column("best_bid", sa.Numeric, "최우선 매수 호가, in the quote currency"),
    column("best_ask", sa.Numeric, "최우선 매도 호가, in the quote currency"),
    column("mid_price", sa.Numeric, "(best_bid + best_ask) / 2"),
    column("spread_bps", sa.Numeric, "호가 스프레드: (best_ask - best_bid) / mid_price × 10,000, to 10 decimals"),
    column("spread_bps_mean", sa.Numeric, "The mean of spread_bps over the window's books, to 10 decimals"),
    *(depth(side, name, percent) for name, percent in DEPTHS.items() for side in ("bid", "ask")),
    column(
        "imbalance",
        sa.Numeric,
        "(bid_depth_1 - ask_depth_1) / (bid_depth_1 + ask_depth_1), to 10 decimals: 1 all buyers, -1 all sellers; NULL "
        "where the spread is so wide that nothing lies within 1 percent",
        nullable=True,
    ),
    column(
        "reach",
        sa.Numeric,
        "How far the levels reach from mid_price on the shorter side, as a fraction to 10 decimals: a depth beyond it "
        "is a lower bound, as the exchange shows 30 levels a side",
    ),
    column("window_start", Moment, "Start of the ten-minute window that the figures are of"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_orderbook_stats_market_ingested_at", "market", "ingested_at"),
    comment="Spread, depth and imbalance of each market's last book in the window; a one-sided book has none",
    window="ingested_at",
)
gold_orderbook_stats_build = gold_books(
    "gold.orderbook_stats_build", "gold.orderbook_stats", silver_computed_at="The silver that it was computed from"
)

bronze_candle_raw = history_table(
    "bronze.candle_raw",
    "candle_date_time_utc as the raw row says it; empty where it says none",
    "One-minute candles as the exchange sent them; append-only",
)
bronze_candle_page = page_table("bronze.candle_page", "candles")

silver_candle = table(
    "silver.candle",
    identity(),
    market(),
    column("started_at", Moment, "Start of the minute"),
    column("opening_price", sa.Numeric, "시가, in the quote currency"),
    column("high_price", sa.Numeric, "고가, in the quote currency"),
    column("low_price", sa.Numeric, "저가, in the quote currency"),
    column("closing_price", sa.Numeric, "종가, in the quote currency"),
    column("volume", sa.Numeric, "거래량 of the minute, in units of the coin"),
    column("turnover", sa.Numeric, "거래대금 of the minute, in the quote currency"),
    column("last_traded_at", Moment, "When the minute's last trade was stored; can lie past the minute's end"),
    ingested_at(),
    computed_at(),
    sa.PrimaryKeyConstraint("started_at", "market"),
    sa.Index("ix_candle_market_started_at", "market", "started_at"),
    comment="One-minute candles (분봉) typed, checked and de-duplicated; a minute without trades has none",
    window="started_at",
)
silver_candle_rejected = rejected_table("silver.candle_rejected", "bronze.candle_raw", "day")
silver_candle_build = silver_books("silver.candle_build", "silver.candle")
silver_candle_coverage = table(
    "silver.candle_coverage",
    day(),
    market(),
    column("minutes_traded", sa.Integer, "Minutes of the day that have a candle"),
    column("minutes_silent", sa.Integer, "Minutes of which the exchange was asked and that have none: nobody traded"),
    column(
        "minutes_missing",
        sa.Integer,
        "Minutes of the day that were not collected, those to come included, or whose candle was rejected",
    ),
    column("problem", sa.Text, "Why they can't be collected, where that is so", nullable=True),
    computed_at(),
    column("pages", sa.BigInteger, "Pages of bronze.candle_page that this was computed from"),
    sa.PrimaryKeyConstraint("day", "market"),
    comment="What silver.candle holds of each market and day; the three add up to 1,440",
    window="day",
)

bronze_trade_raw = history_table(
    "bronze.trade_raw",
    "sequential_id as the raw row says it; empty where it says none",
    "Trades as the exchange sent them; append-only",
)
bronze_trade_page = page_table("bronze.trade_page", "trades")

silver_trade = table(
    "silver.trade",
    identity(),
    market(),
    column("trade_id", sa.BigInteger, "체결 번호: the exchange's sequential_id, unique in its market, in no order"),
    column("traded_at", Moment, "체결 시각, to the millisecond"),
    column("price", sa.Numeric, "체결 가격, in the quote currency"),
    column("volume", sa.Numeric, "체결량, in units of the coin"),
    column("taker", sa.String(3), "ASK: the taker sold (매도); BID: the taker bought (매수)"),
    ingested_at(),
    computed_at(),
    sa.PrimaryKeyConstraint("traded_at", "market", "trade_id"),
    sa.Index("ix_trade_market_traded_at", "market", "traded_at"),
    comment="Trades (체결) typed, checked and de-duplicated by their id",
    window="traded_at",
)
silver_trade_rejected = rejected_table("silver.trade_rejected", "bronze.trade_raw", "day")
silver_trade_build = silver_books("silver.trade_build", "silver.trade")

gold_market_daily = table(
    "gold.market_daily",
    identity(),
    day(),
    market(),
    quote_currency(),
    column("opening_price", sa.Numeric, "시가, in the quote currency"),
    column("high_price", sa.Numeric, "고가, in the quote currency"),
    column("low_price", sa.Numeric, "저가, in the quote currency"),
    column("closing_price", sa.Numeric, "종가, in the quote currency"),
    column("volume", sa.Numeric, "거래량 of the day, in units of the coin"),
    column("turnover", sa.Numeric, "거래대금 of the day, in the quote currency"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover in KRW, at the day's VWAP of KRW-BTC or KRW-USDT; NULL where that was not collected",
        nullable=True,
    ),
    column("rank_turnover", sa.Integer, "거래대금 순위: RANK() by turnover_krw among the day's collected markets"),
    column("vwap", sa.Numeric, "거래량 가중 평균 가격: Σ price × volume / Σ volume, to 16 decimals"),
    column("vwap_source", sa.String(7), "trades: from every trade of the collected day; candles: from its candles"),
    column(
        "realized_volatility",
        sa.Numeric,
        "실현 변동성: √Σ (closing_price / that of the candle before - 1)² over the day's candles, to 10 decimals",
    ),
    column("rank_volatility", sa.Integer, "변동성 순위: RANK() by realized_volatility, the largest first"),
    column("minutes_traded", sa.Integer, "Minutes that have a candle"),
    column("minutes_silent", sa.Integer, "Minutes in which nobody traded"),
    column(
        "minutes_missing", sa.Integer, "Minutes not collected or rejected: while there are any, all else is partial"
    ),
    computed_at(),
    sa.PrimaryKeyConstraint("day", "market"),
    sa.Index("ix_market_daily_market_day", "market", "day"),
    comment="KPIs of each market and exchange's day, from its candles and trades",
    window="day",
)
gold_market_daily_build = gold_books(
    "gold.market_daily_build",
    "gold.market_daily",
    candle_computed_at="The candles that it was computed from",
    trade_computed_at="The trades that it was computed from",
)
