"""docs/adding-a-feed.md, followed literally in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.pipeline import ask

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "adding-a-feed.md"
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)

# a run with its check, the sensor's request after a late row, and progress messages
SCRIPT = """
import os, sys, pytest, sqlalchemy as sa
from upbit_assets.postgres.migrate import migrate
migrate(os.environ["UPBIT_POSTGRES_URL"])

from upbit_assets import feeds, stack
from upbit_assets.partitions import windows
from upbit_assets.postgres.resource import Database
from upbit_assets.stale import stale
from upbit_assets_tests.pipeline import checks, materialize, now, run_errors

at = now()
result = materialize(*feeds.TICK_STATS.bronze_assets, *feeds.TICK_STATS.computed_assets, first=at)
assert result.success, run_errors(result)
assert [check.passed for check in checks(result).values()] == [True]

window = windows.at(at).start
with Database().connect() as connection:
    assert stale(connection, feeds.TICK_STATS, {window}) == []
    late_row = sa.text("INSERT INTO bronze.tick_size_raw (market, raw_data, ingested_at) VALUES ('KRW-BTC', '{}', :at)")
    connection.execute(late_row, {"at": window})
    connection.commit()
    (late,) = stale(connection, feeds.TICK_STATS, {window})
    assert late.assets == {"silver_tick_size", "gold_tick_stats"}
    assert any("tick sizes" in message for _, message in stack.progress(connection, window))

sys.exit(pytest.main(["-n0", "-p", "no:cacheprovider", "upbit_assets_tests/test_feeds.py"]))
"""


def follow(page: str, project: Path) -> None:
    """Add each block of the page to the end of its file."""
    newest = max(path.name[:4] for path in (project / "upbit_assets/postgres/migrations/versions").glob("[0-9]*.py"))
    numbers = {"NNNN": f"{int(newest) + 1:04}", "MMMM": newest}
    for name, block in BLOCK.findall(re.sub("NNNN|MMMM", lambda match: numbers[match[0]], page)):
        path = project / name
        before = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
        path.write_text(before + block, encoding="utf-8")


@pytest.mark.long
def test_a_feed_is_added_by_the_page_alone(another_url: str, frozen_exchange: Handle, tmp_path: Path):
    for part in ("upbit_assets", "upbit_assets_tests", "pyproject.toml"):
        copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
        copy(PROJECT / part, tmp_path / part)
    follow(PAGE.read_text(encoding="utf-8"), tmp_path)

    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "UPBIT_POSTGRES_URL": another_url,
        "DAGSTER_HOME": str(tmp_path),
    }
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    sizes = ask(another_url, "SELECT count(*), count(*) FILTER (WHERE tick_size > 0) FROM gold.tick_stats")
    assert sizes[0][0] == sizes[0][1] > 0
