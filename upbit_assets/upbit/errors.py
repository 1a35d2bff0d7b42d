"""Errors of calls to the exchange."""

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
    (requests.ConnectTimeout, "connecting timed out"),
    (requests.Timeout, "the response timed out"),
    (requests.exceptions.ProxyError, "the proxy set in the environment failed"),
    (ssl.SSLError, "the TLS connection could not be established"),
    (socket.gaierror, "the host name could not be resolved"),
    (ConnectionRefusedError, "connection refused"),
    (ConnectionError, "the connection was closed without a response"),
    (http.client.HTTPException, "the response is not HTTP"),
    (requests.exceptions.InvalidSchema, "the URL, or that of the proxy set in the environment, is invalid"),
    (requests.exceptions.MissingSchema, "the URL is invalid"),
    (requests.exceptions.InvalidURL, "the URL is invalid"),
)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)? ?(?:Z|UTC|KST|[+-]\d\d:?\d\d)")
_DURATION = re.compile(
    r"(?<!per )(?<![\w./-])(\d{1,7})\s*"
    r"(s(?:ec(?:ond)?s?)?|초|m(?:in(?:ute)?s?)?|분|h(?:ours?)?|시간)(?![a-z])",
    re.IGNORECASE,
)
_SECONDS = {"s": 1, "초": 1, "m": 60, "분": 60, "h": 3600, "시": 3600}


class UpbitError(Exception):
    """Any failure of a call to the exchange. `retryable`: the same call may succeed if repeated soon."""

    retryable = False


class TransportError(UpbitError):
    """No response: name resolution, network, refused or reset connection, timeout."""

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
    """A response with status 200 whose body is not the complete JSON array expected."""

    retryable = True

    def __init__(self, url: str, problem: str, body: bytes) -> None:
        super().__init__(url, problem, body[:QUOTED])
        self.url, self.problem, self.start = url, problem, body[:QUOTED]

    def __str__(self) -> str:
        start = quoted(self.start)
        return f"Expected a JSON array from {self.url}, but the body {self.problem}. It begins with {start}."


class StatusError(UpbitError):
    """Any status but 200 and 418. `name` (a number or a word) and `message` are the exchange's.

    If the body is not the exchange's error object, `name` is "" and `message` the start of the body.
    """

    def __init__(self, url: str, status: int, name: int | str, message: str) -> None:
        super().__init__(url, status, name, message)
        self.url, self.status, self.name, self.message = url, status, name, message
        self.retryable = status == 429 or status >= 500
        self.unknown_market = (status, name) == (404, 404)  # a gateway's own 404 has another name

    def __str__(self) -> str:
        name = f", {self.name}" if self.name not in ("", self.status) else ""
        return f"The exchange responded to {self.url} with status {self.status}{name}: {quoted(self.message)}."


class BlockedError(UpbitError):
    """Status 418: this IP address kept calling after a 429 and is blocked `until` then (UTC; None: not stated).

    Source: Upbit REST, Rate limits.
    """

    def __init__(self, until: datetime | None, message: str) -> None:
        super().__init__(until, message)
        self.until, self.message = until, message

    def __str__(self) -> str:
        end = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else " without saying until when"
        return (
            f"The exchange has blocked this IP address{end}: {quoted(self.message)}. "
            "Make no calls before then: each may prolong the block."
        )


class ClockError(UpbitError):
    """This machine's clock is too far `ahead` of the exchange's, or behind (negative)."""

    def __init__(self, url: str, ahead: timedelta) -> None:
        super().__init__(url, ahead)
        self.url, self.ahead = url, ahead

    def __str__(self) -> str:
        cache_hint = " If the clock is right, a cache is serving old responses." if self.ahead > timedelta() else ""
        return (
            f"This machine's clock is {in_words(self.ahead)}, according to the Date of the response from {self.url}; "
            f"{TOLERATED.seconds} seconds are tolerated. It is not stored, as it would go into a wrong window. "
            "Synchronize the clock (in a container, the host's) by NTP: `timedatectl` shows whether it is, `sudo "
            f"timedatectl set-ntp true` enables it.{cache_hint}"
        )


class CachedReplyError(UpbitError):
    """The response is an old one from a cache."""

    retryable = True

    def __init__(self, url: str, age: timedelta) -> None:
        super().__init__(url, age)
        self.url, self.age = url, age

    def __str__(self) -> str:
        return (
            f"The response from {self.url} is {self.age.total_seconds():.0f} seconds old: it comes from a cache. "
            "Configure the proxy between here and the exchange not to cache these calls."
        )


def quoted(text: str | bytes) -> str:
    """The first 120 characters, escaped onto one line."""
    readable = text.decode(errors="replace") if isinstance(text, bytes) else text
    return repr(readable[:QUOTED])


def parse_error_body(body: bytes) -> tuple[int | str, str]:
    """Name and message of the exchange's error object; for any other body, "" and its start."""
    try:
        error = json.loads(body)["error"]
        name, message = error["name"], error["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", body[:QUOTED].decode(errors="replace")
    return name if isinstance(name, int | str) else "", str(message)


def block_end(text: str, now: datetime) -> datetime | None:
    """When a block ends (UTC), if `text` states it unambiguously.

    That is exactly one time with a zone, or else exactly one duration, and not in the past.
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
