"""The trades of the simulated markets: a pure function of (seed, market, time), and therefore reproducible.

Built bottom-up: a UTC day of a market is 5,760 slots of 15 seconds. Hashes decide how many trades a slot has, at
which price and volume, and split the slot into its trades. Everything the exchange returns is aggregated from those.
A day's high and low are fixed first and bound the slots, so that a year's range can be computed without its trades.

Times are milliseconds, and days are counted, from 1970 in UTC; prices are in the listing's `price_unit`, volumes
in its `volume_unit`, turnovers in their product.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from upbit_assets.sandbox.coins import Coin
from upbit_assets.sandbox.instrument import KNOTS_A_DAY, SLOTS_A_DAY, Instrument, coin_level
from upbit_assets.sandbox.noise import ONE, Ints, bits, key, mix, wave

Rows = npt.NDArray[np.void]  # an array whose fields are those of a row
DAY_MS = 86_400_000
SLOT_MS = DAY_MS // SLOTS_A_DAY
YEAR_DAYS = 364  # 52 weeks
IDS_A_MS = 10_000
KNOT_SLOTS = SLOTS_A_DAY // KNOTS_A_DAY
RIPPLES = ((384, 30), (96, 25), (24, 20), (4, 15), (1, 10))  # of the intraday noise: period in slots, percent
BUSY_HOURS = np.array([26, 22, 19, 17, 15, 15, 14, 14, 15, 15, 15, 16, 17, 19, 20, 18, 16, 14, 12, 11, 11, 12, 14, 17])


class Slot(NamedTuple):
    """A slot that has trades. `slot` is counted from 1970; `last` is the time of its last trade."""

    slot: int
    price: int
    trades: int
    volume: int
    last: int


class Trade(NamedTuple):
    """`bid` is 1 if the buyer is the taker, else 0; `id` is unique in the market but not ordered by time."""

    time: int
    price: int
    volume: int
    bid: int
    id: int


SLOT, TRADE = (np.dtype([(name, np.int64) for name in row._fields]) for row in (Slot, Trade))


@dataclass(frozen=True, slots=True)
class Range:
    """Low and high of consecutive UTC days (1/1024 price units), and the slots in which they occur."""

    low: Ints
    high: Ints
    low_slot: Ints
    high_slot: Ints


class Model:
    """The trades of every market, computed on demand; the cache is sized for `count` markets."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed = seed
        # Enough for today and the two days before of every market
        self.day = lru_cache(3 * count)(self.make_day)
        self.year = lru_cache(2 * count)(self.make_year)
        self.levels = lru_cache(4 * count)(self.make_levels)

    def so_far(self, instrument: Instrument, now: int) -> Rows:
        """The `Slot`s of the UTC day of `now`, with the trades up to and including `now`."""
        slots = self.day(instrument, now // DAY_MS)
        complete, started = slots["slot"].searchsorted([now // SLOT_MS, now // SLOT_MS + 1])
        slot_trades = trades_of(instrument, slots[complete:started])
        visible = slot_trades[slot_trades["time"] <= now]
        if not len(visible):
            return slots[:complete]
        slots = slots[:started].copy()
        slots[["trades", "volume", "last"]][-1] = len(visible), visible["volume"].sum(), visible["time"][-1]
        return slots

    def slot(self, instrument: Instrument, slot: int) -> tuple[Rows, Rows]:
        """The day's `Slot`s that precede a slot, and the `Trade`s of that slot, ascending."""
        slots = self.day(instrument, slot // SLOTS_A_DAY)
        first, end = slots["slot"].searchsorted([slot, slot + 1])
        return slots[:first], trades_of(instrument, slots[first:end])

    def trades(self, instrument: Instrument, day: int, end: int, count: int, cursor: int | None = None) -> Rows:
        """The last `count` `Trade`s of a UTC day before `end` and before the one with id `cursor`, ascending."""
        if cursor is not None:
            end = max(day * DAY_MS, min(end, cursor // IDS_A_MS + 1))
        slots = self.day(instrument, day)
        slots = slots[: slots["slot"].searchsorted(-(-end // SLOT_MS))]
        # The last slot may extend past `end` and have no trade before it
        trades_after = slots["trades"][:-1][::-1].cumsum()
        first = len(trades_after) - 1 - int(trades_after.searchsorted(count))
        trades = trades_of(instrument, slots[max(first, 0) :])
        trades = trades[trades["time"] < end]
        at_cursor = np.flatnonzero(trades["id"] == cursor)
        return trades[: at_cursor[0] if len(at_cursor) else None][-count:]

    def previous_close(self, instrument: Instrument, day: int) -> int:
        """The previous day's last price; on a market's first day, its opening price."""
        return int(
            self.day(instrument, day)["price"][0]
            if day == instrument.since
            else self.day(instrument, day - 1)["price"][-1]
        )

    def make_day(self, instrument: Instrument, day: int) -> Rows:
        """The `Slot`s of a UTC day, ascending: at least two, or none before the market's first day.

        `day` is the cached version.
        """
        if day < instrument.since:
            return np.empty(0, SLOT)
        range_ = self.range_of(instrument, day, day)
        low_slot, high_slot = int(range_.low_slot[0]), int(range_.high_slot[0])
        trades = trade_counts(instrument, day)
        if day == instrument.since:
            trades[: instrument.opens] = 0
        trades[[low_slot, high_slot]] = np.maximum(trades[[low_slot, high_slot]], 1)
        numbers = np.flatnonzero(trades)
        sub = np.clip(self.path(instrument, day, numbers), range_.low[0], range_.high[0])
        sub[numbers == low_slot], sub[numbers == high_slot] = range_.low[0], range_.high[0]
        slots = np.empty(len(numbers), SLOT)
        slots["slot"], slots["trades"], slots["price"] = (
            day * SLOTS_A_DAY + numbers,
            trades[numbers],
            instrument.on_grid(sub),
        )
        slots["volume"] = volumes(instrument, slots["slot"], slots["trades"])
        final = slots["trades"] - 1
        slots["last"] = times(slots["slot"], final, slots["trades"], draws(instrument, slots["slot"], final))
        return slots

    def path(self, instrument: Instrument, day: int, slot: Ints) -> Ints:
        """Prices (1/1024 units) before they are bounded: levels of coin and quote, and the coin's ripples."""
        part, into = np.divmod(slot, KNOT_SLOTS)
        levels = []
        for coin in (instrument.base, instrument.quote):
            knot = self.levels(coin, day * KNOTS_A_DAY, (day + 1) * KNOTS_A_DAY)
            levels.append((knot[part] * (KNOT_SLOTS - into) + knot[part + 1] * into) // KNOT_SLOTS)
        at, drift = day * SLOTS_A_DAY + slot, np.zeros_like(slot)
        for scale, share in RIPPLES:
            # All of a coin's markets move together except for the fastest ripple
            source = instrument.key if scale == 1 else key(self.seed, instrument.base.code, "ripple", scale)
            drift += wave(source, at, scale) * (instrument.noise * share // 100)
        return (instrument.level * levels[0] // levels[1]) * (ONE + (drift >> 20)) >> 20

    def range_of(self, instrument: Instrument, first: int, last: int) -> Range:
        """Low and high of the UTC days from `first` to `last`, without computing their trades."""
        span = first * KNOTS_A_DAY, (last + 1) * KNOTS_A_DAY
        knots = instrument.level * self.levels(instrument.base, *span) // self.levels(instrument.quote, *span)
        table = np.lib.stride_tricks.sliding_window_view(knots, KNOTS_A_DAY + 1)[::KNOTS_A_DAY]
        draw = mix(instrument.key ^ 1, np.arange(first, last + 1))
        above, below = (
            ONE + sign * instrument.noise * (ONE + bits(draw, at)) // (2 * ONE) for sign, at in ((1, 0), (-1, 20))
        )
        high_slot, low_slot = (
            near(best, bits(draw, at, 7) - 64) for best, at in ((table.argmax(1), 40), (table.argmin(1), 48))
        )
        # On its first day, a market trades only after its opening
        opens = np.where(np.arange(first, last + 1) == instrument.since, instrument.opens, 0)
        high_slot, low_slot = (opens + slot % (SLOTS_A_DAY - opens) for slot in (high_slot, low_slot))
        low_slot = np.where(low_slot == high_slot, opens + (low_slot - opens + 1) % (SLOTS_A_DAY - opens), low_slot)
        return Range(table.min(1) * below >> 20, table.max(1) * above >> 20, low_slot, high_slot)

    def make_year(self, instrument: Instrument, day: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Lowest and highest price of the 52 weeks before a day, each with the latest day it occurred."""
        days = np.arange(max(day - YEAR_DAYS + 1, instrument.since), day)
        range_ = self.range_of(instrument, int(days[0]), int(days[-1]))
        low, high = instrument.on_grid(range_.low), instrument.on_grid(range_.high)
        lowest, highest = int(low.min()), int(high.max())
        return (lowest, int(days[low == lowest][-1])), (highest, int(days[high == highest][-1]))

    def make_levels(self, coin: Coin, first: int, last: int) -> Ints:
        return coin_level(self.seed, coin, np.arange(first, last + 1))


def trade_counts(instrument: Instrument, day: int) -> Ints:
    """The number of trades in each slot of a day: more in Korean office hours and in half-hour bursts."""
    at = np.arange(day * SLOTS_A_DAY, (day + 1) * SLOTS_A_DAY)
    draw = mix(instrument.key ^ 2, at)
    hours = np.repeat(BUSY_HOURS, SLOTS_A_DAY // 24)
    burst = ONE + wave(instrument.key ^ 3, at, 120) * 3 // 4
    expected = (instrument.rate * ONE // SLOTS_A_DAY * hours >> 4) * burst >> 20
    return ((expected * bits(draw, 0) >> 19) + bits(draw, 20)) >> 20


def volumes(instrument: Instrument, at: Ints, trades: Ints) -> Ints:
    """The volume of each slot, from trades that are mostly small and sometimes very large."""
    draw = mix(instrument.key ^ 4, at)
    weight: Ints = np.minimum((1 << 16) // (1 + bits(draw, 0, 16)), 256)
    return trades * (1 + instrument.size * weight // 13 + bits(draw, 16, 40) % instrument.size)


def trades_of(instrument: Instrument, slots: Rows) -> Rows:
    """The `Trade`s of complete `Slot`s, ascending; their volumes add up to the slots'."""
    if not len(slots):
        return np.empty(0, TRADE)
    slot_index = np.repeat(np.arange(len(slots)), slots["trades"])
    n = np.arange(len(slot_index)) - (slots["trades"].cumsum() - slots["trades"])[slot_index]
    at, count, volume = (slots[name][slot_index] for name in ("slot", "trades", "volume"))
    draw = draws(instrument, at, n)
    cuts = (volume - count) // (count << 10) * ((n << 10) + bits(draw, 30, 10)) * (n > 0)
    trades = np.empty(len(slot_index), TRADE)
    trades["time"], trades["price"], trades["bid"] = (
        times(at, n, count, draw),
        slots["price"][slot_index],
        bits(draw, 43, 1),
    )
    # An order that fills several others makes trades that differ only in their ids
    repeated = np.flatnonzero((n % 2 == 1) & (n + 1 < count) & (bits(draw, 40, 3) == 0))
    trades["time"][repeated], trades["bid"][repeated] = trades["time"][repeated - 1], trades["bid"][repeated - 1]
    cuts[repeated] = (cuts[repeated - 1] + cuts[repeated + 1]) // 2
    trades["volume"] = 1 + np.where(n + 1 < count, np.roll(cuts, -1), volume - count) - cuts
    # Numbered backwards within a millisecond: ids are unique but not ordered by time
    after = trades["time"].searchsorted(trades["time"], "right") - 1 - np.arange(len(slot_index))
    trades["id"] = trades["time"] * IDS_A_MS + after
    return trades


def draws(instrument: Instrument, at: Ints, n: Ints) -> npt.NDArray[np.uint64]:
    return mix(instrument.key ^ 5, at * 4096 + n)


def times(at: Ints, n: Ints, count: Ints, draw: npt.NDArray[np.uint64]) -> Ints:
    """The time of the nth of a slot's `count` trades; each falls into its own share of the slot."""
    return at * SLOT_MS + (n * SLOT_MS + bits(draw, 0, 30) % SLOT_MS) // count


def near(knot: Ints, offset: Ints) -> Ints:
    """The slot at `offset` from a knot of the day, reflected if that is outside the day."""
    return SLOTS_A_DAY - 1 - np.abs(SLOTS_A_DAY - 1 - np.abs(knot * KNOT_SLOTS + offset))
