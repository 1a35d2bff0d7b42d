"""The real deployment: `make test-compose` builds the image, starts the stack, and breaks parts of it.

Slower than the other tests together, and the only ones that need Docker; they fail where there is none. The stack has a
name, ports, passwords and a volume of its own, and is gone afterwards.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from upbit_assets.settings import PROJECT
from upbit_assets_tests import http
from upbit_assets_tests.postgres import lab

OURS = ("code", "webserver", "daemon", "board", "exchange")
PORTS = """
services:
  webserver: { ports: !override ["127.0.0.1::3000"] }
  board: { ports: !override ["127.0.0.1::8501"] }
"""
PATIENCE = 180


def until(true: Callable[[], Any], what: str, seconds: int = PATIENCE) -> Any:
    """Wait for something that takes minutes in containers."""
    return lab.until(true, what, seconds, pause=1)


class Stack:
    """The project's services in their containers."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, *command: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=PROJECT, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self.run("docker", "compose", *arguments, check=check)

    def state(self, service: str) -> dict[str, Any]:
        """The engine's state of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        assert container, f"{service} has no container"
        [found] = json.loads(self.run("docker", "inspect", container))
        return found

    def healthy(self, service: str) -> bool:
        return self.state(service)["State"].get("Health", {}).get("Status") == "healthy"

    def wait_until_healthy(self, *services: str) -> None:
        for service in services:
            until(lambda service=service: self.healthy(service), f"{service} healthy")  # type: ignore[misc]

    def kill(self, service: str) -> None:
        """Kill all processes of a container."""
        user = ["--user", "postgres"] if service == "postgres" else []
        self.compose("exec", "-T", *user, service, "sh", "-c", "kill -9 -1", check=False)

    def address(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def graphql(self, query: str, **variables: Any) -> Any:
        reply = http.post(
            self.address("webserver", 3000) + "/graphql", json={"query": query, "variables": variables}, timeout=30
        ).json()
        assert "errors" not in reply, reply
        return reply["data"]

    def query(self, statement: str, database: str = "upbit") -> list[str]:
        found = self.compose(
            *("exec", "-T", "postgres", "psql", "-U", "postgres", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
            *("-d", database, "-c", statement),
        )
        return found.splitlines()

    def count(self, table: str, where: str = "true") -> int:
        [number] = self.query(f"SELECT count(*) FROM {table} WHERE {where}")
        return int(number)

    def runs(self, job: str) -> list[dict[str, Any]]:
        """A job's runs, the newest first."""
        query = """query($job: String!) { runsOrError(filter: {pipelineName: $job}) {
            ... on Runs { results { runId status tags { key value } } } } }"""
        return self.graphql(query, job=job)["runsOrError"]["results"]

    def launch(self, job: str) -> str:
        """Queue a run of a job; returns its id."""
        launch = """mutation($selector: JobOrPipelineSelector!) { launchRun(executionParams: {selector: $selector}) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
        where = {"repositoryLocationName": "upbit_assets", "repositoryName": "__repository__"}
        launched = self.graphql(launch, selector=where | {"jobName": job})
        return launched["launchRun"]["run"]["runId"]

    def count_of_events(self, run: str, kind: str) -> int:
        where = f"run_id = '{run}' AND dagster_event_type = '{kind}'"
        return int(self.query(f"SELECT count(*) FROM event_logs WHERE {where}", "dagster")[0])

    def succeeded(self, job: str) -> int:
        return sum(run["status"] == "SUCCESS" for run in self.runs(job))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    assert shutil.which("docker"), "There is no docker here. Install Docker with its compose plugin, or skip this test."
    folder = tmp_path_factory.mktemp("compose")
    (folder / "ports.yml").write_text(PORTS)
    stack = Stack(
        {
            "COMPOSE_PROJECT_NAME": f"upbit-test-{secrets.token_hex(4)}",
            "COMPOSE_FILE": f"docker-compose.yml:{folder / 'ports.yml'}",
            "COMPOSE_PROFILES": "demo",
            "UPBIT_SECRETS": str(folder / "secrets"),
            "UPBIT_API_URL": "http://exchange:8766",
        }
    )
    stack.run("docker", "compose", "version")
    stack.run("sh", "deploy/secrets.sh", folder / "secrets")
    try:
        stack.compose("up", "--detach", "--build")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5", check=False)


def test_without_passwords_it_stops_and_says_what_to_set(stack: Stack):
    done = subprocess.run(
        ["docker", "compose", "--env-file", "/dev/null", "config"],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != "UPBIT_SECRETS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "UPBIT_SECRETS" in done.stderr
    assert "make secrets" in done.stderr


@pytest.mark.parametrize("service", ["postgres", *OURS])
def test_a_service_becomes_healthy(stack: Stack, service: str):
    stack.wait_until_healthy(service)


def test_a_change_of_the_code_adds_little_to_the_image(stack: Stack):
    history = stack.run(
        "docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", "upbit-assets"
    )
    layers = [line.split(" ", 1) for line in history.splitlines()]
    code = [int(size) for size, command in layers if "upbit_assets upbit_assets" in command or "pip install" in command]
    assert sum(sorted(code)[:-1]) < 30e6 < max(code), "all but the layer of the dependencies"


def test_the_ui_has_the_code(stack: Stack):
    query = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
        ... on RepositoryLocation { repositories { jobs { name } } } } } } } }"""
    [entry] = stack.graphql(query)["workspaceOrError"]["locationEntries"]
    assert entry["name"] == "upbit_assets"
    [repository] = entry["locationOrLoadError"]["repositories"]
    assert {"collect", "refresh", "drop_old_data"} <= {job["name"] for job in repository["jobs"]}


def test_a_scheduled_run_succeeds_and_gold_follows(stack: Stack):
    until(lambda: stack.succeeded("collect"), "a run of collect")
    assert all("dagster/schedule_name" in {tag["key"] for tag in run["tags"]} for run in stack.runs("collect"))
    until(lambda: stack.count("gold.market_stats"), "rows in gold")
    assert stack.query("SELECT count(*) FROM gold.turnover_top10") == ["10"]


def test_the_boards_page_is_there(stack: Stack):
    page = http.get(stack.address("board", 8501), timeout=10)
    assert page.ok
    assert page.headers["content-type"].startswith("text/html")


def test_a_backfill_from_the_ui_succeeds(stack: Stack):
    newest = "to_char(date_bin('10 minutes', max(ingested_at), '2000-01-01'), 'YYYY-MM-DD-HH24:MI')"
    [window] = stack.query(f"SELECT {newest} FROM bronze.ticker_raw")
    launch = """mutation($backfill: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $backfill) {
        __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    assets = [{"path": ["silver_ticker"]}, {"path": ["gold_market_stats"]}]
    launched = stack.graphql(launch, backfill={"assetSelection": assets, "partitionNames": [window]})
    backfill = launched["launchPartitionBackfill"]["backfillId"]

    def status() -> str:
        query = (
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        )
        return stack.graphql(query, id=backfill)["partitionBackfillOrError"]["status"]

    until(lambda: status() not in ("REQUESTED", "COMPLETING"), "the end of the backfill")
    assert status() == "COMPLETED_SUCCESS"


class TestLeastPrivilege:
    @pytest.mark.parametrize("service", OURS)
    def test_our_containers_run_as_nobody_in_particular_with_no_capability(self, stack: Stack, service: str):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() == "10001"
        status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
        found = dict(line.split(":", 1) for line in status.splitlines())
        assert {found[f"Cap{kind}"].strip() for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert found["NoNewPrivs"].strip() == "1"
        refused = "touch /opt/x /usr/x /etc/x 2>/dev/null && echo written"
        assert stack.compose("exec", "-T", service, "sh", "-c", refused, check=False) == ""

    @pytest.mark.parametrize("service", ["postgres", *OURS])
    def test_no_password_is_in_the_environment_or_the_log(self, stack: Stack, service: str):
        folder = Path(stack.environment["UPBIT_SECRETS"])
        shown = json.dumps(stack.state(service)) + stack.compose("logs", service)
        assert not [name.name for name in folder.iterdir() if name.read_text().strip() in shown]

    def test_only_the_pages_are_published_and_on_loopback(self, stack: Stack):
        published = {
            service: {
                port: [place["HostIp"] for place in places]
                for port, places in stack.state(service)["NetworkSettings"]["Ports"].items()
                if places
            }
            for service in ("postgres", *OURS)
        }
        assert published.pop("webserver") == {"3000/tcp": ["127.0.0.1"]}
        assert published.pop("board") == {"8501/tcp": ["127.0.0.1"]}
        assert not any(published.values())

    @pytest.mark.parametrize("login", ["postgres", "owner", "pipeline", "reader", "dagster", "metabase"])
    def test_no_login_without_the_password(self, stack: Stack, login: str):
        """From another container, over the network, with another login's password."""
        wrong = "reader" if login != "reader" else "pipeline"
        connect = (
            "import psycopg, pathlib; "
            f"psycopg.connect(host='postgres', dbname='postgres', user='{login}', "
            f"password='{(Path(stack.environment['UPBIT_SECRETS']) / wrong).read_text().strip()}')"
        )
        said = stack.run("docker", "compose", "exec", "-T", "code", "sh", "-c", f'python -c "{connect}" 2>&1; true')
        assert "password authentication failed" in said


class TestKilled:
    @pytest.mark.parametrize("service", ["postgres", *OURS])
    def test_a_killed_container_recovers(self, stack: Stack, service: str):
        stack.wait_until_healthy(service)
        before = stack.state(service)
        stack.kill(service)
        until(lambda: stack.state(service)["RestartCount"] > before["RestartCount"], f"{service} started again", 60)
        stack.wait_until_healthy(service)

    def test_a_run_queued_while_the_code_location_restarts_waits_for_it(self, stack: Stack):
        stack.wait_until_healthy("code", "webserver")
        stack.compose("pause", "daemon")
        run = stack.launch("list_markets")
        stack.compose("stop", "code")
        stack.compose("unpause", "daemon")
        until(lambda: stack.count_of_events(run, "PIPELINE_ENQUEUED") > 1, "its launch tried")
        stack.compose("start", "code")
        until(
            lambda: {each["runId"]: each["status"] for each in stack.runs("list_markets")}[run] == "SUCCESS", "success"
        )

    def test_collecting_continues(self, stack: Stack):
        stack.wait_until_healthy("postgres", *OURS)
        before = stack.count("bronze.ticker_raw")
        until(lambda: stack.count("bronze.ticker_raw") > before, "another snapshot")

    def test_without_the_stream_runs_collect(self, stack: Stack):
        stack.compose("stop", "stream")
        before = stack.succeeded("collect")
        until(lambda: stack.succeeded("collect") > before, "a run of collect")

    def test_a_run_lost_with_its_container_fails_and_its_window_is_recomputed(self, stack: Stack):
        lock = subprocess.Popen(
            [
                *("docker", "compose", "exec", "-T", "postgres", "psql", "-U", "postgres", "-d", "upbit"),
                *("-c", "BEGIN", "-c", "LOCK TABLE silver.ticker", "-c", "SELECT pg_sleep(600)"),
            ],
            cwd=PROJECT,
            env=os.environ | stack.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(
                lambda: stack.query(
                    "SELECT pid FROM pg_locks WHERE relation = 'silver.ticker'::regclass "
                    "AND mode = 'AccessExclusiveLock' AND granted"
                ),
                "the lock on silver",
            )
            started = until(
                lambda: [run["runId"] for run in stack.runs("collect") if run["status"] == "STARTED"],
                "a run that waits for the lock",
            )
            stack.kill("code")
        finally:
            stack.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'")
            lock.wait()
        ended = {"FAILURE", "CANCELED", "SUCCESS"}

        def status() -> dict[str, str]:
            return {run["runId"]: run["status"] for run in stack.runs("collect")}

        until(lambda: all(status()[run] in ended for run in started), "the end of the run")
        assert "FAILURE" in {status()[run] for run in started}
        stack.wait_until_healthy("code")
        before = stack.succeeded("collect")
        until(lambda: stack.succeeded("collect") > before, "the window computed again")
        stack.compose("start", "stream")


def test_a_taken_port_keeps_nothing_from_collecting(stack: Stack):
    ports = Path(stack.environment["UPBIT_SECRETS"]).with_name("ports.yml")
    stack.compose("down")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"127.0.0.1:{taken.getsockname()[1]}:8501"
        ports.write_text(f'services: {{ board: {{ ports: !override ["{port}"] }} }}')
        with pytest.raises(AssertionError, match=r"already in use|already allocated"):
            stack.compose("up", "--detach")
    before = stack.count("bronze.ticker_raw")
    until(lambda: stack.count("bronze.ticker_raw") > before, "another snapshot")
    ports.write_text(PORTS)
    stack.compose("up", "--detach")
    stack.wait_until_healthy("board")


def test_a_password_is_changed_without_restarting_postgres(stack: Stack):
    started = stack.state("postgres")["State"]["StartedAt"]
    (Path(stack.environment["UPBIT_SECRETS"]) / "reader").write_text(secrets.token_urlsafe())
    stack.compose("run", "--rm", "roles")
    stack.compose("up", "--detach", "--no-deps", "--force-recreate", "board")
    stack.wait_until_healthy("board")
    assert http.get(stack.address("board", 8501) + "/api/markets", timeout=30).ok
    assert stack.state("postgres")["State"]["StartedAt"] == started


def rows(stack: Stack) -> dict[str, int]:
    """The row counts of the append-only tables."""
    tables = ["bronze.ticker_raw", "bronze.market_raw"]
    return {name: stack.count(name) for name in tables} | {
        "runs": int(stack.query("SELECT count(*) FROM runs WHERE status = 'SUCCESS'", "dagster")[0])
    }


def test_down_and_up_keep_the_data(stack: Stack):
    before = rows(stack)
    stack.compose("down")
    stack.compose("up", "--detach")
    stack.wait_until_healthy("postgres", *OURS)
    after = rows(stack)
    assert all(after[what] >= number > 0 for what, number in before.items())


def test_a_backup_is_restored_in_place(stack: Stack, tmp_path: Path):
    folder, before = tmp_path / "backup", rows(stack)
    stack.run("make", "--no-print-directory", "backup", f"TO={folder}")
    stack.query("INSERT INTO bronze.market_raw (market, raw_data, ingested_at) VALUES ('AFTER', '{}', now())")
    stack.query("DROP TABLE gold.market_stats CASCADE")

    stack.run("make", "--no-print-directory", "restore", f"FROM={folder}")

    stack.wait_until_healthy("postgres", *OURS)
    assert stack.count("bronze.market_raw", "market = 'AFTER'") == 0
    assert stack.count("bronze.ticker_raw") >= before["bronze.ticker_raw"]
    assert stack.query("SELECT count(*) FROM gold.turnover_top10") == ["10"]
    already = stack.count("bronze.ticker_raw")
    until(lambda: stack.count("bronze.ticker_raw") > already, "another snapshot")
