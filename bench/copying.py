"""Rows from Python: a large data frame, and a snapshot."""

from datetime import UTC
from typing import Any

import pandas as pd
import sqlalchemy as sa
from dagster import TimeWindow

from bench.measure import Contender, Result, interleaved
from bench.stage import DAY, MINUTE, MarketData, Stage, output_of, span, tickers
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.assets.snapshots import as_records
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import insert
from upbit_assets.postgres_io.copy import cursor as driver_cursor
from upbit_assets.upbit.replies import Reply, split

GENERATED = ("id", "computed_at")
SILVER = ", ".join(column.name for column in tables.silver_ticker.columns if column.name not in GENERATED)


def frame(stage: Stage) -> list[Result]:
    snapshots = stage.snapshots(1_000_000)
    window, file = span(DAY, snapshots), stage.folder / "silver.csv"
    with stage.database() as market_data:
        market_data.fill_bronze(DAY, snapshots)
        market_data.write(silver_ticker, window, output_of(silver_ticker, window, tables.bronze_ticker_raw))
        market_data.run(f"COPY (SELECT {SILVER} FROM silver.ticker) TO '{file}' (FORMAT CSV)")
        rows = pd.read_sql(f"SELECT {SILVER} FROM silver.ticker", market_data.engine, coerce_float=False)
        market_data.run("CREATE TABLE silver.plain (LIKE silver.ticker INCLUDING DEFAULTS INCLUDING IDENTITY)")
        market_data.run("GRANT INSERT ON silver.plain TO upbit_pipeline")
        plain = tables.silver_ticker.to_metadata(sa.MetaData(), name="plain")
        return [
            *loading(market_data, tables.silver_ticker, "silver.ticker, with its two indexes", rows, window, str(file)),
            *loading(market_data, plain, "a table of silver's columns without an index", rows, window, str(file)),
        ]


def loading(
    market_data: MarketData, table: sa.Table, name: str, rows: pd.DataFrame, window: TimeWindow, file: str
) -> list[Result]:
    few = rows.head(len(rows) // 10)

    def clear() -> None:
        market_data.clear(table.fullname)

    def ours() -> None:
        with market_data.engine.begin() as connection:
            insert(connection, table, rows, window)

    seconds, server, by_to_sql = interleaved(
        Contender(ours, clear),
        Contender(lambda: market_data.run(f"COPY {table.fullname} ({SILVER}) FROM '{file}' (FORMAT CSV)"), clear),
        Contender(lambda: to_sql(few, market_data, table), clear),
    )
    what, scaled = f"A frame of {len(rows):,} rows through the IO manager into {name}", by_to_sql * len(rows) / len(few)
    ceiling = f"`to_sql`, scaled from {len(few):,} rows; the server's own COPY from a file is at {scaled / server:.1f}×"
    return [
        Result(what, "COPY of the same rows from a file on the server", seconds, server, at_least=0.5),
        Result(what, ceiling, seconds, scaled, at_least=10),
    ]


def to_sql(frame: pd.DataFrame, market_data: MarketData, table: sa.Table) -> None:
    """`to_sql` as most use it: with SQLAlchemy's default driver."""
    kinds: Any = {name: table.c[name].type for name in frame.columns}
    engine = sa.create_engine(market_data.url)
    frame.to_sql(table.name, engine, schema=table.schema, if_exists="append", index=False, dtype=kinds)
    engine.dispose()


def snapshot(stage: Stage) -> list[Result]:
    pairs = tickers(DAY)
    text = "[" + ",".join(row for _, row in pairs) + "]"
    at = (DAY + MINUTE).astimezone(UTC)  # as the client returns it
    columns = "market, raw_data, ingested_at"

    with stage.database() as market_data, market_data.engine.connect() as connection:

        def ours() -> None:
            rows = as_records(Reply(text, split(text), at, True, "", 0))
            with connection.begin():
                insert(connection, tables.bronze_ticker_raw, rows, span(DAY, 10))

        market_data.partitions(DAY, DAY)
        # the reply's text, as jsonb's output differs from it
        lines = [f"{market}\t{row.replace(chr(92), chr(92) * 2)}\t{at.isoformat()}\n" for market, row in pairs]
        made = "".join(lines).encode()

        def copied() -> None:  # over the same connection, so that both use the same server process and its caches
            with (
                connection.begin(),
                driver_cursor(connection) as cursor,
                cursor.copy(f"COPY bronze.ticker_raw ({columns}) FROM STDIN") as copy,
            ):
                copy.write(made)

        seconds, ready = interleaved(Contender(ours), Contender(copied), rounds=100)
    what = f"A snapshot of {len(pairs)} tickers, from the reply's text to committed rows of bronze"
    return [Result(what, "COPY of the same prepared JSON from the client", seconds, ready, at_least=0.9)]
