"""The IO manager in another project: its folder alone is copied, and its README's example runs in a plain database."""

import ast
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from upbit_assets import postgres_io
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets_tests.pipeline import ask

FOLDER = Path(postgres_io.__file__).parent
EXAMPLE = (FOLDER / "README.md").read_text().split("```python\n")[1].split("```")[0]
NEEDED = {"dagster", "sqlalchemy", "psycopg"}
FOR_FRAMES = {"pandas", "pyarrow"}

# imports of this project fail
RUN = """
import sys
sys.modules["upbit_assets"] = None
from dagster import AssetKey
from other_project.definitions import defs, engine, metadata
metadata.create_all(engine)
job = defs.resolve_implicit_global_asset_job_def()
tags = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-03"}
result = job.execute_in_process(tags=tags)
assert job.execute_in_process(asset_selection=[AssetKey("daily_averages")], tags=tags).success
for asset in ("raw_readings", "other_readings", "daily_averages"):
    (*_, last) = result.asset_materializations_for_node(asset)
    print(asset, *(f"{name}={last.metadata[name].value}" for name in last.metadata if name.startswith("rows in")))
"""


@pytest.fixture
def plain_database(server: EmbeddedPostgres) -> str:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS other_project")
        connection.execute("CREATE DATABASE other_project TEMPLATE template0")
    return server.url("other_project")


@pytest.mark.long
def test_its_readmes_example_works_in_another_project(plain_database: str, tmp_path: Path):
    project = tmp_path / "other_project"
    shutil.copytree(FOLDER, project / "postgres_io", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "definitions.py").write_text(EXAMPLE)
    address = sqlalchemy_url(plain_database).render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if "UPBIT" not in name} | {"DATABASE_URL": address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == [
        "raw_readings rows in readings=6",
        "other_readings rows in readings=2",
        "daily_averages rows in averages=3",
    ]
    averages = ask(plain_database, "SELECT celsius FROM averages ORDER BY day")
    assert averages == [(Decimal("11.1"),), (Decimal("2.2"),), (Decimal("2.2"),)]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_it_needs_dagsters_public_api_sqlalchemy_and_psycopg_alone(file: Path):
    tree = ast.parse(file.read_text())
    plain = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    packages = {name.partition(".")[0] for name in plain | named} - sys.stdlib_module_names
    assert packages <= NEEDED | (FOR_FRAMES if file.name in ("frames.py", "writer.py") else set())
    assert not [name for name in plain | named if "._" in name]


def test_without_frames_it_needs_neither_pandas_nor_pyarrow():
    check = "import sys, upbit_assets.postgres_io; sys.exit({'pandas', 'pyarrow'} & set(sys.modules) != set())"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", check], check=False).returncode == 0
