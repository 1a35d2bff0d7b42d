"""What the exchange allows this machine: calls a second, and none at all while it is blocked."""

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
_PLACE_SECONDS = 1 + 5e-4  # the exchange's clock may go so much slower than ours; NTP slews no faster
_LOST_SECONDS = 15.0  # no answer will come any more: those who asked were killed
_POLL = 0.1
_UNSTATED_BLOCK = timedelta(minutes=1)
_SECOND_LEFT = re.compile(r"\bsec\s*=\s*(\d{1,6})\b")


@dataclass
class Calls:
    """A group's calls that may count in the exchange's present second, and who waits; in monotonic seconds.

    Nobody tells when a second of the exchange begins. But a call is counted before its answer comes, so a second
    after the answer its second is over and its place is free again, whatever the two clocks say.

    Args:
        under_way: when each call without an answer was let go.
        answered: when each answer came.
        waiting: since when each live caller waits, and when it last asked.
    """

    under_way: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    waiting: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def loads(cls, text: str) -> "Calls":
        """From `dumps`; of anything else, no calls."""
        try:
            return _CALLS.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return cls()

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    def acquire(self, now: float, per_second: int, since: float, *, background: bool) -> float:
        """0 when the call may go now, else the seconds after which to ask again.

        A live caller goes after those that wait for longer, and a background one while none waits.
        """
        self._forget(now)
        self.waiting = [(other, asked) for other, asked in self.waiting if other != since]
        ahead = sum(other < since for other, _ in self.waiting)
        stands_back = background and self.waiting
        if not stands_back and len(self.under_way) + len(self.answered) + ahead < per_second:
            self.under_way.append(now)
            return 0
        if not background:
            self.waiting.append((since, now))
        return min([_POLL, *(at + _PLACE_SECONDS - now for at in self.answered)])

    def record_response(self, now: float, per_second: int, sent: float, left: int | None) -> None:
        """Take in that the call let go at `sent` was answered, with so many `left` in its second (None: not told)."""
        self._forget(now)
        if sent in self.under_way:
            self.under_way.remove(sent)
        if left is not None:
            # no more than this many were in the same second, and the seconds of all others are over
            earlier = sorted(at for at in self.answered if at <= sent)
            same = earlier[max(0, len(earlier) + left + 1 - QUOTA) :]
            self.answered = same + [at for at in self.answered if at > sent]
            others = per_second - left - 1 - len(self.under_way) - len(self.answered)
            self.answered += [now] * others
        self.answered.append(now)

    def record_429(self, now: float, per_second: int) -> None:
        """Take in a 429: whatever was thought, nothing is left."""
        self.answered = [now] * per_second

    def _forget(self, now: float) -> None:
        # a moment to come is one of before the machine was started anew
        self.under_way = [at for at in self.under_way if now - _LOST_SECONDS < at <= now]
        self.answered = [at for at in self.answered if now - _PLACE_SECONDS < at <= now]
        self.waiting = [(since, asked) for since, asked in self.waiting if now - 1 < asked <= now]


_CALLS = msgspec.json.Decoder(Calls)


class Limits:
    """Keeps all processes of this machine together within what the exchange at `base_url` allows.

    `Remaining-Req: group=ticker; min=600; sec=9` tells the calls left in the exchange's current second;
    `min` is a dead constant. Without a readable header it is `per_second` calls a second in each group.
    The groups are the caller's: the exchange has spelt its own differently over time.

    `per_second` is UPBIT_CALLS_PER_SECOND unless given, 10 without it. The exchange counts by address: machines behind
    one address share its ten, so each takes its part, such as 5 and 5. Calls that others make there are noticed
    by what the header tells, which may be one call too late.

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
        """Wait until a call of `group` may be made; returns the moment, by which `record_response` knows it.

        A background caller goes after all others: it takes a call only while no other waits for one.
        Raises Blocked while the exchange blocks this address.
        """
        since = self._clock()
        while True:
            self._refuse_while_blocked()
            wait, now = self._update(
                group, lambda calls, now: calls.acquire(now, self._per_second, since, background=background)
            )
            if not wait:
                return now
            self._sleep(wait)

    def record_response(
        self, group: str, sent: float, remaining_req: str | None = None, *, exceeded: bool = False
    ) -> None:
        """Take in the answer to the call of moment `sent`, or that there is none.

        `remaining_req` is its header; `exceeded`: it was a 429. To be called for every moment that `acquire` returned.
        """
        match = _SECOND_LEFT.search(remaining_req or "")

        def answered(calls: Calls, now: float) -> None:
            calls.record_response(now, self._per_second, sent, int(match[1]) if match else None)
            if exceeded:
                calls.record_429(now, self._per_second)

        self._update(group, answered)

    def block(self, blocked: BlockedError, now: datetime) -> None:
        """Let no process make a call before the block is over: in a minute, when the exchange did not say."""
        end = blocked.until or now + _UNSTATED_BLOCK
        text = json.dumps([end.isoformat(), blocked.until is not None, blocked.message])

        def later(former: str) -> tuple[str, None]:
            known = _block(former)
            return (former if known and known[0] > end else text), None

        shared.update(self._name("block"), later)

    def _refuse_while_blocked(self) -> None:
        known = _block(shared.update(self._name("block"), lambda text: (text, text)))
        if known and datetime.now(UTC) < known[0]:
            raise known[1]

    def _update(self, group: str, change: Callable[[Calls, float], T]) -> tuple[T, float]:
        def changed(text: str) -> tuple[str, tuple[T, float]]:
            calls, now = Calls.loads(text), self._clock()
            result = change(calls, now)
            return calls.dumps(), (result, now)

        return shared.update(self._name(f"calls of {group}"), changed)

    def _name(self, what: str) -> str:
        return hashlib.sha256(f"{what}: {self._base_url}".encode()).hexdigest()


def _block(text: str) -> tuple[datetime, BlockedError] | None:
    try:
        end, stated, message = json.loads(text)
        until = datetime.fromisoformat(end).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return until, BlockedError(until if stated else None, str(message))
