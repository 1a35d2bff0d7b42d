"""The trades of all markets in order of time, each with the day's figures and best prices after it."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from upbit_assets.sandbox import book
from upbit_assets.sandbox.instrument import SLOTS_A_DAY, Instrument
from upbit_assets.sandbox.market import Figures, Market
from upbit_assets.sandbox.model import DAY_MS, SLOT_MS, Rows, Trade, trades_of
from upbit_assets.sandbox.noise import Ints

BLOCK = 60  # slots whose sum is cached


class Event(NamedTuple):
    """A trade (the first five fields) of the `market`-th market, and the figures after all trades of its millisecond.

    `newest` is 1 for a market's last trade in a millisecond. `bought` is the part of `volume` with a taker buyer.
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
    """The trades of all markets in order of time."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.block = lru_cache(1 << 17)(lambda instrument, first: self.sum_bought(instrument, first, first + BLOCK))

    def slot(self, slot: int) -> Rows:
        """The `Event`s of a slot (counted from 1970), ascending by time."""
        parts = [np.empty(0, EVENT)]
        for n, instrument in enumerate(self.market.order[:]):
            if len(events := self.events(instrument, slot)):
                events["market"] = n
                parts.append(events)
        events = np.concatenate(parts)
        return events[events["time"].argsort(kind="stable")]

    def events(self, instrument: Instrument, slot: int) -> Rows:
        """The `Event`s of one market in a slot; their `market` is not set."""
        before, trades = self.market.model.slot(instrument, slot)
        if len(trades) and (end := self.market.delisted.get(instrument.listing.market)):
            trades = trades[trades["time"] < end]
        events = np.empty(len(trades), EVENT)
        if not len(trades):
            return events
        time, price = trades["time"], int(trades["price"][0])
        last = time.searchsorted(time, "right") - 1
        prices = np.append(before["price"], price)
        events["time"], events["price"], events["bid"], events["id"] = time, price, trades["bid"], trades["id"]
        events["trade_volume"], events["newest"] = trades["volume"], last == np.arange(len(last))
        events["opening"], events["high"], events["low"] = prices[0], prices.max(), prices.min()
        traded = trades["volume"].cumsum()[last]
        events["volume"] = before["volume"].sum() + traded
        events["turnover"] = (before["volume"] * before["price"]).sum() + traded * price
        events["volume_before"], events["turnover_before"] = self.rest_of_24_hours(instrument, slot, time)
        events["bought"] = self.bought(instrument, slot) + (trades["volume"] * trades["bid"]).cumsum()[last]
        bid = trades["bid"][last] == 1
        events["ask_price"], events["ask_size"] = book.best(instrument, price, 1, bid, time)
        events["bid_price"], events["bid_size"] = book.best(instrument, price, -1, ~bid, time)
        return events

    def rest_of_24_hours(self, instrument: Instrument, slot: int, time: Ints) -> tuple[Ints, Ints]:
        """For each of `time`, the previous day's volume and turnover within the last 24 hours."""
        before, trades = self.market.model.slot(instrument, slot - SLOTS_A_DAY)
        day = self.market.model.day(instrument, slot // SLOTS_A_DAY - 1)[len(before) :]
        expired = np.append(0, trades["volume"].cumsum())[trades["time"].searchsorted(time - DAY_MS, "right")]
        price = int(trades["price"][0]) if len(trades) else 0
        return day["volume"].sum() - expired, (day["volume"] * day["price"]).sum() - expired * price

    def bought(self, instrument: Instrument, slot: int) -> int:
        """The taker-buy volume of a slot's UTC day before that slot."""
        start = slot - slot % SLOTS_A_DAY
        blocks = range(start, slot - slot % BLOCK, BLOCK)
        return sum(self.block(instrument, first) for first in blocks) + self.sum_bought(
            instrument, slot - slot % BLOCK, slot
        )

    def sum_bought(self, instrument: Instrument, first: int, end: int) -> int:
        slots = self.market.model.day(instrument, first // SLOTS_A_DAY)
        trades = trades_of(instrument, slots[slice(*slots["slot"].searchsorted([first, end]))])
        return int((trades["volume"] * trades["bid"]).sum())

    def bought_at(self, instrument: Instrument, now: int) -> int:
        """The taker-buy volume of the UTC day of `now` so far."""
        _, trades = self.market.model.slot(instrument, now // SLOT_MS)
        trades = trades[trades["time"] <= now]
        return self.bought(instrument, now // SLOT_MS) + int((trades["volume"] * trades["bid"]).sum())
