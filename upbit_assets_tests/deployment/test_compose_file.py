"""docker-compose.yml, and its overlay with Prometheus and Grafana, meet the requirements for every service."""

import re
from typing import Any

import pytest
import yaml

from upbit_assets.postgres.embedded import SETTINGS
from upbit_assets.settings import PROJECT

COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
OVERLAY = yaml.safe_load((PROJECT / "docker-compose.monitoring.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# the overlay changes settings of the board
EVERY: dict[str, dict[str, Any]] = {**OVERLAY["services"], **SERVICES}
ONCE = {"roles", "migrate", "metabase-dashboard"}
# needed by the image's entry point to take ownership of its volume and drop root
ALLOWED = {"postgres": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}}
WRITABLE = {"metabase"}


def settings_of(service: str) -> dict[str, str | None]:
    return EVERY[service].get("environment") or {}


@pytest.mark.parametrize("name", EVERY)
class TestEveryService:
    def test_has_least_privilege(self, name: str):
        service = EVERY[name]
        assert service["cap_drop"] == ["ALL"]
        assert set(service.get("cap_add", [])) == ALLOWED.get(name, set())
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "devices", "pid", "ipc", "network_mode", "userns_mode"} & service.keys()
        assert service.get("read_only", False) is (name not in WRITABLE)
        assert not any("docker.sock" in volume for volume in service.get("volumes", []))

    def test_ends_and_starts_cleanly(self, name: str):
        service = EVERY[name]
        assert service["init"] is True
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
        assert ("healthcheck" in service) is (name not in ONCE)

    def test_its_health_check_expands_no_variable_in_a_form_that_has_no_shell(self, name: str):
        test = EVERY[name].get("healthcheck", {}).get("test", ["CMD"])
        assert test[0] == "CMD"
        assert not any("$" in word for word in test)

    def test_asks_no_proxy_for_what_is_in_its_container(self, name: str):
        test = EVERY[name].get("healthcheck", {}).get("test", [])
        assert "curl" not in test or "--noproxy" in test

    def test_takes_no_more_memory_and_disk_than_it_may(self, name: str):
        assert re.fullmatch(r"[0-9]+[mg]", EVERY[name]["mem_limit"])
        assert EVERY[name]["logging"] == {
            "driver": "json-file",
            "options": {"max-size": "10m", "max-file": "5"},
        }

    def test_listens_on_loopback_only(self, name: str):
        assert all(port.startswith("127.0.0.1:") for port in EVERY[name].get("ports", []))
        if "ports" not in EVERY[name]:
            assert name in ("code", "stream", "alerts") or EVERY[name]["networks"] == ["data"]

    def test_has_its_passwords_in_files_and_no_others(self, name: str):
        mounted = set(EVERY[name].get("secrets", []))
        secret = {key: value for key, value in settings_of(name).items() if "PASS" in key}
        assert all(key.endswith("_FILE") for key in secret)
        read = set(re.findall(r"/run/secrets/(\w+)", f"{list(secret.values())} {EVERY[name].get('entrypoint')}"))
        assert read <= mounted
        if name != "roles":  # which reads each password of those that it makes
            assert read == mounted
        urls = [value or "" for key, value in settings_of(name).items() if key.endswith("_URL")]
        assert not any(re.search(r"//[^/@]*:[^/@]*@", url) for url in urls)


def test_a_transaction_may_lock_as_much_as_on_the_embedded_server():
    locks = SETTINGS["max_locks_per_transaction"]
    assert f"--max_locks_per_transaction={locks}" in SERVICES["postgres"]["command"]


def test_the_stack_has_the_services_that_it_is_made_of():
    core = {"postgres", "roles", "migrate", "code", "webserver", "daemon", "board", "stream"}
    assert core == {name for name, service in SERVICES.items() if "profiles" not in service}
    assert {"metabase", "metabase-dashboard", "exchange", "alerts", "backup"} == SERVICES.keys() - core


@pytest.mark.parametrize(
    ("service", "login"),
    [
        ("migrate", "owner"),
        ("code", "pipeline"),
        ("stream", "pipeline"),
        ("alerts", "pipeline"),
        ("board", "reader"),
        ("metabase-dashboard", "reader"),
    ],
)
def test_a_service_reaches_the_market_data_with_its_own_login_only(service: str, login: str):
    urls = [value for key, value in settings_of(service).items() if key.endswith("_URL") and "/upbit" in str(value)]
    assert urls == [f"postgresql://{login}@postgres/upbit"]


@pytest.mark.parametrize("service", ["postgres", "webserver", "daemon", "exchange", "metabase"])
def test_the_other_services_do_not_reach_the_market_data(service: str):
    assert not any("/upbit" in str(value) for value in settings_of(service).values())


def test_a_taken_port_keeps_nothing_from_collecting():
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"webserver", "board", "metabase"}
    for name in published:
        assert SERVICES[name]["depends_on"].keys() > {"daemon", "stream"}


def test_the_image_is_built_once():
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]
    assert "migrate" not in {name for name, service in SERVICES.items() if service["image"] != "upbit-assets"}


def test_only_who_must_leaves_the_databases_network():
    assert COMPOSE["networks"]["data"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    assert outside == {"code", "stream", "webserver", "board", "metabase", "alerts"}


class TestMonitoring:
    def test_its_services_do_not_reach_the_databases(self):
        assert OVERLAY["services"].keys() == {"board", "prometheus", "grafana"}
        assert all(OVERLAY["services"][name]["networks"] == ["outside"] for name in ("prometheus", "grafana"))
        assert "outside" in SERVICES["board"]["networks"]

    def test_the_board_serves_metrics_to_the_host_name_that_prometheus_uses(self):
        config = yaml.safe_load((PROJECT / "deploy" / "monitoring" / "prometheus.yml").read_text())
        [target] = config["scrape_configs"][0]["static_configs"][0]["targets"]
        assert target == "board:8501"
        assert OVERLAY["services"]["board"]["environment"] == {
            "UPBIT_METRICS": "on",
            "UPBIT_BOARD_HOSTS": "board ${UPBIT_BOARD_HOSTS:-}",
        }

    def test_prometheus_keeps_no_more_than_it_may(self):
        command = " ".join(OVERLAY["services"]["prometheus"]["command"])
        assert re.search(r"--storage\.tsdb\.retention\.time=\d+d .*--storage\.tsdb\.retention\.size=\d+GB", command)

    @pytest.mark.parametrize("service", ["prometheus", "grafana"])
    def test_what_it_mounts_is_there_and_read_only(self, service: str):
        volumes = [volume.split(":") for volume in OVERLAY["services"][service]["volumes"]]
        files = [volume for volume in volumes if volume[0].startswith(".")]
        assert files
        assert all((PROJECT / path).exists() and mode == "ro" for path, _, mode in files)
        assert {name for name, *_ in volumes if not name.startswith(".")} == {service} <= OVERLAY["volumes"].keys()


def test_every_password_is_a_file_that_make_secrets_makes():
    [made] = re.findall(r"for name in (.+); do", (PROJECT / "deploy" / "secrets.sh").read_text())
    secrets = COMPOSE["secrets"] | OVERLAY["secrets"]
    assert set(made.split()) == secrets.keys()
    for name, secret in secrets.items():
        assert re.fullmatch(rf"\$\{{UPBIT_SECRETS(:\?[^}}]+)?\}}/{name}", secret["file"])


def test_the_images_instance_says_nothing_twice():
    here, there = (yaml.safe_load((PROJECT / path).read_text()) for path in ("dagster.yaml", "deploy/instance.yaml"))
    assert not here.keys() & there.keys()


def test_the_image_gets_nothing_but_what_it_is_made_of():
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    dockerfile = (PROJECT / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.+)$", dockerfile, re.M) for word in line.split()[:-1]}
    assert let_in == copied
    assert dockerfile.rstrip().endswith("USER 10001:10001")
