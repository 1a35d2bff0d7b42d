"""The frames of the exchange's WebSocket: snapshots, then updates."""

from typing import Any

from upbit_assets.sandbox.frames import Frame
from upbit_assets.sandbox.instrument import Instrument
from upbit_assets.sandbox.market import KST, Market, Row, moment
from upbit_assets.sandbox.model import DAY_MS, Trade
from upbit_assets.sandbox.subscription import CANDLES, Subscription
from upbit_assets.sandbox.tape import Event, Tape


class Feed:
    """Builds frames as of times (ms) of a market's clock; `now` is the frame's own timestamp where it has one."""

    def __init__(self, market: Market) -> None:
        self.market, self.tape = market, Tape(market)

    def snapshot(self, subscription: Subscription, code: str, at: int) -> Frame | None:
        """The first frame of a code; None if the code is unknown or can't be subscribed to like this."""
        if not self.market.listed(code, moment(at)):
            return None
        if subscription.kind == "orderbook":
            frame = self.book(subscription, code, at)
        elif subscription.kind in CANDLES:
            frame = self.candle(subscription.kind, code, at)
        else:
            frame = self.last(subscription.kind, code, at)
        for row in frame.rows if frame else []:
            row["stream_type"] = "SNAPSHOT"
        return frame

    def last(self, kind: str, code: str, at: int) -> Frame:
        """The ticker, or the last trade, as a snapshot."""
        instrument = self.market.instruments[code]
        trade = self.market.last_trade(instrument, at)
        if kind == "ticker":
            row = self.market.ticker(code, moment(at))
            return self.ticker_frame(instrument, row, trade, self.tape.bought_at(instrument, at))
        book = self.market.orderbook(code, moment(trade.time), count=1)
        return Frame("trade", code, [self.trade_row(instrument, trade, book["orderbook_units"][0] if book else {}, at)])

    def trades(self, events: list[Event], now: int) -> Frame:
        """The trades of one market in one millisecond."""
        instrument = self.instrument(events[0])
        unit, lot = instrument.listing.price_unit, instrument.listing.volume_unit
        best = {
            "ask_price": events[0].ask_price * unit,
            "ask_size": events[0].ask_size * lot,
            "bid_price": events[0].bid_price * unit,
            "bid_size": events[0].bid_size * lot,
        }
        return Frame(
            "trade", instrument.listing.market, [self.trade_row(instrument, event.trade, best, now) for event in events]
        )

    def ticker(self, event: Event, now: int) -> Frame:
        """The ticker after an event."""
        instrument = self.instrument(event)
        row = self.market.ticker_row(instrument, event.time // DAY_MS, event.trade, event.figures) | {"timestamp": now}
        return self.ticker_frame(instrument, row, event.trade, event.bought)

    def book(self, subscription: Subscription, code: str, at: int) -> Frame | None:
        """The order book; None if the market has no such level."""
        row = self.market.orderbook(code, moment(at), count=subscription.depths[code], level=subscription.level)
        if row is None or (subscription.level and not code.startswith("KRW-")):
            return None
        return Frame("orderbook", code, [row | {"type": "orderbook", "code": code, "stream_type": "REALTIME"}])

    def candle(self, kind: str, code: str, at: int) -> Frame | None:
        """The current candle, or the latest if nothing was traded yet."""
        rows = self.market.candles(code, moment(at), CANDLES[kind])
        labels = {"type": kind, "code": code, "stream_type": "REALTIME"}
        return Frame(kind, code, [row | labels for row in rows]) if rows else None

    def instrument(self, event: Event) -> Instrument:
        return self.market.order[event.market]

    def trade_row(self, instrument: Instrument, trade: Trade, best: dict[str, Any], now: int) -> Row:
        row = self.market.trade_row(instrument, trade)
        change = row["change_price"]
        return row | {
            "type": "trade",
            "code": row["market"],
            "timestamp": now,
            "trade_date": row["trade_date_utc"],
            "trade_time": row["trade_time_utc"],
            "trade_timestamp": trade.time,
            "change": "RISE" if change > 0 else "FALL" if change else "EVEN",
            "change_price": abs(change),
            **{f"best_{name}": best[name] for name in ("ask_price", "ask_size", "bid_price", "bid_size")},
            "stream_type": "REALTIME",
        }

    def ticker_frame(self, instrument: Instrument, row: Row, last: Trade, bought: int) -> Frame:
        code, lot = instrument.listing.market, instrument.listing.volume_unit
        delisted_at = self.market.delisted.get(code)
        day = moment(delisted_at) + KST if delisted_at else None
        row |= {
            "type": "ticker",
            "code": code,
            "ask_bid": "BID" if last.bid else "ASK",
            "acc_ask_volume": row["acc_trade_volume"] - bought * lot,
            "acc_bid_volume": bought * lot,
            "trade_status": None,
            "market_state": "ACTIVE",
            "market_state_for_ios": None,
            "is_trading_suspended": False,
            "delisting_date": {"year": day.year, "month": day.month, "day": day.day} if day else None,
            "market_warning": "CAUTION" if self.market.event(code, moment(last.time))["warning"] else "NONE",
            "stream_type": "REALTIME",
        }
        return Frame("ticker", code, [row])
