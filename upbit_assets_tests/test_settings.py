"""Settings: their values, their validation, and consistency of everything that mentions them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner

from upbit_assets.cli import main
from upbit_assets.settings import DECLARED, PROJECT, Setting, SettingError, Settings, check, settings, text_of

KNOWN = {name for setting in DECLARED for name in setting.names}
PUBLISHED = {
    "UPBIT_UI_PORT": "3000",
    "UPBIT_BOARD_PORT": "8501",
    "UPBIT_METABASE_PORT": "3001",
    "UPBIT_PROMETHEUS_PORT": "9090",
    "UPBIT_GRAFANA_PORT": "3002",
}
BACKUP = {"UPBIT_BACKUPS": "./backups", "UPBIT_BACKUP_USER": "1000:1000", "UPBIT_KEEP_BACKUPS": "7"}
NOT_OURS = {"UPBIT_SECRETS", "UPBIT_OPENED", "UPBIT_OPENED_MS", *PUBLISHED, *BACKUP}
OF_TESTS = "UPBIT_TEST_"
NAME = re.compile(r"\b(?:UPBIT|METABASE|DAGSTER_HOME|DAGSTER_POSTGRES)(?:_[A-Z]+)*\b(?!_)")
WRONG = {
    "UPBIT_POSTGRES_URL": ["localhost:5432/mine", "mysql://me@db/upbit", "postgresql://db:port/upbit", "postgresql"],
    "DAGSTER_POSTGRES_URL": ["postgresql+://db/dagster", "postgresql:db", "postgresql://my db/dagster"],
    "UPBIT_READER_URL": ["sqlite:///upbit"],
    "UPBIT_REDIS_URL": ["redis", "http://redis:6379", "redis://"],
    "UPBIT_API_URL": ["api.upbit.com", "ftp://api.upbit.com", "https://", "http://localhost:port", "https://h/?a=b"],
    "UPBIT_START": ["2026-11-29", "2026-11-29 00:00", "2026-02-30-00:00", "2026-11-01-00:05", "2017-09-24-23:50"],
    "UPBIT_ORDERBOOK_MARKETS": ["top-30", "top", "top0", "top ten", "TOP10", "top10,KRW-BTC", "*"],
    "UPBIT_CANDLE_MARKETS": ["KRW", "KRW-BTC,", "KRW-BTC;KRW-ETH", "KRW-비트"],
    "UPBIT_TRADE_MARKETS": ["none"],
    "UPBIT_DAYS_BACK": ["x", "-1", "1.5", "99999", "７"],
    "UPBIT_CALLS_PER_SECOND": ["0", "-1", "ten", "1.5"],
    "UPBIT_LIMITS_DIR": ["limits", "~/limits", __file__],
    "DAGSTER_HOME": [".live", __file__],
    "UPBIT_KEEP_BRONZE_DAYS": ["1", "0", "-3", "ten", "2.5"],
    "UPBIT_KEEP_SILVER_DAYS": ["1"],
    "UPBIT_KEEP_GOLD_DAYS": ["1"],
    "UPBIT_KEEP_DAGSTER_DAYS": ["1"],
    "UPBIT_ARCHIVE_URL": ["archive", __file__, "s3://", "s3://bucket?region=x", "gs://bucket", "s3:bucket"],
    "UPBIT_ARCHIVE_AFTER_DAYS": ["0", "x"],
    "AWS_ENDPOINT_URL": ["minio:9000"],
    "UPBIT_DAGSTER_URL": ["127.0.0.1:3000", "localhost"],
    "UPBIT_BOARD_HOSTS": ["https://board.example.com", "a,b", "board.example.com:8501"],
    "UPBIT_METRICS": ["yes", "1", "On"],
    "UPBIT_DAGSTER_INTERNAL_URL": ["webserver:3000"],
    "UPBIT_ALERT_URLS": ["slack", "mailto:me@example.com", "#channel"],
    "UPBIT_ALERT_LANGUAGE": ["kr", "Korean"],
    "METABASE_URL": ["metabase:3000"],
    "METABASE_DATABASE_URL": ["postgres"],
}


def setting_of(name: str) -> Setting[Any]:
    return vars(Settings)[name]


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)


class TestValues:
    def test_every_default_is_one_that_may_be(self):
        check()

    @pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
    def test_a_wrong_one_is_an_error_that_says_what_it_holds_and_what_it_may(
        self, monkeypatch: pytest.MonkeyPatch, name: str, text: str
    ):
        monkeypatch.setenv(name, text)
        with pytest.raises(SettingError) as error:
            check()
        wanted = setting_of(name).format
        shown = "***" if wanted.secret else text
        assert str(error.value) == f"{name} is {shown!r}: it must be {wanted.description}."

    def test_none_takes_whatever_it_is_given_but_a_text(self, monkeypatch: pytest.MonkeyPatch):
        for setting in DECLARED:
            monkeypatch.setenv(setting.name, "*")
        with pytest.raises(SettingError) as error:
            check()
        told = {line.partition(" ")[0] for line in str(error.value).splitlines()}
        aws = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        texts = {"METABASE_ADMIN_EMAIL", "METABASE_ADMIN_PASSWORD", *aws}
        assert {setting.name for setting in DECLARED} - told == texts

    def test_all_that_are_wrong_are_reported_at_once(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_DAYS_BACK", "x")
        monkeypatch.setenv("UPBIT_API_URL", "y")
        with pytest.raises(SettingError, match=r"(?s)UPBIT_API_URL is 'y'.*\nUPBIT_DAYS_BACK is 'x'"):
            check()

    def test_a_start_in_the_future_is_none(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_START", "9999-01-01-00:00")
        with pytest.raises(SettingError, match=r"UPBIT_START is .* not in the future"):
            check()

    @pytest.mark.parametrize(
        "url", ["mysql://me:hush@db/upbit", "me:hush@db", "postgresql//me:hush@db", "db/upbit?user=me&password=hush"]
    )
    def test_a_password_is_not_shown(self, monkeypatch: pytest.MonkeyPatch, url: str):
        monkeypatch.setenv("UPBIT_POSTGRES_URL", url)
        with pytest.raises(SettingError, match=r"UPBIT_POSTGRES_URL is .*\*\*\*") as error:
            check()
        assert "hush" not in str(error.value)

    @pytest.mark.parametrize("blank", ["", " ", "\n"])
    def test_a_blank_one_is_unset(self, monkeypatch: pytest.MonkeyPatch, blank: str):
        for setting in DECLARED:
            monkeypatch.setenv(setting.name, blank)
        check()
        assert settings.UPBIT_KEEP_GOLD_DAYS is None
        assert settings.UPBIT_DAYS_BACK == 7

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("UPBIT_POSTGRES_URL", "postgresql+psycopg://me@db/upbit", "postgresql://me@db/upbit"),
            ("UPBIT_POSTGRES_URL", "postgres:///upbit?host=/run/%20x", "postgresql:///upbit?host=/run/%20x"),
            ("UPBIT_API_URL", " https://sg-api.upbit.com/ ", "https://sg-api.upbit.com"),
            ("UPBIT_START", "2026-01-29-14:00", "2026-01-29-14:00"),
            ("UPBIT_ORDERBOOK_MARKETS", "top5", 5),
            ("UPBIT_ORDERBOOK_MARKETS", " krw-eth, KRW-BTC,KRW-ETH", ("KRW-ETH", "KRW-BTC")),
            ("UPBIT_KEEP_GOLD_DAYS", "2", 2),
            ("UPBIT_BOARD_HOSTS", "a.example  [::1]", ("a.example", "[::1]")),
        ],
    )
    def test_what_a_setting_says(self, monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object):
        monkeypatch.setenv(name, text)
        assert getattr(settings, name) == value


class TestFiles:
    """Any setting can come from a file."""

    @pytest.fixture
    def file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        monkeypatch.setenv("METABASE_ADMIN_PASSWORD_FILE", str(tmp_path / "secret"))
        return tmp_path / "secret"

    def test_the_twin_names_one_that_is_read(self, file: Path):
        file.write_text("in a file, 비밀\n", encoding="utf-8")
        assert settings.METABASE_ADMIN_PASSWORD == "in a file, 비밀"  # noqa: S105

    def test_the_variable_comes_before_it(self, file: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("METABASE_ADMIN_PASSWORD", "here")
        assert settings.METABASE_ADMIN_PASSWORD == "here"  # noqa: S105

    @pytest.mark.parametrize(
        ("content", "reason"), [(None, "can't be read: .*No such file"), (b"", "is empty"), (b"\xff", "can't be read")]
    )
    def test_one_that_is_missing_empty_or_no_text_is_an_error_that_names_it(
        self, file: Path, content: bytes | None, reason: str
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingError, match=f"METABASE_ADMIN_PASSWORD_FILE is '{file}', which {reason}"):
            check()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads what nobody may")
    def test_one_that_may_not_be_read_is_an_error_that_names_it(self, file: Path):
        file.write_text("hush")
        file.chmod(0)
        with pytest.raises(SettingError, match=f"'{file}', which can't be read: .*Permission denied"):
            check()

    @pytest.mark.parametrize("password", ["simple", "p@ss:/?#[]% word", " 비밀 ", "two\nlines", "ends with \r"])
    def test_a_databases_password_may_come_apart_from_its_url(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str
    ):
        (tmp_path / "secret").write_bytes(f"{password}\n".encode())
        monkeypatch.setenv("UPBIT_POSTGRES_URL", "postgresql://pipeline@postgres/upbit")
        monkeypatch.setenv("UPBIT_POSTGRES_PASSWORD_FILE", str(tmp_path / "secret"))
        assert psycopg.conninfo.conninfo_to_dict(settings.UPBIT_POSTGRES_URL or "") == {
            "user": "pipeline",
            "password": password,
            "host": "postgres",
            "dbname": "upbit",
        }

    def test_it_is_the_same_as_a_shell_reads_in_deploy(self, file: Path):
        for content in ("one", "one\n", "one\n\n", " one \n", "one\r\n"):
            file.write_bytes(content.encode())
            shell = subprocess.run(["sh", "-c", 'printf %s "$(cat "$1")"', "sh", file], check=True, capture_output=True)
            assert shell.stdout.decode() == text_of("METABASE_ADMIN_PASSWORD")


class TestStart:
    """Every command validates the settings first."""

    @pytest.mark.parametrize("command", main.commands)
    def test_every_command_does(self, command: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("UPBIT_API_URL", "api")
        result = CliRunner().invoke(main, [command])
        assert result.exit_code == 1
        assert result.output.startswith("Error: UPBIT_API_URL is 'api': it must be ")

    def test_a_setting_that_is_read_at_import_makes_no_traceback_either(self):
        done = started("upbit-assets demo", {"UPBIT_START": "2026-11-29"})
        assert done.returncode == 1
        assert (
            done.stderr
            == f"Error: UPBIT_START is '2026-11-29': it must be {setting_of('UPBIT_START').format.description}.\n"
        )

    def test_so_does_the_code_location_whatever_loads_it(self, tmp_path: Path):
        command = "dagster definitions validate --module-name upbit_assets.definitions"
        done = started(command, {"UPBIT_KEEP_BRONZE_DAYS": "1", "DAGSTER_HOME": str(tmp_path)})
        assert done.returncode == 1
        assert "UPBIT_KEEP_BRONZE_DAYS is '1': it must be" in done.stderr + done.stdout


def started(command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    program, *arguments = command.split()
    words = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)


def row(setting: Setting[Any]) -> str:
    return f"| `{setting.name}` | {setting.meaning} | {setting.unset} |"


def example(setting: Setting[Any]) -> str:
    meaning, unset = (text.replace("`", "") for text in (setting.meaning, setting.unset))
    return f"# {meaning[0].upper()}{meaning[1:]} (unset: {unset})\n# {setting.name}=\n"


class TestDocuments:
    """Documents and files mention exactly these settings."""

    def test_the_tables_list_each_of_them_once(self):
        text = "".join(path.read_text() for path in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")))
        tables = re.findall(
            r"^\| variable \| meaning \| unset \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE
        )
        assert sorted("".join(tables).splitlines()) == sorted(map(row, DECLARED))

    def test_the_example_explains_those_that_compose_takes(self):
        head, _, ports, backup, *blocks = (PROJECT / ".env.example").read_text().split("\n\n")[2:]
        assert head.endswith("# COMPOSE_PROFILES=metabase")
        unset = re.compile(r"^# (\w+)=(\S+)$", re.MULTILINE)
        assert (dict(unset.findall(ports)), dict(unset.findall(backup))) == (PUBLISHED, BACKUP)
        wanted = [example(setting) for setting in DECLARED if setting.service]
        assert sorted(block.rstrip() for block in blocks) == sorted(block.rstrip() for block in wanted)

    def test_compose_hands_each_of_them_to_the_service_that_it_is_for(self):
        services = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
        passed = {
            (name, variable)
            for name, service in services.items()
            for variable, value in (service.get("environment") or {}).items()
            if value is None
        }
        assert passed == {
            (service, setting.name) for setting in DECLARED for service in (setting.service or "").split()
        }

    def test_compose_publishes_ports_of_the_env_file(self):
        files = [
            yaml.safe_load((PROJECT / name).read_text())
            for name in ("docker-compose.yml", "docker-compose.monitoring.yml")
        ]
        services = [service for file in files for service in file["services"].values()]
        ports = "\n".join(port for service in services for port in service.get("ports", []))
        assert dict(re.findall(r"^127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+$", ports, re.MULTILINE)) == PUBLISHED

    def test_compose_backs_up_as_the_env_file_says(self):
        service = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]["backup"]
        assert dict(re.findall(r"\$\{(\w+):-([^}]+)\}", str(service))) == BACKUP

    def test_nothing_mentions_a_missing_one(self):
        listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
        files = [PROJECT / path for path in listed.stdout.splitlines()]
        spoken = {
            (str(file.relative_to(PROJECT)), name)
            for file in files
            if file.suffix not in {".png", ".lock"} and "vendor" not in file.parts and file.name != Path(__file__).name
            for name in NAME.findall(file.read_text(encoding="utf-8"))
        }
        ours = {(file, name) for file, name in spoken if "_" in name and not name.startswith(OF_TESTS)}
        assert {(file, name) for file, name in ours if name not in KNOWN | NOT_OURS} == set()

    def test_nothing_else_reads_the_environment_for_them(self):
        reads = re.compile(
            r"(?:environ\.get|environ\.pop|getenv)\(\s*[\"'](?:UPBIT|METABASE|DAGSTER_HOME|DAGSTER_POSTG)"
        )
        found = [str(file) for file in (PROJECT / "upbit_assets").rglob("*.py") if reads.search(file.read_text())]
        assert found == []
