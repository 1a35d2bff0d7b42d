"""Replies as they came: the exact text of the body and of each row in it."""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

_REFUSALS = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Named(msgspec.Struct):
    market: str = ""


_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_NAMED = msgspec.json.Decoder(_Named)
# For what it refuses: only where an element ends matters. Numbers are not made, as Python refuses integers beyond
# 4,300 digits.
_LENIENT = json.JSONDecoder(parse_float=bool, parse_int=bool, strict=False)
# For what is no JSON, as the exchange begins a row; and a row of figures that another follows, whatever is wrong
# within. Were its end in a string, the next quote would end that before a bare `market`, which is no JSON.
_BEGINS = re.compile(r'\{"market":"([^"\\]*)"')
_TORN = re.compile(r'\{"market":"[^{}\\]*\}(?=,\{"market":")')
# For what is nested too deeply for a parser, or holds what is no JSON: an element ends where its brackets are closed.
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
_SPACE = r"[ \t\n\r]*"
_OPEN = re.compile(rf"{_SPACE}\[{_SPACE}")
_COMMA = re.compile(rf"{_SPACE},{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}\]{_SPACE}\Z")


class Row(str):
    """One element of a reply: the exact text of its JSON."""

    __slots__ = ()

    @property
    def market(self) -> str:
        """The market that it names; "" where it names none."""
        try:
            return _NAMED.decode(str(self)).market  # of two the last counts, as for jsonb
        except _REFUSALS:
            return _market(self)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. `received_at` (UTC) is when the last byte was in, `seconds` what the last attempt took.

    `simulated`: it comes from the offline exchange, which says so in the header `X-Upbit-Simulated`. `clock_ahead`: by
    how much our clock is at least ahead of the exchange's, or behind (negative).
    """

    text: str = field(repr=False)
    rows: list[Row] = field(repr=False)
    received_at: datetime
    simulated: bool
    url: str
    seconds: float
    clock_ahead: timedelta = timedelta()


def split(text: str) -> list[Row]:
    """Cut the text of a JSON array into its elements, each to the letter.

    NaN and Infinity, which JSON does not know, control characters in strings, numbers of any length and rows of any
    depth pass untouched, so that one odd row does not cost the others. Raises ValueError saying what is wrong.
    """
    try:
        return [Row(row, "utf-8") for row in _ROWS.decode(text)]
    except _REFUSALS:
        return _lenient(text)


def _market(row: str) -> str:
    try:
        element = _LENIENT.decode(row)
    except (ValueError, RecursionError):
        named = _BEGINS.match(row)
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
            raise ValueError(f"is cut off or no JSON at character {end}")


def _end(text: str, at: int) -> int:
    try:
        return _LENIENT.raw_decode(text, at)[1]
    except (json.JSONDecodeError, RecursionError) as error:
        torn = _TORN.match(text, at)
        if end := torn.end() if torn else _balanced(text, at):
            return end
        where = error.pos if isinstance(error, json.JSONDecodeError) else at
        raise ValueError(f"is cut off or no JSON at character {where}") from None


def _balanced(text: str, at: int) -> int | None:
    """Where the object or array that begins at `at` ends, whatever is between its brackets and strings."""
    if text[at : at + 1] not in ("{", "["):
        return None
    depth = 0
    for token in _BRACKET.finditer(text, at):
        match token[0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case '"':  # a string that doesn't end
                return None
        if depth == 0:
            return token.end()
    return None
