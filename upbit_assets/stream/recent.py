"""De-duplicates trades: two connections receive each, and every subscription starts with the last one."""

import time
from collections.abc import Callable

KEPT = 30.0  # minimal seconds; connections differ by moments, and silver de-duplicates later ones


class Recent:
    """The (market, id)s of the last KEPT seconds or more, in two generations to bound memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.new: set[tuple[str, int]] = set()
        self.old: set[tuple[str, int]] = set()
        self.since = clock()

    def add(self, market: str, trade_id: int) -> bool:
        """Add a trade; returns whether it is new. Ids are unique only within a market."""
        if self.clock() - self.since > KEPT:
            self.new, self.old, self.since = set(), self.new, self.clock()
        known = (market, trade_id)
        if known in self.new or known in self.old:
            return False
        self.new.add(known)
        return True
