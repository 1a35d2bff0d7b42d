"""Dagster's instance storage, named in dagster.yaml."""

import functools
import os
import threading
from typing import Any, Self

import sqlalchemy as sa
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage

from upbit_assets.dagster_internals import share_connections
from upbit_assets.postgres.resource import instance_url
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.settings import SettingError

HEARTBEAT_SECONDS = 10  # seconds after which a lost sign of life is noticed by who gives it
# Half of the log, in which nobody looks for them: what an output was, its materialization tells as well, what a run is
# going to check, its plan does, what it prints is in no file, and what fails is stored.
NOT_STORED = {
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
    DagsterEventType.STEP_INPUT,
    DagsterEventType.LOADED_INPUT,
    DagsterEventType.HANDLED_OUTPUT,
    DagsterEventType.LOGS_CAPTURED,
}
CONNECTIONS = 3  # that a process keeps
TABLES = {"instance_info", "runs", "event_logs", "jobs"}  # one that each of Dagster's storages makes with its others
BLANKS = " " * 2000  # PostgreSQL compresses a row of 2 kB, to a half, and none that is shorter
CHECKS = "_checks"  # as steps are named whose outputs hold nothing
ENDS = {DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}


ZONE = """
SELECT setting, source,
       extract(timezone FROM timestamptz '2026-01-01') = 0 AND extract(timezone FROM timestamptz '2026-07-01') = 0,
       quote_ident(current_database())
FROM pg_settings WHERE name = 'TimeZone'
"""


class InstanceStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_POSTGRES_URL, else in the embedded PostgreSQL."""

    def __init__(self, postgres_url: str, **options: Any) -> None:
        # a backfill's materializations in one statement: one by one, each takes longer than its window's rows
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
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
        # dagster-postgres speaks psycopg2 only, whatever driver the URL names
        url = sqlalchemy_url(instance_url(), "psycopg2")
        return cls(url.render_as_string(hide_password=False), inst_data=inst_data)


def opened(postgres_url: str) -> sa.Engine:
    """The database, with Dagster's tables.

    Raises:
        SettingError: its times are not in UTC; the message says how to change it.
    """
    engine = shared_engine(postgres_url)
    with engine.connect() as connection:
        there = TABLES.issubset(sa.inspect(connection).get_table_names())
    if not there:
        DagsterPostgresStorage(postgres_url)
    return engine


@functools.cache
def shared_engine(postgres_url: str) -> sa.Engine:
    """The connections of all instances in this process: a code location makes one for each look of a sensor.

    A connection is asked whether it lives before each use, so a database that restarts costs no run.
    """
    engine = sa.create_engine(
        postgres_url, isolation_level="AUTOCOMMIT", pool_size=CONNECTIONS, max_overflow=20, pool_pre_ping=True
    )
    sa.event.listen(engine, "connect", require_utc)
    return engine


def is_stored(event: DagsterEvent | None) -> bool:
    if event is None:
        return True
    match event.event_type:
        case DagsterEventType.STEP_OUTPUT:
            return not str(event.step_key).endswith(CHECKS)
        case DagsterEventType.ENGINE_EVENT:  # the executor begins and ends, as the run does
            return event.engine_event_data.error is not None or "step_keys" not in event.engine_event_data.metadata
    return event.event_type not in NOT_STORED


def has_passed(event: DagsterEvent | None) -> bool:
    """Whether it is of a check that passed, which its own history tells; the run's log has those that fail."""
    return (
        event is not None
        and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        and event.asset_check_evaluation_data.passed
    )


def without_repetition(event: EventLogEntry) -> EventLogEntry:
    """The same without what it says once more: its message, as tags for loggers, and what a materialization tells.

    In place of the message, which is taken from the event in it, are blanks that let PostgreSQL compress the row.
    """
    said = event.dagster_event
    if said is None or said.message is None:
        return event
    said = said._replace(logging_tags={})
    if said.event_type is DagsterEventType.STEP_OUTPUT:
        said = said._replace(event_specific_data=said.step_output_data._replace(metadata={}))
    return event._replace(user_message=BLANKS, dagster_event=said)


def require_utc(connection: Any, _record: Any) -> None:
    """Refuse a database whose times are not UTC, as Dagster takes them to be: by nine hours its runs would be of later.

    Raises:
        SettingError: says how to change it.
    """
    with connection.cursor() as cursor:
        cursor.execute(ZONE)
        zone, source, is_utc, database = cursor.fetchone()
    connection.rollback()
    if is_utc:
        return
    cure = f"ALTER DATABASE {database} SET timezone = 'UTC';"
    if source == "client":
        cure = "unset PGTZ and PGOPTIONS."
    elif source.endswith("user"):
        cure = f"ALTER ROLE CURRENT_USER IN DATABASE {database} SET timezone = 'UTC';"
    raise SettingError(
        f"DAGSTER_POSTGRES_URL names a database in which the time zone is {zone}, by its {source}. It must be UTC, as "
        f"Dagster reads its times so. Stop what uses it, and: {cure}"
    )


class EventLog(PostgresEventLogStorage):
    """The runs' events; and which runs are alive, as each run's process holds a session that is named after it."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._ended: dict[str, threading.Event] = {}

    def store_event(self, event: EventLogEntry) -> None:
        if not is_stored(event.dagster_event):
            return
        event = without_repetition(event)
        if has_passed(event.dagster_event):
            self.store_asset_check_event(event, None)
            return
        super().store_event(event)
        if event.dagster_event_type is DagsterEventType.RUN_START:  # which the run's own process stores
            ended = self._ended[event.run_id] = threading.Event()
            threading.Thread(target=self._show_life, args=(event.run_id, ended), daemon=True).start()
        elif event.dagster_event_type in ENDS and event.run_id in self._ended:
            self._ended.pop(event.run_id).set()

    def _show_life(self, run_id: str, ended: threading.Event) -> None:
        engine = sa.create_engine(
            self.postgres_url,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,
            connect_args={"application_name": sign(run_id)},
        )
        while not ended.is_set():
            try:
                with engine.connect() as connection:
                    while not ended.wait(HEARTBEAT_SECONDS):
                        connection.exec_driver_sql("SELECT 1")
            except sa.exc.DBAPIError:
                ended.wait(HEARTBEAT_SECONDS)

    def has_heartbeat(self, run_id: str) -> bool:
        """Whether there is a process that executes the run."""
        session = sa.text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = :sign)")
        with self.run_connection(run_id) as connection:
            return bool(connection.scalar(session, {"sign": sign(run_id)}))


def sign(run_id: str) -> str:
    """The name of the session, within PostgreSQL's 63 bytes."""
    return f"upbit_assets run {run_id}"
