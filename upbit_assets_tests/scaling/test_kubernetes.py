"""Kubernetes' files: valid for Kubernetes, with least privilege, and consistent with dagster.yaml.

The chart's values are held against the names in its schema (dagster's helm/dagster/schema, 1.13) as far as they are
used here, and what they hand to Kubernetes against Kubernetes' own. No cluster has run them.
"""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance

from upbit_assets.dagster_clock import RunCoordinator
from upbit_assets.dashboard.server import running
from upbit_assets.settings import PROJECT, settings
from upbit_assets_tests import http

FOLDER = PROJECT / "deploy" / "kubernetes"
VERSIONS = ("1.29", "1.37")
OBJECTS: list[dict[str, Any]] = [
    found for name in ("services", "network") for found in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())
]
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
[CODE] = VALUES["dagster-user-deployments"]["deployments"]
DAGSTER = {name: VALUES[name] for name in ("dagsterWebserver", "dagsterDaemon")}
RUNS = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
ROLE = "upbit-assets/role"


def names(text: str) -> dict[str, None]:
    return dict.fromkeys(text.split())


# the names that the chart's schema allows; None: any
POD = names(
    "env envConfigMaps envSecrets annotations nodeSelector affinity tolerations podSecurityContext securityContext "
    "resources livenessProbe readinessProbe startupProbe labels volumes volumeMounts schedulerName"
)
IMAGE = names("repository tag pullPolicy")
PROBE = names("enabled exec httpGet periodSeconds timeoutSeconds failureThreshold initialDelaySeconds")
CHART: dict[str, Any] = {
    "global": names(
        "postgresqlSecretName dagsterHome serviceAccountName celeryConfigSecretName dagsterInstanceConfigMap"
    ),
    "generatePostgresqlPasswordSecret": None,
    "generateCeleryConfigSecret": None,
    "postgresql": names(
        "enabled postgresqlHost postgresqlUsername postgresqlPassword postgresqlDatabase postgresqlParams "
        "postgresqlScheme service image"
    ),
    "dagster-user-deployments": {
        "enabled": None,
        "enableSubchart": None,
        "imagePullSecrets": None,
        "deployments": [
            {
                **POD,
                "name": None,
                "image": IMAGE,
                "port": None,
                "dagsterApiGrpcArgs": None,
                "codeServerArgs": None,
                "includeConfigInLaunchedRuns": {"enabled": None},
                "readinessProbe": PROBE,
            }
        ],
    },
    "runLauncher": {
        "type": None,
        "config": {
            "k8sRunLauncher": {
                **names(
                    "image imagePullPolicy jobNamespace loadInclusterConfig kubeconfigFile envConfigMaps envSecrets "
                    "envVars volumeMounts volumes labels failPodOnRunFailure resources schedulerName "
                    "securityContext"
                ),
                "runK8sConfig": names(
                    "containerConfig podSpecConfig podTemplateSpecMetadata jobSpecConfig jobMetadata"
                ),
            }
        },
    },
    "dagsterWebserver": {
        **POD,
        **names(
            "replicaCount image nameOverride pathPrefix workspace deploymentLabels enableReadOnly dbStatementTimeout "
            "dbPoolRecycle logLevel"
        ),
        "readinessProbe": PROBE,
        "service": names("type port annotations"),
    },
    "dagsterDaemon": {
        **POD,
        **names("enabled image heartbeatTolerance deploymentLabels runRetries sensors schedules"),
        "runCoordinator": {
            "enabled": None,
            "type": None,
            "config": {
                "queuedRunCoordinator": {
                    **names("maxConcurrentRuns dequeueIntervalSeconds dequeueNumWorkers dequeueUseThreads"),
                    "tagConcurrencyLimits": [names("key value limit")],
                },
                "customRunCoordinator": names("module class config"),
            },
        },
        "runMonitoring": names(
            "enabled startTimeoutSeconds cancelTimeoutSeconds maxResumeRunAttempts pollIntervalSeconds "
            "freeSlotsAfterRunEndSeconds"
        ),
    },
    "retention": {
        "enabled": None,
        "schedule": {"purgeAfterDays": None},
        "sensor": {"purgeAfterDays": names("skipped success failure started")},
        "autoMaterialize": {"purgeAfterDays": None},
    },
    "computeLogManager": names("type config"),
    "additionalInstanceConfig": None,
    "pythonLogs": names("pythonLogLevel managedPythonLoggers dagsterHandlerConfig"),
    "telemetry": {"enabled": None},
    **{name: {"enabled": None} for name in ("rabbitmq", "redis", "flower", "ingress")},
}


def unknown(values: Any, known: Any, path: str = "") -> Iterator[str]:
    if isinstance(known, list):
        for value in values:
            yield from unknown(value, known[0], path)
    elif known is not None:
        for name, value in values.items():
            if name in known:
                yield from unknown(value, known[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"


def pod_of(component: dict[str, Any]) -> dict[str, Any]:
    """The pod that the chart creates for a component, as far as the values specify it."""
    container: dict[str, Any] = {
        name: component[name] for name in ("securityContext", "resources", "volumeMounts", "env") if name in component
    }
    if "readinessProbe" in component:
        container["readinessProbe"] = {k: v for k, v in component["readinessProbe"].items() if k != "enabled"}
    return {
        "securityContext": component["podSecurityContext"],
        "volumes": component["volumes"],
        "containers": [{"name": "one", "image": "one", **container}],
    }


PODS: dict[str, dict[str, Any]] = {
    **{
        found["metadata"]["name"]: found["spec"]["template"]["spec"]
        for found in OBJECTS
        if "template" in found.get("spec", {})
    },
    **{name: pod_of(component) for name, component in {"code": CODE, **DAGSTER}.items()},
    "run": pod_of({**CODE, "podSecurityContext": RUNS["runK8sConfig"]["podSpecConfig"]["securityContext"]}),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_each_object(version: str):
    for found in OBJECTS:
        kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", PODS)
def test_kubernetes_takes_each_pod_that_the_chart_makes(name: str, version: str):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": PODS[name]}
    kubernetes_validate.validate(pod, version, strict=True)


def test_a_wrong_name_is_detected():
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            OBJECTS[1] | {"spec": OBJECTS[1]["spec"] | {"backofLimit": 1}}, "1.37", strict=True
        )
    assert list(unknown({"dagsterDaemon": {"runMonitorin": {}}}, CHART)) == [".dagsterDaemon.runMonitorin"]


def test_the_chart_has_a_name_for_every_value():
    assert not list(unknown(VALUES, CHART))


@pytest.mark.parametrize("name", PODS)
def test_pods_have_least_privilege(name: str):
    pod = PODS[name]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(volume.keys() <= {"name", "emptyDir"} for volume in pod["volumes"])
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_only_run_launchers_use_the_kubernetes_api():
    asked = {name for name, pod in PODS.items() if pod.get("automountServiceAccountToken", True)}
    assert asked - {"code", "run"} == DAGSTER.keys()
    assert RUNS["runK8sConfig"]["podSpecConfig"]["automountServiceAccountToken"] is False


def test_every_password_is_a_secret_of_its_own_login():
    found = {
        (name, setting["name"], setting["valueFrom"]["secretKeyRef"]["name"])
        for name, pod in PODS.items()
        for container in pod["containers"]
        for setting in container.get("env", [])
        if "PASSWORD" in setting["name"]
    }
    assert found == {
        ("migrate", "UPBIT_POSTGRES_PASSWORD", "upbit-owner"),
        ("board", "UPBIT_POSTGRES_PASSWORD", "upbit-reader"),
        ("code", "UPBIT_POSTGRES_PASSWORD", "upbit-pipeline"),
        ("stream", "UPBIT_POSTGRES_PASSWORD", "upbit-pipeline"),
        ("alerts", "UPBIT_POSTGRES_PASSWORD", "upbit-pipeline"),
        ("alerts", "DAGSTER_POSTGRES_PASSWORD", "dagster-postgresql"),
        ("run", "UPBIT_POSTGRES_PASSWORD", "upbit-pipeline"),
    }
    assert VALUES["postgresql"]["postgresqlPassword"] == ""
    assert VALUES["generatePostgresqlPasswordSecret"] is False
    assert VALUES["global"]["postgresqlSecretName"]


def test_everything_that_loads_the_instance_has_the_right_image():
    """They need this project's run coordinator and dagster-k8s' launcher; the code's image doesn't need the latter."""
    images = {name: f"{component['image']['repository']}" for name, component in {**DAGSTER, "code": CODE}.items()}
    assert images.pop("code") == "registry.example.internal/upbit-assets"
    assert set(images.values()) == {"registry.example.internal/upbit-assets-kubernetes"}
    assert (FOLDER / "Dockerfile").read_text().splitlines()[1] == "FROM upbit-assets"
    locked = (FOLDER / "requirements.lock").read_text()
    assert "\ndagster-k8s==" in locked
    for line in (PROJECT / "requirements.lock").read_text().splitlines():
        if "==" in line:
            assert line.partition(";")[0].strip(" \\") in locked, "the same versions as in the code's image"


def test_network_policies_know_every_pod_by_its_role():
    roles = {
        found["spec"]["template"]["metadata"]["labels"][ROLE]
        for found in OBJECTS
        if "template" in found.get("spec", {})
    }
    roles |= {component["labels"][ROLE] for component in (CODE, RUNS, *DAGSTER.values())}
    policies = [found["spec"] for found in OBJECTS if found["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies

    def named(selector: Any) -> Iterator[str]:
        if isinstance(selector, dict):
            if ROLE in selector:
                yield selector[ROLE]
            if selector.get("key") == ROLE:
                yield from selector["values"]
            for value in selector.values():
                yield from named(value)
        elif isinstance(selector, list):
            for value in selector:
                yield from named(value)

    assert set(named(policies)) == roles - {"migrate"}


def test_the_board_answers_its_probes_and_prometheus(market_database: str, monkeypatch: pytest.MonkeyPatch):
    """Both request the pod's address, which is none of the board's own host names."""
    [board] = PODS["board"]["containers"]
    for variable in board["env"]:
        if variable["name"] in {"UPBIT_BOARD_HOSTS", "UPBIT_METRICS"}:
            monkeypatch.setenv(variable["name"], variable["value"].replace("$(POD_IP)", "10.1.2.3"))
    paths = [board[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")]
    with running(market_database, settings.UPBIT_BOARD_HOSTS) as url:
        for path in (*paths, "/metrics"):
            assert http.get(url + path, headers={"Host": "10.1.2.3:8501"}).status_code == 200


def test_the_instance_is_that_of_dagster_yaml():
    ours = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    daemon = DAGSTER["dagsterDaemon"]
    coordinator, monitoring = daemon["runCoordinator"], daemon["runMonitoring"]
    assert coordinator["type"] == "CustomRunCoordinator"
    limits = ours["concurrency"]["runs"]
    config = {**ours["run_coordinator"]["config"], **limits}
    theirs = coordinator["config"]["customRunCoordinator"]
    assert theirs == {**ours["run_coordinator"], "config": config}
    with DagsterInstance.local_temp(overrides={"run_coordinator": theirs}) as instance:
        assert isinstance(instance.run_coordinator, RunCoordinator)
        queue = instance.run_coordinator.get_run_queue_config()
        assert queue.max_concurrent_runs == limits["max_concurrent_runs"]
        assert queue.tag_concurrency_limits == limits["tag_concurrency_limits"]
    assert monitoring["enabled"] is ours["run_monitoring"]["enabled"] is True
    assert monitoring["pollIntervalSeconds"] == ours["run_monitoring"]["poll_interval_seconds"]
    kept = VALUES["retention"]["sensor"]["purgeAfterDays"]
    assert ours["retention"]["sensor"]["purge_after_days"].items() <= kept.items()
    assert VALUES["telemetry"] == ours["telemetry"]
    in_containers = yaml.safe_load((PROJECT / "deploy" / "instance.yaml").read_text())
    assert VALUES["pythonLogs"]["pythonLogLevel"] == in_containers["python_logs"]["python_log_level"]
