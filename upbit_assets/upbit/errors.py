"""What can go wrong between this project and the exchange, in plain words."""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import requests

from upbit_assets.upbit.clock import TOLERATED, in_words

QUOTED = 120
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (requests.ConnectTimeout, "no connection was made in time"),
    (requests.Timeout, "no answer came in time"),
    (requests.exceptions.ProxyError, "the proxy that the environment names could not pass the call on"),
    (ssl.SSLError, "no trusted connection (TLS) could be made"),
    (socket.gaierror, "the name is not known"),
    (ConnectionRefusedError, "nobody listens at that address"),
    (ConnectionError, "the connection was closed before an answer came"),
    (http.client.HTTPException, "what answers there does not speak HTTP"),
    (requests.exceptions.InvalidSchema, "that, or the proxy that the environment names, is not a usable address"),
    (requests.exceptions.MissingSchema, "that is not a usable address"),
    (requests.exceptions.InvalidURL, "that is not a usable address"),
)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)? ?(?:Z|UTC|KST|[+-]\d\d:?\d\d)")
_DURATION = re.compile(
    r"(?<!per )(?<![\w./-])(\d{1,7})\s*"
    r"(s(?:ec(?:ond)?s?)?|초|m(?:in(?:ute)?s?)?|분|h(?:ours?)?|시간)(?![a-z])",
    re.IGNORECASE,
)
_SECONDS = {"s": 1, "초": 1, "m": 60, "분": 60, "h": 3600, "시": 3600}


class UpbitError(Exception):
    """Any failure of a call to the exchange. `retryable`: the same call, made again soon, may succeed."""

    retryable = False


class TransportError(UpbitError):
    """No answer at all: name, network, refused or reset connection, time-out."""

    def __init__(self, base_url: str, error: Exception) -> None:
        super().__init__(base_url, error)
        self.base_url = base_url
        self.retryable = isinstance(error, requests.ConnectionError | requests.Timeout) and not _caused_by(
            error, ssl.SSLCertVerificationError
        )
        self.reason = next((words for type_, words in _CAUSES if _caused_by(error, type_)), "the call failed")

    def __str__(self) -> str:
        return (
            f"The exchange at {self.base_url} cannot be reached: {self.reason}. "
            "Check the network, and UPBIT_API_URL if it is set."
        )


class UnexpectedBodyError(UpbitError):
    """A reply with status 200 whose body is not the whole UTF-8 JSON array that was asked for."""

    retryable = True

    def __init__(self, url: str, problem: str, body: bytes) -> None:
        super().__init__(url, problem, body[:QUOTED])
        self.url, self.problem, self.start = url, problem, body[:QUOTED]

    def __str__(self) -> str:
        start = quoted(self.start)
        return f"A JSON array was expected from {self.url}, but the body {self.problem}. It begins {start}."


class StatusError(UpbitError):
    """Any status but 200 and 418. `name` and `message` are the exchange's own, `name` a number or a word.

    When the body is not the exchange's error object, `name` is "" and `message` the start of the body.
    """

    def __init__(self, url: str, status: int, name: int | str, message: str) -> None:
        super().__init__(url, status, name, message)
        self.url, self.status, self.name, self.message = url, status, name, message
        self.retryable = status == 429 or status >= 500

    def __str__(self) -> str:
        name = f", {self.name}" if self.name not in ("", self.status) else ""
        return f"The exchange answered {self.url} with status {self.status}{name}: {quoted(self.message)}."


class BlockedError(UpbitError):
    """Status 418: this address went on after a 429 and is shut out `until` then (UTC; None: not stated).

    Source: Upbit REST, Rate limits.
    """

    def __init__(self, until: datetime | None, message: str) -> None:
        super().__init__(until, message)
        self.until, self.message = until, message

    def __str__(self) -> str:
        end = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else " and did not say until when"
        return (
            f"The exchange has blocked this address{end}: {quoted(self.message)}. "
            "Make no calls before then, since each one may lengthen the block."
        )


class ClockError(UpbitError):
    """This machine's clock is further from the exchange's than is tolerated: `ahead` of it, or behind (negative)."""

    def __init__(self, url: str, ahead: timedelta) -> None:
        super().__init__(url, ahead)
        self.url, self.ahead = url, ahead

    def __str__(self) -> str:
        doubt = " If the clock is right, a cache on the way gives old answers." if self.ahead > timedelta() else ""
        return (
            f"This machine's clock is {in_words(self.ahead)}, by the Date of the answer to {self.url}; "
            f"{TOLERATED.seconds} seconds are tolerated. The answer is not stored, as it would go into a wrong window. "
            "Have the clock (in a container, the host's) kept by NTP: `timedatectl` says whether it is, `sudo "
            f"timedatectl set-ntp true` switches it on.{doubt}"
        )


class CachedReplyError(UpbitError):
    """A cache on the way gave what the exchange said a while ago, when it was asked for the present."""

    retryable = True

    def __init__(self, url: str, age: timedelta) -> None:
        super().__init__(url, age)
        self.url, self.age = url, age

    def __str__(self) -> str:
        return (
            f"The answer to {self.url} is {self.age.total_seconds():.0f} seconds old: a cache on the way kept it. Have "
            "the proxy between here and the exchange pass these calls on."
        )


def quoted(text: str | bytes) -> str:
    """The first 120 characters, on one line and safe to print."""
    readable = text.decode(errors="replace") if isinstance(text, bytes) else text
    return repr(readable[:QUOTED])


def parse_error_body(body: bytes) -> tuple[int | str, str]:
    """Name and message of the exchange's error object; "" and the start of the body when it is none."""
    try:
        error = json.loads(body)["error"]
        name, message = error["name"], error["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", body[:QUOTED].decode(errors="replace")
    return name if isinstance(name, int | str) else "", str(message)


def block_end(text: str, now: datetime) -> datetime | None:
    """When a block ends (UTC), if `text` plainly says so.

    That is exactly one instant with its zone, or else exactly one length of time, and not in the past.
    """
    ends = [_instant(found) for found in _INSTANT.findall(text)] or [
        now + timedelta(seconds=int(number) * _SECONDS[unit[0].lower()]) for number, unit in _DURATION.findall(text)
    ]
    return ends[0] if len(ends) == 1 and ends[0] and ends[0] > now else None


def _instant(text: str) -> datetime | None:
    iso = text.replace("UTC", "Z").replace("KST", "+09:00")
    try:
        return datetime.fromisoformat(iso[:11] + iso[11:].replace(" ", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _caused_by(error: Exception, type_: type[Exception]) -> bool:
    return any(isinstance(link, type_) for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__
