"""A book whose spread is wider than 2 percent has no imbalance."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.alter_column("orderbook_stats", "imbalance", schema="gold", nullable=True)
