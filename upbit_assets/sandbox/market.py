"""The simulated market: a pure function of (seed, market, time), so that asking twice gives the same.

Built bottom-up. A UTC day of a market is 5,760 slots of 15 seconds; hashes say how many trades a slot has, at
which price and for which volume, and split the slot into its trades. Tickers and candles only add those up.
A day's high and low come first and the slots keep to them, which makes a year's range as cheap as a day's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .coins import KRW, QUOTES, Coin, listed, split
from .instrument import KNOTS_A_DAY, SLOTS_A_DAY, Instrument, Listing, coin_level, instrument
from .noise import ONE, Ints, bits, key, mix, wave

Row = dict[str, Any]  # strings, integers and exact Decimals
DAY_MS = 86_400_000
SLOT_MS = DAY_MS // SLOTS_A_DAY
YEAR_DAYS = 364  # 52 weeks
_KNOT_SLOTS = SLOTS_A_DAY // KNOTS_A_DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KST = timedelta(hours=9)
_RIPPLES = ((384, 30), (96, 25), (24, 20), (4, 15), (1, 10))  # of the wobble: slots, percent
_BUSY_HOURS = np.array([26, 22, 19, 17, 15, 15, 14, 14, 15, 15, 15, 16, 17, 19, 20, 18, 16, 14, 12, 11, 11, 12, 14, 17])
_CAUTIONS = {
    "PRICE_FLUCTUATIONS": 20,
    "TRADING_VOLUME_SOARING": 25,
    "DEPOSIT_AMOUNT_SOARING": 15,
    "GLOBAL_PRICE_DIFFERENCES": 220,
    "CONCENTRATION_OF_SMALL_ACCOUNTS": 10,
}  # markets in a thousand that carry each caution

MINUTE = np.dtype(
    [(name, np.int64) for name in ("minute", "open", "high", "low", "close", "volume", "turnover", "trades")]
)


@dataclass(frozen=True, slots=True)
class _Day:
    """The slots of a UTC day that have trades, ascending. `acc_*[n]` are the sums of the first n slots."""

    slot: Ints
    price: Ints
    trades: Ints
    volume: Ints
    acc_volume: Ints
    acc_turnover: Ints


@dataclass(frozen=True, slots=True)
class _Range:
    """Low and high of consecutive UTC days (1/1024 price units) and the slots that print them."""

    low: Ints
    high: Ints
    low_slot: Ints
    high_slot: Ints


@dataclass(frozen=True, slots=True)
class _Session:
    """A UTC day up to a moment; `prices` of its slots so far, the last trade's `time` (ms) and `size`."""

    prices: Ints
    volume: int
    turnover: int
    time: int
    size: int


class Market:
    """A simulated exchange with `count` markets (at least 3; KRW-BTC and KRW-USDT are always among them).

    Nothing is stored: instances of one seed agree in every process, whatever they were asked before, and a
    market is the same in an exchange of 10 as in one of 855.
    """

    def __init__(self, seed: int = 0, count: int = 855) -> None:
        if count < 3:
            raise ValueError(f"an exchange has at least 3 markets, not {count}")
        self.seed = seed
        self._instruments = {each.listing.market: each for each in _instruments(seed, count)}
        # Bounded: today, yesterday and the day before of every market
        self._day = lru_cache(3 * count)(self._make_day)
        self._year = lru_cache(2 * count)(self._make_year)
        self._levels = lru_cache(4 * count)(self._make_levels)

    def markets(self) -> list[Listing]:
        """Every market, KRW ones first."""
        return [each.listing for each in self._instruments.values()]

    def __contains__(self, market: object) -> bool:
        return market in self._instruments

    def event(self, market: str, at: datetime) -> dict[str, object]:
        """`market_event` of Upbit REST, Pairs: warning and cautions, which change from week to week."""
        week = _milliseconds(at) // (7 * DAY_MS)
        draws = bits(mix(self._instruments[market].key ^ 7, week * 8 + np.arange(6)), 0) % 1000
        caution = {name: bool(draw < odds) for draw, (name, odds) in zip(draws, _CAUTIONS.items(), strict=False)}
        return {"warning": bool(draws[5] < 21), "caution": caution}

    def ticker(self, market: str, at: datetime) -> Row:
        """A row of Upbit REST, Ticker as it stands at `at`: figures of that UTC day, in exact decimals.

        Raises KeyError for a market that is not listed.
        """
        one, now = self._instruments[market], _milliseconds(at)
        day = now // DAY_MS
        today, before = self._until(one, now), self._until(one, now - DAY_MS)
        yesterday = self._day(market, day - 1)
        previous = int(yesterday.price[-1])
        prices = today.prices if len(today.prices) else yesterday.price[-1:]
        opening, price, high, low = (int(p) for p in (prices[0], prices[-1], prices.max(), prices.min()))
        change = price - previous
        rate = Decimal((2 * abs(change) * 10**10 + previous) // (2 * previous)).scaleb(-10)
        unit, lot = one.listing.price_unit, one.listing.volume_unit
        traded = _EPOCH + timedelta(milliseconds=today.time)
        return {
            "market": market,
            "trade_date": f"{traded:%Y%m%d}",
            "trade_time": f"{traded:%H%M%S}",
            "trade_date_kst": f"{traded + _KST:%Y%m%d}",
            "trade_time_kst": f"{traded + _KST:%H%M%S}",
            "trade_timestamp": today.time,
            "opening_price": opening * unit,
            "high_price": high * unit,
            "low_price": low * unit,
            "trade_price": price * unit,
            "prev_closing_price": previous * unit,
            "change": "RISE" if change > 0 else "FALL" if change else "EVEN",
            "change_price": abs(change) * unit,
            "change_rate": rate,
            "signed_change_price": change * unit,
            "signed_change_rate": -rate if change < 0 else rate,
            "trade_volume": today.size * lot,
            "acc_trade_price": today.turnover * unit * lot,
            "acc_trade_price_24h": (today.turnover + int(yesterday.acc_turnover[-1]) - before.turnover) * unit * lot,
            "acc_trade_volume": today.volume * lot,
            "acc_trade_volume_24h": (today.volume + int(yesterday.acc_volume[-1]) - before.volume) * lot,
            **self._year_range(one, day, high, low),
            "timestamp": _made_at(one, today.time, now),
        }

    def minutes(self, market: str, start: datetime, end: datetime) -> npt.NDArray[np.void]:
        """Whole minutes that begin in [start, end) and have trades, ascending; an array of dtype MINUTE.

        `minute` counts from 1970 in UTC, prices are in the listing's `price_unit`, volume in its
        `volume_unit`, turnover in their product.
        """
        first, last = (-(-_milliseconds(time) // 60_000) for time in (start, end))
        days = range(first // 1440, -(-last // 1440))
        rows = np.concatenate([np.empty(0, MINUTE), *(_minutes(day, self._day(market, day)) for day in days)])
        return rows[slice(*rows["minute"].searchsorted([first, last]))]

    def _until(self, one: Instrument, now: int) -> _Session:
        day, into = divmod(now, DAY_MS)
        made = self._day(one.listing.market, day)
        done = int(made.slot.searchsorted(into // SLOT_MS))
        times, sizes = _tape(one, day, made, done)
        seen = int(times.searchsorted(now, "right"))
        volume = int(sizes[:seen].sum())
        time, size = (times[seen - 1], sizes[seen - 1]) if seen else self._last_of(one, day, done)
        return _Session(
            prices=made.price[: done + bool(seen)],
            volume=int(made.acc_volume[done]) + volume,
            turnover=int(made.acc_turnover[done]) + (volume * int(made.price[done]) if seen else 0),
            time=int(time),
            size=int(size),
        )

    def _last_of(self, one: Instrument, day: int, slots: int) -> tuple[int, int]:
        """Time and size of the last trade in a day's first `slots`, else of the day before."""
        day, slots = (day, slots - 1) if slots else (day - 1, -1)
        made = self._day(one.listing.market, day)
        times, sizes = _tape(one, day, made, slots % len(made.slot))
        return int(times[-1]), int(sizes[-1])

    def _make_day(self, market: str, day: int) -> _Day:
        one = self._instruments[market]
        reach = self._range(one, day, day)
        low_slot, high_slot = int(reach.low_slot[0]), int(reach.high_slot[0])
        trades = _trade_counts(one, day)
        trades[[low_slot, high_slot]] = np.maximum(trades[[low_slot, high_slot]], 1)
        slot = np.flatnonzero(trades)
        trades = trades[slot]
        sub = np.clip(self._path(one, day, slot), reach.low[0], reach.high[0])
        sub[slot == low_slot], sub[slot == high_slot] = reach.low[0], reach.high[0]
        price = one.on_grid(sub)
        volume = _volumes(one, day * SLOTS_A_DAY + slot, trades)
        return _Day(slot, price, trades, volume, _running(volume), _running(volume * price))

    def _path(self, one: Instrument, day: int, slot: Ints) -> Ints:
        """Prices (1/1024 units) before the day's bounds: levels of coin and quote, and the coin's ripples."""
        part, into = np.divmod(slot, _KNOT_SLOTS)
        levels = []
        for coin in (one.base, one.quote):
            knot = self._levels(coin, day * KNOTS_A_DAY, (day + 1) * KNOTS_A_DAY)
            levels.append((knot[part] * (_KNOT_SLOTS - into) + knot[part + 1] * into) // _KNOT_SLOTS)
        at, drift = day * SLOTS_A_DAY + slot, np.zeros_like(slot)
        for scale, share in _RIPPLES:
            # Coins move together in all their markets but for the fastest ripple
            source = one.key if scale == 1 else key(self.seed, one.base.code, "ripple", scale)
            drift += wave(source, at, scale) * (one.wobble * share // 100)
        return (one.level * levels[0] // levels[1]) * (ONE + (drift >> 20)) >> 20

    def _range(self, one: Instrument, first: int, last: int) -> _Range:
        """Low and high of the UTC days from `first` to `last`, without looking at their trades."""
        span = first * KNOTS_A_DAY, (last + 1) * KNOTS_A_DAY
        knots = one.level * self._levels(one.base, *span) // self._levels(one.quote, *span)
        table = np.lib.stride_tricks.sliding_window_view(knots, KNOTS_A_DAY + 1)[::KNOTS_A_DAY]
        draw = mix(one.key ^ 1, np.arange(first, last + 1))
        above, below = (
            ONE + sign * one.wobble * (ONE + bits(draw, at)) // (2 * ONE) for sign, at in ((1, 0), (-1, 20))
        )
        high_slot, low_slot = (
            _near(best, bits(draw, at, 7) - 64) for best, at in ((table.argmax(1), 40), (table.argmin(1), 48))
        )
        low_slot = np.where(low_slot == high_slot, (low_slot + 1) % SLOTS_A_DAY, low_slot)
        return _Range(table.min(1) * below >> 20, table.max(1) * above >> 20, low_slot, high_slot)

    def _make_year(self, market: str, day: int) -> tuple[int, int, int, int]:
        one = self._instruments[market]
        reach = self._range(one, day - YEAR_DAYS + 1, day - 1)
        low, high = one.on_grid(reach.low), one.on_grid(reach.high)
        latest = YEAR_DAYS - 2
        low_at, high_at = latest - int(low[::-1].argmin()), latest - int(high[::-1].argmax())
        first = day - YEAR_DAYS + 1
        return int(high[high_at]), first + high_at, int(low[low_at]), first + low_at

    def _year_range(self, one: Instrument, day: int, high: int, low: int) -> Row:
        highest, high_day, lowest, low_day = self._year(one.listing.market, day)
        highest, high_day = max((highest, high_day), (high, day))
        lowest, low_day = (low, day) if low <= lowest else (lowest, low_day)
        return {
            "highest_52_week_price": highest * one.listing.price_unit,
            "highest_52_week_date": f"{_EPOCH + timedelta(days=high_day):%Y-%m-%d}",
            "lowest_52_week_price": lowest * one.listing.price_unit,
            "lowest_52_week_date": f"{_EPOCH + timedelta(days=low_day):%Y-%m-%d}",
        }

    def _make_levels(self, coin: Coin, first: int, last: int) -> Ints:
        return coin_level(self.seed, coin, np.arange(first, last + 1))


def _milliseconds(at: datetime) -> int:
    if at.tzinfo is None:
        raise ValueError(f"a time needs a time zone: {at}")
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _instruments(seed: int, count: int) -> Iterable[Instrument]:
    shares = split(count)
    quotes = {coin.code: coin for coin in (KRW, *listed("KRW", 2))}
    for code in QUOTES:
        for rank, coin in enumerate(listed(code, shares[code])):
            yield instrument(seed, coin, quotes[code], rank)


def _trade_counts(one: Instrument, day: int) -> Ints:
    """Trades in each slot of a day: more at Korean office hours and in bursts of half an hour."""
    at = np.arange(day * SLOTS_A_DAY, (day + 1) * SLOTS_A_DAY)
    draw = mix(one.key ^ 2, at)
    hours = np.repeat(_BUSY_HOURS, SLOTS_A_DAY // 24)
    burst = ONE + wave(one.key ^ 3, at, 120) * 3 // 4
    expected = (one.rate * ONE // SLOTS_A_DAY * hours >> 4) * burst >> 20
    return ((expected * bits(draw, 0) >> 19) + bits(draw, 20)) >> 20


def _volumes(one: Instrument, at: Ints, trades: Ints) -> Ints:
    """Volume of each slot: its trades, most of them small and some very large."""
    draw = mix(one.key ^ 4, at)
    weight: Ints = np.minimum((1 << 16) // (1 + bits(draw, 0, 16)), 256)
    return trades * (1 + one.size * weight // 13 + bits(draw, 16, 40) % one.size)


def _tape(one: Instrument, day: int, made: _Day, nth: int) -> tuple[Ints, Ints]:
    """Times (ms, ascending) and volumes of the trades in a day's nth slot with trades, none past the last.

    The volumes add up to the slot's.
    """
    if nth >= len(made.slot):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    count, volume = int(made.trades[nth]), int(made.volume[nth])
    at = day * SLOTS_A_DAY + int(made.slot[nth])
    nth_trade = np.arange(count)
    draw = mix(one.key ^ 5, at * 4096 + nth_trade)
    times = at * SLOT_MS + (nth_trade * SLOT_MS + bits(draw, 0, 30) % SLOT_MS) // count
    cuts = (volume - count) // (count << 10) * ((nth_trade << 10) + bits(draw, 30, 10))
    cuts[0] = 0
    return times, 1 + np.diff(cuts, append=volume - count)


def _near(knot: Ints, offset: Ints) -> Ints:
    """The slot `offset` from a knot of the day, folded back where that is outside the day."""
    return SLOTS_A_DAY - 1 - np.abs(SLOTS_A_DAY - 1 - np.abs(knot * _KNOT_SLOTS + offset))


def _running(values: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), values.cumsum()])


def _minutes(day: int, made: _Day) -> npt.NDArray[np.void]:
    minute, starts = np.unique(made.slot // 4, return_index=True)
    ends = np.append(starts[1:], len(made.slot))
    rows = np.empty(len(minute), MINUTE)
    rows["minute"] = day * 1440 + minute
    rows["open"], rows["close"] = made.price[starts], made.price[ends - 1]
    rows["high"], rows["low"] = (
        np.maximum.reduceat(made.price, starts),
        np.minimum.reduceat(made.price, starts),
    )
    rows["trades"] = np.add.reduceat(made.trades, starts)
    rows["volume"] = made.acc_volume[ends] - made.acc_volume[starts]
    rows["turnover"] = made.acc_turnover[ends] - made.acc_turnover[starts]
    return rows


def _made_at(one: Instrument, traded: int, now: int) -> int:
    """When the row was made: a little after its last trade, or after midnight when the day has none yet."""
    event = max(traded, now - now % DAY_MS)
    return min(now, event + 40 + int(bits(mix(one.key ^ 6, np.array([event])), 0)[0]) % 900)
