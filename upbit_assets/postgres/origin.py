"""Prevents mixing real and simulated data in one database."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.postgres.tables import bronze_origin

KIND = {True: "simulated", False: "real"}


class OriginError(RuntimeError):
    """The database has data of the other kind; the message says what to do."""


def claim_origin(connection: sa.Connection, source: str, *, simulated: bool) -> None:
    """Record which kind of data an empty database gets.

    Args:
        source: the origin of the data, for the message.

    Raises:
        OriginError: the database has data of the other kind.
    """
    connection.execute(insert(bronze_origin).values(simulated=simulated).on_conflict_do_nothing())
    existing = connection.execute(sa.select(bronze_origin.c.simulated)).scalar_one()
    if existing != simulated:
        raise OriginError(
            f"This database has {KIND[existing]} data, but {source} sends {KIND[simulated]} data; they can't be mixed. "
            "Set UPBIT_POSTGRES_URL to another database, or UPBIT_API_URL to the other exchange."
        )
