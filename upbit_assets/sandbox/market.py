"""The simulated exchange: every market's listing, ticker, trades, candles and order book at any time."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from upbit_assets.sandbox import book
from upbit_assets.sandbox.candles import UNITS, Candle, Candles
from upbit_assets.sandbox.coins import KRW, QUOTES, listed, split
from upbit_assets.sandbox.instrument import Instrument, Listing, instrument
from upbit_assets.sandbox.model import DAY_MS, Model, Rows, Trade
from upbit_assets.sandbox.noise import bits, mix

Row = dict[str, Any]  # strings, integers and exact Decimals
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KST = timedelta(hours=9)
CAUTIONS = {
    "PRICE_FLUCTUATIONS": 20,
    "TRADING_VOLUME_SOARING": 25,
    "DEPOSIT_AMOUNT_SOARING": 15,
    "GLOBAL_PRICE_DIFFERENCES": 220,
    "CONCENTRATION_OF_SMALL_ACCOUNTS": 10,
}  # markets in a thousand that carry each caution


class Market:
    """A simulated exchange with `count` markets (at least 3; KRW-BTC and KRW-USDT are always among them).

    Instances of one seed agree in every process, whatever they were asked before, and a market is the same in an
    exchange of 10 as in one of 855. All of it agrees: trades add up to candles, a day's candle is the ticker's day
    and the book is around the last trade. Prices, volumes and turnovers are exact Decimals.

    `at` (aware) is the exchange's present, after which nothing is known. Methods that take a market raise KeyError
    for one that is unknown or not listed yet.
    """

    def __init__(self, seed: int = 0, count: int = 855) -> None:
        if count < 3:
            raise ValueError(f"an exchange has at least 3 markets, not {count}")
        self.seed = seed
        self.instruments = {each.listing.market: each for each in instruments(seed, count)}
        self.model = Model(seed, count)
        self.history = Candles(self.model)

    def markets(self, at: datetime | None = None) -> list[Listing]:
        """Every market, or those that are listed by then, KRW ones first."""
        return [
            each.listing for each in self.instruments.values() if at is None or self.is_open(each, milliseconds(at))
        ]

    def listed(self, market: str, at: datetime) -> bool:
        """Whether there is such a market, and it has traded by then."""
        return market in self.instruments and self.is_open(self.instruments[market], milliseconds(at))

    def event(self, market: str, at: datetime) -> dict[str, object]:
        """`market_event` of Upbit REST, Pairs: warning and cautions, which change from week to week."""
        week = milliseconds(at) // (7 * DAY_MS)
        draws = bits(mix(self.instruments[market].key ^ 7, week * 8 + np.arange(6)), 0) % 1000
        caution = {name: bool(draw < odds) for draw, (name, odds) in zip(draws, CAUTIONS.items(), strict=False)}
        return {"warning": bool(draws[5] < 21), "caution": caution}

    def ticker(self, market: str, at: datetime) -> Row:
        """A row of Upbit REST, Ticker: figures of the UTC day of `at`."""
        one, now = self.listed_at(market, at)
        day = now // DAY_MS
        today, yesterday, before = (
            self.model.so_far(one, now),
            self.model.day(one, day - 1),
            self.model.so_far(one, now - DAY_MS),
        )
        prices = (today if len(today) else yesterday[-1:])["price"]
        opening, price, high, low = (int(p) for p in (prices[0], prices[-1], prices.max(), prices.min()))
        previous, last = self.model.previous_close(one, day), self.last_trade(one, now)
        (volume, turnover), whole, past = (sums(slots) for slots in (today, yesterday, before))
        unit, lot = one.listing.price_unit, one.listing.volume_unit
        change, rate = change_of(price * unit, previous * unit)
        traded, timestamp = moment(last.time), made_at(one, last.time, now)
        return {
            "market": market,
            "trade_date": f"{traded:%Y%m%d}",
            "trade_time": f"{traded:%H%M%S}",
            "trade_date_kst": f"{traded + KST:%Y%m%d}",
            "trade_time_kst": f"{traded + KST:%H%M%S}",
            "trade_timestamp": last.time,
            "opening_price": opening * unit,
            "high_price": high * unit,
            "low_price": low * unit,
            "trade_price": price * unit,
            "prev_closing_price": previous * unit,
            "change": "RISE" if change > 0 else "FALL" if change else "EVEN",
            "change_price": abs(change),
            "change_rate": abs(rate),
            "signed_change_price": change,
            "signed_change_rate": rate,
            "trade_volume": last.volume * lot,
            "acc_trade_price": turnover * unit * lot,
            "acc_trade_price_24h": (turnover + whole[1] - past[1]) * unit * lot,
            "acc_trade_volume": volume * lot,
            "acc_trade_volume_24h": (volume + whole[0] - past[0]) * lot,
            **self.year_range(one, day, high, low),
            "timestamp": timestamp,
        }

    def trades(
        self,
        market: str,
        at: datetime,
        *,
        days_ago: int = 0,
        to: time | None = None,
        cursor: int | None = None,
        count: int = 1,
    ) -> list[Row]:
        """The last `count` rows of Upbit REST, Trades: a UTC day's, newest first.

        Only those before the time of day `to`, and before the trade whose `sequential_id` is `cursor`.
        """
        one, now = self.listed_at(market, at)
        day = now // DAY_MS - days_ago
        end = min(now + 1, (day + 1) * DAY_MS)
        if to is not None:
            end = min(end, milliseconds(datetime.combine(moment(day * DAY_MS), to, UTC)))
        newest = self.model.trades(one, day, end, count, cursor)[::-1].tolist()
        return [self.trade_row(one, Trade(*trade)) for trade in newest]

    def candles(
        self,
        market: str,
        at: datetime,
        unit: str,
        *,
        to: datetime | None = None,
        count: int = 1,
        converted: bool = False,
    ) -> list[Row]:
        """The last `count` rows of Upbit REST, Candles that begin before `to`, newest first.

        `unit` is one of UNITS. With `converted`, days carry `converted_trade_price`: KRW, None in KRW markets.
        """
        one, now = self.listed_at(market, at)
        end = now + 1 if to is None else milliseconds(to)
        # A day tells the change from the day before
        found = self.history.before(one, UNITS[unit], now, end, count + (unit == "days"))
        rows = [self.candle_row(one, unit, Candle(*candle), now) for candle in found.tolist()]
        if unit == "days":
            add_changes(rows)
        if unit == "days" and converted:
            for row, price in zip(rows, self.converted(one, found, now), strict=True):
                row["converted_trade_price"] = price
        return rows[-count:][::-1]

    def orderbook(
        self, market: str, at: datetime, *, count: int = book.DEPTH, level: Decimal = Decimal(0)
    ) -> Row | None:
        """A row of Upbit REST, Orderbooks with the `count` best prices; None if the market has no such `level`.

        The totals are those of the 30 best prices.
        """
        one, now = self.listed_at(market, at)
        unit, lot = one.listing.price_unit, one.listing.volume_unit
        last = self.last_trade(one, now)
        if level not in [each * unit for each in book.levels(one, last.price)]:
            return None
        changed = book.changed(one, last.time, now)
        asks, bids = (
            book.side(one, last.price, away, last.bid == (away > 0), changed, int(level / unit)) for away in (1, -1)
        )
        return {
            "market": market,
            "timestamp": changed,
            "total_ask_size": sum(size for _, size in asks) * lot,
            "total_bid_size": sum(size for _, size in bids) * lot,
            "orderbook_units": [
                {
                    "bid_price": bid * unit,
                    "bid_size": bid_size * lot,
                    "ask_price": ask * unit,
                    "ask_size": ask_size * lot,
                }
                for (bid, bid_size), (ask, ask_size) in zip(bids[:count], asks[:count], strict=True)
            ],
            "level": level,
        }

    def instrument(self, market: str, at: datetime) -> Row:
        """A row of Upbit REST, Orderbook instruments: the tick and the levels at the last price."""
        one, now = self.listed_at(market, at)
        price, unit = self.last_trade(one, now).price, one.listing.price_unit
        return {
            "market": market,
            "quote_currency": one.listing.quote,
            "tick_size": plain(book.tick(one, price) * unit),
            "supported_levels": [plain(level * unit) for level in book.levels(one, price)],
        }

    def listed_at(self, market: str, at: datetime) -> tuple[Instrument, int]:
        one, now = self.instruments[market], milliseconds(at)
        if not self.is_open(one, now):
            raise KeyError(market)
        return one, now

    def is_open(self, one: Instrument, now: int) -> bool:
        day = now // DAY_MS
        return day > one.since or (day == one.since and len(self.model.so_far(one, now)) > 0)

    def last_trade(self, one: Instrument, now: int) -> Trade:
        day = now // DAY_MS
        today = self.model.trades(one, day, now + 1, 1)
        newest = today if len(today) else self.model.trades(one, day - 1, day * DAY_MS, 1)
        return Trade(*newest[0].tolist())

    def trade_row(self, one: Instrument, trade: Trade) -> Row:
        traded = moment(trade.time)
        unit, lot = one.listing.price_unit, one.listing.volume_unit
        previous = self.model.previous_close(one, trade.time // DAY_MS)
        return {
            "market": one.listing.market,
            "trade_date_utc": f"{traded:%Y-%m-%d}",
            "trade_time_utc": f"{traded:%H:%M:%S}",
            "timestamp": trade.time,
            "trade_price": trade.price * unit,
            "trade_volume": trade.volume * lot,
            "prev_closing_price": previous * unit,
            "change_price": (trade.price - previous) * unit,
            "ask_bid": "BID" if trade.bid else "ASK",
            "sequential_id": trade.id,
        }

    def candle_row(self, one: Instrument, unit: str, candle: Candle, now: int) -> Row:
        start, length = moment(candle.start), unit.partition("/")[2]
        price_unit, lot = one.listing.price_unit, one.listing.volume_unit
        row: Row = {
            "market": one.listing.market,
            "candle_date_time_utc": f"{start:%Y-%m-%dT%H:%M:%S}",
            "candle_date_time_kst": f"{start + KST:%Y-%m-%dT%H:%M:%S}",
            "opening_price": candle.open * price_unit,
            "high_price": candle.high * price_unit,
            "low_price": candle.low * price_unit,
            "trade_price": candle.close * price_unit,
            "timestamp": stored_at(one, candle.last, now),
            "candle_acc_trade_price": candle.turnover * price_unit * lot,
            "candle_acc_trade_volume": candle.volume * lot,
        }
        if length:
            row["unit"] = int(length)
        if unit in ("weeks", "months", "years"):
            row["first_day_of_period"] = f"{start:%Y-%m-%d}"
        return row

    def converted(self, one: Instrument, days: Rows, now: int) -> list[Decimal | None]:
        """The closing prices of days in KRW, at the rate of the same day."""
        krw = self.instruments.get(f"KRW-{one.quote.code}")
        if krw is None or not len(days):
            return [None] * len(days)
        end, unit = int(days["start"][-1]) + 1, one.listing.price_unit * krw.listing.price_unit
        rates = self.history.before(krw, UNITS["days"], now, end, len(days) + 1)
        # The newest day may not have a rate yet
        closest = rates["close"][rates["start"].searchsorted(days["start"], "right") - 1]
        return [price * rate * unit for price, rate in zip(days["close"].tolist(), closest.tolist(), strict=True)]

    def year_range(self, one: Instrument, day: int, high: int, low: int) -> Row:
        (lowest, low_day), (highest, high_day) = (low, day), (high, day)
        if day > one.since:
            before_low, before_high = self.model.year(one, day)
            lowest, low_day = before_low if before_low[0] < low else (low, day)
            highest, high_day = max(before_high, (high, day))
        return {
            "highest_52_week_price": highest * one.listing.price_unit,
            "highest_52_week_date": f"{moment(high_day * DAY_MS):%Y-%m-%d}",
            "lowest_52_week_price": lowest * one.listing.price_unit,
            "lowest_52_week_date": f"{moment(low_day * DAY_MS):%Y-%m-%d}",
        }


def milliseconds(at: datetime) -> int:
    if at.tzinfo is None:
        raise ValueError(f"a time needs a time zone: {at}")
    return (at - EPOCH) // timedelta(milliseconds=1)


def moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def instruments(seed: int, count: int) -> Iterable[Instrument]:
    shares = split(count)
    quotes = {coin.code: coin for coin in (KRW, *listed("KRW", 2))}
    for code in QUOTES:
        for rank, coin in enumerate(listed(code, shares[code])):
            yield instrument(seed, coin, quotes[code], rank)


def sums(slots: Rows) -> tuple[int, int]:
    return int(slots["volume"].sum()), int((slots["volume"] * slots["price"]).sum())


def change_of(price: Decimal, previous: Decimal) -> tuple[Decimal, Decimal]:
    """By how much and at which rate, to ten decimals, a price has changed."""
    change = price - previous
    return change, (change / previous).quantize(Decimal("1e-10"), ROUND_HALF_UP)


def add_changes(days: list[Row]) -> None:
    """Tell the change of each day from the one before; the first one's is from its own opening."""
    previous = days[0]["opening_price"] if days else Decimal(0)
    for row in days:
        change, rate = change_of(row["trade_price"], previous)
        row |= {"prev_closing_price": previous, "change_price": change, "change_rate": rate}
        previous = row["trade_price"]


def plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def made_at(one: Instrument, traded: int, now: int) -> int:
    """When a ticker was made: a little after its last trade, or after midnight when the day has none yet."""
    event = max(traded, now - now % DAY_MS)
    return min(now, event + 40 + delay(one.key ^ 6, event, 900))


def stored_at(one: Instrument, traded: int, now: int) -> int:
    """When a trade was stored in its candle, which may be after the candle's end."""
    return min(now, traded + delay(one.key ^ 9, traded, 60))


def delay(of: int, event: int, below: int) -> int:
    return int(bits(mix(of, np.array([event])), 0)[0]) % below
