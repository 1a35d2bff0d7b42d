"""The schema, once: every table and column with its meaning.

Types and constraints are checked against the migrations by a test; the comments go from here to the database
(`upbit-assets migrate`), to the Dagster UI and to whoever reads this file.
"""

from datetime import timedelta
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


# what silver admits of each kind of figure; anything else is rejected, with its reason
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
        "전일 대비: (price - previous close) / previous close as the exchange says it; the close rolls at 09:00 KST. "
        "A fraction, -1 to 1e20",
    )


def rank(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(
        name, sa.Integer, f"{comment}; 1 is the largest, equals share a rank and the next is skipped", nullable=nullable
    )


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
        column(
            "problem", sa.Text, "Why there is no more to be had of this market; NULL where there may be", nullable=True
        ),
        ingested_at(),
        written_in(),
        column(
            "proved",
            sa.Boolean,
            f"Whether the day's {of} add up to the volume that the exchange says of the whole day, to 1e-9 of it: if "
            "not, what the pages before say they cover is void. NULL for a page of rows, which proves nothing",
            nullable=True,
        ),
        column(
            "day_candle",
            JSONB,
            "What the exchange said of the whole day: its day candle (일봉), untouched. NULL where it said that there "
            "is none, and for a page of rows",
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("day", "market", "id"),
        sa.Index(f"ix_{bare}_written_in", "written_in"),
        comment=f"The pages by which {of} were collected: what is covered is not asked for again; append-only",
        window="day",
    )


def rejected_table(name: str, of: str, of_window: sa.Column[Any] | None = None) -> sa.Table:
    window = of_window.name if of_window is not None else "ingested_at"
    return table(
        name,
        identity(),
        market("종목 코드 as bronze has it"),
        column("raw_data", JSONB, "The raw row"),
        column("reason", sa.Text, "Why silver could not take it"),
        of_window if of_window is not None else ingested_at(),
        column("bronze_id", sa.BigInteger, f"{of}.id"),
        computed_at(),
        sa.PrimaryKeyConstraint(window, "market", "bronze_id"),
        comment="Raw rows that can't be typed or are impossible, each with its reason",
        window=window,
    )


def silver_build_table(name: str, of: str) -> sa.Table:
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


def gold_build_table(name: str, of: str, **sources: str) -> sa.Table:
    return table(
        name,
        window_start(),
        column("gold_rows", sa.BigInteger, "Markets that have figures"),
        *(
            column(source, Moment, f"{what}; NULL where there was none", nullable=True)
            for source, what in sources.items()
        ),
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


bronze_archive = table(
    "bronze.archive",
    column("table_name", sa.Text, "A table of bronze"),
    column("day", Moment, "The start of the day in Seoul, of the column by which the table is partitioned"),
    column("archived_at", Moment, "When the file was written and read back, and held these rows"),
    column("rows", sa.BigInteger, "Rows it holds"),
    column("bytes", sa.BigInteger, "Its size"),
    column("content_hash", sa.Text, "Of the rows' columns and values in their order (SHA-256, hexadecimal)"),
    column("columns", sa.ARRAY(sa.Text), "The columns it holds"),
    column("database", sa.Text, "The database whose transactions the snapshot tells of"),
    column("snapshot", sa.Text, "What was committed when it was read (pg_snapshot): rows of later ones are not in it"),
    sa.PrimaryKeyConstraint("table_name", "day", "archived_at"),
    comment="Days of bronze that were archived, the newest version last; append-only",
    window="day",
)

bronze_restored = table(
    "bronze.restored",
    column("table_name", sa.Text, "A table of bronze"),
    column("day", Moment, "The start of the day in Seoul"),
    column("restored_at", Moment, "When all of the day was there again", server_default=sa.func.now()),
    column("rows", sa.BigInteger, "Rows of its archive"),
    sa.PrimaryKeyConstraint("table_name", "day", "restored_at"),
    comment="Days of bronze that came back from the archive; append-only",
    window="day",
)


def kept_from(table: sa.Table) -> sa.ScalarSelect[Any]:
    """From when on a table's rows were not dropped; NULL where none were."""
    noted = bronze_retention.c
    return sa.select(noted.kept_from).where(noted.table_name == table.fullname).scalar_subquery()


def dropped(table: sa.Table, moment: sa.ColumnElement[Any], *, known: Any = None) -> sa.ColumnElement[bool]:
    """Whether a table's rows of a moment were dropped, and did not come back from the archive since.

    Args:
        known: when they were known to be there; None: ever.
    """
    drop, restored = bronze_retention.c, bronze_restored.c
    back = sa.exists().where(
        restored.table_name == table.fullname,
        restored.day <= moment,
        moment < restored.day + timedelta(days=1),
        restored.restored_at > drop.dropped_at,
    )
    gone = (drop.table_name == table.fullname, moment < drop.kept_from, ~back.correlate_except(bronze_restored))
    return sa.exists().where(*gone, *([] if known is None else [known < drop.dropped_at]))


def day_counter(name: str, comment: str, unit: str) -> sa.Column[Any]:
    return column(
        name,
        sa.Numeric,
        f"{comment} of the exchange's day, which begins at 09:00 KST; where nothing was traded since, it may still be "
        f"that of the day of traded_at. {unit.capitalize()}, 0 or 1e-20 to 1e20; NULL where the exchange says no such "
        "number",
        nullable=True,
    )


silver_ticker = table(
    "silver.ticker",
    identity(),
    market(),
    column("trade_date", sa.String(8), "거래 일자 (KST) YYYYMMDD, of the last trade"),
    column("trade_time", sa.String(6), "거래 시각 (KST) HHMMSS, of the last trade"),
    price("trade_price", "거래 가격: the last trade's price"),
    volume("acc_trade_volume", "누적 거래량 (24h): rolling"),
    ingested_at(),
    turnover("acc_trade_price", "누적 거래대금 (24h): rolling turnover"),
    change_rate(),
    column("traded_at", Moment, "Time of the last trade: not before Upbit opened, nor 10 minutes past ingested_at"),
    computed_at(),
    day_counter("day_volume", "거래량", "in units of the coin"),
    day_counter("day_turnover", "거래대금", "in the quote currency"),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_ticker_market_ingested_at", "market", "ingested_at"),
    comment="Tickers typed, checked and de-duplicated: one row per market and snapshot",
    window="ingested_at",
)

silver_ticker_rejected = rejected_table("silver.ticker_rejected", "bronze.ticker_raw")
silver_ticker_build = silver_build_table("silver.ticker_build", "silver.ticker")

gold_market_stats = table(
    "gold.market_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last snapshot in the window"),
    market(),
    price("trade_price", "현재가"),
    volume("daily_volume", "24시간 누적 거래량"),
    rank(
        "rank_volume",
        "거래대금 순위: RANK() by turnover_krw in the window, those without one last. Of equals at the tenth place "
        "gold.turnover_top10 shows those whose code sorts first",
    ),
    quote_currency(),
    turnover("turnover", "24시간 누적 거래대금"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × the price of KRW-BTC or KRW-USDT in the same snapshot, else in the newest of the window that has "
        "one; exact, in KRW, 0 to 1e40; NULL where the window has none",
        nullable=True,
    ),
    column(
        "rank_note",
        sa.Text,
        "What to know of the market's rank: another snapshot's rate, no rate, or that the window's last snapshot lacks "
        "the market, as that of a delisted one does; NULL where there is nothing to know",
        nullable=True,
    ),
    change_rate(),
    column(
        "change_rate_24h",
        sa.Numeric,
        "(price - price 24 h before) / price 24 h before, to 10 decimals, of the same ten minutes of the day before: "
        "the snapshot whose time of day is nearest, the earlier of two, so less than ten minutes off. A fraction, -1 "
        "to 1e40; NULL where that window was not collected, or that snapshot has no such market",
        nullable=True,
    ),
    price("window_high", "Highest trade_price among the window's snapshots; not of its trades"),
    price("window_low", "Lowest trade_price among the window's snapshots; not of its trades"),
    column(
        "volatility",
        sa.Numeric,
        "The range of the window's snapshots, not of its trades: (window_high - window_low) / window_low, to 10 "
        "decimals. A fraction, 0 to 1e40; NULL where the window has one snapshot of the market",
        nullable=True,
    ),
    rank("rank_volatility", "변동성 순위: RANK() by volatility in the window; NULL where volatility is", nullable=True),
    column("window_start", Moment, "Start of the ten-minute window that the figures are of"),
    computed_at(),
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격 of what was traded between the market's first and last snapshot of the window: what "
        "day_turnover gained / what day_volume gained, those of a day that began in between from 0, to 16 decimals. In "
        "the quote currency, 0 or more; NULL where a counter is missing, stood still or went back",
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
    silver_computed_at="When the silver that it was computed from was computed",
    day_before_computed_at="When the silver of 24 h before that it was computed from was computed",
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
    padding = "without the padding, price 0 with size 0, wherever that is in the list"
    return column(name, sa.ARRAY(sa.Numeric), f"{comment}, 1e-20 to 1e20, the best first; {padding}")


silver_orderbook = table(
    "silver.orderbook",
    identity(),
    market(),
    volume("total_ask_size", "매도 총 잔량: all sell orders, as the exchange says"),
    volume("total_bid_size", "매수 총 잔량: all buy orders, as the exchange says"),
    levels("ask_prices", "매도 호가: sell prices, in the quote currency"),
    levels("ask_sizes", "매도 잔량: what is offered at each, in units of the coin"),
    levels("bid_prices", "매수 호가: buy prices, in the quote currency"),
    levels("bid_sizes", "매수 잔량: what is wanted at each, in units of the coin"),
    ingested_at(),
    column("changed_at", Moment, "Time of the book's last change: as traded_at of silver.ticker, within its bounds"),
    computed_at(),
    sa.PrimaryKeyConstraint("ingested_at", "market"),
    sa.Index("ix_orderbook_market_ingested_at", "market", "ingested_at"),
    comment="Order books (호가) typed and checked: one row per market and snapshot",
    window="ingested_at",
)
silver_orderbook_rejected = rejected_table("silver.orderbook_rejected", "bronze.orderbook_raw")
silver_orderbook_build = silver_build_table("silver.orderbook_build", "silver.orderbook")

DEPTHS = {"01": "0.1", "05": "0.5", "1": "1"}  # as columns are named: percent


def depth(side: str, name: str, percent: str) -> sa.Column[Any]:
    return column(
        f"{side}_depth_{name}",
        sa.Numeric,
        f"Σ price × size of the {side}s with |price - mid_price| ≤ {percent} percent of mid_price; exact, in the quote "
        f"currency, 0 or more, a lower bound where {side}_reach is less; NULL without mid_price",
        nullable=True,
    )


def reach(side: str) -> sa.Column[Any]:
    return column(
        f"{side}_reach",
        sa.Numeric,
        f"|price of the last {side} shown - mid_price| / mid_price, to 10 decimals: where the exchange cut the side "
        "off, as it shows 30 levels. A fraction, 0 to 1e40; NULL where the side has fewer and so is whole, or without "
        "mid_price",
        nullable=True,
    )


gold_orderbook_stats = table(
    "gold.orderbook_stats",
    identity(),
    column("ingested_at", Moment, "지표 집계 시각: the market's last book in the window"),
    market(),
    quote_currency(),
    price("best_bid", "최우선 매수 호가; NULL where nobody buys", nullable=True),
    price("best_ask", "최우선 매도 호가; NULL where nobody sells", nullable=True),
    price("mid_price", "(best_bid + best_ask) / 2, exact; NULL where either is", nullable=True),
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
        "The mean of spread_bps over the window's books that have two sides, to 10 decimals. In basis points, 0 to "
        "20,000; NULL where none has",
        nullable=True,
    ),
    *(depth(side, name, percent) for name, percent in DEPTHS.items() for side in ("bid", "ask")),
    column(
        "imbalance",
        sa.Numeric,
        "(bid_depth_1 - ask_depth_1) / (bid_depth_1 + ask_depth_1), to 10 decimals. A fraction: 1 all buyers, -1 all "
        "sellers; NULL without mid_price, or where the spread is so wide that nothing lies within 1 percent",
        nullable=True,
    ),
    column(
        "reach",
        sa.Numeric,
        "The smaller of bid_reach and ask_reach: a depth beyond it is a lower bound on that side. A fraction, 0 to "
        "1e40; NULL where both sides are whole",
        nullable=True,
    ),
    column("window_start", Moment, "Start of the ten-minute window that the figures are of"),
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
    silver_computed_at="When the silver that it was computed from was computed",
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
    price("opening_price", "시가"),
    price("high_price", "고가"),
    price("low_price", "저가"),
    price("closing_price", "종가"),
    volume("volume", "거래량 of the minute"),
    turnover("turnover", "거래대금 of the minute"),
    column("last_traded_at", Moment, "When the minute's last trade was stored; can lie past the minute's end"),
    ingested_at(),
    computed_at(),
    sa.PrimaryKeyConstraint("started_at", "market"),
    sa.Index("ix_candle_market_started_at", "market", "started_at"),
    comment="One-minute candles (분봉) typed, checked and de-duplicated; a minute without trades has none",
    window="started_at",
)
silver_candle_rejected = rejected_table("silver.candle_rejected", "bronze.candle_raw", day())
silver_candle_build = silver_build_table("silver.candle_build", "silver.candle")
silver_candle_coverage = table(
    "silver.candle_coverage",
    day(),
    market(),
    column("minutes_traded", sa.Integer, "Minutes of the day that have a candle"),
    column(
        "minutes_silent",
        sa.Integer,
        "Minutes of which the exchange was asked and that have none: nobody traded, or the market was not listed yet",
    ),
    column(
        "minutes_missing",
        sa.Integer,
        "Minutes of the day that were not collected, those to come included, or whose candle was rejected",
    ),
    column("problem", sa.Text, "Why they can't be collected; NULL where they can", nullable=True),
    computed_at(),
    column("pages", sa.BigInteger, "Pages of bronze.candle_page that this was computed from"),
    column(
        "proved",
        sa.Boolean,
        "Whether the day's candles add up to what the exchange says of the whole day; NULL until that was asked",
        nullable=True,
    ),
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

bronze_trade_stream_raw = table(
    "bronze.trade_stream_raw",
    identity(),
    market("종목 코드 as the frame says it, cut at 30; empty where it says none"),
    column("raw_data", JSONB, "The exchange's WebSocket frame, untouched; a JSON string of it where jsonb refuses it"),
    column("ingested_at", Moment, "데이터 적재 시각: when the frame was received"),
    column("traded_at", Moment, "체결 시각 as the frame says it; ingested_at where it plainly says none"),
    column("key", sa.String(30), "sequential_id as the frame says it; empty where it says none"),
    column("connection", sa.String(30), "Which of the stream's connections brought it first"),
    written_in(),
    sa.PrimaryKeyConstraint("traded_at", "market", "key", "id"),
    sa.Index("ix_trade_stream_raw_written_in", "written_in"),
    comment="Trades of all markets as the WebSocket told them; append-only. One may be there twice, where the database "
    "was lost in the middle of a write, or a new connection began with it",
    window="traded_at",
)

silver_trade = table(
    "silver.trade",
    identity(),
    market(),
    column("trade_id", sa.BigInteger, "체결 번호: the exchange's sequential_id, unique in its market, in no order"),
    column("traded_at", Moment, "체결 시각, to the millisecond"),
    price("price", "체결 가격"),
    column("volume", sa.Numeric, "체결량; in units of the coin, 1e-20 to 1e20"),
    column("taker", sa.String(3), "ASK: the taker sold (매도); BID: the taker bought (매수)"),
    ingested_at(),
    computed_at(),
    sa.PrimaryKeyConstraint("traded_at", "market", "trade_id"),
    sa.Index("ix_trade_market_traded_at", "market", "traded_at"),
    comment="Trades (체결) typed, checked and de-duplicated by their id",
    window="traded_at",
)
silver_trade_rejected = rejected_table("silver.trade_rejected", "bronze.trade_raw", day())
silver_trade_build = silver_build_table("silver.trade_build", "silver.trade")

silver_trade_stream = table(
    "silver.trade_stream",
    identity(),
    market(),
    column("trade_id", sa.BigInteger, "체결 번호: the exchange's sequential_id, unique in its market, in no order"),
    column("traded_at", Moment, "체결 시각, to the millisecond"),
    price("price", "체결 가격"),
    column("volume", sa.Numeric, "체결량; in units of the coin, 1e-20 to 1e20"),
    column("taker", sa.String(3), "ASK: the taker sold (매도); BID: the taker bought (매수)"),
    ingested_at(),
    column("source", sa.String(6), "stream: the WebSocket told it; rest: it was asked for afterwards"),
    computed_at(),
    sa.PrimaryKeyConstraint("traded_at", "market", "trade_id"),
    sa.Index("ix_trade_stream_market_traded_at", "market", "traded_at"),
    comment="Trades (체결) of all markets as they happened, typed, checked and de-duplicated by market and id",
    window="traded_at",
)
silver_trade_stream_rejected = rejected_table(
    "silver.trade_stream_rejected",
    "bronze.trade_stream_raw",
    column("traded_at", Moment, "bronze.trade_stream_raw.traded_at"),
)
silver_trade_stream_build = silver_build_table("silver.trade_stream_build", "silver.trade_stream")

gold_trade_stats = table(
    "gold.trade_stats",
    identity(),
    window_start(),
    market(),
    quote_currency(),
    column("trades", sa.BigInteger, "체결 건수: trades of the window, 1 or more"),
    price("opening_price", "시가: of the window's first trade; of equal times the smallest id"),
    price("high_price", "고가"),
    price("low_price", "저가"),
    price("closing_price", "종가: of the window's last trade; of equal times the largest id"),
    column("volume", sa.Numeric, "거래량: Σ volume; exact, in units of the coin, 0 or more"),
    column("turnover", sa.Numeric, "거래대금: Σ price × volume; exact, in the quote currency, 0 or more"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × vwap of KRW-BTC or KRW-USDT in the same window; exact, in KRW, 0 or more; NULL where nothing of "
        "that was traded",
        nullable=True,
    ),
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격: turnover / volume, to 16 decimals, and never beside low_price or high_price. In the "
        "quote currency, 1e-20 to 1e20",
    ),
    column("buy_volume", sa.Numeric, "매수 체결량: Σ volume where the taker bought; in units of the coin, 0 or more"),
    column("sell_volume", sa.Numeric, "매도 체결량: Σ volume where the taker sold; in units of the coin, 0 or more"),
    column(
        "strength",
        sa.Numeric,
        "체결강도: 100 × buy_volume / sell_volume, to 10 decimals. A fraction in percent, 0 or more: above 100 more "
        "was bought than sold; NULL where nothing was sold",
        nullable=True,
    ),
    column(
        "largest_trade",
        sa.Numeric,
        "최대 체결: the largest price × volume of one trade; in the quote currency, 0 or more",
    ),
    rank("rank_turnover", "거래대금 순위: RANK() by turnover_krw in the window, those without one last"),
    rank("rank_trades", "체결 건수 순위: RANK() by trades in the window"),
    computed_at(),
    sa.PrimaryKeyConstraint("window_start", "market"),
    sa.Index("ix_trade_stats_market_window_start", "market", "window_start"),
    comment="KPIs of each market's trades in the window, of those that the stream has collected",
    window="window_start",
)
gold_trade_stats_build = gold_build_table(
    "gold.trade_stats_build", "gold.trade_stats", silver_computed_at="silver.trade_stream_build.computed_at"
)

LOG_BOUNDS = "computed to 16 significant digits a logarithm, 0 to 1e5"


def volatility(name: str, comment: str, bounds: str) -> sa.Column[Any]:
    return column(name, sa.Numeric, f"{comment}; to 10 decimals. A fraction, {bounds}", nullable=True)


gold_market_daily = table(
    "gold.market_daily",
    identity(),
    day(),
    market(),
    quote_currency(),
    price("opening_price", "시가"),
    price("high_price", "고가"),
    price("low_price", "저가"),
    price("closing_price", "종가"),
    column("volume", sa.Numeric, "거래량 of the day: Σ volume of vwap_source; exact, in units of the coin, 0 or more"),
    column("turnover", sa.Numeric, "거래대금 of the day, of vwap_source; exact, in the quote currency, 0 or more"),
    column(
        "turnover_krw",
        sa.Numeric,
        "turnover × the day's VWAP of KRW-BTC or KRW-USDT; exact, in KRW, 0 or more; NULL where that has none",
        nullable=True,
    ),
    rank(
        "rank_turnover",
        "거래대금 순위: RANK() by turnover_krw among the day's collected markets, those without one last",
    ),
    column(
        "vwap",
        sa.Numeric,
        "거래량 가중 평균 가격: turnover / volume of the same source, to 16 decimals; a rounding error beside "
        "low_price or high_price is that price. In the quote currency, 1e-20 to 1e20; NULL where volume is 0, or the "
        "result is not between low_price and high_price",
        nullable=True,
    ),
    column(
        "vwap_source",
        sa.String(7),
        "What volume, turnover and vwap are of: trades, where every trade of the day was collected, none rejected, and "
        "their volume and turnover are those of the candles, to 1e-9 of them; candles, else. Prices and volatilities "
        "are always of candles",
    ),
    volatility(
        "realized_volatility",
        "실현 변동성: √Σ ((closing_price - before) / before)² over the day's candles, before being the "
        "closing_price of the market's candle before in the same day; without the step from the day before, not "
        "annualised",
        "0 to 1e42; NULL where the day has one candle",
    ),
    rank(
        "rank_volatility",
        "변동성 순위: RANK() by realized_volatility among the day's collected markets; NULL where that is",
        nullable=True,
    ),
    column("minutes_traded", sa.Integer, "Minutes of the day that have a candle, 1 to 1,440"),
    column(
        "minutes_silent", sa.Integer, "Minutes in which nobody traded, or the market was not listed yet; 0 to 1,439"
    ),
    column(
        "minutes_missing",
        sa.Integer,
        "Minutes not collected, still to come, or rejected, 0 to 1,439: while there are any, all else is partial",
    ),
    computed_at(),
    column(
        "rank_note",
        sa.Text,
        "What to know of the market's ranks: minutes missing of its day or of its rate's, or no rate; NULL where there "
        "is nothing to know",
        nullable=True,
    ),
    volatility(
        "log_volatility",
        "Realized volatility of log returns: √Σ ln(closing_price / before)², with the same candles as "
        "realized_volatility; not annualised",
        f"{LOG_BOUNDS}; NULL where the day has one candle",
    ),
    volatility(
        "annualized_volatility",
        "log_volatility × √365, as the market never closes: √(365 × Σ ln(closing_price / before)²)",
        f"{LOG_BOUNDS}; NULL where the day has one candle",
    ),
    volatility(
        "parkinson_volatility",
        "Parkinson's estimator of the day, annualised: √(365 × ln(high_price / low_price)² / (4 ln 2))",
        f"{LOG_BOUNDS}; never NULL but in days computed before there was this column",
    ),
    volatility(
        "garman_klass_volatility",
        "Garman and Klass' estimator of the day, annualised: √(365 × (ln(high_price / low_price)² / 2 - (2 ln 2 - 1) × "
        "ln(closing_price / opening_price)²))",
        f"{LOG_BOUNDS}; never NULL but in days computed before there was this column",
    ),
    sa.PrimaryKeyConstraint("day", "market"),
    sa.Index("ix_market_daily_market_day", "market", "day"),
    comment="KPIs of each market and exchange's day, from its candles and trades",
    window="day",
)
gold_market_daily_build = gold_build_table(
    "gold.market_daily_build",
    "gold.market_daily",
    candle_computed_at="When the candles that it was computed from were computed",
    trade_computed_at="When the trades that it was computed from were computed",
)


def received_at() -> sa.Column[Any]:
    return column("received_at", Moment, "When the stream received it, by its own clock")


def batch() -> sa.Column[Any]:
    return column("batch", sa.BigInteger, "The batch that brought it; later batches have larger numbers")


live_ticker = table(
    "live.ticker",
    market(),
    price("trade_price", "거래 가격: the last trade's price"),
    change_rate(),
    volume("acc_trade_volume", "누적 거래량 (24h): rolling"),
    turnover("acc_trade_price", "누적 거래대금 (24h): rolling turnover"),
    column("sent_at", Moment, "The exchange's time of the ticker"),
    received_at(),
    batch(),
    sa.PrimaryKeyConstraint("market"),
    comment="Each market's newest ticker from the stream; unlogged, and filled again after a crash of the server",
    window="received_at",
)
live_orderbook = table(
    "live.orderbook",
    market(),
    volume("total_ask_size", "매도 총 잔량"),
    volume("total_bid_size", "매수 총 잔량"),
    column("ask_prices", sa.ARRAY(sa.Numeric), "매도 호가, the lowest first; in the quote currency, 1e-20 to 1e20"),
    column("ask_sizes", sa.ARRAY(sa.Numeric), "매도 잔량 at each of ask_prices; in units of the coin, 1e-20 to 1e20"),
    column("bid_prices", sa.ARRAY(sa.Numeric), "매수 호가, the highest first; in the quote currency, 1e-20 to 1e20"),
    column("bid_sizes", sa.ARRAY(sa.Numeric), "매수 잔량 at each of bid_prices; in units of the coin, 1e-20 to 1e20"),
    column("sent_at", Moment, "The exchange's time of the book's last change"),
    received_at(),
    batch(),
    sa.PrimaryKeyConstraint("market"),
    comment="The newest order book of each chosen market from the stream, without the padding; unlogged",
    window="received_at",
)
live_trade = table(
    "live.trade",
    market(),
    column("trade_id", sa.BigInteger, "The exchange's sequential_id: unique within the market, in no order"),
    column("traded_at", Moment, "체결 시각: when it was traded, to the millisecond"),
    price("price", "체결 가격"),
    volume("volume", "체결량"),
    column("taker", sa.String(3), "BID: the taker bought; ASK: the taker sold"),
    received_at(),
    batch(),
    sa.PrimaryKeyConstraint("market", "trade_id"),
    sa.Index("ix_trade_batch", "batch"),
    comment="The last quarter of an hour's trades from the stream, all of which bronze.trade_stream_raw has; unlogged",
    window="received_at",
)
