"""Timing contenders in turns, and what comes of it."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROUNDS = 3


@dataclass(frozen=True)
class Contender:
    """Something to time; `prepare` runs before each round, untimed. `rows` is how many it handles.

    What `work` gives back, if it is a float, are the seconds of it that count.
    """

    work: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    rows: int = 1

    def seconds(self) -> float:
        self.prepare()
        started = time.perf_counter()
        counted = self.work()
        return counted if isinstance(counted, float) else time.perf_counter() - started


def interleaved(*contenders: Contender, rounds: int = ROUNDS) -> list[float]:
    """The median seconds of each, timed in turns so that a slow minute of the machine hits all of them."""
    times = [[contender.seconds() for contender in contenders] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


@dataclass(frozen=True)
class Result:
    """Our seconds against theirs, and the bound: a speed of at least, or a time of at most, so many times theirs.

    Where things are `counted`, they stand in place of seconds.
    """

    what: str
    against: str
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
