"""A day of one market's candles, from the exchange's replies to gold."""

from datetime import UTC, datetime

from bench.measure import Contender, Result, interleaved
from bench.stage import MarketData, Stage, output_of
from upbit_assets.assets.bronze import CANDLES, bronze_candle_raw
from upbit_assets.assets.coverage import Gap
from upbit_assets.assets.gold import gold_market_daily
from upbit_assets.assets.history import as_records, note
from upbit_assets.assets.pages import Page, candle_pages
from upbit_assets.assets.silver import silver_candle
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import Load, Loads
from upbit_assets.sandbox.server import running
from upbit_assets.upbit import UpbitClient

MARKET = "KRW-BTC"
BRONZE = (CANDLES.raw, CANDLES.page)
WRITTEN = [
    *BRONZE,
    *(tables.silver_candle, tables.silver_candle_rejected, tables.silver_candle_build, tables.silver_candle_coverage),
    *(tables.gold_market_daily, tables.gold_market_daily_build),
]


def candle_day(stage: Stage) -> list[Result]:
    """Only the time that the database works: eight pages as eight transactions, then silver, then gold."""
    window = days.at(datetime.now(UTC) - DAY)
    with running(30) as exchange, UpbitClient(exchange.url) as client:
        pages = list(candle_pages(client, Gap(window.start, MARKET, window.start, window.end)))
    with stage.database() as data:
        names = [table.fullname for table in WRITTEN]

        def ours() -> float:
            before = data.busy()
            data.write(bronze_candle_raw, window, Loads(load(page) for page in pages), days)
            silver = output_of(silver_candle, window, tables.bronze_candle_raw)
            data.write(silver_candle, window, silver, days)
            gold = output_of(gold_market_daily, window, tables.silver_candle, tables.silver_trade)
            data.write(gold_market_daily, window, gold, days)
            return data.busy() - before

        ours()
        made = [(name, copied(data, name)) for name in names]

        def theirs() -> float:
            before = data.busy()
            with data.connection.transaction(), data.connection.cursor() as cursor:
                for name, rows in made:
                    with cursor.copy(f"COPY {name} FROM STDIN".encode()) as copy:
                        copy.write(rows)
            return data.busy() - before

        clear = lambda: data.clear(*names)  # noqa: E731
        seconds, ready = interleaved(Contender(ours, clear), Contender(theirs, clear), rounds=20)
    rows = sum(len(page.rows) for page in pages)
    what = f"The database's work on a day of one market's candles: {rows:,} from {len(pages)} replies to gold"
    return [Result(what, "COPY of the same rows into the same tables, ready made", seconds, ready, at_most=1.5)]


def load(page: Page) -> Load:
    return Load({CANDLES.raw: as_records(page, page.rows), CANDLES.page: note(page)})


def copied(data: MarketData, name: str) -> bytes:
    with data.connection.cursor() as cursor, cursor.copy(f"COPY (SELECT * FROM {name}) TO STDOUT".encode()) as copy:
        return b"".join(map(bytes, copy))
