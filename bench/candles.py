"""A day of one market's candles, from the exchange's replies to gold."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from bench.measure import Contender, Result, interleaved
from bench.stage import MarketData, Stage, output_of
from upbit_assets.assets.bronze import CANDLES
from upbit_assets.assets.coverage import Gap
from upbit_assets.assets.gold import gold_market_daily
from upbit_assets.assets.history import as_records, page_record
from upbit_assets.assets.pages import Page, candle_pages
from upbit_assets.assets.silver import silver_candle
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import Load
from upbit_assets.sandbox.server import running
from upbit_assets.upbit import UpbitClient

MARKET = "KRW-BTC"
BRONZE = (CANDLES.raw, CANDLES.page)
SILVER = (
    *(tables.silver_candle, tables.silver_candle_rejected),
    *(tables.silver_candle_build, tables.silver_candle_coverage),
)
GOLD = (tables.gold_market_daily, tables.gold_market_daily_build)


def candle_day(stage: Stage) -> list[Result]:
    """Only the database's time counts: eight pages in eight transactions, then silver, then gold."""
    window = days.at(datetime.now(UTC) - DAY)
    with running(30) as exchange, UpbitClient(exchange.url) as client:
        pages = list(candle_pages(client, Gap(window.start, MARKET, window.start, window.end)))
    with stage.database() as data:
        raw, page_table = (table.fullname for table in BRONZE)
        names = [table.fullname for table in (*BRONZE, *SILVER, *GOLD)]

        def ours() -> float:
            before = data.busy()
            data.append(CANDLES.raw, window, map(load, pages), days)
            silver = output_of(silver_candle, window, tables.bronze_candle_raw)
            data.write(silver_candle, window, silver, days)
            gold = output_of(gold_market_daily, window, tables.silver_candle, tables.silver_trade)
            data.write(gold_market_daily, window, gold, days)
            return data.busy() - before

        ours()
        rows = {name: iter(copied(data, name)) for name in names}
        transactions = [
            *({raw: take(rows[raw], len(page.rows)), page_table: take(rows[page_table], 1)} for page in pages),
            *({table.fullname: b"".join(rows[table.fullname]) for table in layer} for layer in (SILVER, GOLD)),
        ]
        clear = lambda: data.clear(*names)  # noqa: E731
        seconds, ready, by_page = interleaved(
            Contender(ours, clear),
            Contender(lambda: copy(data, [merged(transactions)]), clear),
            Contender(lambda: copy(data, transactions), clear),
            rounds=20,
        )
    count = sum(len(page.rows) for page in pages)
    what = f"A day of one market's candles, {count:,} from {len(pages)} replies to gold: the database's time"
    baseline = "COPY of the same prepared rows into the same tables in one transaction"
    by_pages = f"in a transaction for each page, as resuming needs, {by_page / ready:.2f}× that"
    return [Result(what, f"{baseline}; {by_pages}", seconds, ready, at_most=1.5)]


def load(page: Page) -> Load:
    return Load({CANDLES.raw: as_records(page, page.rows), CANDLES.page: page_record(page)})


def copied(data: MarketData, name: str) -> list[bytes]:
    """A table's rows as COPY's text."""
    with data.connection.cursor() as cursor, cursor.copy(f"COPY (SELECT * FROM {name}) TO STDOUT".encode()) as copy:
        return [bytes(row) for row in copy]


def take(rows: Iterator[bytes], count: int) -> bytes:
    return b"".join(islice(rows, count))


def merged(transactions: Sequence[Mapping[str, bytes]]) -> dict[str, bytes]:
    whole: dict[str, bytes] = {}
    for rows in transactions:
        for name, text in rows.items():
            whole[name] = whole.get(name, b"") + text
    return whole


def copy(data: MarketData, transactions: Sequence[Mapping[str, bytes]]) -> float:
    before = data.busy()
    for rows in transactions:
        with data.connection.transaction(), data.connection.cursor() as cursor:
            for name, text in rows.items():
                with cursor.copy(f"COPY {name} FROM STDIN".encode()) as writer:
                    writer.write(text)
    return data.busy() - before
