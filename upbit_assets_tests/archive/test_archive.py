"""A day of bronze is archived exactly as in PostgreSQL, completely or not at all."""

import io
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from dagster import DagsterInstance, Definitions, RunRequest, SkipReason, TimeWindow, build_schedule_context
from hypothesis import given
from hypothesis import strategies as st

from upbit_assets.archive import assets as archives
from upbit_assets.archive.assets import asset_of
from upbit_assets.archive.days import TABLES, archive_day, due, path_of, read_back, seoul_days
from upbit_assets.archive.rows import Hashing, hashed
from upbit_assets.archive.store import Store
from upbit_assets.partitions import DAY, RANGE_END, RANGE_START
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.archive.conftest import ACCESS_KEY, SECRET
from upbit_assets_tests.archive.rows import MARKETS, PAST, put_everywhere, put_rows, texts
from upbit_assets_tests.archive.test_store import faulty, refuse
from upbit_assets_tests.pipeline import ask

TICKERS = tables.bronze_ticker_raw
ROW = st.tuples(st.none() | st.text(), st.none() | st.integers(-(2**63), 2**63 - 1))


def parquet(store: Store, table: sa.Table = TICKERS, day: TimeWindow = PAST) -> pq.ParquetFile:
    file = store.fetch(path_of(table, day))
    assert file is not None
    with file:
        return pq.ParquetFile(io.BytesIO(file.read()))


def materialize(
    *assets: str, first: TimeWindow = PAST, last: TimeWindow = PAST, instance: DagsterInstance | None = None
) -> Any:
    defs = Definitions(
        assets=archives.assets,
        asset_checks=archives.all_checks,
        jobs=[archives.archive],
        resources={"database": Database()},
    )
    job = defs.resolve_job_def("archive")
    start, end = (seoul_days.key_of(day.start) for day in (first, last))
    with nullcontext(instance) if instance else DagsterInstance.ephemeral() as used:
        return job.execute_in_process(
            instance=used,
            asset_selection=[archive.key for archive in archives.assets if archive.key.to_user_string() in assets],
            tags={RANGE_START: start, RANGE_END: end} if last != first else {"dagster/partition": start},
            raise_on_error=False,
        )


class TestContent:
    def test_every_table_of_bronze_is_archived_and_read_back(self, database: Database, market_url: str, store: Store):
        put_everywhere(market_url)
        for table in TABLES:
            archived = archive_day(database, store, table, PAST)
            assert archived is not None
            assert archived.content == archived.declared
            assert archived.content.rows == 30
            held = parquet(store, table).read().to_pylist()
            told = {row[0]: row for row in texts(market_url, table)}
            assert len(told) == len(held) == 30
            for row in held:
                by_name = dict(
                    zip((c.name for c in table.columns if c.name != "written_in"), told[str(row["id"])], strict=True)
                )
                assert row["market"] == by_name["market"]
                for name in ("raw_data", "day_candle", "key", "problem"):
                    assert row.get(name) == by_name.get(name), "PostgreSQL's text"
                assert row["ingested_at"] == datetime.fromisoformat(by_name["ingested_at"])
                if "day" in by_name:
                    assert row["day_start"] == datetime.fromisoformat(by_name["day"])

    def test_the_file_says_what_it_is(self, database: Database, market_url: str, store: Store):
        ask(market_url, "INSERT INTO bronze.origin (simulated) VALUES (true)")
        put_rows(market_url, TICKERS)
        archive_day(database, store, TICKERS, PAST)
        about = json.loads(parquet(store).metadata.metadata[b"upbit_assets.archive"])
        [(revision,)] = ask(market_url, "SELECT version_num FROM alembic_version")
        assert (
            about.items()
            >= {"table": "bronze.ticker_raw", "day": "2026-01-29", "origin": "simulated", "rows": 30}.items()
        )
        assert about["schema_revision"] == revision

    def test_readers_find_a_market_by_statistics(self, database: Database, market_url: str, store: Store, monkeypatch):
        monkeypatch.setattr("upbit_assets.archive.days.ROW_GROUP", 1)
        monkeypatch.setattr("upbit_assets.archive.rows.BLOCK", 2000)
        put_rows(market_url, TICKERS, count=60)
        archive_day(database, store, TICKERS, PAST)
        file = parquet(store)
        groups = [file.metadata.row_group(nth).column(1).statistics for nth in range(file.num_row_groups)]
        assert len(groups) > 3
        assert [group.min for group in groups] == sorted(group.min for group in groups)
        assert {market for group in groups for market in (group.min, group.max)} <= set(MARKETS)
        assert file.metadata.row_group(0).column(2).statistics is None, "statistics of JSON would be useless"

    def test_a_day_is_seouls(self, database: Database, market_url: str, store: Store):
        instant = timedelta(microseconds=1)
        put = "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at) VALUES ('', '{}', %s)"
        for moment in (PAST.start - instant, PAST.start, PAST.end - instant, PAST.end):
            ask(market_url, put, moment)
        archive_day(database, store, TICKERS, PAST)
        assert parquet(store).read().column("ingested_at").to_pylist() == [PAST.start, PAST.end - instant]

    def test_a_day_without_rows_has_no_file(self, database: Database, market_url: str, store: Store):
        assert archive_day(database, store, TICKERS, PAST) is None
        assert list(store.paths()) == []

    @given(
        st.lists(st.tuples(st.none() | st.text(), st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=8), st.data()
    )
    def test_the_hash_does_not_depend_on_how_batches_are_cut(self, rows: list[tuple[Any, Any]], data: Any):
        schema = pa.schema([("text", pa.string()), ("number", pa.int64())])
        batch = pa.RecordBatch.from_arrays(
            [pa.array([row[i] for row in rows], schema.types[i]) for i in (0, 1)], schema=schema
        )
        cut = data.draw(st.integers(0, len(rows)))
        whole = hashed(schema, [batch]).content()
        assert hashed(schema, [batch[:cut], batch[cut:]]).content() == whole
        if rows:
            other = batch.slice(1)
            assert hashed(schema, [other]).content() != whole

    def test_texts_that_only_together_are_the_same_have_another_hash(self):
        schema = pa.schema([("text", pa.string())])
        seen = set()
        for texts_ in (["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], ["abc"]):
            hashing = Hashing(schema)
            list(hashing.passed([pa.RecordBatch.from_arrays([pa.array(texts_, pa.string())], schema=schema)]))
            seen.add(hashing.content().hash)
        assert len(seen) == 5


class TestAssets:
    def test_every_table_has_one_and_a_range_is_one_run(self, market_url: str, store: Store):
        following = TimeWindow(PAST.end, PAST.end + DAY)
        put_everywhere(market_url)
        put_everywhere(market_url, following)
        names = [asset_of(table) for table in TABLES]
        result = materialize(*names, first=PAST, last=following)
        assert result.success, [event.message for event in result.all_events if event.is_failure]
        assert all(check.passed for check in result.get_asset_check_evaluations())
        assert len(list(store.paths())) == 2 * len(TABLES) + 1

        events = result.asset_materializations_for_node("archive_ticker_raw")
        assert [event.partition for event in events] == ["2026-01-29", "2026-01-30"]
        metadata = {name: entry.value for name, entry in events[0].metadata.items()}
        assert metadata["dagster/partition_row_count"] == 30
        assert metadata["file"] == "table=ticker_raw/day=2026-01-29/rows.parquet"
        assert metadata["content hash (SHA-256)"] != events[1].metadata["content hash (SHA-256)"].value

    @pytest.mark.long
    def test_no_credential_gets_into_dagsters_database(
        self, market_url: str, s3: Store, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        put_rows(market_url, TICKERS)
        with DagsterInstance.local_temp(str(tmp_path)) as instance:
            assert materialize("archive_ticker_raw", instance=instance).success
            with faulty(monkeypatch, s3_server, refuse):
                assert not materialize("archive_ticker_raw", instance=instance).success
        stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert b"The store rejects the credentials" in stored
        assert ACCESS_KEY.encode() not in stored
        assert SECRET.encode() not in stored

    def test_days_before_the_first_window_are_archived_too(self, market_url: str, folder: Path):
        """UPBIT_START is moved forward; the rows stay."""
        early = seoul_days.at(PAST.start - 400 * DAY)
        put_rows(market_url, TICKERS, early)
        assert materialize("archive_ticker_raw", first=early, last=early).success
        assert (folder / path_of(TICKERS, early)).exists()

    def test_the_check_reports_rows_that_came_later_and_of_a_changed_file(self, market_url: str, folder: Path):
        put_rows(market_url, TICKERS)
        assert materialize("archive_ticker_raw").success
        put_rows(market_url, TICKERS, count=1)
        assert check_of("archive_ticker_raw") == (
            "table=ticker_raw/day=2026-01-29/rows.parquet has 30 rows, the table 31: archive the day again."
        )
        (folder / path_of(TICKERS, PAST)).write_bytes(b"PAR1")
        assert "is damaged or not a Parquet file" in check_of("archive_ticker_raw")
        (folder / path_of(TICKERS, PAST)).unlink()
        assert "rows.parquet is missing: archive the day." in check_of("archive_ticker_raw")


def check_of(asset: str) -> str:
    """The reason why the archive's check of the day PAST fails now."""
    (table,) = (table for table in TABLES if asset_of(table) == asset)
    with Database().connect("REPEATABLE READ") as connection, connection.begin():
        return str(archives.agrees(connection, Store(), table, PAST).note)


class TestLateRows:
    def test_a_day_is_due_once_and_again_after_late_rows(self, database: Database, market_url: str, store: Store):
        put_rows(market_url, TICKERS)
        now = datetime.now(UTC)

        def asked() -> list[datetime]:
            with database.connect() as connection:
                return due(connection, TICKERS, now)

        assert asked() == [PAST.start]
        archive_day(database, store, TICKERS, PAST)
        assert asked() == []
        put_rows(market_url, TICKERS, count=1, first=99)
        assert asked() == [PAST.start]
        archive_day(database, store, TICKERS, PAST)
        assert asked() == []
        assert parquet(store).metadata.num_rows == 31

    def test_rows_that_come_while_it_is_archived_are_due_again(
        self, database: Database, market_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
    ):
        put_rows(market_url, TICKERS)
        put = Store.put

        def put_late(self: Store, path: str, file: Any) -> None:
            if path.endswith(".parquet"):
                put_rows(market_url, TICKERS, count=5, first=50)
            put(self, path, file)

        with psycopg.connect(market_url) as writing:  # and one that commits only afterwards
            late = "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at) VALUES ('late', '{}', %s)"
            writing.execute(late.encode(), [PAST.start])
            monkeypatch.setattr(Store, "put", put_late)
            archived = archive_day(database, store, TICKERS, PAST)
        assert archived is not None
        assert archived.content.rows == 30, "one snapshot, whatever is written meanwhile"
        monkeypatch.setattr(Store, "put", put)
        assert "has 30 rows, the table 36" in str(late_check(market_url, store))

    def test_a_day_waits_for_the_configured_days(self, database: Database, market_url: str, folder: Path, monkeypatch):
        put_rows(market_url, TICKERS)
        monkeypatch.setenv("UPBIT_ARCHIVE_AFTER_DAYS", "3")
        with database.connect() as connection:
            assert due(connection, TICKERS, PAST.end + 3 * DAY - timedelta(seconds=1)) == []
            assert due(connection, TICKERS, PAST.end + 3 * DAY) == [PAST.start]

    def test_the_schedule_asks_for_what_is_due_a_few_days_a_run(
        self, database: Database, market_url: str, store: Store
    ):
        for day in range(9):
            put_rows(market_url, TICKERS, TimeWindow(PAST.start + day * DAY, PAST.end + day * DAY), count=1)
        put_rows(market_url, tables.bronze_market_raw)
        with DagsterInstance.local_temp() as instance:
            requests = tick(instance)
            assert isinstance(requests, list)
            assert all(isinstance(request, RunRequest) for request in requests)
            asked = [
                (
                    request.partition_key or f"{request.tags[RANGE_START]}...{request.tags[RANGE_END]}",
                    len(request.asset_selection),
                )
                for request in requests
            ]
            assert asked == [("2026-01-29", 2), ("2026-01-30...2026-02-05", 1), ("2026-02-06", 1)]
            ask(market_url, "DELETE FROM bronze.ticker_raw")
            archive_day(database, store, tables.bronze_market_raw, PAST)
            assert isinstance(tick(instance), SkipReason)


def tick(instance: DagsterInstance) -> Any:
    with build_schedule_context(instance, resources={"database": Database()}) as context:
        return archives.archive_daily(context)


def late_check(url: str, store: Store) -> str | None:
    from upbit_assets.archive.days import disagreement

    with Database().connect("REPEATABLE READ") as connection, connection.begin():
        return disagreement(connection, store, TICKERS, PAST)[1]


class TestAtOnce:
    def test_two_archivers_wait_for_one_another(self, database: Database, market_url: str, store: Store):
        put_rows(market_url, TICKERS, count=200)
        found: list[Any] = []

        def run() -> None:
            try:
                found.append(archive_day(database, store, TICKERS, PAST))
            except BaseException as error:
                found.append(error)

        threads = [Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [archived.content.rows for archived in found] == [200] * 3
        archived = read_back(store, TICKERS, PAST)
        assert archived is not None
        assert archived.content == found[0].content


LOADED = """
from upbit_assets.definitions import defs
repository = defs.get_repository_def()
print(*sorted(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys() if "archive" in str(key)))
print(*(schedule.name for schedule in repository.schedule_defs if "archive" in schedule.name))
"""


def test_dagster_knows_of_it_where_it_is_configured_alone(folder: Path):
    def loaded(environment: dict[str, str]) -> list[str]:
        run = subprocess.run(
            [sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=True
        )
        return run.stdout.splitlines()

    names = " ".join(sorted(asset_of(table) for table in TABLES))
    assert loaded(dict(os.environ)) == [names, "archive_daily"]
    assert loaded({name: value for name, value in os.environ.items() if name != "UPBIT_ARCHIVE_URL"}) == ["", ""]
