"""Clients written for the real exchange read the offline one."""

from decimal import Decimal

import ccxt
import pytest
from upbit import NotFoundError, Upbit

from .conftest import AT


def test_the_exchanges_own_sdk_reads_markets_and_tickers(exchange):
    client = Upbit(base_url=exchange.url, max_retries=0, _strict_response_validation=True)
    pairs = client.trading_pairs.list(is_details=True)
    assert [pair.market for pair in pairs] == [listing.market for listing in exchange.market.markets()]
    assert pairs[0].korean_name == "비트코인"
    (row,) = client.tickers.list_by_trading_pairs(markets="KRW-BTC")
    truth = exchange.market.ticker("KRW-BTC", AT)
    assert Decimal(row.trade_price) == truth["trade_price"]
    assert Decimal(row.acc_trade_price_24h) == truth["acc_trade_price_24h"]
    assert (row.change, row.timestamp) == (truth["change"], truth["timestamp"])
    rows = client.tickers.list_by_quote_currencies(quote_currencies="KRW,BTC,USDT")
    assert len(rows) == 30
    with pytest.raises(NotFoundError):
        client.tickers.list_by_trading_pairs(markets="KRW-NOPE")


def test_ccxt_reads_markets_and_tickers(exchange):
    client = ccxt.upbit({"urls": {"api": {"public": exchange.url, "private": exchange.url}}})
    assert len(client.load_markets()) == 30
    truth = exchange.market.ticker("KRW-BTC", AT)
    row = client.fetch_ticker("BTC/KRW")
    assert (row["symbol"], row["timestamp"]) == ("BTC/KRW", truth["trade_timestamp"])
    assert (row["last"], row["high"], row["low"]) == tuple(
        float(truth[f"{name}_price"]) for name in ("trade", "high", "low")
    )
    assert len(client.fetch_tickers()) == 30
    with pytest.raises(ccxt.BaseError):
        client.fetch_ticker("NOPE/KRW")
