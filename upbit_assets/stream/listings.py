"""The listed markets, and those whose order books are collected."""

import logging
from datetime import UTC, datetime

import sqlalchemy as sa

from upbit_assets.assets import named
from upbit_assets.assets.selection import NoRankingError, orderbooks
from upbit_assets.partitions import days
from upbit_assets.postgres.exchange_calls import report_calls
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.upbit import UpbitClient, UpbitError

log = logging.getLogger(__name__)


class Listings:
    """The codes to subscribe to. Used in a thread, because its calls block."""

    def __init__(self, base_url: str) -> None:
        self.client = UpbitClient(base_url, background=True, attempts=2, deadline=10, report=report_calls)
        self.listed: frozenset[str] = frozenset()
        self.known: dict[str, None] = {}  # all markets that were ever listed, in order
        self.books: list[str] = []

    def update(self) -> tuple[bool, bool]:
        """Whether to resubscribe to (markets, books).

        That is needed for newly listed markets: the exchange ignores unknown codes in a subscription, also after they
        are listed. Delisted markets need no new subscription.
        """
        return self.update_markets(), self.update_books()

    def update_markets(self) -> bool:
        try:
            listed = frozenset(row.market for row in self.client.markets().rows if row.market)
        except UpbitError as error:
            log.warning("The market list is not available, so the previous one is used: %s", error)
            return False
        new, gone = listed - self.listed, self.listed - listed
        if self.listed and (new or gone):
            log.info("Newly listed: %s; delisted: %s.", named(new) or "none", named(gone) or "none")
        self.listed = listed
        self.known |= dict.fromkeys(sorted(new))
        return bool(new)

    def update_books(self) -> bool:
        try:
            with Database().connect() as connection:
                chosen = orderbooks.markets(connection, [days.at(datetime.now(UTC)).start])
        except (DatabaseError, NoRankingError, sa.exc.SQLAlchemyError):  # keep the previous selection
            return False
        books = sorted({market for _, market in chosen})
        changed, self.books = books != self.books, books
        return changed
