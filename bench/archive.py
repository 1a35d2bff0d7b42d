"""Archiving a day, and computing a diff: time, memory and bytes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from dagster import TimeWindow

from bench.capacity import SIZE, TRADES, busiest, text
from bench.measure import Contender, Result, interleaved
from bench.stage import DAY, MARKETS, MINUTE, MarketData, Stage, output_of, tickers
from upbit_assets.archive.days import archive_day, restore_day, seoul_days
from upbit_assets.archive.store import Store
from upbit_assets.assets.gold import gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.diff import diff_of_span
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.market import Market

ROWS_A_DAY, SECONDS, MEGABYTES = 1_900_000, 60, 300
ARCHIVED = (tables.bronze_ticker_raw, tables.bronze_trade_raw)
ARCHIVE = r"""
import pathlib, re, sys, time
from datetime import datetime
from upbit_assets.archive.days import archive_day, seoul_days
from upbit_assets.archive.store import Store
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import metadata

day, began = seoul_days.at(datetime.fromisoformat(sys.argv[1])), time.perf_counter()
for name in sys.argv[2:]:
    archive_day(Database(), Store(), metadata.tables[name], day)
# not getrusage's maximum, which includes the parent's before exec
(peak,) = re.findall(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
print(time.perf_counter() - began, int(peak) * 1024 / 1e6)
"""


def archive(stage: Stage) -> Iterator[Result]:
    """A day of tickers and trades as collected by default, archived by a separate process and restored."""
    day = seoul_days.at(DAY)
    os.environ["UPBIT_ARCHIVE_URL"] = new_folder(stage)
    with stage.database() as data:
        data.fill_bronze(DAY, stage.snapshots(MARKETS * 1440))
        fill_trades(data, round(650_000 * stage.scale))
        rows = {table: data.count(table.fullname) for table in ARCHIVED}
        command = [sys.executable, "-c", ARCHIVE, DAY.isoformat(), *(table.fullname for table in ARCHIVED)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds, peak = map(float, printed.split())
        what = f"Archiving a day: {rows[ARCHIVED[0]]:,} tickers and {rows[ARCHIVED[1]]:,} trades, verified"
        yield Result(
            what,
            f"{SECONDS} seconds for {ROWS_A_DAY:,} rows",
            seconds,
            SECONDS * sum(rows.values()) / ROWS_A_DAY,
            at_most=1,
        )
        yield Result(f"{what}: peak memory in MB", f"{MEGABYTES} MB", peak, MEGABYTES, at_most=1, counted=True)
        yield restoring(stage, data, day, rows[ARCHIVED[0]])
    yield from sizes(stage, day)


def new_folder(stage: Stage) -> str:
    return tempfile.mkdtemp(prefix="archive-", dir=stage.folder)


def sizes(stage: Stage, day: TimeWindow) -> Iterator[Result]:
    """Bytes a row. The tickers are the offline exchange's of each minute, since the archive compresses equal values."""
    os.environ["UPBIT_ARCHIVE_URL"] = new_folder(stage)
    with stage.database() as data:
        data.partitions(day.start, day.end)
        columns = "market, raw_data, ingested_at"
        with data.connection.cursor() as cursor, cursor.copy(f"COPY bronze.ticker_raw ({columns}) FROM STDIN") as copy:
            for at in (DAY + nth * MINUTE for nth in range(20)):
                for code, ticker in tickers(at):
                    copy.write_row((code, ticker, at))
        fill_trades(data, 50_000)
        data.run("VACUUM bronze.ticker_raw")
        for table in ARCHIVED:
            rows = data.count(table.fullname)
            ((size,),) = data.connection.execute(SIZE, [table.fullname])
            archived = archive_day(Database(), Store(), table, day)
            if archived is None:
                raise LookupError(table.fullname)
            yield Result(
                f"Bytes a row of {rows:,} of `{table.fullname}` in the archive",
                "in PostgreSQL, with its indexes",
                round(archived.bytes / rows, 1),
                round(int(size) / rows, 1),
                at_least=20,
                counted=True,
            )


def fill_trades(data: MarketData, count: int) -> None:
    """Trades of the busiest markets, newest first."""
    end, market, columns = DAY + seoul_days.length, Market(count=MARKETS), "market, raw_data, day, key, ingested_at"
    with data.connection.cursor() as cursor, cursor.copy(f"COPY bronze.trade_raw ({columns}) FROM STDIN") as copy:
        for code in busiest(TRADES):
            for row in market.trades(code, end, days_ago=1, count=count // TRADES):
                copy.write_row((code, text(row), DAY, str(row["sequential_id"]), end))
    data.run("VACUUM ANALYZE bronze.trade_raw")


def restoring(stage: Stage, data: MarketData, day: TimeWindow, rows: int) -> Result:
    table, file = tables.bronze_ticker_raw, stage.folder / "tickers.csv"
    data.run(f"COPY (SELECT * FROM {table.fullname}) TO '{file}' (FORMAT CSV)")

    def empty() -> None:
        data.clear(table.fullname)

    ours, copied = interleaved(
        Contender(lambda: restore_day(Database(), Store(), table, day), empty),
        Contender(lambda: data.run(f"COPY {table.fullname} FROM '{file}' (FORMAT CSV)"), empty),
    )
    return Result(
        f"Restoring {rows:,} tickers from the archive",
        "COPY of the same rows from a file on the server",
        ours,
        copied,
        at_most=3,
    )


def diff(stage: Stage) -> list[Result]:
    """A diff of a window, compared with recomputing it."""
    window = TimeWindow(DAY, DAY + WINDOW)
    names = frozenset(["silver_ticker", "gold_market_stats"])

    def rebuild(data: MarketData) -> None:
        data.write(silver_ticker, window, output_of(silver_ticker, window, tables.bronze_ticker_raw))
        data.write(gold_market_stats, window, output_of(gold_market_stats, window, tables.silver_ticker))

    with stage.database() as data:
        data.fill_bronze(DAY, 10)
        rebuild(data)
        data.run("ANALYZE")
        ours, rebuilt = interleaved(
            Contender(lambda: diff_of_span(Database(), windows, window, names)),
            Contender(lambda: rebuild(data)),
            rounds=7,
        )
    return [
        Result(
            f"A diff of a window of tickers, {10 * MARKETS:,} raw rows, silver and gold",
            "computing and storing it",
            ours,
            rebuilt,
            at_most=1.5,
        )
    ]
