"""Keeps real and simulated data out of one database."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from upbit_assets.postgres.tables import bronze_origin

KIND = {True: "simulated", False: "real"}


class OriginError(RuntimeError):
    """The database holds data of the other kind; the message says so, and what to do."""


def claim_origin(connection: sa.Connection, source: str, *, simulated: bool) -> None:
    """Note which kind of data the database holds, where it holds none yet.

    Args:
        source: where the data come from, as the message names it.

    Raises:
        OriginError: it holds the other kind.
    """
    connection.execute(insert(bronze_origin).values(simulated=simulated).on_conflict_do_nothing())
    held = connection.execute(sa.select(bronze_origin.c.simulated)).scalar_one()
    if held != simulated:
        raise OriginError(
            f"This database holds {KIND[held]} data and {source} gives {KIND[simulated]} data; they never share one. "
            "Set UPBIT_POSTGRES_URL to another database, or UPBIT_API_URL to the other exchange."
        )
