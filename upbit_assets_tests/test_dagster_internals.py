"""Everything that this project uses beyond Dagster's public API exists and accepts its arguments."""

import ast
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster_postgres
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from dagster import (
    AssetKey,
    DagsterInstance,
    DailyPartitionsDefinition,
    PartitionKeyRange,
    QueuedRunCoordinator,
    RunsFilter,
    build_output_context,
)

import upbit_assets
from upbit_assets import dagster_internals
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.instance import InstanceStorage, shared_engine
from upbit_assets_tests.dagster_internals import (
    DaemonErrorCapture,
    WorkspaceProcessContext,
    get_alembic_config,
    grpc_server,
    server_watcher,
)

PACKAGE = Path(upbit_assets.__file__).parent
MODULE = PACKAGE / "dagster_internals.py"
PRIVATE = [
    (imported.module, name.name)
    for imported in ast.walk(ast.parse(MODULE.read_text()))
    if isinstance(imported, ast.ImportFrom) and imported.module and "dagster" in imported.module.split(".")[0]
    for name in imported.names
]
INSTANCE_METHODS: dict[str, dict[str, Any]] = {
    "all_instigator_state": {},
    "get_ticks": {"origin_id": "", "selector_id": "", "after": 0.0},
    "update_instigator_state": {"state": None},
    "update_tick": {"tick": None},
    "get_daemon_heartbeats": {},
    "wipe_daemon_heartbeats": {},
    "add_run_tags": {"run_id": "", "new_tags": {}},
    "get_runs": {"filters": None},
    "report_run_canceling": {"run": None},
    "report_run_canceled": {"dagster_run": None},
}
OVERRIDDEN = [
    (dagster_internals.RunLauncher, "check_run_worker_health", {"run": None}),
    (dagster_internals.RunLauncher, "terminate", {"run_id": ""}),
    (dagster_postgres.PostgresEventLogStorage, "__init__", {"postgres_url": "", "should_autocreate_tables": False}),
    (dagster_postgres.PostgresEventLogStorage, "store_event", {"event": None}),
]
PROPERTIES = [
    (QueuedRunCoordinator, "_instance", "instance_of"),
    (dagster_internals.RunLauncher, "_instance", "instance_of"),
    (dagster_internals.RunLauncher, "supports_check_run_worker_health", "launcher.py: run monitoring asks it first"),
    (QueuedRunCoordinator, "dequeue_interval_seconds", "dagster_clock.py: called only by the daemon"),
    (dagster_postgres.DagsterPostgresStorage, "event_log_storage", "instance.py: returns our event log"),
]


@pytest.mark.parametrize(("module", "name"), PRIVATE)
def test_each_private_name_exists(module: str, name: str):
    assert hasattr(importlib.import_module(module), name), f"{module} has no {name} any more: see {MODULE.name}"


@pytest.mark.parametrize(("name", "arguments"), INSTANCE_METHODS.items())
def test_undocumented_methods_of_the_instance_accept_our_arguments(name: str, arguments: dict[str, Any]):
    """The methods used by dagster_clock.py and the launchers."""
    inspect.signature(getattr(DagsterInstance, name)).bind(None, **arguments)


@pytest.mark.parametrize(("base", "name", "arguments"), OVERRIDDEN)
def test_overridden_methods_have_the_same_signature(base: type, name: str, arguments: dict[str, Any]):
    inspect.signature(getattr(base, name)).bind(None, **arguments)


@pytest.mark.parametrize(("owner", "name", "used_by"), PROPERTIES)
def test_overridden_properties_are_still_properties(owner: type, name: str, used_by: str):
    assert isinstance(inspect.getattr_static(owner, name, None), property), f"{owner}.{name}: see {used_by}"


@pytest.fixture
def storage(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> InstanceStorage:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url("dagster"))
    return InstanceStorage.from_config_value(None, {})


def test_the_instances_of_a_process_share_their_connections(storage: InstanceStorage):
    sessions = set()
    each: Any
    for each in (storage, InstanceStorage.from_config_value(None, {})):
        for connect in (
            each.run_storage.connect,
            each.event_log_storage.index_connection,
            each.schedule_storage.connect,
        ):
            with connect() as connection:
                sessions.add(connection.scalar(sa.text("SELECT pg_backend_pid()")))
    assert len(sessions) == 1, "a storage takes its connections from elsewhere than _engine"


def test_existing_tables_are_queried_once(storage: InstanceStorage):
    asked = list[str]()
    sa.event.listen(shared_engine(storage.postgres_url), "before_cursor_execute", lambda *said: asked.append(said[2]))
    for _ in range(2):
        asked.clear()
        storage.run_storage.get_runs(RunsFilter(tags={"dagster/backfill": "none"}), limit=1)
        storage.schedule_storage.all_instigator_state()
        storage.event_log_storage.get_asset_records([AssetKey("silver_ticker")])
    assert asked
    assert [each for each in asked if "pg_catalog" in each] == [], (
        "it asks by another method than those of SCHEMA_QUERIES"
    )


@pytest.mark.usefixtures("storage")
def test_what_the_daemon_fails_to_do_is_a_few_lines_of_its_log(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("dagster.daemon.SensorDaemon")
    try:
        Path("/nowhere").read_text()
    except OSError:
        error = DaemonErrorCapture.process_exception(sys.exc_info(), logger=logger, log_message="A sensor failed")
    printed = logging.Formatter().format(caplog.records[-1])
    assert printed.startswith("A sensor failed\n  FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'\n")
    assert len(printed.splitlines()) == 3
    assert len(error.stack) > 1, "stored with the tick"


@pytest.mark.usefixtures("storage")
def test_the_webserver_and_the_daemon_watch_the_code_at_our_interval():
    assert WorkspaceProcessContext._start_watch_thread is dagster_internals.start_watch_thread
    assert '"watch_interval", WATCH_INTERVAL)' in inspect.getsource(server_watcher.watch_grpc_server_thread)


def test_runs_are_not_forked_if_the_path_of_the_temporary_folder_is_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(grpc_server.DagsterApiServer, "_mp_ctx", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/" + "긴" * 24)
    dagster_internals.fork_runs("upbit_assets.run_imports")
    assert not hasattr(grpc_server.DagsterApiServer, "_mp_ctx")


def test_the_installed_dagsters_tables_are_known():
    file = Path(dagster_postgres.__file__).parent / "event_log" / "event_log.py"
    (head,) = ScriptDirectory.from_config(get_alembic_config(str(file), "../alembic/alembic.ini")).get_heads()
    assert head in dagster_internals.REVISIONS, "read what changed in Dagster's tables, then add it"


def test_no_other_module_uses_private_attributes_of_dagster():
    """Linters don't see it, as it is accessed through self."""
    own, used = set[str](), dict[str, str]()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            own |= set(names_defined_by(node))
            if isinstance(node, ast.Attribute) and is_private(node.attr) and file != MODULE:
                used[node.attr] = f"{file.name}:{node.lineno}"
    named_tuple = {"_asdict", "_fields", "_replace"}
    assert {name: place for name, place in used.items() if name not in own | named_tuple} == {}


def names_defined_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(attr=name, value=ast.Name(id="self"), ctx=ast.Store()):
            yield name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_an_output_is_of_the_given_partitions():
    partitions = DailyPartitionsDefinition("2026-01-01")
    keys = PartitionKeyRange("2026-01-01", "2026-01-03")
    context = build_output_context(asset_partitions_def=partitions, asset_partition_key_range=keys)
    dagster_internals.materialize_only(context, ["2026-01-02"])
    assert context.asset_partition_keys == ["2026-01-02"]
