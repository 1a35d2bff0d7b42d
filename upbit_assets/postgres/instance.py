"""Dagster's instance storage, named in dagster.yaml."""

import os
import threading
from typing import Any, Self

import sqlalchemy as sa
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster_postgres import DagsterPostgresStorage

from upbit_assets.dagster_internals import PooledEventLog
from upbit_assets.postgres.resource import instance_url
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.settings import SettingError

BEAT = 10  # seconds after which a lost sign of life is noticed by who gives it
# Half of the log, in which nobody looks for them: what an output was, its materialization tells as well, what a run is
# going to check, its plan does, and what fails is stored.
NOT_STORED = {
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
    DagsterEventType.STEP_INPUT,
    DagsterEventType.LOADED_INPUT,
    DagsterEventType.HANDLED_OUTPUT,
}
CHECKS = "_checks"  # as steps are named whose outputs hold nothing
ENDS = {DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}


ZONE = sa.text("""
SELECT setting, source,
       extract(timezone FROM timestamptz '2026-01-01') = 0 AND extract(timezone FROM timestamptz '2026-07-01') = 0,
       quote_ident(current_database())
FROM pg_settings WHERE name = 'TimeZone'
""")


class InstanceStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_POSTGRES_URL, else in the embedded PostgreSQL."""

    def __init__(self, postgres_url: str, **options: Any) -> None:
        # a backfill's materializations in one statement: one by one, each takes longer than its window's rows
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
        super().__init__(postgres_url, **options)
        self.log = EventLog(postgres_url)  # the tables are there now
        require_utc(self.log)

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


def is_stored(event: DagsterEvent | None) -> bool:
    if event is None:
        return True
    if event.event_type is DagsterEventType.STEP_OUTPUT:
        return not str(event.step_key).endswith(CHECKS)
    return event.event_type not in NOT_STORED


def without_repetition(event: EventLogEntry) -> EventLogEntry:
    """The same without the tags for loggers, which say once more what the event says."""
    if event.dagster_event is None:
        return event
    return event._replace(dagster_event=event.dagster_event._replace(logging_tags={}))


def require_utc(log: PooledEventLog) -> None:
    """Refuse a database whose times are not UTC, as Dagster takes them to be: by nine hours its runs would be of later.

    Raises:
        SettingError: says how to change it.
    """
    with log.index_connection() as connection:
        zone, source, is_utc, database = connection.execute(ZONE).one()
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


class EventLog(PooledEventLog):
    """The runs' events; and which runs are alive, as each run's process holds a session that is named after it."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__(postgres_url)
        self._ended: dict[str, threading.Event] = {}

    def store_event(self, event: EventLogEntry) -> None:
        if not is_stored(event.dagster_event):
            return
        super().store_event(without_repetition(event))
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
                    while not ended.wait(BEAT):
                        connection.exec_driver_sql("SELECT 1")
            except sa.exc.DBAPIError:
                ended.wait(BEAT)

    def shows_life(self, run_id: str) -> bool:
        """Whether there is a process that executes the run."""
        session = sa.text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = :sign)")
        with self.run_connection(run_id) as connection:
            return bool(connection.scalar(session, {"sign": sign(run_id)}))


def sign(run_id: str) -> str:
    """The name of the session, within PostgreSQL's 63 bytes."""
    return f"upbit_assets run {run_id}"
