"""The exchange's rate limits, shared by all processes on this machine, and its blocks."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from upbit_assets.settings import settings
from upbit_assets.upbit import shared
from upbit_assets.upbit.errors import BlockedError

T = TypeVar("T")

QUOTA = 10  # calls a second in each group; Upbit REST, Rate limits
_COUNTED_SECONDS = 1 + 5e-4  # the exchange's clock may run slower than ours by as much as NTP slews
_LOST_SECONDS = 15.0  # after this a call without a response is given up: its process was killed
_POLL = 0.1
_UNSTATED_BLOCK = timedelta(minutes=1)
_SECOND_LEFT = re.compile(r"\bsec\s*=\s*(\d{1,6})\b")


@dataclass
class Calls:
    """A group's calls that may count in the exchange's current second, and the waiting callers; in monotonic seconds.

    We don't know when a second of the exchange starts. But it counts a call before it responds, so one second after
    the response the call no longer counts, however the two clocks differ.

    Args:
        in_flight: when each call without a response was sent.
        answered: when each response arrived.
        waiting: for each foreground caller, since when it has been waiting and when it last polled.
    """

    in_flight: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    waiting: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def loads(cls, text: str) -> "Calls":
        """The inverse of `dumps`; no calls if the text is invalid."""
        try:
            return _CALLS.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return cls()

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    def acquire(self, now: float, per_second: int, since: float, *, background: bool) -> float:
        """0 if the call may be sent now, else the seconds until the next attempt.

        Foreground callers are served in order of waiting time; a background caller only while none waits.
        """
        self._forget(now)
        self.waiting = [(other, asked) for other, asked in self.waiting if other != since]
        ahead = sum(other < since for other, _ in self.waiting)
        must_yield = background and self.waiting
        if not must_yield and len(self.in_flight) + len(self.answered) + ahead < per_second:
            self.in_flight.append(now)
            return 0
        if not background:
            self.waiting.append((since, now))
        return min([_POLL, *(at + _COUNTED_SECONDS - now for at in self.answered)])

    def record_response(self, now: float, per_second: int, sent: float, left: int | None) -> None:
        """Record the response to the call sent at `sent`; `left` calls remain in its second (None: unknown)."""
        self._forget(now)
        if sent in self.in_flight:
            self.in_flight.remove(sent)
        if left is not None:
            # at most this many calls were in the same second; those of earlier seconds no longer count
            earlier = sorted(at for at in self.answered if at <= sent)
            same = earlier[max(0, len(earlier) + left + 1 - QUOTA) :]
            self.answered = same + [at for at in self.answered if at > sent]
            others = per_second - left - 1 - len(self.in_flight) - len(self.answered)
            self.answered += [now] * others
        self.answered.append(now)

    def record_429(self, now: float, per_second: int) -> None:
        """Record a 429: no calls are left, whatever was counted here."""
        self.answered = [now] * per_second

    def _forget(self, now: float) -> None:
        # times in the future are from before a reboot
        self.in_flight = [at for at in self.in_flight if now - _LOST_SECONDS < at <= now]
        self.answered = [at for at in self.answered if now - _COUNTED_SECONDS < at <= now]
        self.waiting = [(since, asked) for since, asked in self.waiting if now - 1 < asked <= now]


_CALLS = msgspec.json.Decoder(Calls)


class Limits:
    """Keeps all processes on this machine together within the rate limits of the exchange at `base_url`.

    `Remaining-Req: group=ticker; min=600; sec=9` has the calls left in the exchange's current second; `min` is an
    obsolete constant. Without that header, the limit is `per_second` calls a second in each group. The group names are
    the caller's, as the exchange has changed its own over time.

    `per_second` defaults to UPBIT_CALLS_PER_SECOND. The exchange counts by IP address: machines behind the same
    address share its 10 calls, for example 5 each. Calls by others from that address are only noticed by the header,
    which may be one call too late.

    Source: Upbit REST, Rate limits.
    """

    def __init__(
        self,
        base_url: str,
        per_second: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url, self._clock, self._sleep = base_url, clock, sleep
        self._per_second = per_second or settings.UPBIT_CALLS_PER_SECOND

    def acquire(self, group: str, *, background: bool = False) -> float:
        """Wait until a call in `group` may be made; returns its time, to be passed to `record_response`.

        A background caller is served only while no other caller waits.
        Raises BlockedError while the exchange blocks this IP address.
        """
        since = self._clock()
        while True:
            self._raise_if_blocked()
            wait, now = self._update(
                group, lambda calls, now: calls.acquire(now, self._per_second, since, background=background)
            )
            if not wait:
                return now
            self._sleep(wait)

    def record_response(
        self, group: str, sent: float, remaining_req: str | None = None, *, exceeded: bool = False
    ) -> None:
        """Record the response to the call sent at `sent`, or that there was none.

        `remaining_req` is its header; `exceeded` means a 429. Must be called once for each call of `acquire`.
        """

        def record(calls: Calls, now: float) -> None:
            calls.record_response(now, self._per_second, sent, calls_left(remaining_req))
            if exceeded:
                calls.record_429(now, self._per_second)

        self._update(group, record)

    def block(self, blocked: BlockedError, now: datetime) -> datetime:
        """Stop all processes from calling until the block is over; returns its end, a minute from now if unknown."""
        end = blocked.until or now + _UNSTATED_BLOCK
        text = json.dumps([end.isoformat(), blocked.until is not None, blocked.message])

        def keep_longer_block(previous: str) -> tuple[str, None]:
            current = _block(previous)
            return (previous if current and current[0] > end else text), None

        shared.update(self._name("block"), keep_longer_block)
        return end

    def _raise_if_blocked(self) -> None:
        blocked = _block(shared.update(self._name("block"), lambda text: (text, text)))
        if blocked and datetime.now(UTC) < blocked[0]:
            raise blocked[1]

    def _update(self, group: str, change: Callable[[Calls, float], T]) -> tuple[T, float]:
        def changed(text: str) -> tuple[str, tuple[T, float]]:
            calls, now = Calls.loads(text), self._clock()
            result = change(calls, now)
            return calls.dumps(), (result, now)

        return shared.update(self._name(f"calls of {group}"), changed)

    def _name(self, what: str) -> str:
        return hashlib.sha256(f"{what}: {self._base_url}".encode()).hexdigest()


def calls_left(remaining_req: str | None) -> int | None:
    """The calls left in the exchange's current second by its header `Remaining-Req`; None if it doesn't say."""
    match = _SECOND_LEFT.search(remaining_req or "")
    return int(match[1]) if match else None


def _block(text: str) -> tuple[datetime, BlockedError] | None:
    try:
        end, stated, message = json.loads(text)
        until = datetime.fromisoformat(end).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return until, BlockedError(until if stated else None, str(message))
