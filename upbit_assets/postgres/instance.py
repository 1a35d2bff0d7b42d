"""Dagster's instance storage, named in dagster.yaml."""

import os
from typing import Any, Self

import sqlalchemy as sa
from dagster_postgres import DagsterPostgresStorage

from upbit_assets.postgres.resource import instance_url


class InstanceStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_POSTGRES_URL, else in the embedded PostgreSQL."""

    def __init__(self, postgres_url: str, **options: Any) -> None:
        # a backfill's materializations in one statement: one by one, each takes longer than its window's rows
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
        super().__init__(postgres_url, **options)
        keep_connection(self.event_log_storage)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Self:  # noqa: ARG003
        # dagster-postgres speaks psycopg2 only, whatever driver the URL names
        url = sa.make_url(instance_url()).set(drivername="postgresql+psycopg2")
        return cls(url.render_as_string(hide_password=False), inst_data=inst_data)


def keep_connection(storage: Any) -> None:
    """Keep one connection for all events of a process; Dagster's own opens one for each of the hundreds of a backfill.

    It is asked whether it lives before each use, so a database that restarts costs no run.
    """
    storage._engine = sa.create_engine(  # there is no public way
        storage.postgres_url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=20, pool_pre_ping=True
    )
