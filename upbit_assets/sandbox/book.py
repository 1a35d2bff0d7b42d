"""The order book around a market's last trade: dense at the best prices, thinner further away."""

import numpy as np
import numpy.typing as npt

from upbit_assets.sandbox.coins import KRW
from upbit_assets.sandbox.instrument import SUB, Instrument
from upbit_assets.sandbox.model import DAY_MS
from upbit_assets.sandbox.noise import Ints, bits, mix

DEPTH = 30
ORDERS = 512  # prices of a side, at most
LARGEST = 1 << 40  # of a usual order, in volume units: all of a side still fits 64 bits


def changed(one: Instrument, traded: int, now: int) -> int:
    """When the book last changed (ms): with the last trade or since, at the pace of the market."""
    return max(traded, now - now % pace(one))


def pace(one: Instrument) -> int:
    """The time (ms) from one change to the next, trades apart."""
    return max(DAY_MS // (4 * one.rate) // 100, 1) * 100


def levels(one: Instrument, price: int) -> list[int]:
    """The group sizes in price units that books can be had in at a price, 0 being none."""
    found, level = [0], 10 * tick(one, price)
    while one.quote is KRW and level <= price:
        found.append(level)
        level *= 10
    return found


def tick(one: Instrument, price: int) -> int:
    """The distance in price units to the next price on the grid."""
    return int(one.tick(np.array([price]))[0])


def side(one: Instrument, price: int, away: int, touched: bool, at: int, level: int) -> list[tuple[int, int]]:
    """The `DEPTH` best prices and their sizes, in groups of `level` price units, as of a change `at` (ms).

    Zeros fill up a side that has fewer. `away` is 1 for asks and -1 for bids; the last trade was at `price`, and
    with this side's best if it is `touched`.
    """
    # Signed prices ascend away from the trade on both sides
    prices = prices_of(one, price, away)
    prices = prices[prices >= away * price + (not touched)]
    draw = mix(one.key ^ (9 + away), np.abs(prices) * 65_537 + (at // 100 + prices % 16) // 16)
    here = (bits(draw, 0, 3) > 0) | (prices == away * price)
    here[orders_of(one, away) :] = False
    size = sizes_of(one, draw)[here]
    group, first = np.unique(-(-prices[here] // max(level, 1)) * max(level, 1), return_index=True)
    total = np.add.reduceat(size, first)
    best = [(abs(p), s) for p, s in zip(group.tolist(), total.tolist(), strict=True) if p][:DEPTH]
    return best + [(0, 0)] * (DEPTH - len(best))


def best(one: Instrument, price: int, away: int, touched: npt.NDArray[np.bool_], at: Ints) -> tuple[Ints, Ints]:
    """The best price and its size as of each of some changes, all after trades at one `price`: the first of `side`."""
    prices = prices_of(one, price, away, orders=128)
    beyond = int(prices.searchsorted(away * price, "right"))
    # A price without an order is one in eight: these are more than enough
    nth = np.arange(min(24, orders_of(one, away)))
    place = nth + np.where(touched, beyond - 1, beyond)[:, np.newaxis]
    candidate = prices[np.minimum(place, len(prices) - 1)]
    draw = mix(one.key ^ (9 + away), np.abs(candidate) * 65_537 + (at[:, np.newaxis] // 100 + candidate % 16) // 16)
    here = ((bits(draw, 0, 3) > 0) | (candidate == away * price)) & (place < len(prices))
    first = np.arange(len(at)), here.argmax(1)
    return np.abs(candidate[first]) * here[first], sizes_of(one, draw)[first] * here[first]


def prices_of(one: Instrument, price: int, away: int, orders: int = ORDERS) -> Ints:
    step = tick(one, max(price - (away < 0), 1))
    nth = np.arange(orders)
    # From one tick apart here to as far as price 0 for the last
    distance = nth + nth**3 * (price // step) // ORDERS**3
    prices: Ints = np.unique(away * one.on_grid((price + away * step * distance) * SUB))
    return prices


def orders_of(one: Instrument, away: int) -> int:
    """How many prices have orders: outside KRW few in many markets."""
    return ORDERS if one.quote is KRW else 4 + (one.key >> (20 + 10 * away)) % 64


def sizes_of(one: Instrument, draw: npt.NDArray[np.uint64]) -> Ints:
    usual = min(one.size, LARGEST)
    weight = np.minimum((1 << 16) // (1 + bits(draw, 3, 16)), 256)
    return 1 + usual * weight * (4 + np.arange(draw.shape[-1])) // 64 + bits(draw, 19, 40) % usual
