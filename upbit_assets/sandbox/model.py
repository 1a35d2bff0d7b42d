"""The trades of the simulated markets: a pure function of (seed, market, time), so that asking twice gives the same.

Built bottom-up. A UTC day of a market is 5,760 slots of 15 seconds; hashes say how many trades a slot has, at
which price and for which volume, and split the slot into its trades. Whatever the exchange tells adds those up.
A day's high and low come first and the slots keep to them, which makes a year's range as cheap as a day's.

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
RIPPLES = ((384, 30), (96, 25), (24, 20), (4, 15), (1, 10))  # of the wobble: slots, percent
BUSY_HOURS = np.array([26, 22, 19, 17, 15, 15, 14, 14, 15, 15, 15, 16, 17, 19, 20, 18, 16, 14, 12, 11, 11, 12, 14, 17])


class Slot(NamedTuple):
    """A slot with trades, counted from 1970; `last` is the time of its last trade."""

    slot: int
    price: int
    trades: int
    volume: int
    last: int


class Trade(NamedTuple):
    """`bid` is 1 where the buyer took, else 0; `id` is unique in the market, but in no order."""

    time: int
    price: int
    volume: int
    bid: int
    id: int


SLOT, TRADE = (np.dtype([(name, np.int64) for name in row._fields]) for row in (Slot, Trade))


@dataclass(frozen=True, slots=True)
class Range:
    """Low and high of consecutive UTC days (1/1024 price units) and the slots that print them."""

    low: Ints
    high: Ints
    low_slot: Ints
    high_slot: Ints


class Model:
    """The trades of every market. Nothing is stored; what was made last is kept, for `count` markets."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed = seed
        # Bounded: today, yesterday and the day before of every market
        self.day = lru_cache(3 * count)(self.make_day)
        self.year = lru_cache(2 * count)(self.make_year)
        self.levels = lru_cache(4 * count)(self.make_levels)

    def so_far(self, one: Instrument, now: int) -> Rows:
        """The `Slot`s of the UTC day of `now` with the trades up to and including that moment."""
        made = self.day(one, now // DAY_MS)
        done, known = made["slot"].searchsorted([now // SLOT_MS, now // SLOT_MS + 1])
        tape = trades_of(one, made[done:known])
        seen = tape[tape["time"] <= now]
        if not len(seen):
            return made[:done]
        slots = made[:known].copy()
        slots[["trades", "volume", "last"]][-1] = len(seen), seen["volume"].sum(), seen["time"][-1]
        return slots

    def slot(self, one: Instrument, slot: int) -> tuple[Rows, Rows]:
        """The `Slot`s of the day before a slot, and the `Trade`s of that slot, ascending."""
        made = self.day(one, slot // SLOTS_A_DAY)
        first, end = made["slot"].searchsorted([slot, slot + 1])
        return made[:first], trades_of(one, made[first:end])

    def trades(self, one: Instrument, day: int, end: int, count: int, cursor: int | None = None) -> Rows:
        """The last `count` `Trade`s of a UTC day before `end`, ascending, and before the one whose id is `cursor`."""
        if cursor is not None:
            end = max(day * DAY_MS, min(end, cursor // IDS_A_MS + 1))
        made = self.day(one, day)
        made = made[: made["slot"].searchsorted(-(-end // SLOT_MS))]
        # Of the last slot, which may go on after `end`, nothing may be left
        behind = made["trades"][:-1][::-1].cumsum()
        first = len(behind) - 1 - int(behind.searchsorted(count))
        tape = trades_of(one, made[max(first, 0) :])
        tape = tape[tape["time"] < end]
        past = np.flatnonzero(tape["id"] == cursor)
        return tape[: past[0] if len(past) else None][-count:]

    def previous_close(self, one: Instrument, day: int) -> int:
        """The last price of the day before; of a market's first day, the price that it opened at."""
        return int(self.day(one, day)["price"][0] if day == one.since else self.day(one, day - 1)["price"][-1])

    def make_day(self, one: Instrument, day: int) -> Rows:
        """The `Slot`s of a UTC day, ascending: at least two, but none before the market's first day.

        `day` is the same and keeps the result.
        """
        if day < one.since:
            return np.empty(0, SLOT)
        reach = self.range_of(one, day, day)
        low_slot, high_slot = int(reach.low_slot[0]), int(reach.high_slot[0])
        trades = trade_counts(one, day)
        if day == one.since:
            trades[: one.opens] = 0
        trades[[low_slot, high_slot]] = np.maximum(trades[[low_slot, high_slot]], 1)
        slot = np.flatnonzero(trades)
        sub = np.clip(self.path(one, day, slot), reach.low[0], reach.high[0])
        sub[slot == low_slot], sub[slot == high_slot] = reach.low[0], reach.high[0]
        made = np.empty(len(slot), SLOT)
        made["slot"], made["trades"], made["price"] = day * SLOTS_A_DAY + slot, trades[slot], one.on_grid(sub)
        made["volume"] = volumes(one, made["slot"], made["trades"])
        final = made["trades"] - 1
        made["last"] = times(made["slot"], final, made["trades"], draws(one, made["slot"], final))
        return made

    def path(self, one: Instrument, day: int, slot: Ints) -> Ints:
        """Prices (1/1024 units) before the day's bounds: levels of coin and quote, and the coin's ripples."""
        part, into = np.divmod(slot, KNOT_SLOTS)
        levels = []
        for coin in (one.base, one.quote):
            knot = self.levels(coin, day * KNOTS_A_DAY, (day + 1) * KNOTS_A_DAY)
            levels.append((knot[part] * (KNOT_SLOTS - into) + knot[part + 1] * into) // KNOT_SLOTS)
        at, drift = day * SLOTS_A_DAY + slot, np.zeros_like(slot)
        for scale, share in RIPPLES:
            # Coins move together in all their markets but for the fastest ripple
            source = one.key if scale == 1 else key(self.seed, one.base.code, "ripple", scale)
            drift += wave(source, at, scale) * (one.wobble * share // 100)
        return (one.level * levels[0] // levels[1]) * (ONE + (drift >> 20)) >> 20

    def range_of(self, one: Instrument, first: int, last: int) -> Range:
        """Low and high of the UTC days from `first` to `last`, without looking at their trades."""
        span = first * KNOTS_A_DAY, (last + 1) * KNOTS_A_DAY
        knots = one.level * self.levels(one.base, *span) // self.levels(one.quote, *span)
        table = np.lib.stride_tricks.sliding_window_view(knots, KNOTS_A_DAY + 1)[::KNOTS_A_DAY]
        draw = mix(one.key ^ 1, np.arange(first, last + 1))
        above, below = (
            ONE + sign * one.wobble * (ONE + bits(draw, at)) // (2 * ONE) for sign, at in ((1, 0), (-1, 20))
        )
        high_slot, low_slot = (
            near(best, bits(draw, at, 7) - 64) for best, at in ((table.argmax(1), 40), (table.argmin(1), 48))
        )
        # On its first day a market trades from its opening on
        opens = np.where(np.arange(first, last + 1) == one.since, one.opens, 0)
        high_slot, low_slot = (opens + slot % (SLOTS_A_DAY - opens) for slot in (high_slot, low_slot))
        low_slot = np.where(low_slot == high_slot, opens + (low_slot - opens + 1) % (SLOTS_A_DAY - opens), low_slot)
        return Range(table.min(1) * below >> 20, table.max(1) * above >> 20, low_slot, high_slot)

    def make_year(self, one: Instrument, day: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Lowest and highest price of the 52 weeks before a day, each with the latest day that had it."""
        days = np.arange(max(day - YEAR_DAYS + 1, one.since), day)
        reach = self.range_of(one, int(days[0]), int(days[-1]))
        low, high = one.on_grid(reach.low), one.on_grid(reach.high)
        lowest, highest = int(low.min()), int(high.max())
        return (lowest, int(days[low == lowest][-1])), (highest, int(days[high == highest][-1]))

    def make_levels(self, coin: Coin, first: int, last: int) -> Ints:
        return coin_level(self.seed, coin, np.arange(first, last + 1))


def trade_counts(one: Instrument, day: int) -> Ints:
    """Trades in each slot of a day: more at Korean office hours and in bursts of half an hour."""
    at = np.arange(day * SLOTS_A_DAY, (day + 1) * SLOTS_A_DAY)
    draw = mix(one.key ^ 2, at)
    hours = np.repeat(BUSY_HOURS, SLOTS_A_DAY // 24)
    burst = ONE + wave(one.key ^ 3, at, 120) * 3 // 4
    expected = (one.rate * ONE // SLOTS_A_DAY * hours >> 4) * burst >> 20
    return ((expected * bits(draw, 0) >> 19) + bits(draw, 20)) >> 20


def volumes(one: Instrument, at: Ints, trades: Ints) -> Ints:
    """Volume of each slot: its trades, most of them small and some very large."""
    draw = mix(one.key ^ 4, at)
    weight: Ints = np.minimum((1 << 16) // (1 + bits(draw, 0, 16)), 256)
    return trades * (1 + one.size * weight // 13 + bits(draw, 16, 40) % one.size)


def trades_of(one: Instrument, slots: Rows) -> Rows:
    """The `Trade`s of whole `Slot`s, ascending; their volumes add up to the slots'."""
    if not len(slots):
        return np.empty(0, TRADE)
    of = np.repeat(np.arange(len(slots)), slots["trades"])
    nth = np.arange(len(of)) - (slots["trades"].cumsum() - slots["trades"])[of]
    at, count, volume = (slots[name][of] for name in ("slot", "trades", "volume"))
    draw = draws(one, at, nth)
    cuts = (volume - count) // (count << 10) * ((nth << 10) + bits(draw, 30, 10)) * (nth > 0)
    made = np.empty(len(of), TRADE)
    made["time"], made["price"], made["bid"] = times(at, nth, count, draw), slots["price"][of], bits(draw, 43, 1)
    # One order that meets several makes trades alike in all but their id
    twin = np.flatnonzero((nth % 2 == 1) & (nth + 1 < count) & (bits(draw, 40, 3) == 0))
    made["time"][twin], made["bid"][twin] = made["time"][twin - 1], made["bid"][twin - 1]
    cuts[twin] = (cuts[twin - 1] + cuts[twin + 1]) // 2
    made["volume"] = 1 + np.where(nth + 1 < count, np.roll(cuts, -1), volume - count) - cuts
    # Numbered backwards within a millisecond: ids are unique, but they don't tell the order
    after = made["time"].searchsorted(made["time"], "right") - 1 - np.arange(len(of))
    made["id"] = made["time"] * IDS_A_MS + after
    return made


def draws(one: Instrument, at: Ints, nth: Ints) -> npt.NDArray[np.uint64]:
    return mix(one.key ^ 5, at * 4096 + nth)


def times(at: Ints, nth: Ints, count: Ints, draw: npt.NDArray[np.uint64]) -> Ints:
    """The time of the nth of `count` trades of a slot, each in a share of the slot of its own."""
    return at * SLOT_MS + (nth * SLOT_MS + bits(draw, 0, 30) % SLOT_MS) // count


def near(knot: Ints, offset: Ints) -> Ints:
    """The slot `offset` from a knot of the day, folded back where that is outside the day."""
    return SLOTS_A_DAY - 1 - np.abs(SLOTS_A_DAY - 1 - np.abs(knot * KNOT_SLOTS + offset))
