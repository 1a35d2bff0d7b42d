"""The API's parameters: parsing and validation."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.datastructures import QueryParams

from upbit_assets.partitions import SEOUL, windows

EARLIEST, LATEST = datetime(2017, 1, 1, tzinfo=SEOUL), datetime(2100, 1, 1, tzinfo=SEOUL)
MAX_ROWS = 1000
MARKET = re.compile(r"[A-Z0-9]{2,10}-[A-Z0-9]{1,19}", re.ASCII)
MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


class RequestError(Exception):
    """An invalid request; the message is for its sender."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Parameter:
    """A parameter of the API. `parse` converts the text, or raises ValueError with what it must be."""

    name: str
    about: str
    schema: Mapping[str, Any]
    parse: Callable[[str], Any]
    default: Any = None
    in_path: bool = False


def parse(parameters: Iterable[Parameter], path: Mapping[str, str], query: QueryParams) -> dict[str, Any]:
    """The values of a request's parameters.

    Raises:
        RequestError: one is unknown, duplicated or invalid.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    given = [*path.items(), *query.multi_items()]
    values = {parameter.name: parameter.default for parameter in by_name.values()}
    for index, (name, text) in enumerate(given):
        if name not in by_name:
            names = ", ".join(by_name) or "none"
            raise RequestError(400, f"Unknown parameter {shortened(name)!r}; the parameters are: {names}.")
        if name in dict(given[:index]):
            raise RequestError(400, f"{name} must not be repeated.")
        try:
            values[name] = by_name[name].parse(text)
        except (ValueError, OverflowError) as error:
            raise RequestError(400, f"{name} must be {error}, not {shortened(text)!r}.") from None
    return values


def shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def market_code(text: str) -> str:
    if not MARKET.fullmatch(text):
        raise ValueError("a market code like KRW-BTC")
    return text


def moment(text: str) -> datetime:
    """An ISO 8601 date or time, in Seoul time unless it has a UTC offset."""
    expected = "a date or time like 2026-01-29 or 2026-01-29T14:00:00Z, from 2017 to 2099 (encode a + as %2B)"
    if not MOMENT.fullmatch(text):
        raise ValueError(expected)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(expected) from None
    parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=SEOUL)
    if not EARLIEST <= parsed < LATEST:
        raise ValueError(expected)
    return parsed.astimezone(SEOUL)


def window_key(text: str) -> datetime:
    """The start of the window with this partition key."""
    expected = "a window's key like 2026-01-29-14:00"
    try:
        start = windows.start_of(text)
    except ValueError:
        raise ValueError(expected) from None
    if not EARLIEST <= start < LATEST or windows.key_of(windows.at(start).start) != text:
        raise ValueError(expected)
    return start


def integer_between(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not minimum <= int(text) <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum:,}")
        return int(text)

    return parse


def one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[text]

    return parse


def choice(name: str, about: str, choices: Mapping[str, Any], default: str) -> Parameter:
    schema = {"type": "string", "enum": list(choices), "default": default}
    return Parameter(name, about, schema, one_of(choices), choices[default])


def number(name: str, about: str, minimum: int, maximum: int, default: int) -> Parameter:
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum, "default": default}
    return Parameter(name, about, schema, integer_between(minimum, maximum), default)


def instant(name: str, about: str) -> Parameter:
    return Parameter(name, about, {"type": "string", "format": "date-time"}, moment)


market = Parameter(
    "market", "종목 코드, e.g. KRW-BTC", {"type": "string", "pattern": f"^{MARKET.pattern}$"}, market_code, in_path=True
)


@dataclass(frozen=True)
class Page:
    """The time steps that start in `[start, end)`; the next page starts at `next`, None on the last page."""

    start: datetime
    end: datetime
    next: datetime | None


def page(values: Mapping[str, Any], step: timedelta, default_span: timedelta) -> Page:
    """At most `limit` steps between `from` and `to`; by default the last `default_span`."""
    to = values["to"] or datetime.now(SEOUL)
    since = values["from"] or to - default_span
    if since >= to:
        raise RequestError(400, "from must be before to.")
    start, stop = at_or_after(since, step), at_or_after(to, step)
    end = min(stop, start + values["limit"] * step)
    return Page(start, end, end if end < stop else None)


def at_or_after(moment: datetime, step: timedelta) -> datetime:
    """The first step start at or after this time; steps are aligned to midnight UTC, 09:00 in Seoul."""
    origin = datetime(2000, 1, 1, tzinfo=UTC)
    return (origin - (origin - moment) // step * step).astimezone(SEOUL)
