"""Dagster's instance storage, named in dagster.yaml."""

from typing import Any, Self

import sqlalchemy as sa
from dagster_postgres import DagsterPostgresStorage

from upbit_assets.postgres.resource import instance_url


class InstanceStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_POSTGRES_URL, else in the embedded PostgreSQL."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Self:  # noqa: ARG003
        # dagster-postgres speaks psycopg2 only, whatever driver the URL names
        url = sa.make_url(instance_url()).set(drivername="postgresql+psycopg2")
        return cls(postgres_url=url.render_as_string(hide_password=False), inst_data=inst_data)
