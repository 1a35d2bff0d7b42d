"""The URLs of the databases, and connections to the market database."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from dagster import ConfigurableResource

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.settings import settings

PIPELINE_ROLE, READER_ROLE = "upbit_pipeline", "upbit_reader"
READER_SETTINGS = {"default_transaction_read_only": "on", "statement_timeout": "5s"}


class DatabaseError(RuntimeError):
    """A database error; the message says what happened and what to do."""


def embedded() -> EmbeddedPostgres:
    return embedded_in(settings.DAGSTER_HOME / ".postgres")


embedded_in = functools.cache(EmbeddedPostgres)


def embedded_url(name: str) -> str:
    """The URL of a database on the embedded server, which is started if necessary."""
    from upbit_assets.postgres.migrate import migrate  # Alembic, which runs don't need

    server = embedded()
    server.start(prepare=lambda: migrate(server.url("upbit")))
    return server.url(name)


def market_url() -> str:
    """The market database: UPBIT_POSTGRES_URL, else embedded."""
    return settings.UPBIT_POSTGRES_URL or embedded_url("upbit")


def reader_url() -> str:
    """The market database for readers: UPBIT_READER_URL, else the same as the pipeline's."""
    return settings.UPBIT_READER_URL or market_url()


def instance_url() -> str:
    """Dagster's own database: DAGSTER_POSTGRES_URL, else embedded."""
    return settings.DAGSTER_POSTGRES_URL or embedded_url("dagster")


def not_inherited(engine: sa.Engine) -> sa.Engine:
    """The engine, whose connections a forked process leaves alone: two processes would mix up each other's messages."""
    os.register_at_fork(after_in_child=functools.partial(engine.dispose, close=False))
    return engine


@functools.cache
def engine_for(url: str, role: str = PIPELINE_ROLE) -> sa.Engine:
    """An engine whose sessions use the role's privileges instead of the login's; the reader's are read-only."""
    engine = sa.create_engine(
        sqlalchemy_url(url),
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "application_name": "upbit_assets"},
    )

    @sa.event.listens_for(engine, "connect")
    def take_role(connection: Any, _record: Any) -> None:
        connection.execute(f"SET ROLE {role}")
        connection.execute("SET timezone = 'Asia/Seoul'")
        for setting, value in READER_SETTINGS.items() if role == READER_ROLE else ():
            connection.execute(f"SET {setting} = '{value}'")
        connection.commit()

    return not_inherited(engine)


class Database(ConfigurableResource):
    """The market database, with the pipeline's role."""

    @property
    def engine(self) -> sa.Engine:
        return engine_for(market_url())

    @contextmanager
    def connect(self, isolation_level: Any = "AUTOCOMMIT") -> Iterator[sa.Connection]:
        """A connection that raises errors with advice.

        Raises:
            DatabaseError: PostgreSQL is down, full, not migrated, or rejected a statement.
        """
        engine = self.engine
        try:
            with engine.connect() as connection:
                yield connection.execution_options(isolation_level=isolation_level)
        except sa.exc.DBAPIError as error:
            raise DatabaseError(explain(error.orig, engine.url)) from error
        except psycopg.Error as error:  # from COPY, which bypasses SQLAlchemy
            raise DatabaseError(explain(error, engine.url)) from error


def explain(error: BaseException | None, url: sa.URL) -> str:
    """A database error with advice for the reader of the run's log."""
    message = str(error).strip()
    address = url.render_as_string(hide_password=True)
    match error:
        case (
            psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedObject() | psycopg.errors.InvalidParameterValue()
        ):
            advice = "The schema is missing or out of date. Run: upbit-assets migrate"
        case psycopg.errors.DiskFull():
            advice = "The database's disk is full. Free some space, then run this again."
        case psycopg.errors.InsufficientPrivilege():
            advice = (
                "The pipeline's role lacks the privilege for this: bronze is append-only. If this is something else, "
                "the schema is out of date. Run: upbit-assets migrate"
            )
        case (
            psycopg.errors.LockNotAvailable()
            | psycopg.errors.DeadlockDetected()
            | psycopg.errors.SerializationFailure()
        ):
            advice = "Another session holds a conflicting lock. Run this again."
        case psycopg.OperationalError():
            advice = "PostgreSQL is not reachable, or the connection was lost. Start it, then run this again."
        case _:
            advice = "PostgreSQL rejected the statement."
    return f"{advice} The transaction was rolled back. ({address}: {message})"
