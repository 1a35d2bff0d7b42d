"""The format of the exchange's WebSocket frames: fields, their short names, and how numbers are written.

Source: Upbit WebSocket, Ticker, Trade, Orderbook and Candle; number formats from recorded frames.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from upbit_assets.sandbox import wire
from upbit_assets.sandbox.market import Row

FORMATS = ("DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST")
Spelling = Callable[[Decimal], str]

SHORT = {
    "ticker": """
        type:ty code:cd opening_price:op high_price:hp low_price:lp trade_price:tp prev_closing_price:pcp
        acc_trade_price:atp change:c change_price:cp signed_change_price:scp change_rate:cr signed_change_rate:scr
        ask_bid:ab trade_volume:tv acc_trade_volume:atv trade_date:tdt trade_time:ttm trade_timestamp:ttms
        acc_ask_volume:aav acc_bid_volume:abv highest_52_week_price:h52wp highest_52_week_date:h52wdt
        lowest_52_week_price:l52wp lowest_52_week_date:l52wdt trade_status:ts market_state:ms
        market_state_for_ios:msfi is_trading_suspended:its delisting_date:dd market_warning:mw timestamp:tms
        acc_trade_price_24h:atp24h acc_trade_volume_24h:atv24h stream_type:st
    """,
    "trade": """
        type:ty code:cd timestamp:tms trade_date:td trade_time:ttm trade_timestamp:ttms trade_price:tp trade_volume:tv
        ask_bid:ab prev_closing_price:pcp change:c change_price:cp sequential_id:sid best_ask_price:bap
        best_ask_size:bas best_bid_price:bbp best_bid_size:bbs stream_type:st
    """,
    "orderbook": """
        type:ty code:cd timestamp:tms total_ask_size:tas total_bid_size:tbs orderbook_units:obu stream_type:st level:lv
    """,
    "unit": "ask_price:ap bid_price:bp ask_size:as bid_size:bs",
    "candle": """
        type:ty code:cd candle_date_time_utc:cdttmu candle_date_time_kst:cdttmk opening_price:op high_price:hp
        low_price:lp trade_price:tp candle_acc_trade_volume:catv candle_acc_trade_price:catp timestamp:tms
        stream_type:st
    """,
}
NAMES = {kind: dict(pair.split(":") for pair in names.split()) for kind, names in SHORT.items()}


def padded(places: int) -> Spelling:
    """`106691000.00000000`, `0.00077720`: at least `places` decimal places, more if the value has more."""

    def spell(value: Decimal) -> str:
        whole, _, fraction = f"{value:f}".partition(".")
        return f"{whole}.{fraction.rstrip('0').ljust(places, '0')}"

    return spell


def plain(value: Decimal) -> str:
    """`116606000`, `0.00000689`."""
    digits = f"{value:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def short(value: Decimal) -> str:
    """`0.06288509`, but `7.9276E-4`, `5.0E-4` and `6E-8` for small values."""
    digits = plain(value)
    if not digits.startswith("0.000"):
        return digits
    significant, exponent = digits[2:].lstrip("0"), value.adjusted()
    # below a millionth like Java's BigDecimal, above like its Double
    fraction = significant[1:] or ("0" if exponent >= -6 else "")
    return f"{significant[0]}{'.' * bool(fraction)}{fraction}E{exponent}"


def double(value: Decimal) -> str:
    """Like Java's Double: `1.16539E8`, `152000.0`, `6.89E-6`."""
    digits = plain(value)
    if not value or -3 <= value.adjusted() < 7:
        return digits if "." in digits else digits + ".0"
    significant = digits.replace(".", "").strip("0")
    return f"{significant[0]}.{significant[1:] or '0'}E{value.adjusted()}"


EIGHT, SIXTEEN = padded(8), padded(16)
# exceptions to the DEFAULT format's eight decimal places
DEFAULT_SPELLINGS: dict[tuple[str, str], Spelling] = {
    ("ticker", "acc_trade_price"): SIXTEEN,
    ("unit", "ask_price"): double,
    ("unit", "bid_price"): double,
    ("orderbook", "level"): plain,
    ("trade", "best_ask_price"): plain,
    ("trade", "best_bid_price"): plain,
    ("trade", "best_ask_size"): short,
    ("trade", "best_bid_size"): short,
}
SIZES = {
    "trade_volume",
    "acc_trade_volume",
    "acc_trade_volume_24h",
    "acc_ask_volume",
    "acc_bid_volume",
    "candle_acc_trade_volume",
    *(f"{kind}_{side}_size" for kind in ("total", "best") for side in ("ask", "bid")),
    "ask_size",
    "bid_size",
}
# by format and kind: the fields in order, each with its output name and number format
FIELDS = {
    simple: {
        kind: [
            (
                name,
                other if simple else name,
                (short if name in SIZES else plain) if simple else DEFAULT_SPELLINGS.get((kind, name), EIGHT),
            )
            for name, other in names.items()
        ]
        for kind, names in NAMES.items()
    }
    for simple in (False, True)
}


@dataclass(slots=True, eq=False)
class Frame:
    """One update of one market: usually one row, several if there were several trades in the same millisecond.

    `rows` have the fields of the DEFAULT format; `encoded` is computed once for all subscribers.
    """

    kind: str
    code: str
    rows: list[Row]
    payloads: dict[str, list[bytes]] = field(default_factory=dict)

    def encoded(self, form: str) -> list[bytes]:
        """The payloads in one of FORMATS: one per row, or a single one for the LIST formats."""
        if form not in self.payloads:
            self.payloads[form] = joined([self.raw(row, form) for row in self.rows], form)
        return self.payloads[form]

    def raw(self, row: Row, form: str) -> wire.RawRow:
        return raw(self.kind.partition(".")[0], row, simple=form.startswith("SIMPLE"))


def joined(rows: list[wire.RawRow], form: str) -> list[bytes]:
    """Rows as payloads in one of FORMATS."""
    if form.endswith("LIST"):
        return [wire.array(rows).encode("utf-8", "surrogatepass")]
    return [wire.json_object(row).encode("utf-8", "surrogatepass") for row in rows]


def raw(kind: str, row: Mapping[str, Any], *, simple: bool) -> wire.RawRow:
    """The row's fields as JSON text, with the order, names and number formats of the frame format."""
    fields = {}
    for name, output_name, spell in FIELDS[simple][kind]:
        value = row[name]
        if isinstance(value, Decimal):
            fields[output_name] = spell(value)
        elif isinstance(value, list):
            fields[output_name] = wire.array(raw("unit", unit, simple=simple) for unit in value)
        else:
            fields[output_name] = json.dumps(value)
    return fields
