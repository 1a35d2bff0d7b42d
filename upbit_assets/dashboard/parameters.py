"""The API's parameters: parsing and validation of whatever comes from outside."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.datastructures import QueryParams

from upbit_assets.partitions import SEOUL, windows

EARLIEST, LATEST = datetime(2017, 1, 1, tzinfo=SEOUL), datetime(2100, 1, 1, tzinfo=SEOUL)
MOST_ROWS = 1000
MARKET = re.compile(r"[A-Z0-9]{2,10}-[A-Z0-9]{1,19}", re.ASCII)
MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


class RequestError(Exception):
    """The request can't be answered; the message tells its sender why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Parameter:
    """A parameter of the API. `read` makes its value of the text, or raises ValueError that says what it must be."""

    name: str
    about: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    default: Any = None
    in_path: bool = False


def parse(parameters: Iterable[Parameter], path: Mapping[str, str], query: QueryParams) -> dict[str, Any]:
    """The values of a request's parameters.

    Raises:
        RequestError: one is unknown, given twice, or not what it must be.
    """
    known = {parameter.name: parameter for parameter in parameters}
    given = [*path.items(), *query.multi_items()]
    values = {parameter.name: parameter.default for parameter in known.values()}
    for place, (name, text) in enumerate(given):
        if name not in known:
            names = ", ".join(known) or "none"
            raise RequestError(400, f"There is no parameter {shortened(name)!r} here; there are: {names}.")
        if name in dict(given[:place]):
            raise RequestError(400, f"{name} is given twice.")
        try:
            values[name] = known[name].read(text)
        except (ValueError, OverflowError) as problem:
            raise RequestError(400, f"{name} must be {problem}, not {shortened(text)!r}.") from None
    return values


def shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def market_code(text: str) -> str:
    if not MARKET.fullmatch(text):
        raise ValueError("a market's code as KRW-BTC")
    return text


def moment(text: str) -> datetime:
    """An ISO 8601 date or time, in Seoul where it names no zone."""
    wanted = "a date or time as 2026-01-29 or 2026-01-29T14:00:00Z, from 2017 to 2099 (a + in it is written %2B)"
    if not MOMENT.fullmatch(text):
        raise ValueError(wanted)
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(wanted) from None
    read = read if read.tzinfo else read.replace(tzinfo=SEOUL)
    if not EARLIEST <= read < LATEST:
        raise ValueError(wanted)
    return read.astimezone(SEOUL)


def window_key(text: str) -> datetime:
    """The start of the window with this partition key."""
    wanted = "a window's key as 2026-01-29-14:00"
    try:
        start = windows.start_of(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not EARLIEST <= start < LATEST or windows.key_of(windows.at(start).start) != text:
        raise ValueError(wanted)
    return start


def whole_number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most:,}")
        return int(text)

    return read


def one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[text]

    return read


def choice(name: str, about: str, choices: Mapping[str, Any], default: str) -> Parameter:
    schema = {"type": "string", "enum": list(choices), "default": default}
    return Parameter(name, about, schema, one_of(choices), choices[default])


def number(name: str, about: str, least: int, most: int, default: int) -> Parameter:
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return Parameter(name, about, schema, whole_number(least, most), default)


def instant(name: str, about: str) -> Parameter:
    return Parameter(name, about, {"type": "string", "format": "date-time"}, moment)


market = Parameter(
    "market", "종목 코드, e.g. KRW-BTC", {"type": "string", "pattern": f"^{MARKET.pattern}$"}, market_code, in_path=True
)


@dataclass(frozen=True)
class Page:
    """The steps of time that begin in `[start, end)`; further ones begin at `next`, if there are any."""

    start: datetime
    end: datetime
    next: datetime | None


def page(values: Mapping[str, Any], step: timedelta, usual: timedelta) -> Page:
    """At most `limit` steps from `from` to `to`; by default the `usual` time until now."""
    to = values["to"] or datetime.now(SEOUL)
    since = values["from"] or to - usual
    if since >= to:
        raise RequestError(400, "from must be before to.")
    start, stop = at_or_after(since, step), at_or_after(to, step)
    end = min(stop, start + values["limit"] * step)
    return Page(start, end, end if end < stop else None)


def at_or_after(moment: datetime, step: timedelta) -> datetime:
    """The first start of a step at this moment or later; steps are counted from midnight UTC, 09:00 in Seoul."""
    origin = datetime(2000, 1, 1, tzinfo=UTC)
    return (origin - (origin - moment) // step * step).astimezone(SEOUL)
