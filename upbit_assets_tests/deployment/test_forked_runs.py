"""Runs are forked from a process of the code location that has imported what they need."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets_tests.dagster_internals import GrpcServerTarget, WorkspaceProcessContext, create_run_for_test
from upbit_assets_tests.deployment.conftest import an_instance, code_location
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.postgres.lab import until

CODE = """
import os
import time

import sqlalchemy as sa
from dagster import Definitions, in_process_executor, job, op

from upbit_assets.dagster_internals import fork_runs
from upbit_assets.postgres.resource import Database

@op
def note_its_parent(context):
    with Database().connect() as connection:
        session = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    context.instance.add_run_tags(context.run_id, {"parent": str(os.getppid()), "session": str(session)})

@job
def noted():
    note_its_parent()

@op
def last(context):
    context.instance.add_run_tags(context.run_id, {"process": str(os.getpid())})
    time.sleep(600)

@job
def lasting():
    last()

defs = Definitions(jobs=[noted, lasting], executor=in_process_executor)
fork_runs("upbit_assets.run_imports")
"""
Launch = Callable[[str], DagsterRun]


class Location(NamedTuple):
    """A running code location."""

    server: psutil.Process
    port: int

    @property
    def forking(self) -> psutil.Process:
        """The process that runs are forked from."""
        (found,) = [each for each in self.server.children() if "forkserver" in " ".join(each.cmdline())]
        return found


@pytest.fixture(scope="module")
def instance(server: EmbeddedPostgres) -> Iterator[DagsterInstance]:
    with an_instance(server, "postgres") as instance:
        yield instance


@pytest.fixture(scope="module")
def location(
    instance: DagsterInstance, server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Location]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "127.0.0.1")
        environment.setenv("UPBIT_POSTGRES_URL", server.url("upbit"))
        environment.delenv("UPBIT_START")  # so that loading the code reads the first day from the database
        with code_location(tmp_path_factory.mktemp("location"), CODE) as found:
            yield Location(*found)


@pytest.fixture(scope="module")
def launch(instance: DagsterInstance, location: Location) -> Iterator[Launch]:
    target = GrpcServerTarget(host="127.0.0.1", port=location.port, socket=None, location_name="here")
    with WorkspaceProcessContext(instance, target) as process:
        workspace = process.create_request_context()

        def launched(job: str) -> DagsterRun:
            (repository,) = workspace.get_code_location("here").get_repositories().values()
            found = repository.get_full_job(job)
            run = create_run_for_test(
                instance,
                job,
                remote_job_origin=found.get_remote_origin(),
                job_code_origin=found.get_python_origin(),
            )
            instance.launch_run(run.run_id, workspace)
            return run

        yield launched


def ended(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    def found() -> DagsterRun | None:
        current = instance.get_run_by_id(run.run_id)
        return current if current and current.is_finished else None

    return until(found, "its end")


def test_a_run_is_forked_from_a_process_with_one_thread_whose_connection_it_leaves_alone(
    instance: DagsterInstance, server: EmbeddedPostgres, location: Location, launch: Launch
):
    first, second = (ended(instance, launch("noted")) for _ in range(2))
    parent = location.forking
    assert (first.status, first.tags["parent"]) == (DagsterRunStatus.SUCCESS, str(parent.pid))
    assert second.tags["parent"] == first.tags["parent"]
    assert parent.num_threads() == 1
    sessions = "SELECT pid::text FROM pg_stat_activity WHERE datname = 'upbit' AND application_name = 'upbit_assets'"
    # a run's session ends some time after the run
    ((kept,),) = until(lambda: len(found := ask(server.url("upbit"), sessions)) == 1 and found, "the runs' sessions")
    assert len({first.tags["session"], second.tags["session"], kept}) == 3


def test_a_run_can_be_terminated(instance: DagsterInstance, launch: Launch):
    run = launch("lasting")
    until(lambda: "process" in (instance.get_run_by_id(run.run_id) or run).tags, "its op")
    assert instance.run_launcher.terminate(run.run_id)
    assert ended(instance, run).status is DagsterRunStatus.CANCELED


def test_runs_go_on_and_start_if_the_process_they_are_forked_from_is_killed(
    instance: DagsterInstance, location: Location, launch: Launch
):
    lasting = launch("lasting")
    until(lambda: "process" in (instance.get_run_by_id(lasting.run_id) or lasting).tags, "its op")
    before = location.forking
    before.kill()
    until(lambda: before.status() == psutil.STATUS_ZOMBIE or not before.is_running(), "its end")
    assert ended(instance, launch("noted")).tags["parent"] == str(location.forking.pid) != str(before.pid)

    process = int((instance.get_run_by_id(lasting.run_id) or lasting).tags["process"])
    assert psutil.pid_exists(process)
    os.kill(process, signal.SIGINT)
    assert ended(instance, lasting).is_finished
