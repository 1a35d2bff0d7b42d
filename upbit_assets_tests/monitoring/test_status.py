"""What `upbit-assets status` says: what is wrong, and that all is well where it is."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, Failure, job, op

from upbit_assets import cli
from upbit_assets.monitoring.problems import (
    check_problems,
    day_problems,
    disk_problems,
    freshness,
    freshness_problems,
    run_problems,
)
from upbit_assets.monitoring.problems import stream_problems as stream
from upbit_assets.monitoring.status import report
from upbit_assets.partitions import DAY, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.snapshot_source import record_snapshot
from upbit_assets.settings import PROJECT
from upbit_assets.stream.status import COLLECTING, Status, folder
from upbit_assets_tests.dashboard.market_data import put
from upbit_assets_tests.pipeline import ask, put_bronze, ticker

MINUTE = timedelta(minutes=1)


def keys(found: Any) -> list[str]:
    return [problem.key for problem in found]


def test_it_says_of_each_feed_how_fresh_and_whole_it_is(database: Database, market_url: str, instance: DagsterInstance):
    now = datetime.now(UTC)
    start = windows.at(now).start
    put_bronze(database, now - MINUTE, {"KRW-BTC": ticker("KRW-BTC")})
    counts = {"bronze_rows": 5, "silver_rows": 3, "rejected_rows": 2, "duplicate_rows": 0}
    builds = [{"window_start": start - back * WINDOW, **counts} for back in (1, 2, 5)]
    put(market_url, {tables.silver_ticker_build: builds})
    with database.connect() as connection:
        found = report(connection, instance, "0", now)
    (feed,) = (feed for feed in found.feeds if feed.name == "ticker")
    assert (feed.partitions, feed.collected, feed.rejected_rows) == (5, 3, 6)
    assert any(
        line.startswith("ticker        newest 60 s ago, 3 of 5 windows collected, 6 rows") for line in found.lines()
    )
    assert keys(found.problems) == ["daemon", "late"]


@pytest.mark.parametrize(
    ("raw_age", "figures_age", "expected"),
    [(1, 1, []), (1, 9, ["late"]), (9, 1, ["stale"]), (9, 9, ["stale"]), (None, None, ["stale"])],
)
def test_what_stopped_is_told_from_what_is_late(
    database: Database, market_url: str, raw_age: int | None, figures_age: int | None, expected: list[str]
):
    now = datetime.now(UTC)
    if raw_age:
        put_bronze(database, now - raw_age * MINUTE, {"KRW-BTC": ticker("KRW-BTC")})
    if figures_age:
        put_figures(market_url, now - figures_age * MINUTE)
    with database.connect() as connection:
        assert keys(freshness_problems(connection, freshness(connection), now)) == expected


@pytest.mark.parametrize(("figures_age", "expected"), [(12, []), (16, ["late"])])
def test_figures_may_be_a_window_older_while_the_stream_takes_the_snapshots(
    database: Database, market_url: str, figures_age: int, expected: list[str]
):
    now = datetime.now(UTC)
    put_bronze(database, now - MINUTE, {"KRW-BTC": ticker("KRW-BTC")})
    put_figures(market_url, now - figures_age * MINUTE)
    with database.connect() as connection:
        record_snapshot(connection, now)
        assert keys(freshness_problems(connection, freshness(connection), now)) == expected


def put_figures(market_url: str, at: datetime) -> None:
    ask(
        market_url,
        "INSERT INTO gold.market_stats (ingested_at, market, trade_price, daily_volume, rank_volume, "
        "quote_currency, turnover, change_rate, window_high, window_low, window_start) "
        "VALUES (%s, 'KRW-BTC', 1, 1, 1, 'KRW', 1, 0, 1, 1, now())",
        at,
    )


def test_the_last_run_of_a_job_is_a_problem_until_the_next_succeeds(instance: DagsterInstance):
    works = False

    @op
    def call() -> None:
        if not works:
            raise Failure("The exchange has blocked this IP address until noon.")

    @job
    def collect() -> None:
        call()

    collect.execute_in_process(instance=instance, raise_on_error=False)
    (problem,) = run_problems(instance, datetime.now(UTC))
    assert problem.key == "blocked"
    assert "until noon" in problem.korean
    assert "Failure:" not in problem.korean, "a person reads the message alone"
    assert problem.path.startswith("/runs/")
    works = True
    collect.execute_in_process(instance=instance)
    assert list(run_problems(instance, datetime.now(UTC))) == []


def test_a_stream_that_went_silent_or_stores_nothing_is_told_where_there_was_one(
    database: Database, market_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    now = datetime.now(UTC)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    at = now.isoformat()
    with database.connect() as connection:
        assert keys(stream(freshness(connection), now)) == []
        ask(
            market_url,
            "INSERT INTO bronze.trade_stream_raw (market, raw_data, ingested_at, traded_at, key, connection) "
            "VALUES ('KRW-BTC', '{}', now() - interval '9 minutes', now() - interval '9 minutes', '1', 'a')",
        )
        assert keys(stream(freshness(connection), now)) == ["stream"]
        Status(at=at, role=COLLECTING, since=at, problem="The exchange has blocked this IP address.").write(folder())
        (blocked,) = stream(freshness(connection), now)
        assert "The exchange has blocked this IP address." in blocked.korean
        ask(market_url, "INSERT INTO live.ticker VALUES ('KRW-BTC', 1, 0, 1, 1, now(), now(), 1)")
        assert keys(stream(freshness(connection), now)) == ["stream-behind"]
        ask(market_url, "DELETE FROM live.ticker")


@pytest.mark.parametrize("asset", ["bronze_ticker_raw", "silver_ticker", "gold_market_stats"])
def test_failing_checks_and_days_that_stay_incomplete_are_told(database: Database, market_url: str, asset: str):
    now = datetime.now(UTC)
    failing = {
        "asset": asset,
        "check_name": "every_bronze_row_is_accounted_for",
        "severity": "ERROR",
        "reason": "raw: 5",
        "failing_since": now,
        "checked_at": now,
        "run_id": "x",
        "passed": False,
    }
    rows = [
        failing | {"window_start": windows.at(now - back * DAY).start, "severity": of}
        for back, of in ((1, "ERROR"), (2, "ERROR"), (3, "WARN"))
    ]
    day = {"day": now - 2 * DAY, "market": "KRW-BTC", "minutes_traded": 0, "minutes_silent": 0, "pages": 1}
    coverage = [day | {"minutes_missing": 1440, "problem": "volumes differ"}]
    put(market_url, {tables.silver_check_result: rows, tables.silver_candle_coverage: coverage})
    with database.connect() as connection:
        (check,) = check_problems(connection)
        (incomplete,) = day_problems(connection, now)
    assert "fails in 2 window(s)" in check.english
    assert windows.key_of(windows.at(now - DAY).start) in check.korean
    assert "volumes differ" in incomplete.english


def test_a_disk_that_is_nearly_full_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    assert keys(disk_problems(tmp_path)) in ([], ["disk"])
    monkeypatch.setattr("upbit_assets.monitoring.problems.LEAST_FREE", 1.0)
    assert keys(disk_problems(tmp_path / "not" / "there")) == ["disk"]


def test_where_nothing_runs_it_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.delenv("UPBIT_POSTGRES_URL")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    result = CliRunner().invoke(cli.main, ["status"])
    assert result.exit_code == 1
    assert f"Nothing runs in {tmp_path}. Start it with make up" in result.output
    assert list(tmp_path.iterdir()) == [], "it starts nothing"


def test_it_tells_which_database_is_away(market_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://127.0.0.1:1/none")
    result = CliRunner().invoke(cli.main, ["status"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: Dagster's database is not reachable: ")


def test_a_script_gets_an_exit_code_and_json(market_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").touch()
    result = CliRunner().invoke(cli.main, ["status", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert {problem["key"] for problem in found["problems"]} >= {"daemon", "stale"}
    assert datetime.fromisoformat(found["at"]) <= datetime.now(UTC)


def test_help_lists_every_command_once():
    named = [name for names in cli.GROUPS.values() for name in names]
    assert sorted(named) == sorted(cli.main.commands)
    assert "…" not in CliRunner().invoke(cli.main, ["--help"]).output
