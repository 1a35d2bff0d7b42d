"""The exchange's clock: the real one, or one that starts elsewhere, runs faster, and can be stepped."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


def real_time() -> datetime:
    return datetime.now(UTC)


class AdjustableClock:
    """Begins at `start` (aware; unset: now) and runs `speed` times as fast as the real time. Usable from any thread."""

    def __init__(self, start: datetime | None = None, speed: float = 1) -> None:
        self.start, self.speed = start or real_time(), speed
        self.began = time.time()

    def __call__(self) -> datetime:
        return self.start + timedelta(seconds=(time.time() - self.began) * self.speed)

    def step(self, seconds: float) -> None:
        """Set it forward, or back where `seconds` is negative."""
        self.start += timedelta(seconds=seconds)
