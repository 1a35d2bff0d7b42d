"""All trades of a slot as they happen, across markets, each with the day's figures and the best prices after it."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from upbit_assets.sandbox import book
from upbit_assets.sandbox.instrument import SLOTS_A_DAY, Instrument
from upbit_assets.sandbox.market import Figures, Market
from upbit_assets.sandbox.model import DAY_MS, SLOT_MS, Rows, Trade, trades_of
from upbit_assets.sandbox.noise import Ints

BLOCK = 60  # slots whose trades are summed up once


class Event(NamedTuple):
    """A trade (the first five fields) of the `market`-th market, and what is true after all trades of its millisecond.

    `newest` is 1 for the last trade of a market's millisecond. `bought` is the part of `volume` whose buyer took.
    """

    time: int
    price: int
    trade_volume: int
    bid: int
    id: int
    market: int
    newest: int
    opening: int
    high: int
    low: int
    volume: int
    turnover: int
    volume_before: int
    turnover_before: int
    bought: int
    ask_price: int
    ask_size: int
    bid_price: int
    bid_size: int

    @property
    def trade(self) -> Trade:
        return Trade(*self[:5])

    @property
    def figures(self) -> Figures:
        return Figures(*self[7:14])


EVENT = np.dtype([(name, np.int64) for name in Event._fields])


class Tape:
    """The trades of all markets in the order in which they happen."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.block = lru_cache(1 << 17)(lambda one, first: self.count(one, first, first + BLOCK))

    def slot(self, slot: int) -> Rows:
        """The `Event`s of a slot, counted from 1970, ascending by time."""
        parts = [np.empty(0, EVENT)]
        for n, one in enumerate(self.market.order[:]):
            if len(events := self.events(one, slot)):
                events["market"] = n
                parts.append(events)
        events = np.concatenate(parts)
        return events[events["time"].argsort(kind="stable")]

    def events(self, one: Instrument, slot: int) -> Rows:
        """The `Event`s of one market in a slot; their `market` is not set."""
        before, trades = self.market.model.slot(one, slot)
        if len(trades) and (end := self.market.delisted.get(one.listing.market)):
            trades = trades[trades["time"] < end]
        events = np.empty(len(trades), EVENT)
        if not len(trades):
            return events
        time, price = trades["time"], int(trades["price"][0])
        last = time.searchsorted(time, "right") - 1
        known = np.append(before["price"], price)
        events["time"], events["price"], events["bid"], events["id"] = time, price, trades["bid"], trades["id"]
        events["trade_volume"], events["newest"] = trades["volume"], last == np.arange(len(last))
        events["opening"], events["high"], events["low"] = known[0], known.max(), known.min()
        traded = trades["volume"].cumsum()[last]
        events["volume"] = before["volume"].sum() + traded
        events["turnover"] = (before["volume"] * before["price"]).sum() + traded * price
        events["volume_before"], events["turnover_before"] = self.rest_of_24_hours(one, slot, time)
        events["bought"] = self.bought(one, slot) + (trades["volume"] * trades["bid"]).cumsum()[last]
        bid = trades["bid"][last] == 1
        events["ask_price"], events["ask_size"] = book.best(one, price, 1, bid, time)
        events["bid_price"], events["bid_size"] = book.best(one, price, -1, ~bid, time)
        return events

    def rest_of_24_hours(self, one: Instrument, slot: int, time: Ints) -> tuple[Ints, Ints]:
        """The volume and turnover of the day before that came later than 24 hours before each of some times."""
        before, trades = self.market.model.slot(one, slot - SLOTS_A_DAY)
        day = self.market.model.day(one, slot // SLOTS_A_DAY - 1)[len(before) :]
        gone = np.append(0, trades["volume"].cumsum())[trades["time"].searchsorted(time - DAY_MS, "right")]
        price = int(trades["price"][0]) if len(trades) else 0
        return day["volume"].sum() - gone, (day["volume"] * day["price"]).sum() - gone * price

    def bought(self, one: Instrument, slot: int) -> int:
        """The volume whose buyer took, of a slot's UTC day before that slot."""
        start = slot - slot % SLOTS_A_DAY
        whole = range(start, slot - slot % BLOCK, BLOCK)
        return sum(self.block(one, first) for first in whole) + self.count(one, slot - slot % BLOCK, slot)

    def count(self, one: Instrument, first: int, end: int) -> int:
        made = self.market.model.day(one, first // SLOTS_A_DAY)
        trades = trades_of(one, made[slice(*made["slot"].searchsorted([first, end]))])
        return int((trades["volume"] * trades["bid"]).sum())

    def bought_at(self, one: Instrument, now: int) -> int:
        """The volume whose buyer took, of the UTC day of `now` so far."""
        _, trades = self.market.model.slot(one, now // SLOT_MS)
        trades = trades[trades["time"] <= now]
        return self.bought(one, now // SLOT_MS) + int((trades["volume"] * trades["bid"]).sum())
