"""The order book around a market's last trade: dense at the best prices, thinner further away."""

import numpy as np
import numpy.typing as npt

from upbit_assets.sandbox.coins import KRW
from upbit_assets.sandbox.instrument import SUB, Instrument
from upbit_assets.sandbox.model import DAY_MS
from upbit_assets.sandbox.noise import Ints, bits, mix

DEPTH = 30
ORDERS = 512  # most prices on a side
LARGEST = 1 << 40  # cap on the usual order size, in volume units: a whole side still fits 64 bits


def last_change(instrument: Instrument, last_trade_ms: int, now: int) -> int:
    """When the book last changed (ms): at the last trade or at the market's regular interval, whichever is later."""
    return max(last_trade_ms, now - now % change_interval(instrument))


def change_interval(instrument: Instrument) -> int:
    """The interval (ms) between changes other than trades."""
    return max(DAY_MS // (4 * instrument.rate) // 100, 1) * 100


def levels(instrument: Instrument, price: int) -> list[int]:
    """The price groupings (in price units) that a book supports at a price; 0 is ungrouped."""
    sizes, level = [0], 10 * tick(instrument, price)
    while instrument.quote is KRW and level <= price:
        sizes.append(level)
        level *= 10
    return sizes


def tick(instrument: Instrument, price: int) -> int:
    """The distance in price units to the next price on the grid."""
    return int(instrument.tick(np.array([price]))[0])


def side(
    instrument: Instrument, price: int, sign: int, at_trade_price: bool, at: int, level: int
) -> list[tuple[int, int]]:
    """The `DEPTH` best prices and their sizes, grouped by `level` price units, as of the change at `at` (ms).

    Padded with zeros. `sign` is 1 for asks and -1 for bids. `price` is that of the last trade; with `at_trade_price`
    it is also this side's best.
    """
    # Multiplied by the sign, prices ascend away from the last trade on both sides
    prices = prices_of(instrument, price, sign)
    prices = prices[prices >= sign * price + (not at_trade_price)]
    draw = mix(instrument.key ^ (9 + sign), np.abs(prices) * 65_537 + (at // 100 + prices % 16) // 16)
    has_order = (bits(draw, 0, 3) > 0) | (prices == sign * price)
    has_order[orders_of(instrument, sign) :] = False
    size = sizes_of(instrument, draw)[has_order]
    group, first = np.unique(-(-prices[has_order] // max(level, 1)) * max(level, 1), return_index=True)
    total = np.add.reduceat(size, first)
    best = [(abs(p), s) for p, s in zip(group.tolist(), total.tolist(), strict=True) if p][:DEPTH]
    return best + [(0, 0)] * (DEPTH - len(best))


def best(
    instrument: Instrument, price: int, sign: int, at_trade_price: npt.NDArray[np.bool_], at: Ints
) -> tuple[Ints, Ints]:
    """The first entry of `side` for several changes at once, all after trades at the same `price`."""
    prices = prices_of(instrument, price, sign, orders=128)
    beyond = int(prices.searchsorted(sign * price, "right"))
    # One price in eight has no order, so this many are more than enough
    nth = np.arange(min(24, orders_of(instrument, sign)))
    index = nth + np.where(at_trade_price, beyond - 1, beyond)[:, np.newaxis]
    candidate = prices[np.minimum(index, len(prices) - 1)]
    draw = mix(
        instrument.key ^ (9 + sign), np.abs(candidate) * 65_537 + (at[:, np.newaxis] // 100 + candidate % 16) // 16
    )
    has_order = ((bits(draw, 0, 3) > 0) | (candidate == sign * price)) & (index < len(prices))
    first = np.arange(len(at)), has_order.argmax(1)
    return np.abs(candidate[first]) * has_order[first], sizes_of(instrument, draw)[first] * has_order[first]


def prices_of(instrument: Instrument, price: int, sign: int, orders: int = ORDERS) -> Ints:
    step = tick(instrument, max(price - (sign < 0), 1))
    nth = np.arange(orders)
    # One tick apart near the trade, widening until the last one reaches price 0
    distance = nth + nth**3 * (price // step) // ORDERS**3
    prices: Ints = np.unique(sign * instrument.on_grid((price + sign * step * distance) * SUB))
    return prices


def orders_of(instrument: Instrument, sign: int) -> int:
    """How many prices have orders: outside KRW, many markets have few."""
    return ORDERS if instrument.quote is KRW else 4 + (instrument.key >> (20 + 10 * sign)) % 64


def sizes_of(instrument: Instrument, draw: npt.NDArray[np.uint64]) -> Ints:
    usual = min(instrument.size, LARGEST)
    weight = np.minimum((1 << 16) // (1 + bits(draw, 3, 16)), 256)
    return 1 + usual * weight * (4 + np.arange(draw.shape[-1])) // 64 + bits(draw, 19, 40) % usual
