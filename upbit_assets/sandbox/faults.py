"""Fault injection: errors of the exchange, or of the network between it and its clients."""

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
    """A fault for requests whose `path?query` matches the regular expression `match` (`re.search`).

    WebSocket upgrades match as `/websocket/v1`; each outgoing frame (data, `pong` or `status`) matches as
    `/websocket/v1?type=trade&code=KRW-BTC&connection=2`, with connections numbered from 1.
    The first `skip` matches are unaffected, the next `times` (None: all) are hit with probability `chance`. By `kind`:

    status: respond with `status`, `body` (default: the exchange's JSON error), `content_type` and `headers`. Not for
            frames.
    body:   respond with `body` verbatim and `status` (default 200).
    empty:  respond with `[]`.
    short:  return only the first half of an array's rows, as if there were no more.
    late:   leave out the rows of the last `seconds`, as when candles and trades are published late. A frame is sent
            `seconds` later, without holding up the frames after it.
    repeat: return the rows that this path returned last, whatever the query.
    cached: respond as from a cache that stored the response `seconds` ago: an old Date, and an Age.
    cut:    truncate the response to its first half; with `closes`, Content-Length (or the frame's length) still
            announces the whole and the connection closes.
    reset:  reset the TCP connection without responding.
    slow:   wait `seconds`, then go on, including to further faults. For a frame, the whole connection waits.
    rows:   alter rows of an array or a frame. Each of `rows` selects by `market` ("*": all), by `index` (-1: the last)
            or both, and may `set` fields to raw JSON text, `add` to integers, change the last `digit` of fields,
            `drop` fields, and `duplicate` the row so many times (-1: remove it).
    drop:   don't send the frame. Dropping all frames of a type or market makes a silent stream.
    close:  send `body`, if any, in place of the frame, then close with `code`.
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
            raise ValueError(f"not an HTTP status: {self.status}")
        if not all("market" in change or "index" in change for change in self.rows):
            raise ValueError('each entry of rows needs a market ("*" for all) or an index')
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault kind {self.kind!r}; use one of {', '.join(KINDS)}")

    def reply(self) -> Reply | None:
        """The reply to send in place of the real one, if this kind has one."""
        headers = {"Content-Type": self.content_type, **self.headers}
        if self.kind == "status":
            status = self.status or 500
            body = error(status, f"Simulated error {status}").text if self.body is None else self.body
            return Reply(status, body, headers=headers)
        if self.kind == "body" or (self.kind == "close" and self.body is not None):
            return Reply(self.status or 200, self.body or "", headers=headers)
        return Reply(200, "[]", headers=headers) if self.kind == "empty" else None

    def headers_at(self, now: datetime) -> dict[str, str]:
        """The headers that this fault adds to the reply."""
        if self.kind != "cached":
            return {}
        date = format_datetime((now - timedelta(seconds=self.seconds)).astimezone(UTC), usegmt=True)
        return {"Date": date, "Age": str(round(self.seconds)), **self.headers}

    def alter(self, rows: Sequence[RawRow], now: datetime, previous: Sequence[RawRow] = ()) -> list[RawRow]:
        """The rows with this fault applied; `previous` are the rows returned last."""
        match self.kind:
            case "rows":
                return [altered for n, row in enumerate(rows) for altered in self.copies_of(row, (n, n - len(rows)))]
            case "short":
                return list(rows[: len(rows) // 2])
            case "late":
                return [row for row in rows if time_of(row) < now - timedelta(seconds=self.seconds)]
            case "repeat":
                return list(previous)
        return list(rows)

    def copies_of(self, row: RawRow, indexes: tuple[int, int]) -> list[RawRow]:
        market, copies = next((row[name].strip('"') for name in ("market", "code", "cd") if name in row), ""), 1
        for change in self.rows:
            if change.get("market", "*") in ("*", market) and change.get("index", indexes[0]) in indexes:
                row = {name: value for name, value in row.items() if name not in change.get("drop", ())}
                row |= change.get("set", {})
                row |= {name: str(int(row[name]) + increment) for name, increment in change.get("add", {}).items()}
                row |= {name: changed_digit(row[name]) for name in change.get("digit", ())}
                copies += change.get("duplicate", 0)
        return [row] * copies


def time_of(row: RawRow) -> datetime:
    """The start of a candle, or the time of a trade."""
    if start := row.get("candle_date_time_utc"):
        return datetime.fromisoformat(json.loads(start)).replace(tzinfo=UTC)
    return datetime.fromtimestamp(int(row["timestamp"]) / 1000, UTC)


def changed_digit(number: str) -> str:
    """The number with its last nonzero digit changed: 1 to 2, 9 to 1."""
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
        hits_so_far = self.seen - self.fault.skip
        in_range = hits_so_far > 0 and (self.fault.times is None or hits_so_far <= self.fault.times)
        return in_range and self.dice.random() < self.fault.chance


class Faults:
    """The active faults. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.active: list[Active] = []
        self.previous: dict[str, list[RawRow]] = {}

    def alter(self, faults: Iterable[Fault], path: str, rows: list[RawRow], now: datetime) -> list[RawRow]:
        """The rows of a reply of this path with its faults applied."""
        with self.lock:
            previous = self.previous.get(path, [])
            for fault in faults:
                rows = fault.alter(rows, now, previous)
            self.previous[path] = rows
        return rows

    def add(self, match: str, kind: str, **options: Any) -> None:
        """Activate one more fault, see `Fault`. Raises ValueError or TypeError if its options are invalid."""
        active = Active(fault_from({"match": match, "kind": kind, **options}))
        with self.lock:
            self.active.append(active)

    def replace(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Activate exactly these. Raises ValueError or TypeError, changing nothing, if one is invalid."""
        active = [Active(fault_from(options)) for options in faults]
        with self.lock:
            self.active = active

    def clear(self) -> None:
        """Deactivate all faults."""
        self.replace([])

    def show(self) -> list[dict[str, Any]]:
        """The active faults, each with the number of matching requests it has `seen`."""
        with self.lock:
            return [{**asdict(active.fault), "seen": active.seen} for active in self.active]

    def take(self, target: str) -> list[Fault]:
        """The faults that apply to this request (`path?query`). Counts the request."""
        with self.lock:
            return [active.fault for active in self.active if active.hits(target)]


def fault_from(options: Mapping[str, Any]) -> Fault:
    known = {option.name for option in fields(Fault)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown fault options: {', '.join(unknown)}")
    try:
        return Fault(**{**options, "rows": tuple(options.get("rows", ()))})
    except re.error as exc:
        raise ValueError(f"match is not a regular expression: {exc}") from exc
