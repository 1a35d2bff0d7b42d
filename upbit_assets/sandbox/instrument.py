"""The constants of a simulated market: first day, units, price grid, price level and activity."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import isqrt

import numpy as np

from upbit_assets.sandbox.coins import KRW, QUOTES, Coin
from upbit_assets.sandbox.noise import ONE, Ints, key, wave

SUB = 1 << 10  # prices are computed in 1/1024 of a price unit, then rounded to the tick grid
SLOTS_A_DAY = 5760  # the model's time grid: 15 seconds
KNOTS_A_DAY = 4
SWINGS = ((1, 8_000), (4, 22_000), (16, 40_000), (64, 60_000), (256, 130_000), (1024, 220_000))
REACH = Fraction(sum(size for _, size in SWINGS), ONE)
TRADE_KRW = 300_000  # a typical trade
BUSIEST_RATE = 250_000  # trades a day
MAX_TRADES = 4_000_000  # a day; more would exceed the ids of the busiest slot
LARGEST_TURNOVER = (1 << 63) // 8  # on an average day, so that a busy day still fits int64

TICKS = {
    "KRW": "1000000:1000 500000:500 100000:100 50000:50 10000:10 5000:5 1000:1 100:1 10:.1 1:.01 .1:.001 "
    ".01:.0001 .001:.00001 .0001:.000001 .00001:.0000001 0:.00000001",
    "BTC": "0:.00000001",
    "USDT": "10:.01 1:.001 .1:.0001 .01:.00001 .001:.000001 .0001:.0000001 0:.00000001",
}
OPENING, LATE = np.array(["2017-09-25", "2026-01-01"], "M8[D]").astype(int).tolist()  # days since 1970
BUSIEST = {"KRW": 90_000_000_000, "BTC": 400_000_000, "USDT": 300_000_000}  # daily turnover, in KRW


@dataclass(frozen=True, slots=True)
class Listing:
    """A listed market. The model's integers times `price_unit` and `volume_unit` are exact decimals."""

    market: str
    korean_name: str
    english_name: str
    price_unit: Decimal
    volume_unit: Decimal

    @property
    def quote(self) -> str:
        """The quote currency: the part of the code before the dash."""
        return self.market.partition("-")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Instrument:
    """The constants from which a market's prices and trades are computed.

    `since` is its first UTC day (counted from 1970), `opens` the slot of that day when trading starts, `level` the
    typical price in 1/1024 of a price unit, `noise` the intraday noise as a fraction of ONE, `bounds` and `steps` the
    tick table in price units, `rate` the trades a day, `size` a typical trade in volume units.
    """

    listing: Listing
    base: Coin
    quote: Coin
    key: int
    since: int
    opens: int
    level: int
    noise: int
    bounds: Ints
    steps: Ints
    rate: int
    size: int

    def on_grid(self, sub: Ints) -> Ints:
        """Prices in price units, rounded down to the tick of their range."""
        price = np.maximum(sub // SUB, 1)
        return np.maximum(price - price % self.tick(price), 1)

    def tick(self, price: Ints) -> Ints:
        """The distance in price units to the next price on the grid, at prices of at least one unit."""
        return self.steps[self.bounds.searchsorted(price, "right") - 1]


def coin_level(seed: int, coin: Coin, knots: Ints) -> Ints:
    """A coin's price relative to its typical value (ONE) at each quarter of a UTC day since 1970."""
    waves = [wave(key(seed, coin.code, scale), knots, scale) * size >> 20 for scale, size in SWINGS]
    return ONE + sum(waves, np.zeros_like(knots)) * coin.volatility // 100


def make_instrument(seed: int, base: Coin, quote: Coin, rank: int, activity: float = 1) -> Instrument:
    """The `rank`-th busiest market (from 0) of its quote currency, with `activity` times the usual trades a day."""
    market = f"{quote.code}-{base.code}"
    price = Fraction(base.value) / Fraction(quote.value)
    table = tick_table(quote)
    unit = tick_at(table, price * lowest_of(base, quote))
    turnover = turnover_of(key(seed, market, "turnover"), quote, rank)
    volume_unit = volume_unit_of(Fraction(turnover) / Fraction(quote.value) / Fraction(unit))
    rate = min(max(int(min(turnover // TRADE_KRW, BUSIEST_RATE) * activity), 3), MAX_TRADES)
    return Instrument(
        listing=Listing(market, base.korean_name, base.english_name, unit, volume_unit),
        base=base,
        quote=quote,
        key=key(seed, market),
        since=since_of(key(seed, market, "since"), base, quote),
        opens=0,
        level=int(price / Fraction(unit) * SUB),
        noise=4_000 * base.volatility // 100,
        bounds=np.array([int(low / unit) for low, _ in table], np.int64),
        steps=np.array([max(int(tick / unit), 1) for _, tick in table], np.int64),
        rate=rate,
        size=max(int(Fraction(turnover, rate) / Fraction(base.value) / Fraction(volume_unit)), 1),
    )


def since_of(draw: int, base: Coin, quote: Coin) -> int:
    """The day the exchange opened; for one market in forty, a day in the first half of 2026."""
    if draw % 40 or (quote is KRW and base.code in QUOTES):
        return OPENING
    return LATE + draw // 40 % 180


def tick_table(quote: Coin) -> list[tuple[Decimal, Decimal]]:
    pairs = (pair.split(":") for pair in reversed(TICKS[quote.code].split()))
    return [(Decimal(low), Decimal(tick)) for low, tick in pairs]


def tick_at(table: list[tuple[Decimal, Decimal]], price: Fraction) -> Decimal:
    return [tick for low, tick in table if Fraction(low) <= price][-1]


def lowest_of(base: Coin, quote: Coin) -> Fraction:
    fall = 1 - REACH * base.volatility / 100
    rise = 1 + REACH * (quote.volatility if quote is not KRW else 0) / 100
    return fall / rise * Fraction(98, 100)


def turnover_of(draw: int, quote: Coin, rank: int) -> int:
    """Daily turnover in KRW: a few huge markets and a long tail."""
    position = rank + 1
    # position ** 1.25 in integers, as floating-point powers differ between machines
    weight = position * isqrt(isqrt(position << 64)) if quote is KRW else position << 16
    decayed = (BUSIEST[quote.code] << 16) // weight
    return max(decayed * (60 + draw % 80) // 100, 1)


def volume_unit_of(turnover: Fraction) -> Decimal:
    """1e-8 as on the exchange, or coarser if a day's turnover would overflow int64."""
    places = next(n for n in range(8, -9, -1) if turnover * Fraction(10) ** n < LARGEST_TURNOVER)
    return Decimal(1).scaleb(-places)
