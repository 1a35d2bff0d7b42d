"""Migrates the schema."""

from pathlib import Path

import alembic.command
import click
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.postgres.partitioning import make_partitions_ahead
from upbit_assets.postgres.tables import bronze_collection_start, metadata, views
from upbit_assets.postgres.url import sqlalchemy_url


class NewerSchemaError(click.ClickException):
    """The database was migrated by a newer version of this project."""


def migrate(url: str) -> None:
    """Migrate the database at `url` to the newest schema in one transaction, and create partitions in advance.

    The login must own the tables and, on the first run, be allowed to create roles.

    Raises:
        NewerSchemaError: the database's schema is newer than this code.
    """
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('upbit_assets.migrate', 0))"))
        config = alembic_config(connection)
        require_known_schema(connection, config)
        alembic.command.upgrade(config, "head")
        set_comments(connection)
        record_first_start(connection)
        make_partitions_ahead(connection)


def require_known_schema(connection: sa.Connection, config: Config) -> None:
    found = MigrationContext.configure(connection, opts={"version_table_schema": "public"}).get_current_revision()
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]  # newest first
    if found and found not in known:
        raise NewerSchemaError(
            f"The market database has schema {found}, but this version of upbit_assets only knows schemas up to "
            f"{known[0]}: a newer version has migrated it. Use that version, or restore a backup from before. Nothing "
            "was changed."
        )


def alembic_config(connection: sa.Connection) -> Config:
    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def set_comments(connection: sa.Connection) -> None:
    for table in metadata.sorted_tables:
        connection.execute(sa.schema.SetTableComment(table))
    for table in (*metadata.sorted_tables, *views.sorted_tables):
        for column in table.columns:
            connection.execute(sa.schema.SetColumnComment(column))


def record_first_start(connection: sa.Connection) -> None:
    """Store today as the first day, unless there is one."""
    today = sa.func.date_trunc("day", sa.func.now(), "Asia/Seoul")
    connection.execute(insert(bronze_collection_start).values(starts_at=today).on_conflict_do_nothing())
