"""Advisory locks by which those who write the same windows queue up, whoever started them."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

# a wider range is locked as a whole: every lock takes a place in the server's shared memory
MAX_WINDOW_LOCKS = 1000


@contextmanager
def locked(connection: sa.Connection, exclusive: Sequence[int], shared: int | None = None) -> Iterator[sa.Connection]:
    """The connection, which holds these locks, for transactions that are REPEATABLE READ.

    They are the session's, taken before the transaction, so that the transaction's snapshot of the other
    tables is younger than whatever it waited for. A dead session lets go of them by itself.
    """
    try:
        if shared:
            connection.execute(sa.select(sa.func.pg_advisory_lock_shared(shared)))
        each = sa.func.unnest(sa.cast(exclusive, sa.ARRAY(sa.BigInteger))).column_valued("key")
        connection.execute(sa.select(sa.func.pg_advisory_lock(each)))
        connection.commit()  # ends SQLAlchemy's transaction, which autocommit makes an empty one
        yield connection.execution_options(isolation_level="REPEATABLE READ")
    finally:
        release(connection)


def release(connection: sa.Connection) -> None:
    """Let go of the session's locks; a connection that can't is closed, which does the same."""
    try:
        connection.rollback()
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
    except sa.exc.DBAPIError:
        connection.invalidate()


def locks(table: sa.Table, windows: Sequence[str] | None) -> tuple[list[int], int | None]:
    """The keys of the advisory locks of a write: (exclusive on each window in one order, shared on the table).

    A write of the whole table, or of very many windows, holds the table's lock exclusively instead.
    """
    whole = lock_key(table.fullname)
    if windows is None or len(windows) > MAX_WINDOW_LOCKS:
        return [whole], None
    return sorted(lock_key(f"{table.fullname}/{window}") for window in windows), whole


def lock_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
