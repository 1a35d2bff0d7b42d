"""Advisory locks that serialize writers of the same windows."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

# for a larger range the table is locked, because each lock occupies shared memory of the server
MAX_WINDOW_LOCKS = 1000


@contextmanager
def locked(connection: sa.Connection, exclusive: Sequence[int], shared: int | None = None) -> Iterator[sa.Connection]:
    """The connection with these locks held, for REPEATABLE READ transactions.

    The locks belong to the session and are acquired before the transaction, so that its snapshot includes whatever it
    waited for. They are released if the session dies.
    """
    try:
        if shared:
            connection.execute(sa.select(sa.func.pg_advisory_lock_shared(shared)))
        each = sa.func.unnest(sa.cast(exclusive, sa.ARRAY(sa.BigInteger))).column_valued("key")
        connection.execute(sa.select(sa.func.pg_advisory_lock(each)))
        connection.commit()  # ends SQLAlchemy's transaction, which is empty under autocommit
        yield connection.execution_options(isolation_level="REPEATABLE READ")
    finally:
        release(connection)


def release(connection: sa.Connection) -> None:
    """Release the session's locks, by closing the connection if it is broken."""
    try:
        connection.rollback()
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
    except sa.exc.DBAPIError:
        connection.invalidate()


def locks(table: sa.Table, windows: Sequence[str] | None) -> tuple[list[int], int | None]:
    """The advisory lock keys of a write: (exclusive ones of the windows, sorted; shared one of the table).

    A write of the whole table, or of more than MAX_WINDOW_LOCKS windows, locks the table exclusively instead.
    """
    whole = lock_key(table.fullname)
    if windows is None or len(windows) > MAX_WINDOW_LOCKS:
        return [whole], None
    return sorted(lock_key(f"{table.fullname}/{window}") for window in windows), whole


def lock_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
