"""The SQL files: each can be pasted into psql and returns the rows that the asset stores."""

import csv
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from upbit_assets.assets.gold import SQL, gold_market_daily, gold_market_stats, gold_orderbook_stats, gold_trade_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.partitions import DAY, MINUTE
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import wheel_binaries
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.assets import test_market_daily as daily
from upbit_assets_tests.assets import test_orderbook as orderbook
from upbit_assets_tests.assets import test_trade_stream as trade_stream
from upbit_assets_tests.assets.test_candles_and_trades import TODAY, cover
from upbit_assets_tests.pipeline import PAST, compute, put_bronze, ticker

TABLES = {
    table.name: table
    for asset in (gold_market_stats, gold_orderbook_stats, gold_market_daily, gold_trade_stats)
    for name in (asset.key.path[-1].replace("_", ".", 1),)
    for table in (tables.metadata.tables[name], tables.metadata.tables[f"{name}_build"])
}
TABLES[tables.silver_trade_coverage.name] = tables.silver_trade_coverage


@pytest.fixture
def filled(database: Database) -> None:
    """Gold of the windows and days in the files' comments, with several markets and snapshots."""
    for nth in range(3):
        for at in (PAST - DAY + nth * MINUTE, PAST + nth * MINUTE):
            figures = {"trade_price": f"{100 + nth}.5", "acc_trade_volume": str(nth), "acc_trade_price": str(99 * nth)}
            markets = ("KRW-BTC", "BTC-ETH", "USDT-ETH")
            put_bronze(database, at, {market: ticker(market, **figures) for market in markets})
    compute(database, silver_ticker, PAST - DAY)
    compute(database, silver_ticker, PAST)
    compute(database, gold_market_stats, PAST)
    orderbook.build(database, ("KRW-A", [("99", "1")], [("101.5", "2")]), ("KRW-B", [("9", "1")], [("10", "2")]))
    for market, price in (("KRW-BTC", "90"), ("BTC-ETH", "2")):
        daily.put_candles(database, [daily.flat(market, nth, str(float(price) + nth)) for nth in range(3)])
        daily.put_trades(database, [daily.Trade(market, TODAY, price, "1")])
        for kind in ("candle", "trade"):
            cover(database, kind, market, TODAY, TODAY + DAY)
    daily.build(database)
    taken = [("KRW-BTC", "BID"), ("KRW-BTC", "ASK"), ("BTC-ETH", "BID"), ("USDT-ETH", "ASK")]
    trade_stream.put_all(
        database, [trade_stream.Trade(market, nth + 1, taker=taker) for nth, (market, taker) in enumerate(taken)]
    )
    trade_stream.build(database)


def test_every_gold_table_has_a_file_and_no_file_is_left_over():
    assert {file.stem for file in SQL.glob("*.sql")} == set(TABLES)


@pytest.mark.parametrize("table", TABLES.values(), ids=str)
def test_a_file_pasted_into_psql_gives_the_rows_of_its_table(market_url: str, filled: None, table: sa.Table):
    text = (SQL / f"{table.name}.sql").read_text(encoding="utf-8")
    sets = [line.removeprefix("--").strip() for line in text.splitlines() if line.startswith("--   ")]
    columns = [column.name for column in table.columns if column.name not in ("id", "computed_at")]
    stored = f"SELECT {', '.join(columns)} FROM {table.fullname};"

    pasted = psql(market_url, "\n".join([*sets, text]))
    assert len([line for line in sets if line.startswith("\\set")]) == 2
    assert pasted == psql(market_url, stored)
    assert len(pasted) > 0


def psql(url: str, text: str) -> list[dict[str, str]]:
    command: list[str | Path] = [
        wheel_binaries() / "psql",
        "--no-psqlrc",
        "--csv",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        url,
    ]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(csv.DictReader(done.stdout.splitlines()), key=str)
