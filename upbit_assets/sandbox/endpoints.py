"""The endpoints of Upbit's REST Quotation API: query parameters in, rows out."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import partial

from starlette.datastructures import QueryParams

from upbit_assets.sandbox import book, wire
from upbit_assets.sandbox.candles import UNITS
from upbit_assets.sandbox.market import Market, Row
from upbit_assets.sandbox.reply import error

Handler = Callable[[QueryParams], list[wire.RawRow]]
MISSING = "Missing request parameter error. Check the required parameters!"
MISMATCH = "Type mismatch error. Check the parameters type!"
INVALID = "Invalid parameter. Check the given value!"
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
MINUTES = "/v1/candles/minutes/"


class RequestError(Exception):
    """A request that the exchange rejects; `reply` is its error response."""

    def __init__(self, status: int, message: str) -> None:
        self.reply = error(status, message)


class Endpoints:
    """The exchange's paths, each with its rate limit group, serving the market as of `clock`.

    `regional` leaves out what only the Korean host has: KST, Korean names, cautions, grouped order books.
    """

    def __init__(self, market: Market, clock: Callable[[], datetime], *, regional: bool = False) -> None:
        self.market, self.clock, self.regional = market, clock, regional
        self.endpoints: dict[str, tuple[str, Handler]] = {
            "/v1/market/all": ("market", self.pairs),
            "/v1/ticker": ("ticker", self.ticker),
            "/v1/ticker/all": ("ticker", self.ticker_all),
            "/v1/trades/ticks": ("trade", self.trades),
            "/v1/orderbook": ("orderbook", self.orderbook),
            "/v1/orderbook/instruments": ("orderbook", self.instruments),
            **{f"/v1/candles/{unit}": ("candle", partial(self.candles, unit)) for unit in UNITS},
        }

    def paths(self) -> list[str]:
        """All paths served."""
        return list(self.endpoints)

    def find(self, path: str) -> tuple[str, Handler] | None:
        """The rate limit group and handler of a path, or None."""
        if path.startswith(MINUTES) and path.count("/") == MINUTES.count("/"):
            return self.endpoints.get(path, ("candle", partial(unknown_unit, path.removeprefix(MINUTES))))
        return self.endpoints.get(path)

    def pairs(self, query: QueryParams) -> list[wire.RawRow]:
        details = BOOLEANS.get(query.get("is_details", "false").lower())
        if details is None:
            raise RequestError(400, MISMATCH)
        at, names = self.clock(), ("market", "korean_name", "english_name")
        rows: list[Row] = []
        for listing in self.market.markets(at):
            event = self.market.event(listing.market, at)
            warning = {"market_warning": "CAUTION" if event["warning"] else "NONE"}
            detail = warning if self.regional else {"market_event": event}
            rows.append({name: getattr(listing, name) for name in names} | (detail if details else {}))
        return self.raw_rows(rows)

    def ticker(self, query: QueryParams) -> list[wire.RawRow]:
        at = self.clock()
        return self.raw_rows(self.market.ticker(market, at) for market in self.listed(codes_of(query, "markets"), at))

    def ticker_all(self, query: QueryParams) -> list[wire.RawRow]:
        quotes, at = codes_of(query, "quote_currencies"), self.clock()
        return self.raw_rows(
            self.market.ticker(listing.market, at) for listing in self.market.markets(at) if listing.quote in quotes
        )

    def trades(self, query: QueryParams) -> list[wire.RawRow]:
        market, count, at = required(query, "market"), count_of(query, 1, 500), self.clock()
        days_ago, cursor = integer_of(query, "days_ago"), integer_of(query, "cursor")
        if days_ago is not None and days_ago not in range(1, 8):
            raise RequestError(400, INVALID)
        to = time_of_day(query["to"]) if query.get("to") else None
        (code,) = self.listed([market.upper()], at)
        return self.raw_rows(self.market.trades(code, at, days_ago=days_ago or 0, to=to, cursor=cursor, count=count))

    def candles(self, unit: str, query: QueryParams) -> list[wire.RawRow]:
        market, count, at = required(query, "market"), count_of(query, 1, 200), self.clock()
        converted = unit == "days" and "converting_price_unit" in query
        if converted and query["converting_price_unit"].upper() != "KRW":
            raise RequestError(400, INVALID)
        to = datetime_of(query["to"]) if query.get("to") else None
        (code,) = self.listed([market.upper()], at)
        return self.raw_rows(self.market.candles(code, at, unit, to=to, count=count, converted=converted))

    def orderbook(self, query: QueryParams) -> list[wire.RawRow]:
        codes, count, at = codes_of(query, "markets"), count_of(query, book.DEPTH, book.DEPTH), self.clock()
        level = decimal_of(query.get("level", "0"))
        if self.regional and "level" in query:
            raise RequestError(400, INVALID)
        rows = (self.market.orderbook(code, at, count=count, level=level) for code in self.listed(codes, at))
        return self.raw_rows(row for row in rows if row)

    def instruments(self, query: QueryParams) -> list[wire.RawRow]:
        at = self.clock()
        return self.raw_rows(
            self.market.instrument(market, at) for market in self.listed(codes_of(query, "markets"), at)
        )

    def raw_rows(self, rows: Iterable[Row]) -> list[wire.RawRow]:
        return [
            wire.raw({name: value for name, value in row.items() if not (self.regional and in_korea_only(name))})
            for row in rows
        ]

    def listed(self, codes: Iterable[str], at: datetime) -> list[str]:
        unique = list(dict.fromkeys(codes))
        if not all(self.market.listed(code, at) for code in unique):
            raise RequestError(404, "Code not found")
        return unique


def in_korea_only(field: str) -> bool:
    return field.endswith("_kst") or field in ("korean_name", "level")


def unknown_unit(unit: str, _: QueryParams) -> list[wire.RawRow]:
    raise RequestError(400, "specified unit is not valid." if unit.isdecimal() else MISMATCH)


def required(query: QueryParams, name: str) -> str:
    if name not in query:
        raise RequestError(400, MISSING)
    return query[name]


def codes_of(query: QueryParams, name: str) -> list[str]:
    return [code.strip().upper() for code in required(query, name).split(",")]


def integer_of(query: QueryParams, name: str) -> int | None:
    if name not in query:
        return None
    if not re.fullmatch(r"-?\d{1,18}", query[name], re.ASCII):
        raise RequestError(400, MISMATCH)
    return int(query[name])


def count_of(query: QueryParams, default: int, maximum: int) -> int:
    """Values above `maximum` are capped, as observed on order books; undocumented for the other endpoints."""
    count = integer_of(query, "count")
    if count is not None and count < 1:
        raise RequestError(400, INVALID)
    return min(default if count is None else count, maximum)


def decimal_of(text: str) -> Decimal:
    if not re.fullmatch(r"\d{1,18}(\.\d{1,18})?", text, re.ASCII):
        raise RequestError(400, MISMATCH)
    return Decimal(text)


def datetime_of(text: str) -> datetime:
    """ISO 8601, separated by `T` or a space; UTC unless it has an offset."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(400, INVALID) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def time_of_day(text: str) -> time:
    """`HHmmss` or `HH:mm:ss`."""
    if not re.fullmatch(r"\d\d(:?)\d\d\1\d\d", text, re.ASCII):
        raise RequestError(400, INVALID)
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise RequestError(400, INVALID) from None
