"""The exchange's clock: real time, or one with its own start and speed that can be stepped."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


def real_time() -> datetime:
    return datetime.now(UTC)


class AdjustableClock:
    """Starts at `start` (aware; default: now) and runs at `speed` times real time. Thread-safe."""

    def __init__(self, start: datetime | None = None, speed: float = 1) -> None:
        self.start, self.speed = start or real_time(), speed
        self.started = time.time()

    def __call__(self) -> datetime:
        return self.start + timedelta(seconds=(time.time() - self.started) * self.speed)

    def step(self, seconds: float) -> None:
        """Move the clock forward, or back if `seconds` is negative."""
        self.start += timedelta(seconds=seconds)
