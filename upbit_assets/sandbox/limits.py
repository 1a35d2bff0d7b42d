"""The exchange's rate limits: a quota per client, group and fixed window; beyond it 429, then 418."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

QUOTAS = {"websocket": 5}  # calls a second; 10 for the other groups
TOLERATED = 5  # 429 responses in one window before a client is blocked
FIRST_BLOCK, LONGEST_BLOCK = 2, 600  # seconds; doubles with each block
FORGIVEN_AFTER = 600  # seconds after a block until the next one starts over at FIRST_BLOCK


@dataclass(frozen=True, slots=True)
class Admission:
    """The result for a call: 200 (`remaining` are left in the window), 429, or 418 until `until` (Unix)."""

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
        """Count a call of `client` in `group`, which allows `quota` calls in a window of `seconds`."""
        now, state = self.now(), self.clients[client]
        if now < state.until:
            return Admission(418, until=state.until)
        window, (last, calls) = int(now // seconds), state.counts.get(group, (0, 0))
        calls = calls + 1 if window == last else 1
        state.counts[group] = window, calls
        if calls > quota + TOLERATED:
            return self.block(state, now)
        return Admission(200 if calls <= quota else 429, max(quota - calls, 0))

    def admit(self, client: str, group: str, *, origin: bool) -> tuple[Admission, str]:
        """Count a call, and return the `Remaining-Req` header. Calls with an `Origin` header have their own quota."""
        quota, seconds = (1, 10) if origin else (QUOTAS.get(group, 10), 1)
        group = "origin" if origin else group
        admission = self.call(client, group, quota, seconds)
        return admission, f"group={group}; min={quota * 60 // seconds}; sec={admission.remaining}"

    def block(self, state: Client, now: float) -> Admission:
        state.blocks = 1 if now - state.until > FORGIVEN_AFTER else state.blocks + 1
        state.until = math.ceil(now) + min(FIRST_BLOCK * 2 ** (state.blocks - 1), LONGEST_BLOCK)
        return Admission(418, until=state.until)
