"""Archives in a folder and in an S3 store, over the real protocol on loopback."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from upbit_assets.archive.store import Store
from upbit_assets.local_http import session_for

ACCESS_KEY, SECRET = "AKIAARCHIVETEST", "a-secret-that-nobody-may-see"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("UPBIT_ARCHIVE_URL", "s3://upbit/bronze")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # local addresses must bypass it


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    use_s3(monkeypatch, s3_server)
    session_for(s3_server).put(f"{s3_server}/upbit").raise_for_status()
    yield Store()
    session_for(s3_server).post(f"{s3_server}/moto-api/reset").raise_for_status()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "archive"
    path.mkdir()
    monkeypatch.setenv("UPBIT_ARCHIVE_URL", str(path))
    return path


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest) -> Store:
    """Each of the two kinds, empty."""
    request.getfixturevalue(request.param)
    return Store()
