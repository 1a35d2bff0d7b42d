"""The metrics are what the database and Dagster have, and Prometheus accepts them, the rules and the dashboard."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn
import yaml
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster_webserver.webserver import DagsterWebserver
from prometheus_client.parser import text_string_to_metric_families

from upbit_assets.checks import FRESH
from upbit_assets.dashboard.server import running
from upbit_assets.local_http import listening, session_for
from upbit_assets.monitoring import problems
from upbit_assets.monitoring.exporter import Exporter
from upbit_assets.monitoring.metrics import METRICS, REQUESTS
from upbit_assets.monitoring.sources import SECTIONS, disk
from upbit_assets.partitions import DAY, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.exchange_calls import add_calls
from upbit_assets.postgres.resource import READER_ROLE, Database, engine_for
from upbit_assets.settings import PROJECT
from upbit_assets.stack import free_port
from upbit_assets.upbit.usage import Usage
from upbit_assets_tests import http
from upbit_assets_tests.conftest import required
from upbit_assets_tests.dagster_internals import EmptyWorkspaceTarget, WorkspaceProcessContext
from upbit_assets_tests.dashboard.market_data import put
from upbit_assets_tests.monitoring.test_status import put_figures
from upbit_assets_tests.pipeline import ask, put_bronze, ticker
from upbit_assets_tests.postgres.lab import until

FILES = PROJECT / "deploy" / "monitoring"
DASHBOARD = json.loads((FILES / "grafana" / "dashboards" / "upbit.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"].replace("$__rate_interval", "1m") for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in yaml.safe_load((FILES / "rules.yml").read_text())["groups"] for rule in group["rules"]]
NOWHERE = "http://127.0.0.1:1"
MINUTE = timedelta(minutes=1)

Values = dict[tuple[str, ...], float]


def program(name: str) -> str:
    return required(shutil.which(name), f"This test needs {name}: apt-get install prometheus")


def promtool(*arguments: str, given: str | None = None) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], input=given, cwd=FILES, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@contextmanager
def webserver(instance: DagsterInstance) -> Iterator[str]:
    """Dagster's webserver, without code."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        app = DagsterWebserver(workspace).create_asgi_app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        listener = listening("Dagster", "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until(lambda: server.started, "the webserver")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            listener.close()


@pytest.fixture
def board(market_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a board with metrics."""
    monkeypatch.setenv("UPBIT_METRICS", "on")
    monkeypatch.setenv("UPBIT_DAGSTER_INTERNAL_URL", NOWHERE)
    with running(market_url) as address:
        yield address


def scrape(board: str) -> Values:
    """{(name, *labels): value}."""
    reply = http.get(f"{board}/metrics", timeout=30)
    assert reply.ok, reply.text
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(reply.text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def of_metrics(found: Values, *names: str) -> Values:
    return {key: value for key, value in found.items() if key[0] in names}


def fill(database: Database, url: str, now: datetime) -> None:
    """Something of each kind."""
    start = windows.at(now).start
    put_bronze(database, now - MINUTE, {"KRW-BTC": ticker("KRW-BTC")})
    put_figures(url, now - 2 * MINUTE)
    counts = {"bronze_rows": 9, "silver_rows": 4, "rejected_rows": 3, "duplicate_rows": 2}
    coverage = {"proved": 3, "collected": 2, "missing": 1}
    failing = {
        **{"asset": "silver_ticker", "check_name": "a", "severity": "ERROR", "passed": False, "reason": "5 rows"},
        **{"failing_since": now, "checked_at": now, "run_id": "x"},
    }
    day = {"market": "KRW-BTC", "minutes_traded": 0, "minutes_silent": 0, "minutes_missing": 1440, "pages": 1}
    archived = {"rows": 1, "bytes": 1, "content_hash": "", "columns": [], "database": "", "snapshot": ""}
    in_seoul = windows.at(now).start.replace(hour=0, minute=0)
    put(
        url,
        {
            tables.silver_ticker_build: [{"window_start": start - back * WINDOW, **counts} for back in (1, 2, 5)]
            + [{"window_start": in_seoul - back * DAY, **counts} for back in (3, 4, 5)],
            tables.gold_market_stats_build: [{"window_start": start - WINDOW, "gold_rows": 1}],
            tables.silver_trade_coverage: [
                {"window_start": start - WINDOW, "market": f"KRW-{state}{number}", "state": state}
                for state, count in coverage.items()
                for number in range(count)
            ],
            tables.silver_check_result: [
                failing | {"window_start": start - back * WINDOW, "severity": severity}
                for back, severity in ((1, "ERROR"), (2, "ERROR"), (3, "WARN"))
            ],
            tables.silver_candle_coverage: [day | {"day": now - 2 * DAY, "problem": "volumes differ"}],
            tables.bronze_archive: [
                archived | {"table_name": "bronze.ticker_raw", "day": in_seoul - back * DAY, "archived_at": at}
                for back, at in ((5, now), (5, now + MINUTE), (6, now))
            ],
        },
    )
    ask(
        url,
        "INSERT INTO bronze.trade_stream_raw (market, raw_data, ingested_at, traded_at, key, connection) "
        "VALUES ('KRW-BTC', '{}', %s, %s, '1', 'a')",
        now - MINUTE,
        now - MINUTE,
    )
    ask(url, "INSERT INTO live.ticker VALUES ('KRW-BTC', 1, 0, 1, 1, now() - interval '250 ms', now(), 1)")
    ask(url, "INSERT INTO live.stream VALUES (now(), now(), 11, 12, 13, 2, 14, 15, 1, 16)")
    with database.connect() as connection:
        for usage in (Usage(5, 1, 0, 7), Usage(2, 0, 1, None, now + MINUTE)):
            add_calls(connection, [("ticker", usage)])


def test_without_the_setting_there_are_none(market_url: str):
    with running(market_url) as board:
        assert http.get(f"{board}/metrics", timeout=30).status_code == 404


def test_they_are_what_the_database_has(board: str, database: Database, market_url: str):
    now = datetime.now(UTC)
    fill(database, market_url, now)
    assert http.get(f"{board}/api/markets?limit=0", timeout=30).status_code == 400
    found = scrape(board)
    ages = {
        name: round(now.timestamp() - value)
        for (name, *_), value in found.items()
        if name in ("upbit_newest_snapshot_timestamp_seconds", "upbit_newest_figures_timestamp_seconds")
        or name == "upbit_newest_trade_timestamp_seconds"
    }
    assert ages == {
        "upbit_newest_snapshot_timestamp_seconds": 60,
        "upbit_newest_figures_timestamp_seconds": 120,
        "upbit_newest_trade_timestamp_seconds": 60,
    }
    start = windows.at(now).start
    assert found["upbit_newest_window_timestamp_seconds",] == (start - WINDOW).timestamp()
    assert found["upbit_stream_lag_seconds",] == 0.25
    finished = found["upbit_feed_windows", "ticker"]
    assert finished == 144
    assert of_metrics(found, "upbit_feed_missing_windows")["upbit_feed_missing_windows", "ticker"] == 144 - 3
    assert {key[2]: value for key, value in found.items() if key[:2] == ("upbit_feed_rows", "ticker")} == {
        "stored": 12,
        "rejected": 9,
        "duplicate": 6,
    }
    exactly = {
        ("upbit_database_up",): 1,
        ("upbit_dagster_up",): 0,
        ("upbit_figures_late_after_seconds",): 300,
        ("upbit_trade_market_windows", "proved"): 3,
        ("upbit_trade_market_windows", "collected"): 2,
        ("upbit_trade_market_windows", "missing"): 1,
        ("upbit_check_failing_windows", "silver_ticker", "a"): 2,
        ("upbit_incomplete_candle_partitions",): 1,
        ("upbit_exchange_calls_total", "ticker"): 7,
        ("upbit_exchange_rejected_calls_total", "ticker", "429"): 1,
        ("upbit_exchange_rejected_calls_total", "ticker", "418"): 1,
        ("upbit_exchange_calls_left", "ticker"): 7,
        ("upbit_exchange_blocked_until_timestamp_seconds", "ticker"): (now + MINUTE).timestamp(),
        ("upbit_stream_frames_total", "ticker"): 11,
        ("upbit_stream_frames_total", "orderbook"): 12,
        ("upbit_stream_frames_total", "trade"): 13,
        ("upbit_stream_reconnects_total",): 2,
        ("upbit_stream_stored_trades_total",): 14,
        ("upbit_stream_waiting_trades",): 15,
        ("upbit_stream_lost_trades_total",): 1,
        ("upbit_stream_spilled_bytes",): 16,
        ("upbit_archive_partitions", "bronze.ticker_raw"): 2,
        ("upbit_archive_due_partitions", "bronze.ticker_raw"): 2,
        ("upbit_board_open_pages",): 0,
        ("upbit_board_request_seconds_count", "/api/markets", "4xx"): 1,
    }
    assert {key: found.get(key) for key in exactly} == pytest.approx(exactly)


def test_the_size_of_a_layer_is_that_of_its_tables(database: Database, market_url: str):
    put_bronze(database, datetime.now(UTC), {f"KRW-{number}": ticker("KRW-BTC") for number in range(2000)})
    sizes = (
        "SELECT nspname, sum(pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0)) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname IN ('bronze', 'silver', 'gold', 'live') AND relkind IN ('r', 'i') GROUP BY 1"
    )
    with psycopg.connect(market_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        counted = connection.execute((PROJECT / "upbit_assets/monitoring/storage.sql").read_text()).fetchall()
        assert dict(counted) == dict(connection.execute(sizes).fetchall())


def test_open_pages_are_counted(board: str):
    with session_for(board) as session, session.get(f"{board}/api/events", timeout=30, stream=True) as events:
        lines = events.iter_lines()  # closes the connection when it is collected
        assert next(lines)
        assert scrape(board)["upbit_board_open_pages",] == 1


def test_what_an_ended_stream_reported_is_gone(board: str, market_url: str):
    ask(market_url, "INSERT INTO live.stream VALUES (now() - interval '2 minutes', now(), 1, 1, 1, 1, 1, 1, 1, 1)")
    assert of_metrics(scrape(board), "upbit_stream_frames_total", "upbit_stream_waiting_trades") == {}


def test_without_the_database_the_others_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPBIT_METRICS", "on")
    monkeypatch.setenv("UPBIT_DAGSTER_INTERNAL_URL", NOWHERE)
    with running("postgresql://127.0.0.1:1/none") as board:
        found = scrape(board)
    assert found["upbit_database_up",] == 0
    names = {name for name, *_ in found if not name.startswith("upbit_board_request")}
    board_itself = {"upbit_board_open_pages", "upbit_disk_free_bytes", "upbit_disk_size_bytes"}
    assert names == {"upbit_database_up", "upbit_dagster_up", "upbit_metrics_section_seconds", *board_itself}


def test_a_section_that_fails_costs_no_other(board: str, market_url: str):
    ask(market_url, "ALTER TABLE live.stream RENAME TO gone")
    try:
        found = scrape(board)
    finally:
        ask(market_url, "ALTER TABLE live.gone RENAME TO stream")
    assert found["upbit_database_up",] == 1
    assert ("upbit_layer_bytes", "bronze") in found


def test_runs_are_those_of_dagsters_webserver(
    market_url: str, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    @op
    def call() -> None: ...

    @job
    def collect() -> None:
        call()

    @job
    def archive() -> None:
        call()

    failed, succeeded = DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS
    for each, status in ((collect, failed), (archive, failed), (collect, succeeded)):
        instance.create_run_for_job(each, status=status)
    instance.create_run_for_job(collect, status=DagsterRunStatus.STARTED)
    with webserver(instance) as address:
        monkeypatch.setenv("UPBIT_DAGSTER_INTERNAL_URL", address)
        exporter = Exporter(engine_for(market_url, READER_ROLE), lambda: 0)
        found = {(each.name, *each.labels): each.value for each in exporter.samples()}
    assert found["upbit_dagster_up",] == 1
    finished = {key[1]: value for key, value in found.items() if key[0] == "upbit_dagster_finished_runs"}
    assert finished == {"success": 1, "failure": 2, "canceled": 0}
    assert found["upbit_dagster_runs", "started"] == 1
    assert [key[1] for key in found if key[0] == "upbit_dagster_job_failed"] == ["archive"]


def test_sections_are_cached(market_url: str):
    exporter = Exporter(engine_for(market_url, READER_ROLE), lambda: 0)
    [storage] = [section for section in SECTIONS if section.name == "storage"]
    assert exporter.section("storage", storage.seconds, disk)
    assert exporter.section("storage", storage.seconds, disk) is exporter.cached["storage"][1]


class TestDocuments:
    def test_the_page_lists_each_metric(self):
        text = (PROJECT / "docs" / "monitoring.md").read_text()
        rows = [f"| `{each.name}` | {', '.join(each.labels)} | {each.about} |" for each in (*METRICS, REQUESTS)]
        assert re.findall(r"^\| `upbit_.*\|$", text, re.MULTILINE) == rows

    def test_rules_and_dashboard_use_no_other_metrics(self):
        suffixes = ("_bucket", "_count", "_sum")
        known = {each.name for each in METRICS} | {f"{REQUESTS.name}{suffix}" for suffix in suffixes}
        used = re.findall(r"\bupbit_\w+", " ".join([*QUERIES, *(rule["expr"] for rule in RULES)]))
        assert set(used) <= known

    def test_every_problem_has_a_rule(self):
        source = "".join(Path(module.__file__ or "").read_text() for module in (problems,)) + 'Problem(\n"database"'
        kinds = set(re.findall(r'Problem\(\s*f?"([a-z-]+)', source))
        assert {rule["labels"].get("problem") for rule in RULES} == {None, *kinds}

    def test_thresholds_are_those_of_the_problems(self):
        exprs = {rule["alert"]: rule["expr"] for rule in RULES}
        assert f"> {FRESH.total_seconds():.0f}" in exprs["NoSnapshot"]
        assert f"> {problems.STREAM_SILENT.total_seconds():.0f}" in exprs["StreamSilent"]
        assert f"> {FRESH.total_seconds():.0f}" in exprs["StreamBehind"]
        assert f"> {problems.DAEMON_SILENT.total_seconds():.0f}" in exprs["DaemonSilent"]
        assert f"< {problems.LEAST_FREE}" in exprs["DiskAlmostFull"]

    def test_the_dashboard_is_one_that_grafana_draws(self):
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(ids) == len(set(ids))
        places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
        cells = [
            (x, y)
            for at in places
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(cells) == len(set(cells)), "panels overlap"
        assert {x for x, _ in cells} == set(range(24))
        [source] = yaml.safe_load((FILES / "grafana/provisioning/datasources/prometheus.yml").read_text())[
            "datasources"
        ]
        used = [each["datasource"] for panel in PANELS for each in (panel, *panel["targets"])]
        assert all(each == {"type": source["type"], "uid": source["uid"]} for each in used)
        rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
        assert rows == ["Freshness", "Completeness", "Exchange", "Stream", "Dagster", "Storage", "Board"]


class TestPromtool:
    def test_names_types_and_helps_are_by_its_rules(self, board: str, database: Database, market_url: str):
        fill(database, market_url, datetime.now(UTC))
        promtool("check", "metrics", given=http.get(f"{board}/metrics", timeout=30).text)

    def test_the_rules_fire_as_they_should(self):
        promtool("test", "rules", "rules_test.yml")


@contextmanager
def prometheus(board: str, folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes the board every second."""
    port = free_port(19090)
    config = yaml.safe_load((FILES / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    config["rule_files"] = [str(FILES / "rules.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [board.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        *(program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def query(address: str, expression: str) -> list[Any]:
    reply = http.get(f"{address}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert reply["status"] == "success", (expression, reply)
    return reply["data"]["result"]


@pytest.mark.long
def test_prometheus_answers_every_query_of_the_dashboard_and_the_rules(
    board: str,
    database: Database,
    market_url: str,
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """A real Prometheus, some scrapes of a real board over a real PostgreSQL."""
    fill(database, market_url, datetime.now(UTC))

    @job
    def collect() -> None:
        op(name="fail")(lambda: 1 / 0)()

    collect.execute_in_process(instance=instance, raise_on_error=False)
    with webserver(instance) as dagster, prometheus(board, tmp_path) as address:
        monkeypatch.setenv("UPBIT_DAGSTER_INTERNAL_URL", dagster)

        def scraped_twice() -> bool:
            try:
                return bool(query(address, 'count_over_time(up{job="upbit"}[1m]) > 3'))
            except OSError:
                return False

        until(scraped_twice, (tmp_path / "log").read_text(), 60)
        empty = [expression for expression in QUERIES if not query(address, expression)]
        for rule in RULES:
            query(address, rule["expr"])
        rules = http.get(f"{address}/api/v1/rules", timeout=30).json()["data"]["groups"][0]["rules"]
    # no daemon runs
    assert empty == ["time() - upbit_dagster_heartbeat_timestamp_seconds"]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert "ExchangeBlocks" in {rule["name"] for rule in rules if rule["state"] == "firing"}
