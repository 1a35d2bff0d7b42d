"""Prevents mixing real and simulated data in one database."""

import sqlalchemy as sa

from upbit_assets.postgres.tables import bronze_origin

KIND = {True: "simulated", False: "real"}
KIND_OF_DATA = sa.select(bronze_origin.c.simulated)


class OriginError(RuntimeError):
    """The database has data of the other kind; the message says what to do."""


def claim_origin(connection: sa.Connection, source: str, *, simulated: bool) -> None:
    """Record which kind of data an empty database gets, in the connection's transaction.

    Args:
        source: the origin of the data, for the message.

    Raises:
        OriginError: the database has data of the other kind.
    """
    existing = connection.scalar(KIND_OF_DATA)
    if existing is None:
        try:
            # ON CONFLICT would need UPDATE in a Citus cluster, which nobody has
            with connection.begin_nested():
                connection.execute(sa.insert(bronze_origin).values(simulated=simulated))
        except sa.exc.IntegrityError:  # another session was first
            pass
        existing = connection.execute(KIND_OF_DATA).scalar_one()
    if existing != simulated:
        raise OriginError(
            f"This database has {KIND[existing]} data, but {source} sends {KIND[simulated]} data; they can't be mixed. "
            "Set UPBIT_POSTGRES_URL to another database, or UPBIT_API_URL to the other exchange."
        )
