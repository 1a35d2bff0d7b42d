"""Faults on demand: what an exchange, or the network before it, does to its clients on a bad day."""

import json
import random
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from upbit_assets.sandbox.reply import JSON, Reply, error
from upbit_assets.sandbox.wire import RawRow

KINDS = (
    "status",
    "cut",
    "reset",
    "slow",
    "body",
    "rows",
    "empty",
    "short",
    "late",
    "repeat",
    "drop",
    "close",
    "cached",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, for the requests whose `path?query` the regular expression `match` is found in.

    Among them are the upgrade to a WebSocket, `/websocket/v1`, and each frame that it is about to send, of data, `pong`
    or `status`: `/websocket/v1?type=trade&code=KRW-BTC&connection=2`, where connections are counted from 1.
    The first `skip` of them are let by, the next `times` (None: all) are hit, each by `chance`. By `kind`:

    status: reply `status` with `body` (default: the exchange's JSON error), `content_type` and `headers`; no frames.
    body:   reply `body` as it is, with `status` (default 200).
    empty:  reply `[]`.
    short:  the first half of an array's rows, as if there were no more.
    late:   without the rows of the last `seconds`: candles and trades that come to be told late. A frame is sent
            `seconds` later, those after it meanwhile.
    repeat: the rows that were given last by the same path, whatever was asked.
    cached: the reply as from a cache that has had it for `seconds`: an old Date, and its Age.
    cut:    the reply's first half; with `closes`, Content-Length (or the frame's length) is the whole's and the
            connection closes.
    reset:  no reply, a TCP reset.
    slow:   wait for `seconds`, then go on, also to further faults. A frame's connection waits with it.
    rows:   alter rows of an array, or a frame's: each of `rows` names a `market` ("*": every one), an `index` (-1: the
            last) or both, and may `set` fields to raw JSON text, `add` to integers, turn the last `digit` of fields,
            `drop` fields and `duplicate` the row so many times (-1: there is none).
    drop:   a frame is not sent, which for all frames of a type or market is a mute stream.
    close:  `body`, if there is one, in place of a frame, and then a close with `code`.
    """

    match: str
    kind: str
    times: int | None = None
    skip: int = 0
    chance: float = 1
    status: int | None = None
    body: str | None = None
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False
    code: int = 1000
    seconds: float = 0
    rows: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        re.compile(self.match)
        if not 200 <= (self.status or 200) <= 599:
            raise ValueError(f"not the status of a reply: {self.status}")
        if not all("market" in change or "index" in change for change in self.rows):
            raise ValueError('every change of rows names its market ("*": every one) or its index')
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of fault {self.kind!r}, not one of {', '.join(KINDS)}")

    def reply(self) -> Reply | None:
        """The reply that takes the place of the real one, for the kinds that have one."""
        headers = {"Content-Type": self.content_type, **self.headers}
        if self.kind == "status":
            status = self.status or 500
            body = error(status, f"Simulated error {status}").text if self.body is None else self.body
            return Reply(status, body, headers=headers)
        if self.kind == "body" or (self.kind == "close" and self.body is not None):
            return Reply(self.status or 200, self.body or "", headers=headers)
        return Reply(200, "[]", headers=headers) if self.kind == "empty" else None

    def headers_at(self, now: datetime) -> dict[str, str]:
        """The headers that this fault puts into the reply."""
        if self.kind != "cached":
            return {}
        date = format_datetime((now - timedelta(seconds=self.seconds)).astimezone(UTC), usegmt=True)
        return {"Date": date, "Age": str(round(self.seconds)), **self.headers}

    def alter(self, rows: Sequence[RawRow], now: datetime, former: Sequence[RawRow] = ()) -> list[RawRow]:
        """The rows as this fault leaves them; `former` are those that were given last."""
        match self.kind:
            case "rows":
                return [altered for n, row in enumerate(rows) for altered in self.copies_of(row, (n, n - len(rows)))]
            case "short":
                return list(rows[: len(rows) // 2])
            case "late":
                return [row for row in rows if time_of(row) < now - timedelta(seconds=self.seconds)]
            case "repeat":
                return list(former)
        return list(rows)

    def copies_of(self, row: RawRow, places: tuple[int, int]) -> list[RawRow]:
        market, copies = next((row[name].strip('"') for name in ("market", "code", "cd") if name in row), ""), 1
        for change in self.rows:
            if change.get("market", "*") in ("*", market) and change.get("index", places[0]) in places:
                row = {name: value for name, value in row.items() if name not in change.get("drop", ())}
                row |= change.get("set", {})
                row |= {name: str(int(row[name]) + more) for name, more in change.get("add", {}).items()}
                row |= {name: turned(row[name]) for name in change.get("digit", ())}
                copies += change.get("duplicate", 0)
        return [row] * copies


def time_of(row: RawRow) -> datetime:
    """When a candle began, or a trade was made."""
    if start := row.get("candle_date_time_utc"):
        return datetime.fromisoformat(json.loads(start)).replace(tzinfo=UTC)
    return datetime.fromtimestamp(int(row["timestamp"]) / 1000, UTC)


def turned(number: str) -> str:
    """A number whose last digit that isn't 0 is another: 9 for 1, 1 for 2."""
    return re.sub(r"([1-9])(?=[0.]*(E|$))", lambda digit: str(int(digit[1]) % 9 + 1), number, count=1)


@dataclass(slots=True)
class Active:
    fault: Fault
    seen: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - the same faults each time

    def hits(self, target: str) -> bool:
        if not re.search(self.fault.match, target):
            return False
        self.seen += 1
        past = self.seen - self.fault.skip
        chosen = past > 0 and (self.fault.times is None or past <= self.fault.times)
        return chosen and self.dice.random() < self.fault.chance


class Faults:
    """The faults that are switched on. Usable from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.active: list[Active] = []
        self.former: dict[str, list[RawRow]] = {}

    def alter(self, hit: Iterable[Fault], path: str, rows: list[RawRow], now: datetime) -> list[RawRow]:
        """The rows of a reply of this path as the faults that hit it leave them."""
        with self.lock:
            former = self.former.get(path, [])
            for fault in hit:
                rows = fault.alter(rows, now, former)
            self.former[path] = rows
        return rows

    def add(self, match: str, kind: str, **options: Any) -> None:
        """Switch on one more fault, see `Fault`. Raises ValueError or TypeError if it makes no sense."""
        active = Active(fault_from({"match": match, "kind": kind, **options}))
        with self.lock:
            self.active.append(active)

    def replace(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Switch on exactly these. Raises ValueError or TypeError, changing nothing, if one is senseless."""
        active = [Active(fault_from(each)) for each in faults]
        with self.lock:
            self.active = active

    def clear(self) -> None:
        """Switch all of them off."""
        self.replace([])

    def show(self) -> list[dict[str, Any]]:
        """The faults that are on, each with how many matching requests it has `seen`."""
        with self.lock:
            return [{**asdict(each.fault), "seen": each.seen} for each in self.active]

    def take(self, target: str) -> list[Fault]:
        """The faults that hit this request (`path?query`), which is counted."""
        with self.lock:
            return [each.fault for each in self.active if each.hits(target)]


def fault_from(options: Mapping[str, Any]) -> Fault:
    known = {each.name for each in fields(Fault)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown options of a fault: {', '.join(unknown)}")
    try:
        return Fault(**{**options, "rows": tuple(options.get("rows", ()))})
    except re.error as problem:
        raise ValueError(f"match is not a regular expression: {problem}") from problem
