"""Replies as they came: the exact text of the body and of each row in it."""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

# Only where an element ends matters. Numbers are not made, as Python refuses integers beyond 4,300 digits.
_DECODER = json.JSONDecoder(parse_float=bool, parse_int=bool, strict=False)
_MARKET = '"market":"'
_SPACE = r"[ \t\n\r]*"
_OPEN = re.compile(rf"{_SPACE}\[{_SPACE}")
_COMMA = re.compile(rf"{_SPACE},{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}\]{_SPACE}\Z")


class Row(NamedTuple):
    """One element of a reply: the exact `text` of its JSON; `market` is "" when it names none."""

    market: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. `received_at` (UTC) is when the last byte was in, `seconds` what the last attempt took.

    `simulated`: it comes from the offline exchange, which says so in the header `X-Upbit-Simulated`.
    """

    text: str = field(repr=False)
    rows: list[Row] = field(repr=False)
    received_at: datetime
    simulated: bool
    url: str
    seconds: float


def split(text: str) -> list[Row]:
    """Cut the text of a JSON array into its elements, each to the letter.

    NaN and Infinity, which JSON does not know, control characters in strings and numbers of any length pass
    untouched, so that one odd row does not cost the others. Raises ValueError saying what is wrong.
    """
    if rows := _flat(text):
        return rows
    if not (mark := _OPEN.match(text)):
        raise ValueError("is not one" if text.strip() else "is empty")
    at = mark.end()
    if _CLOSE.match(text, at):
        return rows
    while True:
        row, end = _row(text, at)
        rows.append(row)
        if mark := _COMMA.match(text, end):
            at = mark.end()
        elif _CLOSE.match(text, end):
            return rows
        else:
            raise ValueError(f"is cut off or no JSON at character {end}")


def _flat(text: str) -> list[Row]:
    """The rows of an array as the exchange writes it, at a quarter of the cost; none where it is not surely that.

    That is objects without an object in them, `"market"` first and once, only a comma between them, and no backslash.
    What looks like a cut is one: were it in a string, its quote would end that string before a bare `market`, which is
    no JSON. Only a string that a body breaks off in has no such end, so the last object's quotes are counted.
    """
    start, *objects = text.split(_MARKET)
    if start != "[{" or not objects or not text.endswith("}]") or "\\" in text or objects[-1].count('"') % 2 == 0:
        return []
    objects[-1] = objects[-1][:-1] + ",{"  # like the others
    if any(each.find("}") != len(each) - 3 or each.find("{") != len(each) - 1 or each[-2] != "," for each in objects):
        return []
    return [Row(each.partition('"')[0], f"{{{_MARKET}{each[:-2]}") for each in objects]


def _row(text: str, at: int) -> tuple[Row, int]:
    try:
        element, end = _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise ValueError(f"is cut off or no JSON at character {error.pos}") from None
    except RecursionError:
        raise ValueError(f"is nested too deeply at character {at}") from None
    market = element.get("market") if isinstance(element, dict) else None
    return Row(market if isinstance(market, str) else "", text[at:end]), end
