"""Messages from clients of the exchange's WebSocket: a ticket, types with their codes, and a format.

Source: Upbit WebSocket, Guide; List Subscriptions.
"""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from upbit_assets.sandbox.frames import FORMATS

CANDLES = {
    "candle.1s": "seconds",
    **{f"candle.{n}m": f"minutes/{n}" for n in (1, 3, 5, 10, 15, 30, 60, 240)},
}
TYPES = {"ticker", "trade", "orderbook", *CANDLES}
PRIVATE = {"myOrder", "myAsset", "myTrade"}
DEPTHS = (1, 5, 15, 30)
MESSAGES = {
    "NO_TICKET": "티켓이 존재하지 않거나, 유효하지 않습니다.",
    "NO_TYPE": "타입이 존재하지 않습니다.",
    "NO_CODES": "코드가 존재하지 않습니다.",
    "WRONG_FORMAT": "Format 이 맞지 않습니다.",
    "INVALID_PARAM": "요청 파라미터가 올바르지 않습니다.",
    "INVALID_AUTH": "인증 정보가 올바르지 않습니다.",
    "TOO_MANY_REQUEST": "요청 수 제한을 초과하였습니다.",
}


class MessageError(Exception):
    """A message that the exchange answers with an error frame before closing the connection."""

    def __init__(self, name: str, message: str | None = None) -> None:
        self.frame = {"error": {"name": name, "message": message or MESSAGES[name]}}
        super().__init__(name)


@dataclass(slots=True, eq=False)
class Subscription:
    """One type with its codes.

    `codes` are as requested; `depths` maps them, without their suffix, to the depth of their order book. `live` are the
    codes that get updates.
    """

    kind: str
    codes: list[str]
    depths: dict[str, int]
    snapshot: bool = True
    realtime: bool = True
    level: Decimal = Decimal(0)
    live: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Message:
    """A client's message: `subscriptions` that replace the previous ones, or None if it requests their list."""

    ticket: str
    subscriptions: list[Subscription] | None
    form: str | None


def parse(text: str | bytes) -> Message:
    """Raises MessageError for messages that the exchange rejects."""
    try:
        parts = json.loads(text, parse_float=Decimal)
    except ValueError:
        raise MessageError("WRONG_FORMAT") from None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise MessageError("WRONG_FORMAT")
    ticket = next((part["ticket"] for part in parts if "ticket" in part), None)
    if not isinstance(ticket, str) or not ticket:
        raise MessageError("NO_TICKET")
    form = next((part["format"] for part in parts if "format" in part), None)
    if form not in (None, *FORMATS):
        raise MessageError("WRONG_FORMAT")
    if methods := [part["method"] for part in parts if "method" in part]:
        if methods != ["LIST_SUBSCRIPTIONS"]:
            raise MessageError("INVALID_PARAM")
        return Message(ticket, None, form)
    subscriptions = [parse_subscription(part) for part in parts if not {"ticket", "format"} & set(part)]
    if not subscriptions:
        raise MessageError("NO_TYPE")
    return Message(ticket, subscriptions, form or "DEFAULT")


def parse_subscription(part: dict[str, Any]) -> Subscription:
    kind, codes = part.get("type"), part.get("codes")
    if not isinstance(kind, str) or not kind:
        raise MessageError("NO_TYPE")
    if kind in PRIVATE:
        raise MessageError("INVALID_AUTH")
    if kind not in TYPES:
        raise MessageError("INVALID_PARAM", f"{kind} 은 지원하지 않는 타입입니다.")
    if not isinstance(codes, list) or not codes:
        raise MessageError("NO_CODES")
    only_snapshot, only_realtime = part.get("is_only_snapshot", False), part.get("is_only_realtime", False)
    level = part.get("level", 0)
    if (
        not all(isinstance(code, str) for code in codes)
        or not isinstance(only_snapshot, bool)
        or not isinstance(only_realtime, bool)
        or isinstance(level, bool)
        or not isinstance(level, int | Decimal)
    ):
        raise MessageError("INVALID_PARAM")
    if only_snapshot and only_realtime:
        only_snapshot = only_realtime = False
    depths = dict(map(split, codes)) if kind == "orderbook" else dict.fromkeys(codes, 0)
    return Subscription(kind, codes, depths, not only_realtime, not only_snapshot, Decimal(level))


def split(code: str) -> tuple[str, int]:
    """The code and depth of `KRW-BTC.15`; unsupported depths become the greatest."""
    market, _, depth = code.partition(".")
    return market, int(depth) if depth.isascii() and depth.isdigit() and int(depth) in DEPTHS else DEPTHS[-1]


def listing(ticket: str, subscriptions: list[Subscription], form: str) -> bytes:
    """The answer to LIST_SUBSCRIPTIONS."""
    method, result, kind, codes, name = ("method", "result", "type", "codes", "ticket")
    if form.startswith("SIMPLE"):
        method, result, kind, codes, name = ("mthd", "rslt", "ty", "cds", "tckt")
    rows = []
    for subscription in subscriptions:
        row: dict[str, Any] = {kind: subscription.kind, codes: subscription.codes}
        if subscription.level:
            row["lv" if form.startswith("SIMPLE") else "level"] = int(subscription.level)
        rows.append(row)
    return json.dumps({method: "LIST_SUBSCRIPTIONS", result: rows, name: ticket}, separators=(",", ":")).encode()
