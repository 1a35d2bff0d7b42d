"""Candles of every unit: trades, slots or days that begin in the same period, made one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from upbit_assets.sandbox.instrument import SLOTS_A_DAY, Instrument
from upbit_assets.sandbox.model import DAY_MS, SLOT_MS, Model, Rows, trades_of
from upbit_assets.sandbox.noise import Ints

LONGEST_MS = 366 * DAY_MS
MINUTES = (1, 3, 5, 10, 15, 30, 60, 240)
SECONDS_KEPT = 92  # three months


class Candle(NamedTuple):
    """`start` and `last`, the time of its last trade, are ms."""

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
    """A length of candle: `start` gives when the candles began (ms) that some times fall into.

    `source` is what it is made of, `kept` how many days the exchange still tells it.
    """

    start: Callable[[Ints], Ints]
    source: str = "slots"
    kept: int = 1 << 20


def every(length: int, late: int = 0) -> Callable[[Ints], Ints]:
    return lambda time: time - (time - late) % length


def calendar(period: str) -> Callable[[Ints], Ints]:
    return lambda time: time.astype("M8[ms]").astype(f"M8[{period}]").astype("M8[ms]").astype(np.int64)


UNITS = {
    "seconds": Unit(every(1000), "trades", SECONDS_KEPT),
    **{f"minutes/{n}": Unit(every(n * 60_000)) for n in MINUTES},
    "days": Unit(every(DAY_MS), "days"),
    "weeks": Unit(every(7 * DAY_MS, 4 * DAY_MS), "days"),  # 1970 began on a Thursday
    "months": Unit(calendar("M"), "days"),
    "years": Unit(calendar("Y"), "days"),
}


class Candles:
    """The candles that a model's trades make."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.closed_day = lru_cache(1 << 16)(self.make_closed_day)  # 40 MB at most
        self.sources: dict[str, Callable[..., Rows]] = {
            "trades": self.of_trades,
            "slots": self.of_slots,
            "days": self.of_days,
        }

    def before(self, one: Instrument, unit: Unit, now: int, to: int, count: int) -> Rows:
        """The last `count` `Candle`s that begin before `to`, ascending, of the trades up to and including `now`."""
        today = now // DAY_MS
        days = np.arange(max(one.since, today - unit.kept), min(today, (to + LONGEST_MS) // DAY_MS) + 1)
        days = days[unit.start(days * DAY_MS) < to]
        parts: list[Rows] = [np.empty(0, CANDLE)]
        starts: set[int] = set()
        for day in reversed(days.tolist()):
            part = self.sources[unit.source](one, day, now, min(to, now + 1), count)
            part["start"] = unit.start(part["start"])
            parts.append(part[part["start"] < to])
            starts.update(np.unique(parts[-1]["start"]).tolist())
            # One more than asked for, so that the last is whole
            if len(starts) > count:
                break
        return merged(np.concatenate(parts[::-1]))[-count:]

    def of_trades(self, one: Instrument, day: int, now: int, end: int, count: int) -> Rows:
        made = self.model.day(one, day)
        stop = int(made["slot"].searchsorted(-(-end // SLOT_MS)))
        # Every slot begins a second at least
        tape = trades_of(one, made[max(stop - count - 1, 0) : stop])
        tape = tape[tape["time"] <= now]
        return candles_of(tape["time"], tape, tape["time"])

    def of_slots(self, one: Instrument, day: int, now: int, *_: int) -> Rows:
        slots = self.model.so_far(one, min(now, (day + 1) * DAY_MS - 1))
        return candles_of(slots["slot"] * SLOT_MS, slots, slots["last"])

    def of_days(self, one: Instrument, day: int, now: int, *_: int) -> Rows:
        whole = self.closed_day(one, day) if day < now // DAY_MS else self.day_of(self.model.so_far(one, now))
        return np.array(whole, DAY)

    def make_closed_day(self, one: Instrument, day: int) -> list[tuple[int, ...]]:
        return self.day_of(self.model.make_day(one, day))

    def day_of(self, slots: Rows) -> list[tuple[int, ...]]:
        return merged(candles_of(slots["slot"] // SLOTS_A_DAY * DAY_MS, slots, slots["last"])).tolist()


def candles_of(start: Ints, traded: Rows, last: Ints) -> Rows:
    """A candle each of rows that have one `price` and a `volume`."""
    rows = np.empty(len(traded), CANDLE)
    for name in ("open", "high", "low", "close"):
        rows[name] = traded["price"]
    rows["start"], rows["last"], rows["volume"] = start, last, traded["volume"]
    rows["turnover"] = traded["price"] * traded["volume"]
    return rows


def merged(rows: Rows) -> Rows:
    """Neighbours with the same start made one."""
    first = np.unique(rows["start"], return_index=True)[1]
    merged = rows[first]
    final = np.append(first[1:], len(rows))[: len(first)] - 1
    merged["close"], merged["last"] = rows["close"][final], rows["last"][final]
    for name, add in (("high", np.maximum), ("low", np.minimum), ("volume", np.add), ("turnover", np.add)):
        merged[name] = add.reduceat(rows[name], first)
    return merged
