"""The exchange's rate limits: so many calls per group, client and fixed window, then 429, then 418."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

_TOLERATED = 5  # calls answered 429 in one window before the client counts as one that does not stop
_FIRST_BLOCK, _LONGEST_BLOCK = 2, 600  # seconds, doubling
_FORGIVEN_AFTER = 600  # seconds without a block


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a call: 200 (`remaining` are left in the window), 429, or 418 until `until` (Unix)."""

    status: int
    remaining: int = 0
    until: float = 0


@dataclass(slots=True)
class _Client:
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # group: (window, calls)
    until: float = 0
    blocks: int = 0


class Limits:
    """Counts calls by client. `now` gives Unix seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._clients: defaultdict[str, _Client] = defaultdict(_Client)

    def call(self, client: str, group: str, quota: int, seconds: int) -> Verdict:
        """Count one call of `client` in `group`, where `quota` calls in a window of `seconds` are free."""
        now, known = self._now(), self._clients[client]
        if now < known.until:
            return Verdict(418, until=known.until)
        window, (last, calls) = int(now // seconds), known.counts.get(group, (0, 0))
        calls = calls + 1 if window == last else 1
        known.counts[group] = window, calls
        if calls > quota + _TOLERATED:
            return self._block(known, now)
        return Verdict(200 if calls <= quota else 429, max(quota - calls, 0))

    def _block(self, known: _Client, now: float) -> Verdict:
        known.blocks = 1 if now - known.until > _FORGIVEN_AFTER else known.blocks + 1
        known.until = math.ceil(now) + min(_FIRST_BLOCK * 2 ** (known.blocks - 1), _LONGEST_BLOCK)
        return Verdict(418, until=known.until)
