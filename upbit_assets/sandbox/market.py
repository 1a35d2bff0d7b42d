"""The simulated exchange: listings, tickers, trades, candles and order books of every market at any time."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import numpy as np

from upbit_assets.sandbox import book
from upbit_assets.sandbox.candles import UNITS, Candle, Candles
from upbit_assets.sandbox.coins import KRW, Coin, listed, split
from upbit_assets.sandbox.instrument import SLOTS_A_DAY, Instrument, Listing, make_instrument
from upbit_assets.sandbox.model import DAY_MS, SLOT_MS, Model, Rows, Trade
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
}  # markets per thousand with each caution


class Figures(NamedTuple):
    """A day's figures so far; `volume_before` and `turnover_before` cover the rest of the last 24 hours."""

    opening: int
    high: int
    low: int
    volume: int
    turnover: int
    volume_before: int
    turnover_before: int


class Market:
    """A simulated exchange with `count` markets (at least 3, always including KRW-BTC and KRW-USDT).

    Deterministic: the same seed gives the same data in every process and in any order of calls, and a market is the
    same whether the exchange has 10 markets or 855. Consistent: trades add up to candles, the day candle equals the
    ticker's day, and the order book surrounds the last trade. Prices, volumes and turnovers are exact Decimals.

    `activity` multiplies the number of trades, leaving prices the same and turnover about the same. Only
    `open_market` and `close_market` change the state.

    `at` (aware) is the exchange's current time; nothing later is visible. Methods that take a market raise KeyError
    if it is unknown or not listed at that time.
    """

    def __init__(self, seed: int = 0, count: int = 855, activity: float = 1) -> None:
        if count < 3:
            raise ValueError(f"an exchange has at least 3 markets, not {count}")
        self.seed, self.activity = seed, activity
        self.instruments = {instrument.listing.market: instrument for instrument in instruments(seed, count, activity)}
        self.order = list(self.instruments.values())  # new listings go to the end
        self.delisted: dict[str, int] = {}
        self.changes = 0  # listings and delistings so far
        self.model = Model(seed, count)
        self.history = Candles(self.model)

    def markets(self, at: datetime | None = None) -> list[Listing]:
        """All markets, or those listed at a time, KRW markets first."""
        return [
            instrument.listing
            for instrument in self.instruments.values()
            if at is None or self.is_open(instrument, milliseconds(at))
        ]

    def listed(self, market: str, at: datetime) -> bool:
        """Whether the market exists and has traded by then."""
        return market in self.instruments and self.is_open(self.instruments[market], milliseconds(at))

    def open_market(self, quote: str, at: datetime) -> str:
        """List one more coin against `quote`; it trades from `at` on (rounded up to 15 seconds)."""
        rank = sum(instrument.quote.code == quote for instrument in self.instruments.values())
        added = make_instrument(self.seed, listed(quote, rank + 1)[-1], quote_coins()[quote], rank, self.activity)
        day, opens = divmod(-(-milliseconds(at) // SLOT_MS), SLOTS_A_DAY)
        # A day has at least two slots
        opened = replace(added, since=day, opens=min(opens, SLOTS_A_DAY - 2))
        self.instruments = self.instruments | {added.listing.market: opened}
        self.order.append(opened)
        self.changes += 1
        return added.listing.market

    def close_market(self, market: str, at: datetime) -> None:
        """Delist a market from `at` on; until then its WebSocket tickers announce it."""
        self.delisted = self.delisted | {self.instruments[market].listing.market: milliseconds(at)}
        self.changes += 1

    def event(self, market: str, at: datetime) -> dict[str, object]:
        """`market_event` of Upbit REST, Pairs: warning and cautions, which change weekly."""
        week = milliseconds(at) // (7 * DAY_MS)
        draws = bits(mix(self.instruments[market].key ^ 7, week * 8 + np.arange(6)), 0) % 1000
        caution = {name: bool(draw < odds) for draw, (name, odds) in zip(draws, CAUTIONS.items(), strict=False)}
        return {"warning": bool(draws[5] < 21), "caution": caution}

    def ticker(self, market: str, at: datetime) -> Row:
        """A row of Upbit REST, Ticker: figures of the UTC day of `at`."""
        instrument, now = self.listed_at(market, at)
        day = now // DAY_MS
        today, yesterday, yesterday_so_far = (
            self.model.so_far(instrument, now),
            self.model.day(instrument, day - 1),
            self.model.so_far(instrument, now - DAY_MS),
        )
        prices = (today if len(today) else yesterday[-1:])["price"]
        last = self.last_trade(instrument, now)
        (volume, turnover), yesterday_sums, yesterday_sums_so_far = (
            sums(slots) for slots in (today, yesterday, yesterday_so_far)
        )
        figures = Figures(
            opening=int(prices[0]),
            high=int(prices.max()),
            low=int(prices.min()),
            volume=volume,
            turnover=turnover,
            volume_before=yesterday_sums[0] - yesterday_sums_so_far[0],
            turnover_before=yesterday_sums[1] - yesterday_sums_so_far[1],
        )
        return self.ticker_row(instrument, day, last, figures) | {
            "timestamp": ticker_timestamp(instrument, last.time, now)
        }

    def ticker_row(self, instrument: Instrument, day: int, last: Trade, figures: Figures) -> Row:
        """`ticker` without its `timestamp`, of a day whose latest trade is `last`."""
        unit, lot = instrument.listing.price_unit, instrument.listing.volume_unit
        previous = self.model.previous_close(instrument, day)
        change, rate = change_of(last.price * unit, previous * unit)
        traded = moment(last.time)
        return {
            "market": instrument.listing.market,
            "trade_date": f"{traded:%Y%m%d}",
            "trade_time": f"{traded:%H%M%S}",
            "trade_date_kst": f"{traded + KST:%Y%m%d}",
            "trade_time_kst": f"{traded + KST:%H%M%S}",
            "trade_timestamp": last.time,
            "opening_price": figures.opening * unit,
            "high_price": figures.high * unit,
            "low_price": figures.low * unit,
            "trade_price": last.price * unit,
            "prev_closing_price": previous * unit,
            "change": "RISE" if change > 0 else "FALL" if change else "EVEN",
            "change_price": abs(change),
            "change_rate": abs(rate),
            "signed_change_price": change,
            "signed_change_rate": rate,
            "trade_volume": last.volume * lot,
            "acc_trade_price": figures.turnover * unit * lot,
            "acc_trade_price_24h": (figures.turnover + figures.turnover_before) * unit * lot,
            "acc_trade_volume": figures.volume * lot,
            "acc_trade_volume_24h": (figures.volume + figures.volume_before) * lot,
            **self.year_range(instrument, day, figures.high, figures.low),
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
        """The last `count` rows of Upbit REST, Trades, of a UTC day, newest first.

        Only trades before the time of day `to` and before the trade with `sequential_id` `cursor`.
        """
        instrument, now = self.listed_at(market, at)
        day = now // DAY_MS - days_ago
        end = min(now + 1, (day + 1) * DAY_MS)
        if to is not None:
            end = min(end, milliseconds(datetime.combine(moment(day * DAY_MS), to, UTC)))
        newest = self.model.trades(instrument, day, end, count, cursor)[::-1].tolist()
        return [self.trade_row(instrument, Trade(*trade)) for trade in newest]

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
        """The last `count` rows of Upbit REST, Candles that start before `to`, newest first.

        `unit` is one of UNITS. With `converted`, day candles have `converted_trade_price`: in KRW, None in KRW markets.
        """
        instrument, now = self.listed_at(market, at)
        end = now + 1 if to is None else milliseconds(to)
        # Day candles include the change from the previous day
        candles = self.history.before(instrument, UNITS[unit], now, end, count + (unit == "days"))
        rows = [self.candle_row(instrument, unit, Candle(*candle), now) for candle in candles.tolist()]
        if unit == "days":
            add_changes(rows)
        if unit == "days" and converted:
            for row, price in zip(rows, self.converted(instrument, candles, now), strict=True):
                row["converted_trade_price"] = price
        return rows[-count:][::-1]

    def orderbook(
        self, market: str, at: datetime, *, count: int = book.DEPTH, level: Decimal = Decimal(0)
    ) -> Row | None:
        """A row of Upbit REST, Orderbooks with the `count` best prices; None if the market has no such `level`.

        The totals are those of the 30 best prices.
        """
        instrument, now = self.listed_at(market, at)
        unit, lot = instrument.listing.price_unit, instrument.listing.volume_unit
        last = self.last_trade(instrument, now)
        if level not in [group * unit for group in book.levels(instrument, last.price)]:
            return None
        changed = book.last_change(instrument, last.time, now)
        asks, bids = (
            book.side(instrument, last.price, sign, last.bid == (sign > 0), changed, int(level / unit))
            for sign in (1, -1)
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
        instrument, now = self.listed_at(market, at)
        price, unit = self.last_trade(instrument, now).price, instrument.listing.price_unit
        return {
            "market": market,
            "quote_currency": instrument.listing.quote,
            "tick_size": plain(book.tick(instrument, price) * unit),
            "supported_levels": [plain(level * unit) for level in book.levels(instrument, price)],
        }

    def listed_at(self, market: str, at: datetime) -> tuple[Instrument, int]:
        instrument, now = self.instruments[market], milliseconds(at)
        if not self.is_open(instrument, now):
            raise KeyError(market)
        return instrument, now

    def is_open(self, instrument: Instrument, now: int) -> bool:
        day = now // DAY_MS
        if now >= self.delisted.get(instrument.listing.market, now + 1):
            return False
        return day > instrument.since or (day == instrument.since and len(self.model.so_far(instrument, now)) > 0)

    def last_trade(self, instrument: Instrument, now: int) -> Trade:
        day = now // DAY_MS
        today = self.model.trades(instrument, day, now + 1, 1)
        newest = today if len(today) else self.model.trades(instrument, day - 1, day * DAY_MS, 1)
        return Trade(*newest[0].tolist())

    def trade_row(self, instrument: Instrument, trade: Trade) -> Row:
        traded = moment(trade.time)
        unit, lot = instrument.listing.price_unit, instrument.listing.volume_unit
        previous = self.model.previous_close(instrument, trade.time // DAY_MS)
        return {
            "market": instrument.listing.market,
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

    def candle_row(self, instrument: Instrument, unit: str, candle: Candle, now: int) -> Row:
        start, length = moment(candle.start), unit.partition("/")[2]
        price_unit, lot = instrument.listing.price_unit, instrument.listing.volume_unit
        row: Row = {
            "market": instrument.listing.market,
            "candle_date_time_utc": f"{start:%Y-%m-%dT%H:%M:%S}",
            "candle_date_time_kst": f"{start + KST:%Y-%m-%dT%H:%M:%S}",
            "opening_price": candle.open * price_unit,
            "high_price": candle.high * price_unit,
            "low_price": candle.low * price_unit,
            "trade_price": candle.close * price_unit,
            "timestamp": candle_timestamp(instrument, candle.last, now),
            "candle_acc_trade_price": candle.turnover * price_unit * lot,
            "candle_acc_trade_volume": candle.volume * lot,
        }
        if length:
            row["unit"] = int(length)
        if unit in ("weeks", "months", "years"):
            row["first_day_of_period"] = f"{start:%Y-%m-%d}"
        return row

    def converted(self, instrument: Instrument, days: Rows, now: int) -> list[Decimal | None]:
        """The closing prices of days, in KRW at the same day's rate."""
        krw = self.instruments.get(f"KRW-{instrument.quote.code}")
        if krw is None or not len(days):
            return [None] * len(days)
        end, unit = int(days["start"][-1]) + 1, instrument.listing.price_unit * krw.listing.price_unit
        rates = self.history.before(krw, UNITS["days"], now, end, len(days) + 1)
        # The newest day may not have a rate yet
        closest = rates["close"][rates["start"].searchsorted(days["start"], "right") - 1]
        return [price * rate * unit for price, rate in zip(days["close"].tolist(), closest.tolist(), strict=True)]

    def year_range(self, instrument: Instrument, day: int, high: int, low: int) -> Row:
        (lowest, low_day), (highest, high_day) = (low, day), (high, day)
        if day > instrument.since:
            before_low, before_high = self.model.year(instrument, day)
            lowest, low_day = before_low if before_low[0] < low else (low, day)
            highest, high_day = max(before_high, (high, day))
        return {
            "highest_52_week_price": highest * instrument.listing.price_unit,
            "highest_52_week_date": f"{moment(high_day * DAY_MS):%Y-%m-%d}",
            "lowest_52_week_price": lowest * instrument.listing.price_unit,
            "lowest_52_week_date": f"{moment(low_day * DAY_MS):%Y-%m-%d}",
        }


def milliseconds(at: datetime) -> int:
    if at.tzinfo is None:
        raise ValueError(f"a time needs a time zone: {at}")
    return (at - EPOCH) // timedelta(milliseconds=1)


def moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def instruments(seed: int, count: int, activity: float = 1) -> Iterable[Instrument]:
    shares = split(count)
    for code, quote in quote_coins().items():
        for rank, coin in enumerate(listed(code, shares[code])):
            yield make_instrument(seed, coin, quote, rank, activity)


def quote_coins() -> dict[str, Coin]:
    return {coin.code: coin for coin in (KRW, *listed("KRW", 2))}


def sums(slots: Rows) -> tuple[int, int]:
    return int(slots["volume"].sum()), int((slots["volume"] * slots["price"]).sum())


def change_of(price: Decimal, previous: Decimal) -> tuple[Decimal, Decimal]:
    """The change of a price, absolute and as a rate (to ten decimals)."""
    change = price - previous
    return change, (change / previous).quantize(Decimal("1e-10"), ROUND_HALF_UP)


def add_changes(days: list[Row]) -> None:
    """Add each day's change from the day before; the first day's is from its own opening price."""
    previous = days[0]["opening_price"] if days else Decimal(0)
    for row in days:
        change, rate = change_of(row["trade_price"], previous)
        row |= {"prev_closing_price": previous, "change_price": change, "change_rate": rate}
        previous = row["trade_price"]


def plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def ticker_timestamp(instrument: Instrument, traded: int, now: int) -> int:
    """A ticker's timestamp: shortly after its last trade, or after midnight if the day has no trade yet."""
    event = max(traded, now - now % DAY_MS)
    return min(now, event + 40 + delay(instrument.key ^ 6, event, 900))


def candle_timestamp(instrument: Instrument, traded: int, now: int) -> int:
    """When a trade was added to its candle, which may be after the candle's end."""
    return min(now, traded + delay(instrument.key ^ 9, traded, 60))


def delay(seed: int, event: int, below: int) -> int:
    return int(bits(mix(seed, np.array([event])), 0)[0]) % below
