"""Complete histories, read page by page as a client does."""

from datetime import UTC, datetime

PRICES = ("opening_price", "high_price", "low_price", "trade_price")


def start_of(candle):
    return datetime.fromisoformat(candle["candle_date_time_utc"]).replace(tzinfo=UTC)


def candles(market, code, at, unit, start, end=None, count=200):
    """The candles that begin in [start, end), oldest first."""
    rows, to = [], end
    while page := market.candles(code, at, unit, to=to, count=count):
        rows += page
        to = start_of(page[-1])
        if to <= start:
            break
    return [row for row in reversed(rows) if start_of(row) >= start]


def trades(market, code, at, days_ago=0, count=500):
    """The trades of a UTC day, oldest first."""
    rows, cursor = [], None
    while page := market.trades(code, at, days_ago=days_ago, cursor=cursor, count=count):
        rows += page
        cursor = page[-1]["sequential_id"]
    return rows[::-1]


def figures(candle):
    """A candle's figures: open, high, low, close, turnover and volume."""
    return (*(candle[name] for name in PRICES), candle["candle_acc_trade_price"], candle["candle_acc_trade_volume"])


def figures_of_candles(rows):
    opening, high, low, close, turnover, volume = zip(*map(figures, rows), strict=True)
    return opening[0], max(high), min(low), close[-1], sum(turnover), sum(volume)


def figures_of_trades(rows):
    prices, sizes = ([row[f"trade_{name}"] for row in rows] for name in ("price", "volume"))
    turnover = sum(price * size for price, size in zip(prices, sizes, strict=True))
    return prices[0], max(prices), min(prices), prices[-1], turnover, sum(sizes)
