"""The exchange's rate limits: so many calls per group, client and fixed window, then 429, then 418."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

QUOTAS = {"websocket": 5}  # calls a second, where they aren't 10
TOLERATED = 5  # calls answered 429 in one window before the client counts as one that does not stop
FIRST_BLOCK, LONGEST_BLOCK = 2, 600  # seconds, doubling
FORGIVEN_AFTER = 600  # seconds without a block


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of a call: 200 (`remaining` are left in the window), 429, or 418 until `until` (Unix)."""

    status: int
    remaining: int = 0
    until: float = 0


@dataclass(slots=True)
class Client:
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # group: (window, calls)
    until: float = 0
    blocks: int = 0


class RateLimits:
    """Counts calls by client. `now` gives Unix seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.clients: defaultdict[str, Client] = defaultdict(Client)

    def call(self, client: str, group: str, quota: int, seconds: int) -> Admission:
        """Count one call of `client` in `group`, where `quota` calls in a window of `seconds` are free."""
        now, known = self.now(), self.clients[client]
        if now < known.until:
            return Admission(418, until=known.until)
        window, (last, calls) = int(now // seconds), known.counts.get(group, (0, 0))
        calls = calls + 1 if window == last else 1
        known.counts[group] = window, calls
        if calls > quota + TOLERATED:
            return self.block(known, now)
        return Admission(200 if calls <= quota else 429, max(quota - calls, 0))

    def admit(self, client: str, group: str, *, origin: bool) -> tuple[Admission, str]:
        """Count a call, one with an `Origin` header among those alone, and say what is left: `Remaining-Req`."""
        quota, seconds = (1, 10) if origin else (QUOTAS.get(group, 10), 1)
        group = "origin" if origin else group
        verdict = self.call(client, group, quota, seconds)
        return verdict, f"group={group}; min={quota * 60 // seconds}; sec={verdict.remaining}"

    def block(self, known: Client, now: float) -> Admission:
        known.blocks = 1 if now - known.until > FORGIVEN_AFTER else known.blocks + 1
        known.until = math.ceil(now) + min(FIRST_BLOCK * 2 ** (known.blocks - 1), LONGEST_BLOCK)
        return Admission(418, until=known.until)
