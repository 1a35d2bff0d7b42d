"""Candles of every unit, aggregated from trades, slots or days."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from upbit_assets.sandbox.instrument import SLOTS_A_DAY, Instrument
from upbit_assets.sandbox.model import DAY_MS, SLOT_MS, Model, Rows, trades_of
from upbit_assets.sandbox.noise import Ints

LONGEST_CANDLE_MS = 366 * DAY_MS
MINUTES = (1, 3, 5, 10, 15, 30, 60, 240)
SECONDS_CANDLE_DAYS = 92  # three months


class Candle(NamedTuple):
    """`start`, and `last` (the time of the last trade), are in ms."""

    start: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    turnover: int
    last: int


CANDLE = np.dtype([(name, np.int64) for name in Candle._fields])
# A day's sums fit 64 bits, a year's don't
DAY = np.dtype([(name, object if name in ("volume", "turnover") else np.int64) for name in Candle._fields])


@dataclass(frozen=True, slots=True)
class Unit:
    """A candle length. `start` maps times (ms) to the starts of their candles.

    `source` is what candles are aggregated from, `available_days` how many days back the exchange serves them.
    """

    start: Callable[[Ints], Ints]
    source: str = "slots"
    available_days: int = 1 << 20


def every(length: int, offset: int = 0) -> Callable[[Ints], Ints]:
    return lambda time: time - (time - offset) % length


def calendar(period: str) -> Callable[[Ints], Ints]:
    return lambda time: time.astype("M8[ms]").astype(f"M8[{period}]").astype("M8[ms]").astype(np.int64)


UNITS = {
    "seconds": Unit(every(1000), "trades", SECONDS_CANDLE_DAYS),
    **{f"minutes/{n}": Unit(every(n * 60_000)) for n in MINUTES},
    "days": Unit(every(DAY_MS), "days"),
    "weeks": Unit(every(7 * DAY_MS, 4 * DAY_MS), "days"),  # 1970 began on a Thursday
    "months": Unit(calendar("M"), "days"),
    "years": Unit(calendar("Y"), "days"),
}


class Candles:
    """Candles aggregated from a model's trades."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.closed_day = lru_cache(1 << 16)(self.make_closed_day)  # 40 MB at most
        self.sources: dict[str, Callable[..., Rows]] = {
            "trades": self.of_trades,
            "slots": self.of_slots,
            "days": self.of_days,
        }

    def before(self, instrument: Instrument, unit: Unit, now: int, end: int, count: int) -> Rows:
        """The last `count` `Candle`s that start before `end`, ascending, from the trades up to and including `now`."""
        today = now // DAY_MS
        days = np.arange(
            max(instrument.since, today - unit.available_days), min(today, (end + LONGEST_CANDLE_MS) // DAY_MS) + 1
        )
        days = days[unit.start(days * DAY_MS) < end]
        parts: list[Rows] = [np.empty(0, CANDLE)]
        starts: set[int] = set()
        for day in reversed(days.tolist()):
            part = self.sources[unit.source](instrument, day, now, min(end, now + 1), count)
            part["start"] = unit.start(part["start"])
            parts.append(part[part["start"] < end])
            starts.update(np.unique(parts[-1]["start"]).tolist())
            # One candle more than requested, so that the earliest returned one is complete
            if len(starts) > count:
                break
        return merged(np.concatenate(parts[::-1]))[-count:]

    def of_trades(self, instrument: Instrument, day: int, now: int, end: int, count: int) -> Rows:
        slots = self.model.day(instrument, day)
        stop = int(slots["slot"].searchsorted(-(-end // SLOT_MS)))
        # Each slot has trades in at least one second
        trades = trades_of(instrument, slots[max(stop - count - 1, 0) : stop])
        trades = trades[trades["time"] <= now]
        return candles_of(trades["time"], trades, trades["time"])

    def of_slots(self, instrument: Instrument, day: int, now: int, *_: int) -> Rows:
        slots = self.model.so_far(instrument, min(now, (day + 1) * DAY_MS - 1))
        return candles_of(slots["slot"] * SLOT_MS, slots, slots["last"])

    def of_days(self, instrument: Instrument, day: int, now: int, *_: int) -> Rows:
        candle = (
            self.closed_day(instrument, day) if day < now // DAY_MS else self.day_of(self.model.so_far(instrument, now))
        )
        return np.array(candle, DAY)

    def make_closed_day(self, instrument: Instrument, day: int) -> list[tuple[int, ...]]:
        return self.day_of(self.model.make_day(instrument, day))

    def day_of(self, slots: Rows) -> list[tuple[int, ...]]:
        return merged(candles_of(slots["slot"] // SLOTS_A_DAY * DAY_MS, slots, slots["last"])).tolist()


def candles_of(start: Ints, traded: Rows, last: Ints) -> Rows:
    """One candle per row of `price` and `volume`."""
    rows = np.empty(len(traded), CANDLE)
    for name in ("open", "high", "low", "close"):
        rows[name] = traded["price"]
    rows["start"], rows["last"], rows["volume"] = start, last, traded["volume"]
    rows["turnover"] = traded["price"] * traded["volume"]
    return rows


def merged(rows: Rows) -> Rows:
    """Merge consecutive candles that have the same start."""
    first = np.unique(rows["start"], return_index=True)[1]
    merged = rows[first]
    final = np.append(first[1:], len(rows))[: len(first)] - 1
    merged["close"], merged["last"] = rows["close"][final], rows["last"][final]
    for name, add in (("high", np.maximum), ("low", np.minimum), ("volume", np.add), ("turnover", np.add)):
        merged[name] = add.reduceat(rows[name], first)
    return merged
