"""Replies with the exact text of their body and of each row."""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Named(msgspec.Struct):
    market: str = ""


_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_NAMED = msgspec.json.Decoder(_Named)
# Fallback for what msgspec rejects; used only to find where an element ends. Numbers are not converted, because Python
# rejects integers of more than 4,300 digits.
_LENIENT = json.JSONDecoder(parse_float=bool, parse_int=bool, strict=False)
# For invalid JSON: the start of a row as the exchange writes it, and a flat row up to the next row. The match can't end
# inside a string: the quote before `market` would then close the string, and a bare `market` is not JSON.
_ROW_START = re.compile(r'\{"market":"([^"\\]*)"')
_BROKEN_ROW = re.compile(r'\{"market":"[^{}\\]*\}(?=,\{"market":")')
# For rows nested too deeply for a parser, or with invalid JSON inside: an element ends where its brackets are balanced.
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
_SPACE = r"[ \t\n\r]*"
_OPEN = re.compile(rf"{_SPACE}\[{_SPACE}")
_COMMA = re.compile(rf"{_SPACE},{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}\]{_SPACE}\Z")


class Row(str):
    """The exact JSON text of one element of a reply."""

    __slots__ = ()

    @property
    def market(self) -> str:
        """The row's market; "" if it has none."""
        try:
            return _NAMED.decode(str(self)).market  # the last one if duplicated, as in jsonb
        except _DECODE_ERRORS:
            return _market(self)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply. `received_at` (UTC) is when the last byte arrived, `seconds` the duration of the last attempt.

    `simulated`: it comes from the offline exchange (header `X-Upbit-Simulated`). `clock_ahead`: the least offset of our
    clock from the exchange's, negative if behind.
    """

    text: str = field(repr=False)
    rows: list[Row] = field(repr=False)
    received_at: datetime
    simulated: bool
    url: str
    seconds: float
    clock_ahead: timedelta = timedelta()


def split(text: str) -> list[Row]:
    """Split the text of a JSON array into the exact texts of its elements.

    Keeps NaN and Infinity (not JSON), control characters in strings, numbers of any length and rows of any depth, so
    that one odd row doesn't affect the others. Raises ValueError with the reason.
    """
    try:
        return [Row(row, "utf-8") for row in _ROWS.decode(text)]
    except _DECODE_ERRORS:
        return _lenient(text)


def _market(row: str) -> str:
    try:
        element = _LENIENT.decode(row)
    except (ValueError, RecursionError):
        named = _ROW_START.match(row)
        return named[1] if named else ""
    market = element.get("market") if isinstance(element, dict) else None
    return market if isinstance(market, str) else ""


def _lenient(text: str) -> list[Row]:
    if not (mark := _OPEN.match(text)):
        raise ValueError("is not one" if text.strip() else "is empty")
    at, rows = mark.end(), list[Row]()
    if _CLOSE.match(text, at):
        return rows
    while True:
        end = _end(text, at)
        rows.append(Row(text[at:end]))
        if mark := _COMMA.match(text, end):
            at = mark.end()
        elif _CLOSE.match(text, end):
            return rows
        else:
            raise ValueError(f"is truncated or invalid JSON at character {end}")


def _end(text: str, at: int) -> int:
    try:
        return _LENIENT.raw_decode(text, at)[1]
    except (json.JSONDecodeError, RecursionError) as error:
        broken = _BROKEN_ROW.match(text, at)
        if end := broken.end() if broken else _balanced(text, at):
            return end
        position = error.pos if isinstance(error, json.JSONDecodeError) else at
        raise ValueError(f"is truncated or invalid JSON at character {position}") from None


def _balanced(text: str, at: int) -> int | None:
    """The end of the object or array that starts at `at`, ignoring everything but brackets and strings."""
    if text[at : at + 1] not in ("{", "["):
        return None
    depth = 0
    for token in _BRACKET.finditer(text, at):
        match token[0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case '"':  # an unterminated string
                return None
        if depth == 0:
            return token.end()
    return None
