"""A stack works in a path with blanks, Korean letters, and special characters of URLs, shells and SQL."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance

from upbit_assets import stack
from upbit_assets.postgres.embedded import EmbeddedPostgres

ASSET = AssetKey("bronze_ticker_raw")
UNSET = ("UPBIT_POSTGRES_URL", "DAGSTER_POSTGRES_URL")


@pytest.fixture(
    scope="module", params=["내 자료 100% + 1", 'it\'s, "one" & 둘'], ids=["socket within", "socket elsewhere"]
)
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="u") as folder, pytest.MonkeyPatch.context() as environment:
        home = Path(folder).resolve() / request.param
        environment.setenv("DAGSTER_HOME", str(home))
        for name in UNSET:
            environment.delenv(name, raising=False)
        stack.prepare(home)
        yield home
        EmbeddedPostgres(home / ".postgres").stop()


def upbit_assets(*arguments: str | Path) -> str:
    command = [Path(sys.executable).parent / "upbit-assets", *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_psql_backup_restore_and_dagsters_storage_work_there(home: Path):
    server = EmbeddedPostgres(home / ".postgres")
    assert (server.socket == server.data) is ("," not in str(home))
    assert upbit_assets("psql", "-At", "-c", "SELECT count(*) FROM gold.market_stats") == "0\n"

    with DagsterInstance.get() as instance:
        instance.report_runless_asset_event(AssetMaterialization(ASSET, partition="2026-01-29-14:00"))
    upbit_assets("backup", home / "백업 1", "--home", home)
    with DagsterInstance.get() as instance:
        instance.wipe_assets([ASSET])

    upbit_assets("restore", home / "백업 1", "--home", home)

    with DagsterInstance.get() as instance:
        assert instance.get_materialized_partitions(ASSET) == {"2026-01-29-14:00"}
    assert upbit_assets("psql", "-At", "-c", "SHOW timezone") == "Asia/Seoul\n"
