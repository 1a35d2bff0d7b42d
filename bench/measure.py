"""Timing contenders in turns, and the results."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROUNDS = 3


@dataclass(frozen=True)
class Contender:
    """Something to time; `prepare` runs before each round, untimed.

    If `work` returns a float, that many seconds count in place of its duration.
    """

    work: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None

    def seconds(self) -> float:
        self.prepare()
        started = time.perf_counter()
        seconds = self.work()
        return seconds if isinstance(seconds, float) else time.perf_counter() - started


def interleaved(*contenders: Contender, rounds: int = ROUNDS) -> list[float]:
    """The median seconds of each, timed in turns so that a slow phase of the machine affects all of them."""
    times = [[contender.seconds() for contender in contenders] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


@dataclass(frozen=True)
class Result:
    """Our seconds and the baseline's (`theirs`), and the target: `at_least` × its speed, or `at_most` × its time.

    If `counted`, both are counts, not seconds.
    """

    what: str
    baseline: str
    ours: float
    theirs: float
    at_least: float | None = None
    at_most: float | None = None
    counted: bool = False

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours if self.at_least else self.ours / self.theirs

    @property
    def met(self) -> bool:
        return self.ratio >= self.at_least if self.at_least else self.ratio <= (self.at_most or 0)

    @property
    def target(self) -> str:
        if self.at_least:
            return f"at least {self.at_least:g}× the {'number' if self.counted else 'speed'}"
        return f"at most {self.at_most:g}× the {'number' if self.counted else 'time'}"


def readable(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1000:,.3g} ms"
