"""The index by which the sensor of missing trades finds windows without coverage every ten seconds."""

from pathlib import Path

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    connection = op.get_bind().execution_options(no_parameters=True)
    connection.exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
