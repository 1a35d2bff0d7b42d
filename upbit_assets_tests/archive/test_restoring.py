"""Dropped days are restored exactly, and silver and gold computed from them are the same."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from upbit_assets.archive import ArchiveError
from upbit_assets.archive.days import FORMAT, TABLES, archive_day, path_of, restore_day, seoul_days
from upbit_assets.archive.rows import Hashing
from upbit_assets.archive.store import Store
from upbit_assets.cli import main
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.archive.rows import PAST, put_everywhere, put_rows, texts
from upbit_assets_tests.archive.test_dropping import drop
from upbit_assets_tests.conftest import copy_of_upbit, empty
from upbit_assets_tests.pipeline import ask, checks, materialize, metadata_of, put_bronze, rows, run_errors, ticker

pytestmark = pytest.mark.long

TICKERS = tables.bronze_ticker_raw
COLLECTED_AT = PAST.start + timedelta(hours=14)


@pytest.fixture(scope="module")
def separate_database(server: EmbeddedPostgres) -> Iterator[str]:
    """For tests that drop partitions."""
    with copy_of_upbit(server, "restored") as url:
        yield url


@pytest.fixture
def market(separate_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    empty(separate_database)
    monkeypatch.setenv("UPBIT_POSTGRES_URL", separate_database)
    monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")
    ask(separate_database, "SELECT bronze.make_partitions(%s, %s)", PAST.start, PAST.start)
    return separate_database


def restore(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["restore-archive", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


class TestMaterializing:
    def test_a_dropped_window_comes_back_and_is_computed_to_the_same_figures(
        self, market: str, store: Store, monkeypatch: pytest.MonkeyPatch
    ):
        for minute in range(3):
            tickers = {name: ticker(name) for name in ("KRW-BTC", "KRW-ETH")}
            put_bronze(Database(), COLLECTED_AT + timedelta(minutes=minute), tickers)
        put_bronze(Database(), COLLECTED_AT, {"KRW-XRP": ticker("KRW-XRP", trade_price='"no number"')})
        computed = (tables.silver_ticker, tables.silver_ticker_rejected, tables.gold_market_stats)
        assert materialize("silver_ticker", "gold_market_stats", first=COLLECTED_AT).success
        before = texts(market, TICKERS), [rows(Database(), table) for table in computed]
        assert [len(each) for each in before[1]] == [6, 1, 2]
        archive_day(Database(), store, TICKERS, PAST)
        assert drop(monkeypatch).success
        assert texts(market, TICKERS) == []

        result = materialize("bronze_ticker_raw", "silver_ticker", "gold_market_stats", first=COLLECTED_AT)
        assert result.success, run_errors(result)
        assert metadata_of(result, "bronze_ticker_raw")["rows from the archive"] == 7
        assert (texts(market, TICKERS), [rows(Database(), table) for table in computed]) == before

        again = materialize("bronze_ticker_raw", "silver_ticker", "gold_market_stats", first=COLLECTED_AT)
        assert "rows from the archive" not in metadata_of(again, "bronze_ticker_raw")

    def test_a_window_that_was_not_collected_still_says_so(self, market: str, folder: Path):
        assert "Nothing was collected in 2026-01-29-14:00" in run_errors(
            materialize("bronze_ticker_raw", first=COLLECTED_AT)
        )

    def test_a_damaged_archive_is_named(self, market: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
        put_bronze(Database(), COLLECTED_AT, {"KRW-BTC": ticker("KRW-BTC")})
        archive_day(Database(), Store(), TICKERS, PAST)
        assert drop(monkeypatch).success
        (folder / path_of(TICKERS, PAST)).write_bytes(b"")
        assert "is damaged or not a Parquet file" in run_errors(materialize("bronze_ticker_raw", first=COLLECTED_AT))

    def test_a_dropped_day_of_candles_is_not_requested_again(
        self, market: str, folder: Path, exchange: Any, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("UPBIT_CANDLE_MARKETS", "KRW-BTC,KRW-ETH")
        day = days.at(seoul_days.at(PAST.start).start - 40 * DAY).start + DAY
        chain = ("bronze_candle_raw", "silver_candle", "gold_market_daily")
        result = materialize(*chain, first=day, axis=days)
        assert result.success, run_errors(result)
        computed = (tables.silver_candle, tables.silver_candle_coverage, tables.gold_market_daily)
        before = [rows(Database(), table) for table in computed]
        assert all(before)
        for table in (tables.bronze_candle_raw, tables.bronze_candle_page):
            for back in (0, 1):
                archive_day(Database(), Store(), table, seoul_days.at(day - back * DAY))
        result = drop(monkeypatch)
        assert result.success, run_errors(result)
        assert texts(market, tables.bronze_candle_raw) == []

        monkeypatch.setenv("UPBIT_API_URL", "http://127.0.0.1:9")
        result = materialize(*chain, first=day, axis=days)
        assert result.success, run_errors(result)
        assert metadata_of(result, "bronze_candle_raw")["pages"] == 0
        assert [rows(Database(), table) for table in computed] == before
        assert checks(result)["every_minute_was_collected"].passed


class TestCommand:
    def test_an_empty_database_gets_all_of_it(
        self, market: str, store: Store, another_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        ask(market, "INSERT INTO bronze.origin (simulated) VALUES (true)")
        put_everywhere(market)
        for table in TABLES:
            archive_day(Database(), store, table, PAST)
        before = {table: texts(market, table) for table in TABLES}
        monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
        for _ in range(2):
            told = restore()
            assert sorted(told.splitlines()) == sorted(f"{table.fullname} 2026-01-29: 30 rows" for table in TABLES)
            assert {table: texts(another_url, table) for table in TABLES} == before
        assert ask(another_url, "SELECT simulated FROM bronze.origin") == [(True,)]

    def test_days_and_tables_may_be_chosen_and_other_files_are_ignored(self, market: str, folder: Path):
        put_everywhere(market)
        for table in TABLES:
            archive_day(Database(), Store(), table, PAST)
        (folder / "notes.txt").write_text("mine")
        assert restore("--table", "ticker_raw", "--from", "2026-01-29", "--to", "2026-01-29") == (
            "notes.txt: not an archive, ignored\nbronze.ticker_raw 2026-01-29: 30 rows\n"
        )
        assert "rows" not in restore("--from", "2026-01-30")
        assert "rows" not in restore("--to", "2026-01-28")
        unknown = CliRunner().invoke(main, ["restore-archive", "--table", "tickers"])
        assert "No such table: tickers. There are candle_page" in unknown.output

    def test_without_an_archive_it_says_what_to_set(self, market: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("UPBIT_ARCHIVE_URL", raising=False)
        result = CliRunner().invoke(main, ["restore-archive"])
        assert result.exit_code == 1
        assert "Set UPBIT_ARCHIVE_URL" in result.output


class TestRefusals:
    def archive(self, url: str, table: sa.Table = TICKERS) -> None:
        put_rows(url, table)
        archive_day(Database(), Store(), table, PAST)

    def test_simulated_and_real_data_never_meet(self, market: str, folder: Path, another_url: str, monkeypatch):
        ask(market, "INSERT INTO bronze.origin (simulated) VALUES (true)")
        self.archive(market)
        monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
        ask(another_url, "INSERT INTO bronze.origin (simulated) VALUES (false)")
        with pytest.raises(ArchiveError, match=r"This database has real data, but .* sends simulated data"):
            restore_day(Database(), Store(), TICKERS, PAST)
        assert texts(another_url, TICKERS) == []
        with pytest.raises(ArchiveError, match="has simulated data, but this database has real data"):
            self.archive(another_url)

    def test_other_rows_under_the_same_ids_are_not_mixed(self, market: str, folder: Path):
        self.archive(market, tables.bronze_trade_raw)
        ask(market, "DELETE FROM bronze.trade_raw WHERE key <> '0'")
        ask(market, "UPDATE bronze.trade_raw SET raw_data = '1'")
        before = texts(market, tables.bronze_trade_raw)
        with pytest.raises(ArchiveError, match=r"and bronze.trade_raw have different rows with the same ids"):
            restore_day(Database(), Store(), tables.bronze_trade_raw, PAST)
        assert texts(market, tables.bronze_trade_raw) == before

    def test_an_archive_of_an_older_schema_is_restored_and_of_a_newer_one_refused(self, market: str, folder: Path):
        page = tables.bronze_candle_page
        self.archive(market, page)
        before = texts(market, page)
        rewrite(folder / path_of(page, PAST), lambda rows: rows.drop_columns(["proved", "day_candle"]))
        ask(market, "DELETE FROM bronze.candle_page")
        assert restore_day(Database(), Store(), page, PAST) == 30
        width = len(before[0])
        assert [row[: width - 2] for row in texts(market, page)] == [row[: width - 2] for row in before]
        assert {row[width - 2 :] for row in texts(market, page)} == {(None, None)}

        rewrite(folder / path_of(page, PAST), lambda rows: rows.append_column("mood", pa.array(["good"] * 30)))
        with pytest.raises(ArchiveError, match=r"has the newer schema .* with unknown columns \(mood\): upgrade"):
            restore_day(Database(), Store(), page, PAST)


def rewrite(file: Path, change: Any) -> None:
    """A file as another version would have written it."""
    rows = pq.ParquetFile(file).read()
    changed = change(rows)
    hashing = Hashing(changed.schema)
    list(hashing.passed(changed.to_batches()))
    about = json.loads(pq.ParquetFile(file).metadata.metadata[FORMAT]) | {"content_hash": hashing.content().hash}
    pq.write_table(changed.replace_schema_metadata({FORMAT: json.dumps(about).encode()}), file)
