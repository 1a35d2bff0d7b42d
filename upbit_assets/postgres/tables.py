"""The schema: every table and column with its comment.

A test compares types and constraints with the migrations. The comments are stored in the database by
`upbit-assets migrate`, and shown in the Dagster UI.
"""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, TSTZMULTIRANGE, TSTZRANGE

metadata = sa.MetaData()

Moment = sa.DateTime(timezone=True)
THIS_TRANSACTION = sa.text("(pg_current_xact_id()::text)::bigint")


def table(name: str, *columns: sa.Column[Any] | sa.Constraint | sa.Index, comment: str, window: str) -> sa.Table:
    """A table; the column `window` determines the Dagster partition of a row."""
    schema, _, bare = name.partition(".")
    return sa.Table(bare, metadata, *columns, schema=schema, comment=comment, info={"window": window})


def column(name: str, kind: Any, comment: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, comment=comment, nullable=nullable, **options)


def identity() -> sa.Column[int]:
    return sa.Column(
        "id", sa.BigInteger, sa.Identity(always=True), nullable=False, comment="고유 식별자: unique identifier"
    )


# the bounds are those of silver's validation
def price(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(name, sa.Numeric, f"{comment}; in the quote currency, 1e-20 to 1e20", nullable=nullable)


def volume(name: str, comment: str) -> sa.Column[Any]:
    return column(name, sa.Numeric, f"{comment}; in units of the coin, 0 or 1e-20 to 1e20")


def turnover(name: str, comment: str) -> sa.Column[Any]:
    return column(name, sa.Numeric, f"{comment}; in the quote currency, 0 or 1e-20 to 1e20")


def change_rate() -> sa.Column[Any]:
    return column(
        "change_rate",
        sa.Numeric,
        "전일 대비: (price - previous close) / previous close, by the exchange; previous close as of 09:00 KST. "
        "A fraction, -1 to 1e20",
    )


def rank(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(
        name, sa.Integer, f"{comment}; 1 is the largest, equal values share a rank and leave a gap", nullable=nullable
    )


def market(comment: str = "종목 코드: the market's code, e.g. KRW-BTC") -> sa.Column[Any]:
    return column("market", sa.String(30), comment)


def ingested_at() -> sa.Column[Any]:
    return column(
        "ingested_at",
        Moment,
        "데이터 적재 시각: when the exchange's reply was received; determines the partition",
    )


def computed_at() -> sa.Column[Any]:
    return column("computed_at", Moment, "When this row was computed", server_default=sa.func.now())


def written_in() -> sa.Column[Any]:
    return column(
        "written_in",
        sa.BigInteger,
        "The transaction that wrote the row; used to find late and external writes",
        server_default=THIS_TRANSACTION,
    )


def written_between(table: sa.Table, since: str, until: str) -> sa.ColumnElement[bool]:
    """SQL: whether a row was committed after `since`, by a transaction from before `until` (pg_snapshots as text).

    Rows restored from another server may have transaction ids that are still in the future here; they don't count.
    Both bounds are constants, because each machine of a Citus cluster counts its own transactions.
    """
    _, next_one, still_open = since.split(":")
    newest = until.split(":")[1]
    began = (table.c.written_in >= int(next_one)) & (table.c.written_in < int(newest))
    return began | table.c.written_in.in_(map(int, still_open.split(","))) if still_open else began


def quote_currency() -> sa.Column[Any]:
    return column("quote_currency", sa.String(30), "The currency of price and turnover: KRW, BTC, USDT")


def day() -> sa.Column[Any]:
    return column("day", Moment, "거래일: start of the exchange's day, 09:00 KST; determines the partition")


def raw_table(name: str, comment: str, *keys: sa.Column[Any]) -> sa.Table:
    """Raw rows, partitioned by the first of `keys`, or by `ingested_at` if there are none."""
    bare = name.partition(".")[2]
    window, *others = [key.name for key in keys] or ["ingested_at"]
    return table(
        name,
        identity(),
        market("종목 코드: the raw row's market code, truncated to 30 characters; empty if it has none"),
        column("raw_data", JSONB, "API 응답 원본: one row of the reply, unchanged"),
        ingested_at(),
        *keys,
        written_in(),
        sa.PrimaryKeyConstraint(window, "market", *others, "id"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=comment,
        window=window,
    )


def history_table(name: str, key: str, comment: str) -> sa.Table:
    """Raw rows of history, by the exchange's day, each with its key among the market's rows."""
    return raw_table(name, comment, day(), column("key", sa.String(30), key))


def page_table(name: str, rows: str) -> sa.Table:
    bare = name.partition(".")[2]
    return table(
        name,
        identity(),
        market("종목 코드: the requested market"),
        day(),
        column("covered", TSTZRANGE, "The interval of the day that this page covers completely; may be empty"),
        column("rows", sa.BigInteger, "Number of its rows"),
        column("problem", sa.Text, "Why no more of this market is available; NULL if it may be", nullable=True),
        ingested_at(),
        written_in(),
        column(
            "proved",
            sa.Boolean,
            f"Whether the volume of the day's {rows} equals that of the exchange's day candle, to 1e-9 of it; if not, "
            "the coverage of all earlier pages of the day is void. NULL for a page of rows",
            nullable=True,
        ),
        column(
            "day_candle",
            JSONB,
            "The exchange's day candle (일봉), unchanged. NULL if the exchange has none, and for a page of rows",
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("day", "market", "id"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=f"The pages by which {rows} were collected: covered intervals are not requested again; append-only",
        window="day",
    )


def rejected_table(name: str, raw: str, of_window: sa.Column[Any] | None = None) -> sa.Table:
    window = of_window.name if of_window is not None else "ingested_at"
    return table(
        name,
        identity(),
        market("종목 코드: the market's code, as in bronze"),
        column("raw_data", JSONB, "The raw row"),
        column("reason", sa.Text, "Why silver rejected it"),
        of_window if of_window is not None else ingested_at(),
        column("bronze_id", sa.BigInteger, f"{raw}.id"),
        computed_at(),
        sa.PrimaryKeyConstraint(window, "market", "bronze_id"),
        comment="Raw rows that can't be typed or are impossible, each with its reason",
        window=window,
    )


def silver_build_table(name: str, silver: str) -> sa.Table:
    bare = name.partition(".")[2]
    return table(
        name,
        window_start(),
        column("bronze_rows", sa.BigInteger, "Raw rows when silver was built"),
        column("silver_rows", sa.BigInteger, "Accepted rows"),
        column("rejected_rows", sa.BigInteger, "Rejected rows"),
        column("duplicate_rows", sa.BigInteger, "Further valid rows with the same key; the last one counts"),
        computed_at(),
        written_in(),
        sa.PrimaryKeyConstraint("window_start"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=f"The builds of {silver}, by window, with their row counts",
        window="window_start",
    )


def gold_build_table(name: str, gold: str, **sources: str) -> sa.Table:
    return table(
        name,
        window_start(),
        column("gold_rows", sa.BigInteger, "Markets with figures"),
        *(column(source, Moment, f"{what}; NULL if there was none", nullable=True) for source, what in sources.items()),
        computed_at(),
        sa.PrimaryKeyConstraint("window_start"),
        sa.Index(f"ix_{name.partition('.')[2]}_computed_at", "computed_at"),
        comment=f"The builds of {gold}, by window, with the silver builds that they used",
        window="window_start",
    )


def window_start() -> sa.Column[Any]:
    return column("window_start", Moment, "Start of the window: ten minutes, or the exchange's day")


bronze_ticker_raw = raw_table("bronze.ticker_raw", "Tickers as the exchange sent them; append-only")
bronze_market_raw = raw_table(
    "bronze.market_raw", "The market list, once per window, as the exchange sent it; append-only"
)

bronze_origin = table(
    "bronze.origin",
    column("simulated", sa.Boolean, "Whether this database has data of the offline exchange; never both kinds"),
    column("first_seen", Moment, "When the first data was stored", server_default=sa.func.now()),
    sa.Index("uq_origin", sa.text("(true)"), unique=True),
    comment="One row: real or simulated data",
    window="first_seen",
)

bronze_collection_start = table(
    "bronze.collection_start",
    column("starts_at", Moment, "Start of the first partition unless UPBIT_START says otherwise; midnight in Seoul"),
    sa.Index("uq_collection_start", sa.text("(true)"), unique=True),
    comment="One row: the day on which this database was first started",
    window="starts_at",
)

bronze_retention = table(
    "bronze.retention",
    column("table_name", sa.Text, "A table of any layer that old rows were dropped from"),
    column("kept_from", Moment, "The time from which rows were not dropped"),
    column("dropped_at", Moment, "When rows were last dropped"),
    sa.PrimaryKeyConstraint("table_name"),
    comment="Tables from which retention dropped rows, and up to when",
    window="kept_from",
)


bronze_archive = table(
    "bronze.archive",
    column("table_name", sa.Text, "A table of bronze"),
    column("day", Moment, "The start of the day in Seoul, of the column by which the table is partitioned"),
    column("archived_at", Moment, "When the file was written and verified"),
    column("rows", sa.BigInteger, "Its row count"),
    column("bytes", sa.BigInteger, "Its size"),
    column("content_hash", sa.Text, "Hash of column names and values in order (SHA-256, hexadecimal)"),
    column("columns", sa.ARRAY(sa.Text), "Its columns"),
    column("database", sa.Text, "Identity of the database that the snapshot is from"),
    column("snapshot", sa.Text, "pg_snapshot of the rows: later transactions are not included"),
    sa.PrimaryKeyConstraint("table_name", "day", "archived_at"),
    comment="Archived days of bronze, with all versions of a day; append-only",
    window="day",
)

bronze_restored = table(
    "bronze.restored",
    column("table_name", sa.Text, "A table of bronze"),
    column("day", Moment, "The start of the day in Seoul"),
    column("restored_at", Moment, "When the day was restored", server_default=sa.func.now()),
    column("rows", sa.BigInteger, "Row count of its archive"),
    sa.PrimaryKeyConstraint("table_name", "day", "restored_at"),
    comment="Days of bronze restored from the archive; append-only",
    window="day",
)


def kept_from(table: sa.Table) -> sa.ScalarSelect[Any]:
    """SQL: the time from which a table's rows were not dropped; NULL if none were."""
    retention = bronze_retention.c
    return sa.select(retention.kept_from).where(retention.table_name == table.fullname).scalar_subquery()


def dropped(table: sa.Table, moment: sa.ColumnElement[Any], *, known: Any = None) -> sa.ColumnElement[bool]:
    """SQL: whether a table's rows of a time were dropped, and not restored from the archive since.

    Args:
        known: only drops after this time count; None: all.
    """
    drop, restored = bronze_retention.c, bronze_restored.c
    # a join, as Citus doesn't support a subquery with another one in it
    back = sa.and_(
        restored.table_name == table.fullname,
        restored.day <= moment,
        moment < restored.day + timedelta(days=1),
        restored.restored_at > drop.dropped_at,
    )
    gone = [drop.table_name == table.fullname, moment < drop.kept_from, restored.table_name.is_(None)]
    row = sa.select(1).select_from(bronze_retention.outerjoin(bronze_restored, back))
    row = row.where(*gone, *([] if known is None else [known < drop.dropped_at]))
    return row.correlate_except(bronze_retention, bronze_restored).exists()


def day_counter(name: str, comment: str, unit: str) -> sa.Column[Any]:
    return column(
        name,
        sa.Numeric,
        f"{comment} of the exchange's day, which begins at 09:00 KST; until the day's first trade, it may still be "
        f"that of the day of traded_at. {unit.capitalize()}, 0 or 1e-20 to 1e20; NULL if the ticker has none",
        nullable=True,
    )


silver_ticker = table(
    "silver.ticker",
    identity(),
    market(),
    column("trade_date", sa.String(8), "거래 일자: date of the last trade in KST, YYYYMMDD"),
    column("trade_time", sa.String(6), "거래 시각: time of the last trade in KST, HHMMSS"),
    price("trade_price", "거래 가격: price of the last trade"),
    volume("acc_trade_volume", "누적 거래량(24h): volume of the last 24 hours, rolling"),
    ingested_at(),
    turnover("acc_trade_price", "누적 거래대금(24h): turnover of the last 24 hours, rolling"),
    change_rate(),
    column("traded_at", Moment, "Time of the last trade: from Upbit's opening to 10 minutes after ingested_at"),
    computed_at(),
    day_counter("day_volume", "거래량: volume", "in units of the coin"),
    day_counter("day_turnover", "거래대금: turnover", "in the quote currency"),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_ticker_market_ingested_at", "market", "ingested_at"),
    comment="Tickers, typed, validated and de-duplicated: one row per market and snapshot",
    window="ingested_at",
)

silver_ticker_rejected = rejected_table("silver.ticker_rejected", "bronze.ticker_raw")
silver_ticker_build = silver_build_table("silver.ticker_build", "silver.ticker")

gold_market_stats = table(
    "gold.market_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last snapshot in the window"),
    market(),
    price("trade_price", "현재가: price of the last trade"),
    volume("daily_volume", "24시간 누적 거래량: volume of the last 24 hours"),
    rank(
        "rank_volume",
        "거래대금 순위: RANK() by turnover_krw in the window, NULLs last. Of equal ones at rank 10, "
        "gold.turnover_top10 has those whose code sorts first",
    ),
    quote_currency(),
    turnover("turnover", "24시간 누적 거래대금: turnover of the last 24 hours"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × the price of KRW-BTC or KRW-USDT in the same snapshot, else in the newest of the window that has "
        "one; exact, in KRW, 0 to 1e40; NULL if the window has none",
        nullable=True,
    ),
    column(
        "rank_note",
        sa.Text,
        "Limitations of the rank: another snapshot's rate, no rate, or the market is not in the window's last snapshot "
        "(for example, it was delisted); NULL if there are none",
        nullable=True,
    ),
    change_rate(),
    column(
        "change_rate_24h",
        sa.Numeric,
        "(price - price 24 h before) / price 24 h before, to 10 decimals. The latter is from the window 24 h before, "
        "the snapshot with the nearest time of day (of two, the earlier). A fraction, -1 to 1e40; NULL if that window "
        "was not collected, or that snapshot lacks the market",
        nullable=True,
    ),
    price("window_high", "Highest trade_price among the window's snapshots; not of its trades"),
    price("window_low", "Lowest trade_price among the window's snapshots; not of its trades"),
    column(
        "volatility",
        sa.Numeric,
        "The range of the window's snapshots, not of its trades: (window_high - window_low) / window_low, to 10 "
        "decimals. A fraction, 0 to 1e40; NULL if the window has a single snapshot of the market",
        nullable=True,
    ),
    rank("rank_volatility", "변동성 순위: RANK() by volatility in the window; NULL if volatility is", nullable=True),
    column("window_start", Moment, "Start of the ten-minute window"),
    computed_at(),
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격: VWAP of the trades between the market's first and last snapshot of the window: "
        "increase of day_turnover / increase of day_volume (from 0 if a day began in between), to 16 decimals. "
        "In the quote currency, 0 or more; NULL if a counter is missing, unchanged or decreased",
        nullable=True,
    ),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_market_stats_market_ingested_at", "market", "ingested_at"),
    sa.Index("ix_market_stats_window_start_rank_volume", "window_start", "rank_volume"),
    comment="KPIs of each market at its last snapshot of the window",
    window="ingested_at",
)

gold_market_stats_build = gold_build_table(
    "gold.market_stats_build",
    "gold.market_stats",
    silver_computed_at="When its silver was computed",
    day_before_computed_at="When the silver of 24 h before was computed",
)

silver_check_result = table(
    "silver.check_result",
    column("asset", sa.Text, "The checked asset, of any layer"),
    column("check_name", sa.Text, "The check, as in Dagster"),
    window_start(),
    column("passed", sa.Boolean, "Whether the window passed the last check"),
    column("severity", sa.Text, "ERROR: figures are wrong; WARN: it may be the exchange's fault"),
    column("reason", sa.Text, "Why the window fails; NULL if it passes", nullable=True),
    column("failing_since", Moment, "When it was first found failing; NULL if it passes", nullable=True),
    column("checked_at", Moment, "When it was last checked"),
    column("run_id", sa.Text, "The Dagster run that last checked it"),
    sa.PrimaryKeyConstraint("asset", "check_name", "window_start"),
    sa.Index("ix_check_result_failing", "asset", "check_name", "window_start", postgresql_where=sa.text("NOT passed")),
    comment="The latest result of each check and window, of all layers",
    window="window_start",
)

bronze_orderbook_raw = raw_table("bronze.orderbook_raw", "Order books as the exchange sent them; append-only")


def levels(name: str, comment: str) -> sa.Column[Any]:
    padding = "without the exchange's padding (price 0 and size 0)"
    return column(name, sa.ARRAY(sa.Numeric), f"{comment}, 1e-20 to 1e20, best first; {padding}")


def order_book() -> list[sa.Column[Any]]:
    return [
        volume("total_ask_size", "매도 총 잔량: size of all sell orders, by the exchange"),
        volume("total_bid_size", "매수 총 잔량: size of all buy orders, by the exchange"),
        levels("ask_prices", "매도 호가: sell prices, in the quote currency"),
        levels("ask_sizes", "매도 잔량: size at each sell price, in units of the coin"),
        levels("bid_prices", "매수 호가: buy prices, in the quote currency"),
        levels("bid_sizes", "매수 잔량: size at each buy price, in units of the coin"),
    ]


silver_orderbook = table(
    "silver.orderbook",
    identity(),
    market(),
    *order_book(),
    ingested_at(),
    column("changed_at", Moment, "Time of the book's last change; same bounds as silver.ticker's traded_at"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_orderbook_market_ingested_at", "market", "ingested_at"),
    comment="Order books (호가), typed and validated: one row per market and snapshot",
    window="ingested_at",
)
silver_orderbook_rejected = rejected_table("silver.orderbook_rejected", "bronze.orderbook_raw")
silver_orderbook_build = silver_build_table("silver.orderbook_build", "silver.orderbook")

DEPTHS = {"01": "0.1", "05": "0.5", "1": "1"}  # column suffix: percent


def depth(side: str, name: str, percent: str) -> sa.Column[Any]:
    return column(
        f"{side}_depth_{name}",
        sa.Numeric,
        f"Σ price × size of the {side}s with |price - mid_price| ≤ {percent} percent of mid_price; exact, in the quote "
        f"currency, 0 or more; a lower bound if {side}_reach is less than that; NULL without mid_price",
        nullable=True,
    )


def reach(side: str) -> sa.Column[Any]:
    return column(
        f"{side}_reach",
        sa.Numeric,
        f"|price of the last {side} - mid_price| / mid_price, to 10 decimals: how far the levels reach, as the "
        "exchange sends at most 30. A fraction, 0 to 1e40; NULL if the side has fewer and so is complete, or without "
        "mid_price",
        nullable=True,
    )


gold_orderbook_stats = table(
    "gold.orderbook_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last book in the window"),
    market(),
    quote_currency(),
    price("best_bid", "최우선 매수 호가: best bid; NULL without bids", nullable=True),
    price("best_ask", "최우선 매도 호가: best ask; NULL without asks", nullable=True),
    price("mid_price", "(best_bid + best_ask) / 2, exact; NULL if either is", nullable=True),
    column(
        "spread_bps",
        sa.Numeric,
        "호가 스프레드: (best_ask - best_bid) / mid_price × 10,000, to 10 decimals. In basis points, 0 to 20,000; NULL "
        "without mid_price",
        nullable=True,
    ),
    column(
        "spread_bps_mean",
        sa.Numeric,
        "The mean of spread_bps over the window's two-sided books, to 10 decimals. In basis points, 0 to 20,000; NULL "
        "if there are none",
        nullable=True,
    ),
    *(depth(side, name, percent) for name, percent in DEPTHS.items() for side in ("bid", "ask")),
    column(
        "imbalance",
        sa.Numeric,
        "(bid_depth_1 - ask_depth_1) / (bid_depth_1 + ask_depth_1), to 10 decimals. A fraction: 1 all buyers, -1 all "
        "sellers; NULL without mid_price, or if there are no orders within 1 percent",
        nullable=True,
    ),
    column(
        "reach",
        sa.Numeric,
        "The smaller of bid_reach and ask_reach: depths beyond it are lower bounds. A fraction, 0 to 1e40; NULL if "
        "both sides are complete",
        nullable=True,
    ),
    column("window_start", Moment, "Start of the ten-minute window"),
    computed_at(),
    reach("bid"),
    reach("ask"),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_orderbook_stats_market_ingested_at", "market", "ingested_at"),
    comment="Spread, depth and imbalance of each market's last book in the window",
    window="ingested_at",
)
gold_orderbook_stats_build = gold_build_table(
    "gold.orderbook_stats_build",
    "gold.orderbook_stats",
    silver_computed_at="When its silver was computed",
)

bronze_candle_raw = history_table(
    "bronze.candle_raw",
    "candle_date_time_utc of the raw row; empty if it has none",
    "One-minute candles as the exchange sent them; append-only",
)
bronze_candle_page = page_table("bronze.candle_page", "candles")

silver_candle = table(
    "silver.candle",
    identity(),
    market(),
    column("started_at", Moment, "Start of the minute"),
    price("opening_price", "시가: opening price"),
    price("high_price", "고가: highest price"),
    price("low_price", "저가: lowest price"),
    price("closing_price", "종가: closing price"),
    volume("volume", "거래량: volume of the minute"),
    turnover("turnover", "거래대금: turnover of the minute"),
    column("last_traded_at", Moment, "When the exchange stored the minute's last trade; may be after the minute's end"),
    ingested_at(),
    computed_at(),
    sa.PrimaryKeyConstraint("started_at", "market"),
    sa.Index("ix_candle_market_started_at", "market", "started_at"),
    comment="One-minute candles (분봉), typed, validated and de-duplicated; a minute without trades has none",
    window="started_at",
)
silver_candle_rejected = rejected_table("silver.candle_rejected", "bronze.candle_raw", day())
silver_candle_build = silver_build_table("silver.candle_build", "silver.candle")
silver_market = table(
    "silver.market",
    market(),
    column("korean_name", sa.Text, "한글명: Korean name; NULL if the exchange has none", nullable=True),
    column("english_name", sa.Text, "영문명: English name; NULL if the exchange has none", nullable=True),
    column("warning", sa.Boolean, "유의 종목: whether the exchange warns of the market"),
    column(
        "cautions",
        sa.ARRAY(sa.Text),
        "주의 종목: the exchange's reasons for caution, e.g. PRICE_FLUCTUATIONS; empty if there are none",
    ),
    column("first_seen_at", Moment, "When the first collected market list that has the market was received"),
    column("last_seen_at", Moment, "When the newest one was; names, warning and cautions are from it"),
    sa.PrimaryKeyConstraint("market"),
    comment="Every market that was on a collected market list, with its names and warnings",
    window="first_seen_at",
)
silver_alert = table(
    "silver.alert",
    column("key", sa.Text, "Identifies the problem as long as it lasts"),
    column("began_at", Moment, "When it was first detected"),
    column("seen_at", Moment, "When it was last detected"),
    column("text", sa.Text, "The message that was sent"),
    sa.PrimaryKeyConstraint("key"),
    comment="Current problems for which a message was sent",
    window="began_at",
)
silver_candle_coverage = table(
    "silver.candle_coverage",
    day(),
    market(),
    column("minutes_traded", sa.Integer, "Minutes of the day with a candle"),
    column(
        "minutes_silent",
        sa.Integer,
        "Collected minutes without a candle: nobody traded, or the market was not listed yet",
    ),
    column(
        "minutes_missing",
        sa.Integer,
        "Minutes of the day that were not collected (including future ones) or whose candle was rejected",
    ),
    column("problem", sa.Text, "Why they can't be collected; NULL if they can", nullable=True),
    computed_at(),
    column("pages", sa.BigInteger, "Pages of bronze.candle_page that this was computed from"),
    column(
        "proved",
        sa.Boolean,
        "Whether the volume of the day's candles equals that of the exchange's day candle; NULL until verified",
        nullable=True,
    ),
    sa.PrimaryKeyConstraint("day", "market"),
    comment="Coverage of each market and day by silver.candle; the three numbers of minutes add up to 1,440",
    window="day",
)

bronze_trade_raw = history_table(
    "bronze.trade_raw",
    "sequential_id of the raw row; empty if it has none",
    "Trades as the exchange sent them; append-only",
)
bronze_trade_page = page_table("bronze.trade_page", "trades")

bronze_trade_stream_raw = table(
    "bronze.trade_stream_raw",
    identity(),
    market("종목 코드: the frame's market code, truncated to 30 characters; empty if it has none"),
    column("raw_data", JSONB, "The exchange's WebSocket frame, unchanged; a JSON string of it if jsonb rejects it"),
    column("ingested_at", Moment, "데이터 적재 시각: when the frame was received"),
    column("traded_at", Moment, "체결 시각: the frame's time of the trade; ingested_at if it has no valid one"),
    column("key", sa.String(30), "sequential_id of the frame; empty if it has none"),
    column("connection", sa.String(30), "The connection that received it first; rest: requested afterwards"),
    written_in(),
    sa.PrimaryKeyConstraint("traded_at", "market", "key", "id"),
    sa.Index("ix_trade_stream_raw_written_in", "written_in"),
    comment="Trades of all markets from the WebSocket; append-only. May have duplicates after a lost connection "
    "to the database or the exchange",
    window="traded_at",
)
bronze_trade_stream_page = table(
    "bronze.trade_stream_page",
    identity(),
    market("종목 코드: the requested market"),
    column("window_start", Moment, "Start of the ten-minute window in which `covered` begins"),
    column("covered", TSTZRANGE, "The interval that this page covers completely; may be empty"),
    column("rows", sa.BigInteger, "Number of its trades in the requested intervals, including those already known"),
    column("problem", sa.Text, "Why no more of this market is available; NULL if it may be", nullable=True),
    ingested_at(),
    written_in(),
    sa.PrimaryKeyConstraint("window_start", "market", "id"),
    sa.Index("ix_trade_stream_page_written_in", "written_in"),
    comment="The pages by which trades that the stream missed were requested over REST; append-only",
    window="window_start",
)

silver_trade = table(
    "silver.trade",
    identity(),
    market(),
    column("trade_id", sa.BigInteger, "체결 번호: the exchange's sequential_id, unique in its market, unordered"),
    column("traded_at", Moment, "체결 시각: time of the trade, to the millisecond"),
    price("price", "체결 가격: price of the trade"),
    column("volume", sa.Numeric, "체결량: volume of the trade; in units of the coin, 1e-20 to 1e20"),
    column("taker", sa.String(3), "매수/매도: ASK if the taker sold, BID if the taker bought"),
    ingested_at(),
    computed_at(),
    sa.PrimaryKeyConstraint("traded_at", "market", "trade_id"),
    sa.Index("ix_trade_market_traded_at", "market", "traded_at"),
    comment="Trades (체결), typed, validated and de-duplicated by their id",
    window="traded_at",
)
silver_trade_rejected = rejected_table("silver.trade_rejected", "bronze.trade_raw", day())
silver_trade_build = silver_build_table("silver.trade_build", "silver.trade")

silver_trade_stream = table(
    "silver.trade_stream",
    identity(),
    market(),
    column("trade_id", sa.BigInteger, "체결 번호: the exchange's sequential_id, unique in its market, unordered"),
    column("traded_at", Moment, "체결 시각: time of the trade, to the millisecond"),
    price("price", "체결 가격: price of the trade"),
    column("volume", sa.Numeric, "체결량: volume of the trade; in units of the coin, 1e-20 to 1e20"),
    column("taker", sa.String(3), "매수/매도: ASK if the taker sold, BID if the taker bought"),
    ingested_at(),
    column("source", sa.String(6), "stream: from the WebSocket; rest: backfilled by REST"),
    computed_at(),
    sa.PrimaryKeyConstraint("traded_at", "market", "trade_id"),
    sa.Index("ix_trade_stream_market_traded_at", "market", "traded_at"),
    comment="Trades (체결) of all markets from the stream, typed, validated and de-duplicated by market and id",
    window="traded_at",
)
silver_trade_stream_rejected = rejected_table(
    "silver.trade_stream_rejected",
    "bronze.trade_stream_raw",
    column("traded_at", Moment, "bronze.trade_stream_raw.traded_at"),
)
silver_trade_stream_build = silver_build_table("silver.trade_stream_build", "silver.trade_stream")
silver_trade_coverage = table(
    "silver.trade_coverage",
    window_start(),
    market(),
    column(
        "state",
        sa.String(9),
        "proved: the trades add up to what the exchange's day counters gained, from the last snapshot before the "
        "window to the first one after it; collected: the stream received data throughout, or all of it was requested "
        "over REST, but there is no proof (yet); missing: they don't add up, or nothing was received",
    ),
    column(
        "missing",
        TSTZMULTIRANGE,
        "The parts of the window in which trades may be missing, to be requested over REST; NULL unless state is "
        "missing",
        nullable=True,
    ),
    computed_at(),
    sa.PrimaryKeyConstraint("window_start", "market"),
    sa.Index("ix_trade_coverage_missing", "window_start", postgresql_where=sa.text("missing IS NOT NULL")),
    sa.Index("ix_trade_coverage_krw_btc", "window_start", postgresql_where=sa.text("market = 'KRW-BTC'")),
    comment="Whether all trades of each market and window were collected",
    window="window_start",
)

gold_trade_stats = table(
    "gold.trade_stats",
    identity(),
    window_start(),
    market(),
    quote_currency(),
    column("trades", sa.BigInteger, "체결 건수: trades in the window, 1 or more"),
    price("opening_price", "시가: price of the window's first trade; of equal times the smallest id"),
    price("high_price", "고가: highest price"),
    price("low_price", "저가: lowest price"),
    price("closing_price", "종가: price of the window's last trade; of equal times the largest id"),
    column("volume", sa.Numeric, "거래량: Σ volume; exact, in units of the coin, 0 or more"),
    column("turnover", sa.Numeric, "거래대금: Σ price × volume; exact, in the quote currency, 0 or more"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × vwap of KRW-BTC or KRW-USDT in the same window; exact, in KRW, 0 or more; NULL if that was not "
        "traded",
        nullable=True,
    ),
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격: turnover / volume, to 16 decimals, within low_price and high_price. In the quote "
        "currency, 1e-20 to 1e20",
    ),
    column("buy_volume", sa.Numeric, "매수 체결량: Σ volume where the taker bought; in units of the coin, 0 or more"),
    column("sell_volume", sa.Numeric, "매도 체결량: Σ volume where the taker sold; in units of the coin, 0 or more"),
    column(
        "strength",
        sa.Numeric,
        "체결강도: 100 × buy_volume / sell_volume, to 10 decimals. A fraction in percent, 0 or more: above 100 if more "
        "was bought than sold; NULL if sell_volume is 0",
        nullable=True,
    ),
    column(
        "largest_trade",
        sa.Numeric,
        "최대 체결: the largest price × volume of one trade; in the quote currency, 0 or more",
    ),
    rank("rank_turnover", "거래대금 순위: RANK() by turnover_krw in the window, NULLs last"),
    rank("rank_trades", "체결 건수 순위: RANK() by trades in the window"),
    computed_at(),
    sa.PrimaryKeyConstraint("window_start", "market"),
    sa.Index("ix_trade_stats_market_window_start", "market", "window_start"),
    comment="KPIs of each market's trades in the window, as collected by the stream",
    window="window_start",
)
gold_trade_stats_build = gold_build_table(
    "gold.trade_stats_build", "gold.trade_stats", silver_computed_at="silver.trade_stream_build.computed_at"
)

LOG_BOUNDS = "each logarithm to 16 significant digits, 0 to 1e5"


def volatility(name: str, comment: str, bounds: str) -> sa.Column[Any]:
    return column(name, sa.Numeric, f"{comment}; to 10 decimals. A fraction, {bounds}", nullable=True)


gold_market_daily = table(
    "gold.market_daily",
    identity(),
    day(),
    market(),
    quote_currency(),
    price("opening_price", "시가: opening price"),
    price("high_price", "고가: highest price"),
    price("low_price", "저가: lowest price"),
    price("closing_price", "종가: closing price"),
    column(
        "volume",
        sa.Numeric,
        "거래량: volume of the day, Σ volume of vwap_source; exact, in units of the coin, 0 or more",
    ),
    column(
        "turnover", sa.Numeric, "거래대금: turnover of the day, of vwap_source; exact, in the quote currency, 0 or more"
    ),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × the day's VWAP of KRW-BTC or KRW-USDT; exact, in KRW, 0 or more; NULL if that has none",
        nullable=True,
    ),
    rank(
        "rank_turnover",
        "거래대금 순위: RANK() by turnover_krw among the day's collected markets, NULLs last",
    ),
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격: turnover / volume of the same source, to 16 decimals; limited to low_price or "
        "high_price if it is outside only by rounding. In the quote currency, 1e-20 to 1e20; NULL if it is outside by "
        "more, or volume is 0",
        nullable=True,
    ),
    column(
        "vwap_source",
        sa.String(7),
        "The source of volume, turnover and vwap: trades, if all of the day's were collected, none was rejected, and "
        "their volume and turnover equal those of the candles, to 1e-9 of them; else candles. Prices and volatilities "
        "are always from candles",
    ),
    volatility(
        "realized_volatility",
        "실현 변동성: √Σ ((closing_price - before) / before)² over the day's candles, where before is the "
        "closing_price of the market's previous candle of the same day; not annualised",
        "0 to 1e42; NULL if the day has a single candle",
    ),
    rank(
        "rank_volatility",
        "변동성 순위: RANK() by realized_volatility among the day's collected markets; NULL if that is",
        nullable=True,
    ),
    column("minutes_traded", sa.Integer, "Minutes of the day with a candle, 1 to 1,440"),
    column("minutes_silent", sa.Integer, "Minutes without trades, or before the market was listed; 0 to 1,439"),
    column(
        "minutes_missing",
        sa.Integer,
        "Minutes not collected, in the future, or rejected, 0 to 1,439; if not 0, all other figures are partial",
    ),
    computed_at(),
    column(
        "rank_note",
        sa.Text,
        "Limitations of the ranks: missing minutes of the market or of its rate, or no rate; NULL if there are none",
        nullable=True,
    ),
    volatility(
        "log_volatility",
        "Realized volatility of log returns: √Σ ln(closing_price / before)², with the same candles as "
        "realized_volatility; not annualised",
        f"{LOG_BOUNDS}; NULL if the day has a single candle",
    ),
    volatility(
        "annualized_volatility",
        "log_volatility × √365, as the market never closes: √(365 × Σ ln(closing_price / before)²)",
        f"{LOG_BOUNDS}; NULL if the day has a single candle",
    ),
    volatility(
        "parkinson_volatility",
        "Parkinson's estimator of the day, annualised: √(365 × ln(high_price / low_price)² / (4 ln 2))",
        f"{LOG_BOUNDS}; NULL only in days computed before this column existed",
    ),
    volatility(
        "garman_klass_volatility",
        "Garman and Klass' estimator of the day, annualised: √(365 × (ln(high_price / low_price)² / 2 - (2 ln 2 - 1) × "
        "ln(closing_price / opening_price)²))",
        f"{LOG_BOUNDS}; NULL only in days computed before this column existed",
    ),
    sa.PrimaryKeyConstraint("day", "market"),
    sa.Index("ix_market_daily_market_day", "market", "day"),
    comment="KPIs of each market and exchange's day, from its candles and trades",
    window="day",
)
gold_market_daily_build = gold_build_table(
    "gold.market_daily_build",
    "gold.market_daily",
    candle_computed_at="When its silver.candle was computed",
    trade_computed_at="When its silver.trade was computed",
)


def received_at() -> sa.Column[Any]:
    return column("received_at", Moment, "When the stream received it, by this machine's clock")


def batch() -> sa.Column[Any]:
    return column("batch", sa.BigInteger, "The batch that wrote it; later batches have larger numbers")


live_ticker = table(
    "live.ticker",
    market(),
    price("trade_price", "거래 가격: price of the last trade"),
    change_rate(),
    volume("acc_trade_volume", "누적 거래량(24h): volume of the last 24 hours, rolling"),
    turnover("acc_trade_price", "누적 거래대금(24h): turnover of the last 24 hours, rolling"),
    column("sent_at", Moment, "The exchange's time of the ticker"),
    received_at(),
    batch(),
    sa.PrimaryKeyConstraint("market"),
    comment="Each market's newest ticker from the stream; unlogged, so refilled after a crash of the server",
    window="received_at",
)
live_orderbook = table(
    "live.orderbook",
    market(),
    *order_book(),
    column("sent_at", Moment, "The exchange's time of the book's last change"),
    received_at(),
    batch(),
    sa.PrimaryKeyConstraint("market"),
    comment="The newest order book of each selected market from the stream, without the padding; unlogged",
    window="received_at",
)
live_trade = table(
    "live.trade",
    market(),
    column("trade_id", sa.BigInteger, "체결 번호: the exchange's sequential_id, unique in its market, unordered"),
    column("traded_at", Moment, "체결 시각: time of the trade, to the millisecond"),
    price("price", "체결 가격: price of the trade"),
    volume("volume", "체결량: volume of the trade"),
    column("taker", sa.String(3), "매수/매도: ASK if the taker sold, BID if the taker bought"),
    received_at(),
    batch(),
    sa.PrimaryKeyConstraint("market", "trade_id"),
    sa.Index("ix_trade_batch", "batch"),
    comment="The stream's trades of the last 15 minutes, which are also in bronze.trade_stream_raw; unlogged",
    window="received_at",
)
live_snapshot = table(
    "live.snapshot",
    column("taken_at", Moment, "When the stream received the last tickers that it wrote to bronze, by its clock"),
    sa.Index("uq_snapshot", sa.text("(true)"), unique=True),
    comment="One row: the last snapshot that the stream took. If it is older than a minute, runs take them; unlogged",
    window="taken_at",
)
live_stream = table(
    "live.stream",
    column("reported_at", Moment, "When this row was written"),
    column(
        "collecting_since",
        Moment,
        "When it began to collect, after waiting in standby; the counts start then or earlier",
    ),
    column("tickers", sa.BigInteger, "Number of frames with tickers that it received since its start"),
    column("orderbooks", sa.BigInteger, "Number of frames with order books, likewise"),
    column("trades", sa.BigInteger, "Number of frames with trades, likewise; each trade comes over two connections"),
    column("reconnects", sa.BigInteger, "How often a lost connection was opened again, since its start"),
    column("stored", sa.BigInteger, "Number of trades that it wrote to the database since its start"),
    column("waiting", sa.BigInteger, "Number of trades in memory that are not written yet"),
    column("lost", sa.BigInteger, "Number of trades lost since its start, as neither database nor disk took them"),
    column(
        "bytes_spilled", sa.BigInteger, "Size in bytes of the spill files, trades that the database couldn't take yet"
    ),
    sa.Index("uq_stream", sa.text("(true)"), unique=True),
    comment="One row: what the stream reported last, a few seconds ago if it runs; unlogged",
    window="reported_at",
)
live_exchange_calls = table(
    "live.exchange_calls",
    column(
        "call_group",
        sa.Text,
        "The group of the exchange's rate limit: market, ticker, orderbook, candle, trade, websocket",
    ),
    column("calls", sa.BigInteger, "Number of calls that were answered; of websocket: handshakes"),
    column("too_many_requests", sa.BigInteger, "How many of them were rejected with status 429"),
    column("blocked", sa.BigInteger, "How many of them were rejected with status 418"),
    column(
        "calls_left",
        sa.Integer,
        "The fewest calls that the exchange said were left in a second, in the last report; 0 by a 429, "
        "NULL if it didn't say",
        nullable=True,
    ),
    column(
        "blocked_until",
        Moment,
        "The end of the last block (418), by the exchange or else a minute after it; NULL without one",
        nullable=True,
    ),
    column("reported_at", Moment, "When a process last reported calls"),
    sa.PrimaryKeyConstraint("call_group"),
    comment="The calls of all processes to the exchange, reported every ten seconds and at the end of a run; unlogged",
    window="reported_at",
)


# Views. Their columns' comments are stored in the database, too; a test compares the rest with the migrations.
views = sa.MetaData()


def view(name: str, *columns: sa.Column[Any], comment: str) -> sa.Table:
    schema, _, bare = name.partition(".")
    return sa.Table(bare, views, *columns, schema=schema, comment=comment)


def like(table: sa.Table, *names: str, **renamed: str) -> list[sa.Column[Any]]:
    """Columns of a view that are those of another table; `renamed` by their new names."""
    sources = {name: table.c[name] for name in names} | {new: table.c[old] for new, old in renamed.items()}
    return [
        column(
            name,
            source.type,
            source.comment or "",
            nullable=bool(source.nullable),
            info={"origin": f"{table.fullname}.{source.name}"},
        )
        for name, source in sources.items()
    ]


view(
    "bronze.newest_ticker",
    column("received_at", Moment, "When it was received; NULL if there is none", nullable=True),
    comment="When the newest raw ticker of the last day was received; NULL without one",
)
view(
    "bronze.newest_trade",
    column("received_at", Moment, "When it was received"),
    comment="When the newest trade of the last day that the stream has stored was received; no row without one",
)
view(
    "silver.archive_day",
    column("table_name", sa.Text, "The table of raw rows, with its schema"),
    column("day", Moment, "Start of the day, 00:00 KST"),
    column("archived", sa.Boolean, "Whether the day was archived"),
    comment="Each day in Seoul with raw rows, and whether it was archived; without days that were dropped unarchived",
)
view(
    "silver.failing_check",
    *like(silver_check_result, "asset", "check_name"),
    column("windows", sa.BigInteger, "Number of windows that fail it"),
    column("newest", Moment, "Start of the newest of them"),
    *like(silver_check_result, "reason"),
    comment="Each check of severity ERROR that fails: in how many windows, the newest of them and its reason",
)
view(
    "silver.all_trades",
    *like(silver_trade_stream, "market", "trade_id", "traded_at", "price", "volume", "taker", "ingested_at"),
    column("source", sa.String, "stream: from the WebSocket; rest: requested over REST"),
    comment="Trades of silver.trade_stream and silver.trade, each once by market and id; source: stream or rest",
)
view(
    "silver.trade_coverage_by_window",
    *like(silver_trade_coverage, "window_start"),
    column("proved", sa.BigInteger, "Number of markets whose trades are proved to be all there"),
    column("collected", sa.BigInteger, "Number of markets whose trades were collected, without a proof (yet)"),
    column("missing", sa.BigInteger, "Number of markets of which trades may be missing"),
    column("computed_at", Moment, "When the coverage of the window was last computed"),
    comment="How many markets' trades of a window are proved to be all there, collected without a proof, and missing",
)
view(
    "gold.turnover_top10",
    *like(gold_market_stats, "rank_volume", "market", "trade_price", "change_rate", "turnover_krw", "turnover"),
    *like(gold_market_stats, "quote_currency", "daily_volume", "volatility", "rank_volatility"),
    *like(gold_market_stats, "ingested_at", "window_start"),
    *like(silver_market, "korean_name", "english_name"),
    comment="The ten largest turnovers of the newest window; of equals at the tenth place those whose code sorts first",
)
live_market = view(
    "live.market",
    *like(live_ticker, "market"),
    column("quote_currency", sa.Text, "The currency of price and turnover: KRW, BTC, USDT"),
    *like(live_ticker, "trade_price", "change_rate", daily_volume="acc_trade_volume", turnover="acc_trade_price"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × the newest price of KRW-BTC or KRW-USDT; exact, in KRW, 0 to 1e40; NULL without that price",
        nullable=True,
    ),
    *like(live_ticker, "sent_at", "received_at", "batch"),
    comment="Each market's newest ticker, with its turnover in KRW at the newest rate; NULL without one",
)
view(
    "live.turnover_top10",
    column(
        "rank_volume",
        sa.BigInteger,
        "거래대금 순위: RANK() by turnover_krw at this moment, NULLs last; 1 is the largest, equal values share a rank "
        "and leave a gap",
    ),
    *like(live_market, *live_market.c.keys()),
    comment="실시간 거래대금 상위 10: the ten largest turnovers at this moment",
)
view(
    "live.candle",
    *like(live_trade, "market"),
    column("started_at", Moment, "Start of the minute"),
    price("opening_price", "시가: price of the minute's first trade; of equal times the smallest id"),
    price("high_price", "고가: highest price"),
    price("low_price", "저가: lowest price"),
    price("closing_price", "종가: price of the minute's last trade so far; of equal times the largest id"),
    column("volume", sa.Numeric, "거래량: Σ volume; exact, in units of the coin, 0 or more"),
    column("turnover", sa.Numeric, "거래대금: Σ price × volume; exact, in the quote currency, 0 or more"),
    comment="One-minute candles of the last minutes from the stream, the last one still forming",
)
