"""The project as a user runs it: Dagster's command line with the instance of dagster.yaml."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.measure import Contender, Result, interleaved
from bench.stage import MARKETS, Stage
from upbit_assets.partitions import windows
from upbit_assets.sandbox.server import running

ROOT = Path(__file__).parents[1]
MARGIN = timedelta(seconds=45)
CHAIN = "bronze_ticker_raw,silver_ticker,gold_market_stats"


@dataclass(frozen=True)
class Project:
    """A Dagster home with the project's dagster.yaml and storage on the stage's server."""

    stage: Stage

    def materialize(self, select: str, *partitions: str, module: str = "upbit_assets.definitions") -> None:
        """`dagster asset materialize`, from the start of the process to its end."""
        home = self.stage.folder / "home"
        home.mkdir(exist_ok=True)
        shutil.copy(ROOT / "dagster.yaml", home)
        environment = os.environ | {
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": self.stage.server.url("dagster"),
        }
        command = [
            sys.executable,
            "-m",
            "dagster",
            "asset",
            "materialize",
            "-m",
            module,
            "--select",
            select,
            *partitions,
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])


def chain(stage: Stage) -> list[Result]:
    """One snapshot from the exchange to the ranking, materialized by command."""
    project = Project(stage)

    def materialize(module: str) -> None:
        now = datetime.now(UTC)
        if windows.at(now + MARGIN).start > now:  # or the window would be over before the run collects
            time.sleep((windows.at(now + MARGIN).start - now).total_seconds())
        key = windows.key_of(windows.at(datetime.now(UTC)).start)
        project.materialize(CHAIN, "--partition", key, module=module)

    with stage.database(), running(MARKETS) as exchange:
        os.environ["UPBIT_API_URL"] = exchange.url
        materialize("upbit_assets.definitions")  # creates Dagster's tables, and the exchange's data of the day
        ours, theirs = interleaved(
            Contender(lambda: materialize("upbit_assets.definitions")),
            Contender(lambda: materialize("bench.empty")),
            rounds=5,
        )
    what = f"Bronze, silver and gold of {MARKETS} markets with their checks: `dagster asset materialize`"
    return [Result(what, "the same with assets and checks that do nothing", ours, theirs, at_most=1.5)]
