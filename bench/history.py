"""The cost of a long history: replacing one window, and reading the newest ranking."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from bench.measure import Contender, Result, interleaved
from bench.stage import DAY, MARKETS, MINUTE, MarketData, Stage, output_of, span
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.partitions import WINDOW
from upbit_assets.postgres import tables

LARGE, SMALL = 10_000_000, 100_000


def replace_window(stage: Stage) -> list[Result]:
    with stage.database() as large, stage.database() as small:
        ours, theirs = interleaved(
            *(replacing(data, stage.snapshots(rows)) for data, rows in ((large, LARGE), (small, SMALL))), rounds=20
        )
        counts = [data.count("silver.ticker") for data in (large, small)]
    what = f"Replacing a window of silver ({10 * MARKETS:,} rows) in a table of {counts[0]:,} rows"
    return [Result(what, f"the same in a table of {counts[1]:,} rows", ours, theirs, at_most=1.5)]


def replacing(data: MarketData, snapshots: int) -> Contender:
    """Fill silver with a snapshot a minute up to DAY; replace the window that follows."""
    window = span(DAY, 10)
    data.fill_bronze(DAY, 10)
    data.partitions(DAY - snapshots * MINUTE, DAY)
    with without_indexes(data, "silver.ticker"):
        data.run(
            """
            INSERT INTO silver.ticker (market, trade_date, trade_time, trade_price, acc_trade_volume, ingested_at,
                                       acc_trade_price, change_rate, traded_at)
            SELECT market, '20260101', '000000', 1 + nth / 1e3, 2 + nth / 1e5, at, 3e6 + nth / 7.0, nth / 1e6, at
            FROM generate_series(%(first)s, %(last)s, interval '1 minute') at CROSS JOIN sample
            """,
            first=DAY - snapshots * MINUTE,
            last=DAY - MINUTE,
        )
    data.run("VACUUM ANALYZE silver.ticker")
    load = output_of(silver_ticker, window, tables.bronze_ticker_raw)
    data.write(silver_ticker, window, load)
    return Contender(lambda: data.write(silver_ticker, window, load))


def top10(stage: Stage) -> list[Result]:
    """The board's query, compared with a look-up of ten rows by primary key."""
    windows = stage.snapshots(LARGE)
    last = DAY + timedelta(hours=12)
    with stage.database() as data:
        data.fill_bronze(DAY, 1)
        fill_gold(data, last - (windows - 1) * WINDOW, last)
        newest = data.connection.execute("SELECT * FROM gold.turnover_top10").fetchall()
        markets, at = [row[1] for row in newest], newest[0][10]
        lookup = f"SELECT {COLUMNS} FROM gold.market_stats WHERE ingested_at = %s AND market = ANY(%s)"
        view = "SELECT * FROM gold.turnover_top10"
        ours, theirs = interleaved(
            Contender(lambda: [data.connection.execute(view).fetchall() for _ in range(100)]),
            Contender(lambda: [data.connection.execute(lookup.encode(), (at, markets)).fetchall() for _ in range(100)]),
            rounds=20,
        )
        rows = data.count("gold.market_stats")
    what = f"The newest turnover top 10, from {rows:,} rows of gold"
    return [Result(what, "ten rows by primary key from the same table", ours / 100, theirs / 100, at_most=2)]


COLUMNS = (
    "rank_volume, market, trade_price, change_rate, turnover_krw, turnover, quote_currency, daily_volume, volatility, "
    "rank_volatility, ingested_at, window_start"
)


def fill_gold(data: MarketData, first: datetime, last: datetime) -> None:
    data.partitions(first, last)
    moments = {"first": first, "last": last}
    with without_indexes(data, "gold.market_stats"):
        data.run(
            """
            INSERT INTO gold.market_stats (ingested_at, market, trade_price, daily_volume, rank_volume, quote_currency,
              turnover, turnover_krw, change_rate, change_rate_24h, window_high, window_low, volatility,
              rank_volatility, window_start)
            SELECT start + interval '9 minutes', market, 1 + nth / 1e3, 2 + nth / 1e5, nth + 1,
              split_part(market, '-', 1), 3e6 - nth / 7.0, 3e6 - nth / 7.0, nth / 1e6, nth / 1e7, 2 + nth / 1e3,
              1 + nth / 1e4, nth / 1e8, 855 - nth, start
            FROM generate_series(%(first)s, %(last)s, interval '10 minutes') start CROSS JOIN sample
            """,
            **moments,
        )
    data.run(
        """
        INSERT INTO gold.market_stats_build (window_start, gold_rows)
        SELECT start, 855 FROM generate_series(%(first)s, %(last)s, interval '10 minutes') start
        """,
        **moments,
    )
    data.run("VACUUM ANALYZE gold.market_stats, gold.market_stats_build")


@contextmanager
def without_indexes(data: MarketData, name: str) -> Iterator[None]:
    """Drop the indexes while ten million rows are inserted: creating them afterwards is many times faster."""
    key = data.connection.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'",
        (name,),
    ).fetchall()
    data.run(f"ALTER TABLE {name} DROP CONSTRAINT {key[0][0]}")
    others = data.connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass",
        (name,),
    ).fetchall()
    for index, _ in others:
        data.run(f"DROP INDEX {index}")
    yield
    data.run("SET maintenance_work_mem = '512MB'")
    data.run(f"ALTER TABLE {name} ADD CONSTRAINT {key[0][0]} {key[0][1]}")
    for _, definition in others:
        data.run(definition.replace(" ON ONLY ", " ON "))
