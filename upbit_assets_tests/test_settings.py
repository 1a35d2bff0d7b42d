"""Settings come from the environment, and secrets from files."""

from pathlib import Path

import psycopg
import pytest

from upbit_assets.postgres.resource import market_url
from upbit_assets.settings import setting


def test_a_variable_is_a_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "here")
    assert setting("SECRET") == "here"


def test_a_file_that_the_twin_names_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "secret").write_text("in a file, 비밀\n", encoding="utf-8")
    monkeypatch.setenv("SECRET_FILE", str(tmp_path / "secret"))
    assert setting("SECRET") == "in a file, 비밀"


def test_the_variable_comes_before_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SECRET", "here")
    monkeypatch.setenv("SECRET_FILE", str(tmp_path / "is not there"))
    assert setting("SECRET") == "here"


def test_neither_is_no_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "")
    assert setting("SECRET") is None


def test_a_missing_file_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SECRET_FILE", str(tmp_path / "is not there"))
    with pytest.raises(FileNotFoundError, match="is not there"):
        setting("SECRET")


@pytest.mark.parametrize("password", ["simple", "p@ss:/?#[]% word", "비밀"])
def test_a_databases_password_may_come_apart_from_its_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str
):
    (tmp_path / "secret").write_text(password, encoding="utf-8")
    monkeypatch.setenv("UPBIT_POSTGRES_URL", "postgresql://pipeline@postgres/upbit")
    monkeypatch.setenv("UPBIT_POSTGRES_PASSWORD_FILE", str(tmp_path / "secret"))
    assert psycopg.conninfo.conninfo_to_dict(market_url()) == {
        "user": "pipeline",
        "password": password,
        "host": "postgres",
        "dbname": "upbit",
    }
