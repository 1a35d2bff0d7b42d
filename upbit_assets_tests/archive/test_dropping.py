"""Retention drops only what was read back from the archive and equals the table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import TimeWindow

from upbit_assets.archive import ArchiveError
from upbit_assets.archive import days as archive_days
from upbit_assets.archive.assets import agrees
from upbit_assets.archive.days import archive_day, due, path_of, read_back, restore_day
from upbit_assets.archive.store import Store
from upbit_assets.definitions import defs
from upbit_assets.partitions import DAY
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.archive.rows import PAST, put_rows, texts
from upbit_assets_tests.conftest import copy_of_upbit, empty
from upbit_assets_tests.pipeline import ask, run_errors

pytestmark = pytest.mark.long

TICKERS, TRADES = tables.bronze_ticker_raw, tables.bronze_trade_raw
FOLLOWING = TimeWindow(PAST.end, PAST.end + DAY)


@pytest.fixture(scope="module")
def separate_database(server: EmbeddedPostgres) -> Iterator[str]:
    """For tests that drop partitions."""
    with copy_of_upbit(server, "archived") as url:
        yield url


@pytest.fixture
def market(separate_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two days of tickers and trades; bronze is kept for ten days."""
    empty(separate_database)
    monkeypatch.setenv("UPBIT_POSTGRES_URL", separate_database)
    monkeypatch.setenv("UPBIT_KEEP_BRONZE_DAYS", "10")
    ask(separate_database, "SELECT bronze.make_partitions(%s, %s)", PAST.start, FOLLOWING.start)
    for day in (PAST, FOLLOWING):
        put_rows(separate_database, TICKERS, day)
        put_rows(separate_database, TRADES, day)
    return separate_database


def archive(*days: TimeWindow) -> None:
    for table in (TICKERS, TRADES):
        for day in days:
            archive_day(Database(), Store(), table, day)


def rows_of(url: str, table: Any = TICKERS) -> int:
    return ask(url, f"SELECT count(*) FROM {table.fullname}")[0][0]


def drop(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("upbit_assets.retention.dagster_tables", lambda: None)
    monkeypatch.setattr("upbit_assets.retention.prune", lambda *_: 0)
    return defs.resolve_job_def("drop_old_data").execute_in_process(raise_on_error=False)


def test_what_the_archive_has_is_dropped(market: str, store: Store, monkeypatch: pytest.MonkeyPatch):
    archive(PAST, FOLLOWING)
    result = drop(monkeypatch)
    assert result.success, run_errors(result)
    assert (rows_of(market), rows_of(market, TRADES)) == (0, 0)
    for day in (PAST, FOLLOWING):
        with Database().connect("REPEATABLE READ") as connection, connection.begin():
            assert agrees(connection, store, TICKERS, day).passed, "the file is unchanged"


def test_what_it_lacks_stays_and_is_named(market: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    archive(PAST)
    result = drop(monkeypatch)
    assert "table=ticker_raw/day=2026-01-30/rows.parquet is missing: archive the day." in run_errors(result)
    assert "table=trade_raw/day=2026-01-30/rows.parquet is missing: archive the day." in run_errors(result)
    assert (rows_of(market), rows_of(market, TRADES)) == (30, 30)


def change(file: Path) -> None:
    """Changes one value, but not the file's metadata."""
    rows = pq.ParquetFile(file).read()
    raw = rows.schema.get_field_index("raw_data")
    changed = rows.set_column(raw, rows.schema.field(raw), pa.array(["{}", *rows["raw_data"].to_pylist()[1:]]))
    pq.write_table(changed, file)


def other_version(file: Path) -> None:
    file.write_bytes(file.parent.parent.joinpath("day=2026-01-30", file.name).read_bytes())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change, "was modified or damaged"),
        (Path.unlink, "rows.parquet is missing"),
        (lambda file: file.write_bytes(b"something else"), "is damaged or not a Parquet file"),
        (other_version, "is not the archive of bronze.ticker_raw and that day"),
    ],
)
def test_nothing_is_dropped_for_a_file_that_somebody_harmed(
    market: str, folder: Path, monkeypatch: pytest.MonkeyPatch, harm: Any, message: str
):
    archive(PAST, FOLLOWING)
    harm(folder / path_of(TICKERS, PAST))
    assert message in run_errors(drop(monkeypatch))
    assert (rows_of(market), rows_of(market, TRADES)) == (60, 0)
    archive(PAST)
    assert drop(monkeypatch).success
    assert rows_of(market) == 0


def test_late_rows_are_archived_before_they_are_dropped(market: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    archive(PAST, FOLLOWING)
    put_rows(market, TICKERS, count=1, first=99)
    assert "has 30 rows, the table 31" in run_errors(drop(monkeypatch))
    assert rows_of(market) == 61


def test_rows_that_come_between_reading_and_dropping_keep_the_partition(
    market: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    archive(PAST, FOLLOWING)
    compared = archive_days.agreed_rows

    def late(*arguments: Any) -> int:
        rows = compared(*arguments)
        if TICKERS in arguments:
            put_rows(market, TICKERS, count=1, first=99)
        return rows

    monkeypatch.setattr(archive_days, "agreed_rows", late)
    assert "30 rows of bronze.ticker_raw were compared with their archive, and 31 are there now" in run_errors(
        drop(monkeypatch)
    )
    assert rows_of(market) == 62 - 1


def test_a_partition_that_is_dropped_between_reading_and_checking_fails_no_check(
    market: str, folder: Path, monkeypatch
):
    archive(PAST, FOLLOWING)
    with Database().connect("REPEATABLE READ") as connection:
        assert drop(monkeypatch).success
        with connection.begin():
            result = agrees(connection, Store(), TICKERS, PAST)
    assert (result.passed, result.note) == (True, "It was dropped; the file is as verified before.")


def test_late_rows_of_a_dropped_day_are_added_to_its_archive(
    market: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    before = texts(market, TICKERS)
    archive(PAST, FOLLOWING)
    assert drop(monkeypatch).success
    put_rows(market, TICKERS, count=1, first=99)
    late = texts(market, TICKERS)
    with Database().connect() as connection:
        assert due(connection, TICKERS, PAST.end + 10 * DAY) == [PAST.start]
    archive(PAST)
    archived = read_back(Store(), TICKERS, PAST)
    assert archived is not None
    assert archived.content.rows == 31
    assert texts(market, TICKERS) == sorted([*before[:30], *late], key=lambda row: int(row[0]))
    assert drop(monkeypatch).success
    assert rows_of(market) == 0


def test_a_dropped_day_whose_archive_is_lost_is_not_replaced_by_late_rows(
    market: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    archive(PAST, FOLLOWING)
    assert drop(monkeypatch).success
    put_rows(market, TICKERS, count=1, first=99)
    (folder / path_of(TICKERS, PAST)).unlink()
    with pytest.raises(ArchiveError, match="its 30 rows were dropped from PostgreSQL: restore a copy"):
        archive(PAST)


def test_a_dropped_day_comes_back_row_for_row(market: str, store: Store, monkeypatch: pytest.MonkeyPatch):
    before = texts(market, TICKERS), texts(market, TRADES)
    archive(PAST, FOLLOWING)
    assert drop(monkeypatch).success
    for table in (TICKERS, TRADES):
        for day in (PAST, FOLLOWING, PAST):
            assert restore_day(Database(), store, table, day) == 30
    assert (texts(market, TICKERS), texts(market, TRADES)) == before
    put_rows(market, TICKERS, count=1)
    assert len(texts(market, TICKERS)) == 61, "new ids are above the restored ones"
    newest = max(int(row[0]) for row in before[0])
    assert int(texts(market, TICKERS)[-1][0]) > newest


def test_what_came_back_may_be_dropped_again(market: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    archive(PAST, FOLLOWING)
    assert drop(monkeypatch).success
    restore_day(Database(), Store(), TICKERS, PAST)
    assert drop(monkeypatch).success
    assert rows_of(market) == 0


def test_without_an_archive_it_drops_as_ever(market: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("UPBIT_ARCHIVE_URL", raising=False)
    assert drop(monkeypatch).success
    assert rows_of(market) == 0


def test_who_may_drop_may_not_set_ids_back(market: str):
    [(newest,)] = ask(market, "SELECT max(id) FROM bronze.ticker_raw")
    with psycopg.connect(market, options="-c role=upbit_pipeline") as connection:
        connection.execute("SELECT bronze.keep_ids_above('bronze.ticker_raw', 1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT setval('bronze.ticker_raw_id_seq', 1)")
    put_rows(market, TICKERS, PAST, count=1, first=500)
    assert ask(market, "SELECT max(id) FROM bronze.ticker_raw") > [(newest,)]
