"""Parsing frames of the exchange's WebSocket, as far as collecting needs it. Source: Upbit WebSocket, Trade."""

import json
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from upbit_assets.partitions import EPOCH, MILLISECOND, WINDOW
from upbit_assets.postgres_io.copy import as_string

MAX_CLOCK_OFFSET = timedelta(minutes=10)  # a time further in the future is invalid
OLD_SNAPSHOT = WINDOW  # older first frames are ignored, because they would make a closed window stale
LONGEST_CODE = 30


class Frame(msgspec.Struct, gc=False):
    """The fields that identify a frame; a frame without a type is about the connection."""

    type: str = ""
    code: str = ""
    stream_type: str = ""
    trade_timestamp: int = 0
    sequential_id: int = 0


class Trade(NamedTuple):
    """A row of bronze.trade_stream_raw. `traded_at` is `ingested_at` if the frame has no valid time."""

    market: str
    raw_data: str
    ingested_at: datetime
    traded_at: datetime
    key: str
    connection: str


UNREADABLE = Frame("unreadable")
_FRAME = msgspec.json.Decoder(Frame)


def parse(payload: bytes | str) -> Frame:
    """A frame's fields; UNREADABLE if it is not a JSON object."""
    try:
        return _FRAME.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return parse_leniently(payload)


def parse_leniently(payload: bytes | str) -> Frame:
    """The same for frames that msgspec rejects: NaN, control characters, a number of the wrong type."""
    text = payload if isinstance(payload, str) else text_of(payload)
    try:
        said = json.loads(text, parse_int=str, parse_float=str, parse_constant=str, strict=False)
    except (ValueError, RecursionError):
        return UNREADABLE
    if not isinstance(said, dict):
        return UNREADABLE
    kind, code, stream_type = (word(said.get(name)) for name in ("type", "code", "stream_type"))
    timestamp, trade_id = (number(said.get(name)) for name in ("trade_timestamp", "sequential_id"))
    return Frame(kind, code, stream_type, timestamp, trade_id)


def word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def number(value: Any) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) <= LONGEST_CODE else 0


def document_of(payload: bytes) -> str:
    """The text of an unreadable frame, as a JSON string if it is not JSON.

    PostgreSQL repeats invalid JSON in its error. While further rows are sent, an error that exceeds the socket's buffer
    would block both sides forever.
    """
    text = text_of(payload)
    try:
        json.loads(text, parse_int=str, parse_float=str, strict=False)
    except (ValueError, RecursionError):
        return as_string(text)
    return text


def text_of(payload: bytes) -> str:
    return payload.decode(errors="backslashreplace")


def trade(frame: Frame, text: str, received_at: datetime, connection: str) -> Trade:
    """The row of a frame that is, or may be, a trade."""
    return Trade(
        frame.code.encode("utf-8", "ignore").decode().replace("\0", "")[:LONGEST_CODE],
        text,
        received_at,
        traded_at(frame, received_at),
        str(frame.sequential_id)[:LONGEST_CODE] if frame.sequential_id else "",
        connection,
    )


def traded_at(frame: Frame, received_at: datetime) -> datetime:
    try:
        at = EPOCH + frame.trade_timestamp * MILLISECOND
    except OverflowError:
        return received_at
    return at if frame.trade_timestamp > 0 and at <= received_at + MAX_CLOCK_OFFSET else received_at


def is_old(frame: Frame, received_at: datetime) -> bool:
    """Whether it is an old first frame after subscribing, which has the last trade regardless of its age."""
    return frame.stream_type == "SNAPSHOT" and traded_at(frame, received_at) < received_at - OLD_SNAPSHOT
