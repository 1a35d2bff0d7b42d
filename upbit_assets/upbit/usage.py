"""How much of the exchange's rate limits is used, and how often a call was rejected."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

REPORT_SECONDS = 10.0


@dataclass
class Usage:
    """The answered calls of a group since the previous report.

    Args:
        too_many_requests, blocked: how many of them were rejected with 429 and 418.
        calls_left: the fewest calls that the exchange said were left in a second, 0 by a 429; None if it didn't say.
        blocked_until: the end of the last block.
    """

    calls: int = 0
    too_many_requests: int = 0
    blocked: int = 0
    calls_left: int | None = None
    blocked_until: datetime | None = None

    def add(self, status: int, calls_left: int | None = None, blocked_until: datetime | None = None) -> None:
        self.calls += 1
        self.too_many_requests += status == 429
        self.blocked += status == 418
        calls_left = 0 if status == 429 else calls_left
        self.calls_left = min((left for left in (self.calls_left, calls_left) if left is not None), default=None)
        self.blocked_until = blocked_until or self.blocked_until


Report = Callable[[Mapping[str, Usage]], None]


class UsageReporter:
    """Adds up the calls of several threads, and reports them by group, at most every ten seconds.

    Args:
        report: is called in the thread of a call; must not raise.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.usage: dict[str, Usage] = {}
        self.lock = threading.Lock()
        self.due = time.monotonic() + REPORT_SECONDS

    def count(
        self, group: str, status: int, calls_left: int | None = None, blocked_until: datetime | None = None
    ) -> None:
        with self.lock:
            self.usage.setdefault(group, Usage()).add(status, calls_left, blocked_until)
        if time.monotonic() >= self.due:
            self.flush()

    def flush(self) -> None:
        """Report what was counted since the previous report."""
        with self.lock:
            usage, self.usage = self.usage, {}
            self.due = time.monotonic() + REPORT_SECONDS
        if usage:
            self.report(usage)
