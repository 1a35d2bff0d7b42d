"""Retries with exponential back-off, across ticks of a sensor."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

FIRST_RETRY, LAST_RETRY = timedelta(seconds=30), timedelta(hours=1)


@dataclass(frozen=True)
class Attempt:
    """How often a run was requested for one state of its sources, and the earliest next time (epoch seconds)."""

    sources: str
    times: int = 0
    not_before: float = 0

    @classmethod
    def of(cls, stored: list[Any] | None, sources: str) -> "Attempt":
        """The stored attempt, or a new one if the sources have changed since."""
        return cls(*stored) if stored and stored[0] == sources else cls(sources)

    def next(self, now: datetime) -> "Attempt":
        wait = min(FIRST_RETRY * 2**self.times, LAST_RETRY)
        return replace(self, times=self.times + 1, not_before=(now + wait).timestamp())

    def is_due(self, now: datetime) -> bool:
        return now.timestamp() >= self.not_before
