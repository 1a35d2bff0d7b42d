"""A backup is restored to the last row on an empty server."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from dagster import AssetKey, AssetMaterialization

from upbit_assets.cli import main
from upbit_assets.feeds import MARKET_STATS
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import engine_for
from upbit_assets.settings import PROJECT
from upbit_assets.stale import collected_between, committed
from upbit_assets_tests.deployment.conftest import an_empty_server, an_instance, run_script, script_environment, url_as
from upbit_assets_tests.deployment.rows import contents, fill
from upbit_assets_tests.pipeline import PAST, ask, ticker
from upbit_assets_tests.postgres.lab import until

pytestmark = pytest.mark.long

ASSET, WINDOW = AssetKey("bronze_ticker_raw"), "2026-01-29-14:00"
PUT = "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at, written_in) VALUES ('KRW-BTC', %s, %s, %s)"


@pytest.fixture(scope="module")
def another_server(secrets: Path) -> Iterator[EmbeddedPostgres]:
    """A server with only the logins."""
    with an_empty_server() as server:
        run_script(server, "roles.sh", SECRETS=str(secrets))
        yield server


def rights(server: EmbeddedPostgres) -> list[Any]:
    """Owners and privileges of tables, functions and databases, and the databases' settings."""
    tables = "SELECT oid::regclass::text, relowner::regrole::text, relacl::text FROM pg_class WHERE oid > 16383"
    functions = "SELECT proname, proowner::regrole::text, proacl::text, prosecdef FROM pg_proc WHERE oid > 16383"
    databases = (
        "SELECT datname, datdba::regrole::text, datacl::text, setconfig FROM pg_database "
        "LEFT JOIN pg_db_role_setting ON setdatabase = pg_database.oid"
    )
    with psycopg.connect(server.url("upbit")) as connection:
        found = [connection.execute(query).fetchall() for query in (tables, functions, databases)]
        # a toast table's name is a number
        return [sorted(map(repr, (row for row in rows if "pg_toast" not in row[0]))) for rows in found]


@pytest.fixture(scope="module")
def restored(
    deployed: EmbeddedPostgres, another_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> EmbeddedPostgres:
    """Another server with a restored backup of the first one, which had rows in every table."""
    fill(url_as(deployed, "owner"))
    ask(url_as(deployed, "owner"), PUT, ticker("KRW-BTC"), PAST, 2**40)
    with an_instance(deployed) as instance:
        instance.report_runless_asset_event(AssetMaterialization(ASSET, partition=WINDOW))
    folder = tmp_path_factory.mktemp("backups") / "one of two words"
    run_script(deployed, "backup.sh", folder)
    run_script(another_server, "restore.sh", folder)
    return another_server


def test_an_empty_server_gets_every_row_back(deployed: EmbeddedPostgres, restored: EmbeddedPostgres):
    there = contents(deployed.url("upbit"))
    assert all(there[table] for table in ("bronze.ticker_raw", "silver.ticker", "gold.market_stats"))
    assert contents(restored.url("upbit")) == there
    migrate(url_as(restored, "owner"))
    assert contents(restored.url("upbit")).items() >= there.items()


def test_the_materialization_status_is_restored(restored: EmbeddedPostgres):
    with an_instance(restored) as instance:
        assert instance.get_materialized_partitions(ASSET) == {WINDOW}


def test_owners_are_restored(deployed: EmbeddedPostgres, restored: EmbeddedPostgres):
    assert rights(restored) == rights(deployed)


def test_rows_with_higher_transaction_ids_do_not_look_new(restored: EmbeddedPostgres):
    url, late = url_as(restored, "pipeline"), PAST + timedelta(days=1)
    with engine_for(url).connect() as connection:
        _, snapshot = committed(connection)
        assert collected_between(connection, MARKET_STATS, snapshot, committed(connection)[1]) == set()
        connection.rollback()
        ask(url, PUT.replace(", written_in", "").replace(", %s)", ")"), "{}", late)
        assert collected_between(connection, MARKET_STATS, snapshot, committed(connection)[1]) == {late}
    engine_for(url).dispose()


def test_an_interrupted_backup_leaves_nothing_behind(deployed: EmbeddedPostgres, tmp_path: Path):
    with pytest.raises(AssertionError, match="/nowhere"):
        run_script(deployed, "backup.sh", tmp_path / "backup", VIA="env PGHOST=/nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_backup_replaces_nothing(deployed: EmbeddedPostgres, tmp_path: Path):
    (tmp_path / "dagster.dump").write_bytes(b"PGDMP, cut off")
    (tmp_path / "upbit.dump").write_bytes(b"")
    before = contents(deployed.url("upbit"))
    with pytest.raises(AssertionError, match="pg_restore"):
        run_script(deployed, "restore.sh", tmp_path)
    assert contents(deployed.url("upbit")) == before


class TestEveryNight:
    KEEP = {"UPBIT_KEEP_BACKUPS": "2"}  # noqa: RUF012

    @staticmethod
    @contextmanager
    def running(server: EmbeddedPostgres, folder: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
        here = script_environment(server) | TestEveryNight.KEEP | environment
        script = ["sh", str(PROJECT / "deploy" / "nightly.sh"), str(folder)]
        with subprocess.Popen(script, env=here, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                yield process
            finally:
                os.killpg(process.pid, signal.SIGKILL)

    def test_a_missed_backup_is_made_and_the_oldest_go(self, deployed: EmbeddedPostgres, tmp_path: Path):
        with pytest.raises(AssertionError):
            run_script(deployed, "nightly.sh", tmp_path, "is-current", **self.KEEP)
        old = [tmp_path / f"nightly-2026010{day}-043000" for day in (1, 2, 3)]
        others = [tmp_path / "20260101-100000", tmp_path / "mine"]
        killed = tmp_path / "nightly-20260104-043000.part"
        for folder in (*old, *others, killed):
            folder.mkdir()
            os.utime(folder, (0, 0))
        with self.running(deployed, tmp_path):
            until(lambda: not any(folder.exists() for folder in old[:2]), "the oldest removed")
        [new] = {*tmp_path.iterdir()} - {old[2], *others}
        assert {file.name for file in new.iterdir()} == {"dagster.dump", "metabase.dump", "upbit.dump"}
        run_script(deployed, "nightly.sh", tmp_path, "is-current", **self.KEEP)

        os.utime(new, (time.time() - 2 * 86_400,) * 2)
        with pytest.raises(AssertionError):
            run_script(deployed, "nightly.sh", tmp_path, "is-current", **self.KEEP)

    def test_a_failed_one_removes_nothing_and_says_so(self, deployed: EmbeddedPostgres, tmp_path: Path):
        old = [tmp_path / f"nightly-2026010{day}-043000" for day in (1, 2, 3)]
        for folder in old:
            folder.mkdir()
            os.utime(folder, (0, 0))
        with self.running(deployed, tmp_path, PGHOST="/nowhere") as process:
            lines = iter(process.stderr or ())
            assert any("tried again in ten minutes" in line for line in lines)
        assert sorted(tmp_path.iterdir()) == old

    @pytest.mark.parametrize("keep", ["", "0", "all", "-1"])
    def test_how_many_are_kept_is_a_number(self, deployed: EmbeddedPostgres, tmp_path: Path, keep: str):
        with pytest.raises(AssertionError, match="UPBIT_KEEP_BACKUPS"):
            run_script(deployed, "nightly.sh", tmp_path, UPBIT_KEEP_BACKUPS=keep)


@pytest.mark.long
def test_the_embedded_databases_too(tmp_path: Path):
    home, folder = tmp_path / "home", tmp_path / "backups" / "one"
    server = EmbeddedPostgres(home / ".postgres")
    server.start(prepare=lambda: migrate(server.url("upbit")))
    ask(server.url("upbit"), PUT, ticker("KRW-BTC"), PAST, 1)
    assert upbit_assets("backup", folder, home).exit_code == 0
    ask(server.url("upbit"), PUT, ticker("KRW-ETH"), PAST, 1)
    server.stop()

    assert upbit_assets("restore", folder, home).exit_code == 0

    assert not server.answers(), "a server that was not running is stopped again"
    server.start()
    found = ask(server.url("upbit"), "SELECT raw_data ->> 'market' FROM bronze.ticker_raw")
    server.stop()
    assert found == [("KRW-BTC",)]
    assert "already exists; name a new one" in upbit_assets("backup", folder, home).output


def upbit_assets(command: str, folder: Path, home: Path) -> Result:
    return CliRunner().invoke(main, [command, str(folder), "--home", str(home)])
