"""docker-compose.celery.yml and its workers' instance are configured as required."""

import re
from typing import Any

import pytest
import yaml

from upbit_assets.settings import PROJECT
from upbit_assets.workers.launcher import WorkerRunLauncher, celery_options
from upbit_assets_tests.scaling.workers import instance_of_the_image, worker

COMPOSE = yaml.safe_load((PROJECT / "docker-compose.celery.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ASKS_REDIS = ("worker", "code", "webserver", "daemon")


def test_the_instance_differs_only_in_the_run_launcher():
    image = yaml.safe_load("".join((PROJECT / path).read_text() for path in ("dagster.yaml", "deploy/instance.yaml")))
    launcher = {"module": WorkerRunLauncher.__module__, "class": WorkerRunLauncher.__name__}
    assert yaml.safe_load(instance_of_the_image()) == image | {"run_launcher": launcher}


def test_worker_slots_equal_max_concurrent_runs():
    dagster = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    [places] = re.findall(r"--concurrency=([0-9]+)", " ".join(SERVICES["worker"]["command"]))
    assert SERVICES["worker"]["scale"] == 2
    assert 2 * int(places) == dagster["concurrency"]["runs"]["max_concurrent_runs"]


def test_the_command_is_that_of_make_test_celery():
    assert worker("one")[:-1] == SERVICES["worker"]["command"]


def test_redis_has_least_privilege_and_is_internal():
    redis = SERVICES["redis"]
    assert re.fullmatch(r"redis:[0-9]+\.[0-9]+\.[0-9]+", redis["image"])
    assert redis["cap_drop"] == ["ALL"]
    assert redis["security_opt"] == ["no-new-privileges:true"]
    assert redis["read_only"] is True
    assert redis["networks"] == ["data"]
    assert "ports" not in redis
    assert re.fullmatch(r"[0-9]+m", redis["mem_limit"])


@pytest.mark.parametrize("service", ["redis", *ASKS_REDIS])
def test_the_password_is_a_file_without_a_default(service: str):
    assert "redis" in SERVICES[service]["secrets"]
    assert COMPOSE["secrets"] == {"redis": {"file": "${UPBIT_SECRETS}/redis"}}
    if service != "redis":
        settings = SERVICES[service]["environment"]
        assert settings["UPBIT_REDIS_PASSWORD_FILE"] == "/run/secrets/redis"  # noqa: S105
        assert "@" not in settings["UPBIT_REDIS_URL"]


def test_the_workers_of_a_machine_share_the_exchanges_limits():
    folder = SERVICES["worker"]["environment"]["UPBIT_LIMITS_DIR"]
    assert SERVICES["worker"]["volumes"] == [f"limits:{folder}"]
    dockerfile = (PROJECT / "deploy" / "celery" / "Dockerfile").read_text()
    assert f"install -d -o 10001 -g 10001 -m 700 {folder}" in dockerfile
    assert dockerfile.rstrip().endswith("USER 10001:10001")


def test_celery_is_not_installed_without_workers():
    packages = {line.partition("==")[0] for line in (PROJECT / "requirements.lock").read_text().splitlines()}
    assert not packages & {"celery", "dagster-celery", "kombu", "redis"}
    locked = (PROJECT / "deploy" / "celery" / "requirements.lock").read_text()
    for line in (PROJECT / "requirements.lock").read_text().splitlines():
        if "==" in line:
            assert line.partition(";")[0].strip(" \\") in locked, "the same versions as without workers"


def test_without_redis_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("UPBIT_REDIS_URL", raising=False)
    with pytest.raises(ValueError, match="UPBIT_REDIS_URL"):
        celery_options()
