"""The endpoints of Upbit's REST Quotation API: parameters in, rows out, `Refused` for what the exchange refuses."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import partial

from starlette.datastructures import QueryParams

from . import book, wire
from .candles import UNITS
from .market import Market, Row
from .reply import error

Handler = Callable[[QueryParams], list[wire.RawRow]]
_MISSING = "Missing request parameter error. Check the required parameters!"
_MISMATCH = "Type mismatch error. Check the parameters type!"
_INVALID = "Invalid parameter. Check the given value!"
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_MINUTES = "/v1/candles/minutes/"


class Refused(Exception):  # noqa: N818 (a reply, not a failure of the program)
    """What the exchange answers with an error, which is `reply`."""

    def __init__(self, status: int, message: str) -> None:
        self.reply = error(status, message)


class Endpoints:
    """The paths of the exchange, each with the group that limits it."""

    def __init__(self, market: Market, clock: Callable[[], datetime]) -> None:
        self._market, self._clock = market, clock
        self._endpoints: dict[str, tuple[str, Handler]] = {
            "/v1/market/all": ("market", self._pairs),
            "/v1/ticker": ("ticker", self._ticker),
            "/v1/ticker/all": ("ticker", self._ticker_all),
            "/v1/trades/ticks": ("trade", self._trades),
            "/v1/orderbook": ("orderbook", self._orderbook),
            "/v1/orderbook/instruments": ("orderbook", self._instruments),
            **{f"/v1/candles/{unit}": ("candle", partial(self._candles, unit)) for unit in UNITS},
        }

    def paths(self) -> list[str]:
        """Every path that is answered."""
        return list(self._endpoints)

    def find(self, path: str) -> tuple[str, Handler] | None:
        """The group and the handler of a path, None if there is no such path."""
        if path.startswith(_MINUTES) and path.count("/") == _MINUTES.count("/"):
            return self._endpoints.get(path, ("candle", partial(_no_unit, path.removeprefix(_MINUTES))))
        return self._endpoints.get(path)

    def _pairs(self, query: QueryParams) -> list[wire.RawRow]:
        details = _BOOLEANS.get(query.get("is_details", "false").lower())
        if details is None:
            raise Refused(400, _MISMATCH)
        at, rows = self._clock(), []
        for listing in self._market.markets(at):
            row = wire.raw({name: getattr(listing, name) for name in ("market", "korean_name", "english_name")})
            rows.append(row | ({"market_event": wire.text(self._market.event(listing.market, at))} if details else {}))
        return rows

    def _ticker(self, query: QueryParams) -> list[wire.RawRow]:
        at = self._clock()
        return _raw(self._market.ticker(market, at) for market in self._listed(_codes(query, "markets"), at))

    def _ticker_all(self, query: QueryParams) -> list[wire.RawRow]:
        quotes, at = _codes(query, "quote_currencies"), self._clock()
        return _raw(self._market.ticker(each.market, at) for each in self._market.markets(at) if each.quote in quotes)

    def _trades(self, query: QueryParams) -> list[wire.RawRow]:
        market, count, at = _required(query, "market"), _count(query, 1, 500), self._clock()
        days_ago, cursor = _integer(query, "days_ago"), _integer(query, "cursor")
        if days_ago is not None and days_ago not in range(1, 8):
            raise Refused(400, _INVALID)
        to = _time_of_day(query["to"]) if query.get("to") else None
        (code,) = self._listed([market.upper()], at)
        return _raw(self._market.trades(code, at, days_ago=days_ago or 0, to=to, cursor=cursor, count=count))

    def _candles(self, unit: str, query: QueryParams) -> list[wire.RawRow]:
        market, count, at = _required(query, "market"), _count(query, 1, 200), self._clock()
        converted = unit == "days" and "converting_price_unit" in query
        if converted and query["converting_price_unit"].upper() != "KRW":
            raise Refused(400, _INVALID)
        to = _moment(query["to"]) if query.get("to") else None
        (code,) = self._listed([market.upper()], at)
        return _raw(self._market.candles(code, at, unit, to=to, count=count, converted=converted))

    def _orderbook(self, query: QueryParams) -> list[wire.RawRow]:
        codes, count, at = _codes(query, "markets"), _count(query, book.DEPTH, book.DEPTH), self._clock()
        level = _decimal(query.get("level", "0"))
        rows = (self._market.orderbook(code, at, count=count, level=level) for code in self._listed(codes, at))
        return _raw(row for row in rows if row)

    def _instruments(self, query: QueryParams) -> list[wire.RawRow]:
        at = self._clock()
        return _raw(self._market.instrument(market, at) for market in self._listed(_codes(query, "markets"), at))

    def _listed(self, codes: Iterable[str], at: datetime) -> list[str]:
        wanted = list(dict.fromkeys(codes))
        if not all(self._market.listed(code, at) for code in wanted):
            raise Refused(404, "Code not found")
        return wanted


def _raw(rows: Iterable[Row]) -> list[wire.RawRow]:
    return [wire.raw(row) for row in rows]


def _no_unit(unit: str, _: QueryParams) -> list[wire.RawRow]:
    raise Refused(400, "specified unit is not valid." if unit.isdecimal() else _MISMATCH)


def _required(query: QueryParams, name: str) -> str:
    if name not in query:
        raise Refused(400, _MISSING)
    return query[name]


def _codes(query: QueryParams, name: str) -> list[str]:
    return [code.strip().upper() for code in _required(query, name).split(",")]


def _integer(query: QueryParams, name: str) -> int | None:
    if name not in query:
        return None
    if not re.fullmatch(r"-?\d{1,18}", query[name], re.ASCII):
        raise Refused(400, _MISMATCH)
    return int(query[name])


def _count(query: QueryParams, default: int, most: int) -> int:
    """More than the most is capped as known of order books; nobody tells what becomes of it elsewhere."""
    count = _integer(query, "count")
    if count is not None and count < 1:
        raise Refused(400, _INVALID)
    return min(default if count is None else count, most)


def _decimal(text: str) -> Decimal:
    if not re.fullmatch(r"\d{1,18}(\.\d{1,18})?", text, re.ASCII):
        raise Refused(400, _MISMATCH)
    return Decimal(text)


def _moment(text: str) -> datetime:
    """ISO 8601 with a `T` or a blank; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(400, _INVALID) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _time_of_day(text: str) -> time:
    """`HHmmss` or `HH:mm:ss`."""
    if not re.fullmatch(r"\d\d(:?)\d\d\1\d\d", text, re.ASCII):
        raise Refused(400, _INVALID)
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise Refused(400, _INVALID) from None
