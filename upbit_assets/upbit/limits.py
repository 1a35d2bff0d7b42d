"""How many calls the exchange still allows in this second."""

import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

_SECOND_LEFT = re.compile(r"\bsec\s*=\s*(\d{1,6})\b")


@dataclass
class _Second:
    """`start`: when it began (monotonic); `left`: calls that may still start; `told`: the last header's."""

    start: float = float("-inf")
    left: int = 0
    told: int = -1


class Limits:
    """Keeps each group of calls within what the exchange allows a second; safe to share between threads.

    `Remaining-Req: group=ticker; min=600; sec=9` tells the calls left in the exchange's current second;
    `min` is a dead constant. Without a readable header it is `per_second` calls a second in each group.
    The groups are the caller's: the exchange has spelt its own differently over time.
    Source: Upbit REST, Rate limits.
    """

    def __init__(self, per_second: int = 10) -> None:
        self._per_second = per_second
        self._lock = threading.Lock()
        self._groups: defaultdict[str, _Second] = defaultdict(_Second)

    def reserve(self, group: str) -> float:
        """Take the next free call of `group`; the caller waits the returned seconds before making it."""
        with self._lock:
            now, second = time.monotonic(), self._groups[group]
            if now >= second.start + 1:
                second = self._groups[group] = _Second(now, self._per_second)
            elif not second.left:
                second = self._groups[group] = _Second(second.start + 1, self._per_second)
            second.left -= 1
            return max(0.0, second.start - now)

    def learn(self, group: str, remaining_req: str | None, *, exceeded: bool = False) -> None:
        """Take in a reply's `Remaining-Req` header; `exceeded`: the reply was a 429."""
        match = _SECOND_LEFT.search(remaining_req or "")
        if not match and not exceeded:
            return
        told = int(match[1]) if match and not exceeded else 0
        with self._lock:
            now, second = time.monotonic(), self._groups[group]
            if now < second.start:
                return
            # Nobody tells when the exchange's second began. When more calls are left than before it is a new
            # one and, like one that is used up unexpectedly, it lasts a second from now at most.
            if exceeded or told > second.told:
                second.start = now
            second.left, second.told = min(second.left, told), told
