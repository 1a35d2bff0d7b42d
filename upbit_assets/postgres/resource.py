"""Where the market data live, and connections to it."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from dagster import ConfigurableResource

from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.settings import settings

PIPELINE_ROLE, READER_ROLE = "upbit_pipeline", "upbit_reader"
READER_SETTINGS = {"default_transaction_read_only": "on", "statement_timeout": "5s"}


class DatabaseError(RuntimeError):
    """The database refused or is gone; the message says what happened and what to do."""


def embedded() -> EmbeddedPostgres:
    return EmbeddedPostgres(settings.DAGSTER_HOME / ".postgres")


def embedded_url(name: str) -> str:
    """A database of the embedded server, which is started if it isn't running."""
    server = embedded()
    server.start(prepare=lambda: migrate(server.url("upbit")))
    return server.url(name)


def market_url() -> str:
    """The market data's database: UPBIT_POSTGRES_URL, else embedded."""
    return settings.UPBIT_POSTGRES_URL or embedded_url("upbit")


def reader_url() -> str:
    """The same for those who only read: UPBIT_READER_URL, else as the pipeline."""
    return settings.UPBIT_READER_URL or market_url()


def instance_url() -> str:
    """Dagster's own database: DAGSTER_POSTGRES_URL, else embedded."""
    return settings.DAGSTER_POSTGRES_URL or embedded_url("dagster")


@functools.cache
def engine_for(url: str, role: str = PIPELINE_ROLE) -> sa.Engine:
    """An engine that works with the role's rights, whatever rights the login has; the reader's only reads."""
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

    return engine


class Database(ConfigurableResource):
    """The market data in PostgreSQL, reached with the pipeline's rights."""

    @property
    def engine(self) -> sa.Engine:
        return engine_for(market_url())

    @contextmanager
    def connect(self, isolation_level: Any = "AUTOCOMMIT") -> Iterator[sa.Connection]:
        """A connection whose errors are in plain words.

        Raises:
            DatabaseError: PostgreSQL is gone, full, not migrated, or refused.
        """
        engine = self.engine
        try:
            with engine.connect() as connection:
                yield connection.execution_options(isolation_level=isolation_level)
        except sa.exc.DBAPIError as error:
            raise DatabaseError(explain(error.orig, engine.url)) from error
        except psycopg.Error as error:  # COPY goes past SQLAlchemy
            raise DatabaseError(explain(error, engine.url)) from error


def explain(error: BaseException | None, url: sa.URL) -> str:
    """What a database error means to the person who reads it in the run's log."""
    said = str(error).strip()
    where = url.render_as_string(hide_password=True)
    match error:
        case (
            psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedObject() | psycopg.errors.InvalidParameterValue()
        ):
            advice = "The schema is not there, or not up to date. Run: upbit-assets migrate"
        case psycopg.errors.DiskFull():
            advice = "The database's disk is full. Free some space, then run this again."
        case psycopg.errors.InsufficientPrivilege():
            advice = (
                "The database refuses this to the pipeline: bronze may only be added to. If that is not it, the "
                "schema is not up to date. Run: upbit-assets migrate"
            )
        case (
            psycopg.errors.LockNotAvailable()
            | psycopg.errors.DeadlockDetected()
            | psycopg.errors.SerializationFailure()
        ):
            advice = "Another session is writing there. Run this again."
        case psycopg.OperationalError():
            advice = "PostgreSQL does not answer, or went away. Start it, then run this again."
        case _:
            advice = "PostgreSQL refused the statement."
    return f"{advice} Nothing was written by it. ({where}: {said})"
