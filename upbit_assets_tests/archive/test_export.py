"""Exports have every figure to its last digit, and the examples for analysts run unchanged."""

import csv
import re
import shlex
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from upbit_assets.archive.days import archive_day
from upbit_assets.archive.store import Store
from upbit_assets.cli import main
from upbit_assets.dashboard.server import running
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.settings import PROJECT
from upbit_assets_tests.archive.rows import PAST
from upbit_assets_tests.pipeline import ask, materialize, put_bronze, ticker

COLLECTED_AT = PAST.start + timedelta(hours=14)
PRICES = ["100.0", "0.00000001", "123456789.12345678", "1.5e-12"]
DAY = ("--from", "2026-01-29", "--to", "2026-01-29")


@pytest.fixture
def computed(market_url: str) -> str:
    """A window of silver and gold."""
    for nth, price in enumerate(PRICES):
        row = {"KRW-BTC": ticker("KRW-BTC", trade_price=price), "KRW-ETH": ticker("KRW-ETH")}
        put_bronze(Database(), COLLECTED_AT + timedelta(minutes=nth), row)
    assert materialize("silver_ticker", "gold_market_stats", first=COLLECTED_AT).success
    return market_url


def export(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["export", *arguments])


def test_parquet_has_decimals(computed: str, tmp_path: Path):
    result = export("silver.ticker", *DAY, "--output", str(tmp_path / "ticker.parquet"))
    assert result.output == f"8 rows of silver.ticker are in {tmp_path / 'ticker.parquet'}\n"
    held = pq.read_table(tmp_path / "ticker.parquet").to_pylist()
    expected = dict(ask(computed, "SELECT id, trade_price FROM silver.ticker"))
    assert {row["id"]: row["trade_price"] for row in held} == expected
    assert {type(row["trade_price"]) for row in held} == {Decimal}


def test_csv_has_postgresqls_text(computed: str, tmp_path: Path):
    file = tmp_path / "stats.csv"
    assert export("gold.market_stats", *DAY, "--format", "csv", "--output", str(file)).exit_code == 0
    with file.open() as lines:
        held = [(row["market"], row["trade_price"], row["rank_note"]) for row in csv.DictReader(lines)]
    expected = ask(
        computed, "SELECT market, trade_price::text, coalesce(rank_note, '') FROM gold.market_stats ORDER BY 1"
    )
    assert sorted(held) == expected
    assert len(held) == 2


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_every_table_can_be_exported(computed: str, tmp_path: Path, form: str):
    for table in tables.metadata.tables:
        result = export(table, *DAY, "--format", form, "--output", str(tmp_path / table))
        assert result.exit_code == 0, f"{table}: {result.output}"
    assert {path.name for path in tmp_path.iterdir()} >= set(tables.metadata.tables)


def test_what_cannot_be_exported_says_why(computed: str, tmp_path: Path):
    assert "There is no table ticker. There are bronze.archive," in export("ticker", *DAY).output
    (tmp_path / "there").write_text("mine")
    assert "already exists" in export("silver.ticker", *DAY, "--output", str(tmp_path / "there")).output
    assert (tmp_path / "there").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_examples_for_analysts_run(
    computed: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    archive_day(Database(), Store(), tables.bronze_ticker_raw, PAST)
    monkeypatch.chdir(tmp_path)
    page = (PROJECT / "docs" / "analysis.md").read_text()
    names: dict[str, Any] = {}
    with running(computed) as board:
        monkeypatch.setenv("BOARD_URL", board)
        for language, block in re.findall(r"```(python|sh)\n(.*?)```", page, re.DOTALL):
            if language == "python":
                exec(block, names)  # noqa: S102 - the page is ours
            else:
                for line in block.splitlines():
                    assert CliRunner().invoke(main, shlex.split(line)[1:]).exit_code == 0
    [(_, highest, snapshots)] = names["hourly"].fetchall()
    assert (highest, snapshots) == (Decimal("123456789.12345678"), 4)
    assert len(names["prices"]) == 4
    assert names["together"].fetchall() == [("KRW-BTC", 4), ("KRW-ETH", 4)]
    assert list(names["history"]["trade_price"]) == [Decimal(PRICES[-1])]
    assert names["dearest"].limit(1).fetchall() == [("KRW-BTC", Decimal("123456789.12345678"))]
