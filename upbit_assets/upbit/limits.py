"""What the exchange allows this machine: calls a second, and none at all while it is blocked."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import TypeVar

from upbit_assets.upbit import shared
from upbit_assets.upbit.errors import Blocked

T = TypeVar("T")

QUOTA = 10  # calls a second in each group; Upbit REST, Rate limits
_DRIFT = 5e-4  # seconds by which the exchange's clock may go wrong against ours in a second; NTP slews no faster
_LOST = 15.0  # seconds after which no answer will come: those who asked were killed
_DOUBT = 3600.0  # seconds
_POLL = 0.1
_UNSTATED_BLOCK = timedelta(minutes=1)
_SECOND_LEFT = re.compile(r"\bsec\s*=\s*(\d{1,6})\b")
_NEVER = float("-inf")


@dataclass
class Calls:
    """A group's calls that may count in the exchange's present second, and who waits; in monotonic seconds.

    `under_way`: calls without an answer: when each was let go, and `last` at that moment; `answered`: when each
    answer came, and when the call's second is over for sure; `waiting`: since when each live caller waits, and when it
    last asked; `last`: when the last of those that were answered was let go; `edge`: two moments between which a
    second of the exchange began; `doubted`: the last 429.

    Nobody tells when a second of the exchange begins. But a call is counted before its answer comes, so a second
    after the answer the call's second is over and its place is free again, whatever the two clocks say. That
    alone loses a round trip in each second. The first call of a second, which is told that nine are left, shows
    more: this second began between the call before and its answer. So will all that follow, a whole number of
    seconds later. Where that proves wrong (a 429), it isn't relied on for an hour.
    """

    under_way: list[tuple[float, float]] = field(default_factory=list)
    answered: list[tuple[float, float]] = field(default_factory=list)
    waiting: list[tuple[float, float]] = field(default_factory=list)
    edge: tuple[float, float] = (_NEVER, _NEVER)
    last: float = _NEVER
    doubted: float = _NEVER

    @classmethod
    def loads(cls, text: str) -> "Calls":
        """From `dumps`; of anything else, no calls."""
        try:
            under_way, answered, waiting, edge, last, doubted = json.loads(text)
            return cls(
                [_pair(each) for each in under_way],
                [_pair(each) for each in answered],
                [_pair(each) for each in waiting],
                _pair(edge),
                float(last),
                float(doubted),
            )
        except (ValueError, TypeError, OverflowError, RecursionError):
            return cls()

    def dumps(self) -> str:
        return json.dumps(astuple(self))

    def take(self, now: float, per_second: int, since: float, *, patient: bool) -> float:
        """0 when the call may go now, else the seconds after which to ask again.

        A live caller goes after those that wait for longer, and a patient one while none waits.
        """
        self._forget(now)
        self.waiting = [(other, asked) for other, asked in self.waiting if other != since]
        ahead = sum(other < since for other, _ in self.waiting)
        stands_back = patient and self.waiting
        if not stands_back and len(self.under_way) + len(self.answered) + ahead < per_second:
            self.under_way.append((now, self.last))
            return 0
        if not patient:
            self.waiting.append((since, now))
        return min([_POLL, *(over - now for _, over in self.answered)])

    def answer(self, now: float, per_second: int, sent: float, left: int | None) -> None:
        """Take in that the call let go at `sent` was answered, with so many `left` in its second (None: not told)."""
        self._forget(now)
        call = next((call for call in self.under_way if call[0] == sent), None)
        if call:
            self.under_way.remove(call)
        if left is None:
            self.answered.append((now, self._over(now)))
            return
        if call and left == QUOTA - 1:
            self._narrow(call[1], now)
        self.last = max(self.last, sent)
        earlier = sorted(each for each in self.answered if each[0] <= sent)
        # No more than this many were in the same second, and the seconds of all others are over
        same = earlier[max(0, len(earlier) + left + 1 - QUOTA) :]
        self.answered = same + [each for each in self.answered if each[0] > sent] + [(now, self._over(now))]
        others = per_second - left - len(self.under_way) - len(self.answered)
        self.answered += [(now, self._over(now))] * others

    def exceed(self, now: float, per_second: int) -> None:
        """Take in a 429: whatever was thought, nothing is left."""
        self.doubted, self.edge = now, (_NEVER, _NEVER)
        self.answered = [(now, self._over(now))] * per_second

    def _forget(self, now: float) -> None:
        # A moment to come is one of before the machine was started anew
        self.under_way = [(at, last) for at, last in self.under_way if now - _LOST < at <= now]
        self.answered = [(at, over) for at, over in self.answered if at <= now < over <= now + 1 + _DRIFT]
        self.waiting = [(since, asked) for since, asked in self.waiting if now - 1 < asked <= now]
        self.last, self.doubted = (at if at <= now else _NEVER for at in (self.last, self.doubted))
        if not now - _DOUBT < self.edge[0] <= self.edge[1] <= now:
            self.edge = (_NEVER, _NEVER)

    def _over(self, at: float) -> float:
        """When the second is over for sure in which a call counts that was answered at `at`."""
        sure = at + 1 + _DRIFT
        if self.edge[0] == _NEVER or at < self.doubted + _DOUBT:
            return sure
        seconds = ceil((at - self.edge[0]) / (1 - _DRIFT))
        return min(sure, self._edge(seconds)[1])

    def _edge(self, seconds: int) -> tuple[float, float]:
        """Between which two moments a second began, so many after that of `edge`."""
        return self.edge[0] + seconds * (1 - _DRIFT), self.edge[1] + seconds * (1 + _DRIFT)

    def _narrow(self, after: float, before: float) -> None:
        """Take in that a second of the exchange began between these moments."""
        if not 0 <= before - after < 1:
            return
        known = []
        if self.edge[0] != _NEVER:
            near = round(before - self.edge[1])
            known = [self._edge(seconds) for seconds in range(near - 1, near + 2)]
        both = [(max(after, low), min(before, high)) for low, high in known if high >= after and low <= before]
        if len(both) == 1:
            self.edge = both[0]
        elif not both or before - after < known[1][1] - known[1][0]:  # where either may be meant, the narrower
            self.edge = (after, before)


def _pair(values: list[float]) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


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
        self._per_second = per_second or _per_second()

    def wait(self, group: str, *, patient: bool = False) -> float:
        """Wait until a call of `group` may be made; returns the moment, by which `learn` knows it.

        A patient caller goes after all others: it takes a call only while no other waits for one.
        Raises Blocked while the exchange blocks this address.
        """
        since = self._clock()
        while True:
            self._refuse_while_blocked()
            wait, now = self._update(
                group, lambda calls, now: calls.take(now, self._per_second, since, patient=patient)
            )
            if not wait:
                return now
            self._sleep(wait)

    def learn(self, group: str, sent: float, remaining_req: str | None = None, *, exceeded: bool = False) -> None:
        """Take in the answer to the call of moment `sent`, or that there is none.

        `remaining_req` is its header; `exceeded`: it was a 429. To be called for every moment that `wait` returned.
        """
        match = _SECOND_LEFT.search(remaining_req or "")

        def answered(calls: Calls, now: float) -> None:
            calls.answer(now, self._per_second, sent, int(match[1]) if match else None)
            if exceeded:
                calls.exceed(now, self._per_second)

        self._update(group, answered)

    def block(self, blocked: Blocked, now: datetime) -> None:
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


def _block(text: str) -> tuple[datetime, Blocked] | None:
    try:
        end, stated, message = json.loads(text)
        until = datetime.fromisoformat(end).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return until, Blocked(until if stated else None, str(message))


def _per_second() -> int:
    given = os.environ.get("UPBIT_CALLS_PER_SECOND") or str(QUOTA)
    if not given.isdecimal() or not int(given):
        raise ValueError(f"UPBIT_CALLS_PER_SECOND must be a whole number from 1 on, and is {given!r}")
    return int(given)
