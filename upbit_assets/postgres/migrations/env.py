"""Alembic's entry point: uses the connection of `upbit_assets.postgres.migrate`."""

from alembic import context

from upbit_assets.postgres.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema="public",
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
