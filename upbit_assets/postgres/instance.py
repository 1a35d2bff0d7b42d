"""Dagster's instance storage, named in dagster.yaml."""

import functools
import logging
import os
import threading
from typing import Any, Self

import sqlalchemy as sa
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage

from upbit_assets.dagster_internals import log_errors_briefly, share_connections, watch_code_less_often
from upbit_assets.postgres.resource import instance_url, not_inherited
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.settings import SettingError

HEARTBEAT_SECONDS = 10  # interval at which a run verifies its session
# Redundant events, half of the log: outputs are in their materialization, planned checks in the run's plan, log files
# are not written, and failures are separate events.
NOT_STORED = {
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
    DagsterEventType.STEP_INPUT,
    DagsterEventType.LOADED_INPUT,
    DagsterEventType.HANDLED_OUTPUT,
    DagsterEventType.LOGS_CAPTURED,
}
CONNECTIONS = 3  # kept open by each process
TABLES = {"instance_info", "runs", "event_logs", "jobs"}  # one of each of Dagster's storages
BLANKS = " " * 2000  # PostgreSQL compresses only rows of at least 2 kB, which halves their size
CHECKS = "_checks"  # suffix of check steps, whose outputs are empty and whose results are in each check's history
OF_A_CHECK = {DagsterEventType.STEP_START, DagsterEventType.STEP_OUTPUT, DagsterEventType.STEP_SUCCESS}
PROCESS = ("Started process for run", "Process for run exited")  # the launcher's events, which repeat the run's own
ENDS = {DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}

# One row in ten minutes for a check that passes every minute: the latest pass becomes this run's, which updates it.
CONTINUE_PASS = sa.text("""
UPDATE asset_check_executions SET run_id = :run, create_timestamp = LOCALTIMESTAMP
WHERE id = (SELECT max(id) FROM asset_check_executions WHERE asset_key = :asset AND check_name = :check)
AND execution_status = 'SUCCEEDED' AND run_id <> ''
AND date_bin('10 minutes', create_timestamp, 'epoch') = date_bin('10 minutes', LOCALTIMESTAMP, 'epoch')
""")

ZONE = """
SELECT setting, source,
       extract(timezone FROM timestamptz '2026-01-01') = 0 AND extract(timezone FROM timestamptz '2026-07-01') = 0,
       quote_ident(current_database())
FROM pg_settings WHERE name = 'TimeZone'
"""


class InstanceStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_POSTGRES_URL, else in the embedded PostgreSQL."""

    def __init__(self, postgres_url: str, **options: Any) -> None:
        # store a backfill's materializations in one statement: singly, each takes longer than computing its window
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
        log_errors_briefly()  # they are stored with their stack traces
        watch_code_less_often()
        engine = opened(postgres_url)
        super().__init__(postgres_url, should_autocreate_tables=False, **options)
        self.log = EventLog(postgres_url)
        share_connections(engine, (self.run_storage, self.log, self.schedule_storage))

    @property
    def event_log_storage(self) -> "EventLog":
        return self.log

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Self:  # noqa: ARG003
        # dagster-postgres supports only psycopg2
        url = sqlalchemy_url(instance_url(), "psycopg2")
        return cls(url.render_as_string(hide_password=False), inst_data=inst_data)


def opened(postgres_url: str) -> sa.Engine:
    """The database, with Dagster's tables created if necessary.

    Raises:
        SettingError: its time zone is not UTC; the message says how to change it.
    """
    engine = shared_engine(postgres_url)
    with engine.connect() as connection:
        exist = TABLES.issubset(sa.inspect(connection).get_table_names())
    if not exist:
        DagsterPostgresStorage(postgres_url)
    return engine


@functools.cache
def shared_engine(postgres_url: str) -> sa.Engine:
    """The connection pool of all instances in this process: a code location creates an instance per sensor tick.

    Connections are tested before use, so that no run fails because the database restarted.
    """
    engine = sa.create_engine(
        postgres_url, isolation_level="AUTOCOMMIT", pool_size=CONNECTIONS, max_overflow=20, pool_pre_ping=True
    )
    sa.event.listen(engine, "connect", require_utc)
    return not_inherited(engine)


def is_stored(entry: EventLogEntry) -> bool:
    event, of_a_check = entry.dagster_event, str(entry.step_key).endswith(CHECKS)
    if event is None:  # Dagster logs which of its checks a step has left out
        return not of_a_check or entry.level != logging.INFO
    if event.event_type is DagsterEventType.ENGINE_EVENT:  # the executor's start and end, which are those of the run
        data = event.engine_event_data
        return data.error is not None or not ("step_keys" in data.metadata or str(event.message).startswith(PROCESS))
    return event.event_type not in NOT_STORED and not (of_a_check and event.event_type in OF_A_CHECK)


def has_passed(event: DagsterEvent | None) -> bool:
    """Whether it is a passed check, which is stored in the check's history but not in the run's log."""
    return (
        event is not None
        and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        and event.asset_check_evaluation_data.passed
    )


def without_repetition(event: EventLogEntry) -> EventLogEntry:
    """The event without its redundant parts: the message's copy, logger tags, and a materialization's metadata.

    Dagster shows the inner event's message. Its copy is replaced by blanks, so that PostgreSQL compresses the row.
    """
    inner = event.dagster_event
    if inner is None or inner.message is None:
        return event
    inner = inner._replace(logging_tags={})
    if inner.event_type is DagsterEventType.STEP_OUTPUT:
        inner = inner._replace(event_specific_data=inner.step_output_data._replace(metadata={}))
    return event._replace(user_message=BLANKS, dagster_event=inner)


def require_utc(connection: Any, _record: Any) -> None:
    """Require UTC, as Dagster reads its timestamps as UTC: otherwise runs would be dated nine hours ahead.

    Raises:
        SettingError: the time zone is another one; the message says how to change it.
    """
    with connection.cursor() as cursor:
        cursor.execute(ZONE)
        zone, source, is_utc, database = cursor.fetchone()
    connection.rollback()
    if is_utc:
        return
    fix = f"ALTER DATABASE {database} SET timezone = 'UTC';"
    if source == "client":
        fix = "unset PGTZ and PGOPTIONS."
    elif source.endswith("user"):
        fix = f"ALTER ROLE CURRENT_USER IN DATABASE {database} SET timezone = 'UTC';"
    raise SettingError(
        f"The database of DAGSTER_POSTGRES_URL has the time zone {zone} (set by: {source}). It must be UTC, because "
        f"Dagster reads its timestamps as UTC. Stop everything that uses it, then: {fix}"
    )


class EventLog(PostgresEventLogStorage):
    """The event log, and the runs' heartbeats: each run's process keeps open a session that is named after the run."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._ended: dict[str, threading.Event] = {}

    def store_event(self, event: EventLogEntry) -> None:
        if not is_stored(event):
            return
        event = without_repetition(event)
        if has_passed(event.dagster_event):
            if event.run_id:
                self._continue_pass(event)
            self.store_asset_check_event(event, None)
            return
        super().store_event(event)
        if event.dagster_event_type is DagsterEventType.RUN_START:  # stored by the run's own process
            ended = self._ended[event.run_id] = threading.Event()
            threading.Thread(target=self._keep_session, args=(event.run_id, ended), daemon=True).start()
        elif event.dagster_event_type in ENDS and event.run_id in self._ended:
            self._ended.pop(event.run_id).set()

    def _continue_pass(self, event: EventLogEntry) -> None:
        check = event.get_dagster_event().asset_check_evaluation_data.asset_check_key
        values = {"run": event.run_id, "asset": check.asset_key.to_string(), "check": check.name}
        with self.index_connection() as connection:
            connection.execute(CONTINUE_PASS, values)

    def _keep_session(self, run_id: str, ended: threading.Event) -> None:
        engine = sa.create_engine(
            self.postgres_url,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,
            connect_args={"application_name": session_name(run_id)},
        )
        while not ended.is_set():
            try:
                with engine.connect() as connection:
                    while not ended.wait(HEARTBEAT_SECONDS):
                        connection.exec_driver_sql("SELECT 1")
            except sa.exc.DBAPIError:
                ended.wait(HEARTBEAT_SECONDS)

    def has_heartbeat(self, run_id: str) -> bool:
        """Whether a process is executing the run."""
        session = sa.text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = :name)")
        with self.run_connection(run_id) as connection:
            return bool(connection.scalar(session, {"name": session_name(run_id)}))


def session_name(run_id: str) -> str:
    """The session's application_name, within PostgreSQL's 63 bytes."""
    return f"upbit_assets run {run_id}"
