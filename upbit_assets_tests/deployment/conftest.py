"""A server as deployed: with its logins, and the schema created by the owner."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
from dagster import DagsterInstance

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.settings import PROJECT
from upbit_assets.stack import free_port
from upbit_assets_tests.conftest import BINARIES

PASSWORDS = {
    login: f'{login}\'s "$HOME" :owner \\ %s' for login in ("owner", "pipeline", "reader", "dagster", "metabase")
}


def script_environment(server: EmbeddedPostgres) -> dict[str, str]:
    return {"PATH": f"{server.binaries}:{os.environ['PATH']}", "PGHOST": str(server.socket), "PGUSER": "postgres"}


def run_script(server: EmbeddedPostgres, name: str, *arguments: str | Path, **environment: str) -> str:
    """Run a script of deploy/ on the server; returns its output."""
    command = ["sh", PROJECT / "deploy" / name, *arguments]
    done = subprocess.run(
        command, env=script_environment(server) | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def url_as(server: EmbeddedPostgres, login: str, database: str = "upbit") -> str:
    return server.url(database, login)


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    for login, password in PASSWORDS.items():
        (folder / login).write_text(password + "\n")
    return folder


@contextmanager
def an_empty_server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="upbit-tests-") as folder:
        server = EmbeddedPostgres(Path(folder), Path(BINARIES) if BINARIES else None)
        server.start()
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # a test's data needs no durability
            connection.execute("SELECT pg_reload_conf()")
        yield server
        server.stop()


@pytest.fixture(scope="session")
def deployed(secrets: Path) -> Iterator[EmbeddedPostgres]:
    """A server with the deployment's logins and an empty schema."""
    with an_empty_server() as server:
        run_script(server, "roles.sh", SECRETS=str(secrets))
        migrate(url_as(server, "owner"))
        yield server


@contextmanager
def an_instance(server: EmbeddedPostgres, login: str = "dagster") -> Iterator[DagsterInstance]:
    """A Dagster instance with the project's storage in the server's database."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_POSTGRES_URL", url_as(server, login, "dagster"))
        (Path(home) / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        with DagsterInstance.from_config(home) as instance:
            yield instance


@contextmanager
def code_location(folder: Path, code: str) -> Iterator[tuple[psutil.Process, int]]:
    """The server of a code location with this code, and its port."""
    file, port = folder / "code.py", free_port(4100)
    file.write_text(code)
    command = ["api", "grpc", "--lazy-load-user-code", "--port", str(port), "--python-file", str(file)]
    with subprocess.Popen([Path(sys.executable).parent / "dagster", *command], stderr=subprocess.DEVNULL) as server:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            yield psutil.Process(server.pid), port
        finally:
            server.kill()
