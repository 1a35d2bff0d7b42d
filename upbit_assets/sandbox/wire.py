"""JSON text from exact decimals, formatted like the exchange's REST responses."""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache

RawRow = dict[str, str]
EXPONENT_BELOW = Decimal("0.0001")


def number(value: Decimal) -> str:
    """`91200000.0`, `0.00016456`, `5.485e-05`: all digits, never through a binary float."""
    digits = format(value, "f")
    if "." not in digits:
        return digits + ".0"
    digits = digits.rstrip("0")
    if digits.endswith("."):
        return digits + "0"
    return digits if abs(value) >= EXPONENT_BELOW else scientific(value, digits)


def scientific(value: Decimal, digits: str) -> str:
    sign = "-" if value < 0 else ""
    significant = digits.lstrip("-0.")
    fraction = f".{significant[1:]}" if significant[1:] else ""
    return f"{sign}{significant[0]}{fraction}e-{-value.adjusted():02d}"


def text(value: object) -> str:
    """A value as compact JSON."""
    if isinstance(value, Decimal):
        return number(value)
    if isinstance(value, dict):
        return json_object(raw(value))
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    return json.dumps(value, ensure_ascii=False)


def raw(row: Mapping[str, object]) -> RawRow:
    """The row with its values as JSON text."""
    return {field: text(value) for field, value in row.items()}


def array(rows: Iterable[RawRow]) -> str:
    """A compact JSON array of objects."""
    return "[" + ",".join(json_object(row) for row in rows) + "]"


def json_object(row: RawRow) -> str:
    return "{" + ",".join(f"{name(field)}:{value}" for field, value in row.items()) + "}"


@lru_cache(1 << 12)
def name(field: str) -> str:
    """A field's name as JSON text."""
    return json.dumps(field, ensure_ascii=False)
