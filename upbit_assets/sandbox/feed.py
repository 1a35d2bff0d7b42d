"""The frames that the exchange's WebSocket sends of its markets: snapshots, and what has changed since."""

from typing import Any

from upbit_assets.sandbox.frames import Frame
from upbit_assets.sandbox.instrument import Instrument
from upbit_assets.sandbox.market import KST, Market, Row, moment
from upbit_assets.sandbox.model import DAY_MS, Trade
from upbit_assets.sandbox.subscription import CANDLES, Subscription
from upbit_assets.sandbox.tape import Event, Tape


class Feed:
    """Frames as of moments (ms) of a market's time; `now` is the moment when one is made, where the frame tells it."""

    def __init__(self, market: Market) -> None:
        self.market, self.tape = market, Tape(market)

    def snapshot(self, asked: Subscription, code: str, at: int) -> Frame | None:
        """The first frame of a code, None where it is unknown or can't be had so."""
        if not self.market.listed(code, moment(at)):
            return None
        if asked.kind == "orderbook":
            frame = self.book(asked, code, at)
        elif asked.kind in CANDLES:
            frame = self.candle(asked.kind, code, at)
        else:
            frame = self.last(asked.kind, code, at)
        for row in frame.rows if frame else []:
            row["stream_type"] = "SNAPSHOT"
        return frame

    def last(self, kind: str, code: str, at: int) -> Frame:
        """The ticker, or the last trade."""
        one = self.market.instruments[code]
        trade = self.market.last_trade(one, at)
        if kind == "ticker":
            row = self.market.ticker(code, moment(at))
            return self.ticker_frame(one, row, trade, self.tape.bought_at(one, at))
        found = self.market.orderbook(code, moment(trade.time), count=1)
        return Frame("trade", code, [self.trade_row(one, trade, found["orderbook_units"][0] if found else {}, at)])

    def trades(self, events: list[Event], now: int) -> Frame:
        """The trades of one market and millisecond."""
        one = self.instrument(events[0])
        unit, lot = one.listing.price_unit, one.listing.volume_unit
        best = {
            "ask_price": events[0].ask_price * unit,
            "ask_size": events[0].ask_size * lot,
            "bid_price": events[0].bid_price * unit,
            "bid_size": events[0].bid_size * lot,
        }
        return Frame("trade", one.listing.market, [self.trade_row(one, each.trade, best, now) for each in events])

    def ticker(self, event: Event, now: int) -> Frame:
        """The ticker after an event."""
        one = self.instrument(event)
        row = self.market.ticker_row(one, event.time // DAY_MS, event.trade, event.figures) | {"timestamp": now}
        return self.ticker_frame(one, row, event.trade, event.bought)

    def book(self, asked: Subscription, code: str, at: int) -> Frame | None:
        """The order book, None for a level that the market hasn't."""
        row = self.market.orderbook(code, moment(at), count=asked.depths[code], level=asked.level)
        if row is None or (asked.level and not code.startswith("KRW-")):
            return None
        return Frame("orderbook", code, [row | {"type": "orderbook", "code": code, "stream_type": "REALTIME"}])

    def candle(self, kind: str, code: str, at: int) -> Frame | None:
        """The candle that is forming, or the newest."""
        rows = self.market.candles(code, moment(at), CANDLES[kind])
        told = {"type": kind, "code": code, "stream_type": "REALTIME"}
        return Frame(kind, code, [row | told for row in rows]) if rows else None

    def instrument(self, event: Event) -> Instrument:
        return self.market.order[event.market]

    def trade_row(self, one: Instrument, trade: Trade, best: dict[str, Any], now: int) -> Row:
        row = self.market.trade_row(one, trade)
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

    def ticker_frame(self, one: Instrument, row: Row, last: Trade, bought: int) -> Frame:
        code, lot = one.listing.market, one.listing.volume_unit
        ends = self.market.delisted.get(code)
        day = moment(ends) + KST if ends else None
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
