"""Which markets the exchange lists, and of which the order books are wanted."""

import logging
from datetime import UTC, datetime

import sqlalchemy as sa

from upbit_assets.assets import named
from upbit_assets.assets.selection import NoRankingError, orderbooks
from upbit_assets.partitions import days
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.upbit import UpbitClient, UpbitError

log = logging.getLogger(__name__)


class Listings:
    """What to subscribe to. Asked in a thread, as both the exchange and the database may take a while."""

    def __init__(self, base_url: str) -> None:
        self.client = UpbitClient(base_url, background=True, attempts=2, deadline=10)
        self.listed: frozenset[str] = frozenset()
        self.known: dict[str, None] = {}  # all that were ever listed, in order
        self.books: list[str] = []

    def look(self) -> tuple[bool, bool]:
        """Whether (markets, books) are to be asked for anew.

        Where one is listed that was not before: the exchange takes a code it doesn't know for none, and stays silent
        about it when it is listed later. One that is gone costs nothing.
        """
        return self.look_at_markets(), self.look_at_books()

    def look_at_markets(self) -> bool:
        try:
            listed = frozenset(row.market for row in self.client.markets().rows if row.market)
        except UpbitError as error:
            log.warning("The market list was not to be had, the one before counts on: %s", error)
            return False
        new, gone = listed - self.listed, self.listed - listed
        if self.listed and (new or gone):
            log.info("Listed: %s; not any more: %s.", named(new) or "none", named(gone) or "none")
        self.listed = listed
        self.known |= dict.fromkeys(sorted(new))
        return bool(new)

    def look_at_books(self) -> bool:
        try:
            with Database().connect() as connection:
                chosen = orderbooks.markets(connection, [days.at(datetime.now(UTC)).start])
        except (DatabaseError, NoRankingError, sa.exc.SQLAlchemyError):  # the books before are wanted still
            return False
        books = sorted({market for _, market in chosen})
        changed, self.books = books != self.books, books
        return changed
