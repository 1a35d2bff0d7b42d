"""Candles of every unit: trades, slots or days that begin in the same period, made one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .instrument import SLOTS_A_DAY, Instrument
from .model import DAY_MS, SLOT_MS, Model, Rows, trades_of
from .noise import Ints

_LONGEST_MS = 366 * DAY_MS
_MINUTES = (1, 3, 5, 10, 15, 30, 60, 240)
_SECONDS_KEPT = 92  # three months


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


_CANDLE = np.dtype([(name, np.int64) for name in Candle._fields])
# A day's sums fit 64 bits, a year's don't
_DAY = np.dtype([(name, object if name in ("volume", "turnover") else np.int64) for name in Candle._fields])


@dataclass(frozen=True, slots=True)
class Unit:
    """A length of candle: `start` gives when the candles began (ms) that some times fall into.

    `source` is what it is made of, `kept` how many days the exchange still tells it.
    """

    start: Callable[[Ints], Ints]
    source: str = "slots"
    kept: int = 1 << 20


def _every(length: int, late: int = 0) -> Callable[[Ints], Ints]:
    return lambda time: time - (time - late) % length


def _calendar(period: str) -> Callable[[Ints], Ints]:
    return lambda time: time.astype("M8[ms]").astype(f"M8[{period}]").astype("M8[ms]").astype(np.int64)


UNITS = {
    "seconds": Unit(_every(1000), "trades", _SECONDS_KEPT),
    **{f"minutes/{n}": Unit(_every(n * 60_000)) for n in _MINUTES},
    "days": Unit(_every(DAY_MS), "days"),
    "weeks": Unit(_every(7 * DAY_MS, 4 * DAY_MS), "days"),  # 1970 began on a Thursday
    "months": Unit(_calendar("M"), "days"),
    "years": Unit(_calendar("Y"), "days"),
}


class Candles:
    """The candles that a model's trades make."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._closed = lru_cache(1 << 16)(self._make_closed)  # 40 MB at most
        self._sources: dict[str, Callable[..., Rows]] = {
            "trades": self._trades,
            "slots": self._slots,
            "days": self._days,
        }

    def before(self, one: Instrument, unit: Unit, now: int, to: int, count: int) -> Rows:
        """The last `count` `Candle`s that begin before `to`, ascending, of the trades up to and including `now`."""
        today = now // DAY_MS
        days = np.arange(max(one.since, today - unit.kept), min(today, (to + _LONGEST_MS) // DAY_MS) + 1)
        days = days[unit.start(days * DAY_MS) < to]
        parts: list[Rows] = [np.empty(0, _CANDLE)]
        starts: set[int] = set()
        for day in reversed(days.tolist()):
            part = self._sources[unit.source](one, day, now, min(to, now + 1), count)
            part["start"] = unit.start(part["start"])
            parts.append(part[part["start"] < to])
            starts.update(np.unique(parts[-1]["start"]).tolist())
            # One more than asked for, so that the last is whole
            if len(starts) > count:
                break
        return _merged(np.concatenate(parts[::-1]))[-count:]

    def _trades(self, one: Instrument, day: int, now: int, end: int, count: int) -> Rows:
        made = self._model.day(one, day)
        stop = int(made["slot"].searchsorted(-(-end // SLOT_MS)))
        # Every slot begins a second at least
        tape = trades_of(one, made[max(stop - count - 1, 0) : stop])
        tape = tape[tape["time"] <= now]
        return _candles(tape["time"], tape, tape["time"])

    def _slots(self, one: Instrument, day: int, now: int, *_: int) -> Rows:
        slots = self._model.so_far(one, min(now, (day + 1) * DAY_MS - 1))
        return _candles(slots["slot"] * SLOT_MS, slots, slots["last"])

    def _days(self, one: Instrument, day: int, now: int, *_: int) -> Rows:
        whole = self._closed(one, day) if day < now // DAY_MS else self._day(self._model.so_far(one, now))
        return np.array(whole, _DAY)

    def _make_closed(self, one: Instrument, day: int) -> list[tuple[int, ...]]:
        return self._day(self._model.make_day(one, day))

    def _day(self, slots: Rows) -> list[tuple[int, ...]]:
        return _merged(_candles(slots["slot"] // SLOTS_A_DAY * DAY_MS, slots, slots["last"])).tolist()


def _candles(start: Ints, traded: Rows, last: Ints) -> Rows:
    """A candle each of rows that have one `price` and a `volume`."""
    rows = np.empty(len(traded), _CANDLE)
    for name in ("open", "high", "low", "close"):
        rows[name] = traded["price"]
    rows["start"], rows["last"], rows["volume"] = start, last, traded["volume"]
    rows["turnover"] = traded["price"] * traded["volume"]
    return rows


def _merged(rows: Rows) -> Rows:
    """Neighbours with the same start made one."""
    first = np.unique(rows["start"], return_index=True)[1]
    merged = rows[first]
    final = np.append(first[1:], len(rows))[: len(first)] - 1
    merged["close"], merged["last"] = rows["close"][final], rows["last"][final]
    for name, add in (("high", np.maximum), ("low", np.minimum), ("volume", np.add), ("turnover", np.add)):
        merged[name] = add.reduceat(rows[name], first)
    return merged
