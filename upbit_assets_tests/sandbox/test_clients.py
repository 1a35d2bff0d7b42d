"""Clients written for the real exchange read the offline one."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
from execnet import RemoteError

from upbit_assets.sandbox.server import running
from upbit_assets_tests.sandbox.conftest import AT


def call_sdk(channel, url, method, arguments):
    import json
    from operator import attrgetter, methodcaller

    from upbit import Upbit

    sdk = Upbit(base_url=url, max_retries=0, _strict_response_validation=True)
    reply = attrgetter(method)(sdk)(**arguments)
    channel.send(json.dumps(list(map(methodcaller("model_dump", exclude_unset=True), reply))))


def call_ccxt(channel, url, method, arguments):
    import json

    import ccxt

    bot = ccxt.upbit({"urls": {"api": {"public": url, "private": url}}})
    channel.send(json.dumps(getattr(bot, method)(*arguments)))


@pytest.fixture
def sdk(exchange, clients):
    """The rows that a method of the exchange's own SDK returns."""

    def call(method, **arguments):
        channel = clients.remote_exec(call_sdk, url=exchange.url, method=method, arguments=arguments)
        return json.loads(channel.receive(60))

    return call


@pytest.fixture
def bot(exchange, clients):
    """The result of a method of ccxt."""

    def call(method, *arguments):
        channel = clients.remote_exec(call_ccxt, url=exchange.url, method=method, arguments=arguments)
        return json.loads(channel.receive(60))

    return call


def decimals(row, truth, names):
    assert [Decimal(row[name]) for name in names.split()] == [truth[name] for name in names.split()]


def test_the_exchanges_own_sdk_reads_trades(exchange, sdk):
    rows, truth = sdk("trades.list", market="BTC-ETH", count=9), exchange.market.trades("BTC-ETH", AT, count=9)
    for row, true in zip(rows, truth, strict=True):
        decimals(row, true, "trade_price trade_volume prev_closing_price change_price")
        for name in ("sequential_id", "ask_bid", "timestamp"):
            assert row[name] == true[name]
    (older,) = sdk("trades.list", market="BTC-ETH", cursor=str(rows[-2]["sequential_id"]))
    assert older == rows[-1]
    assert sdk("trades.list", market="BTC-ETH", days_ago=1, to="120000")[0]["trade_date_utc"] == "2026-07-29"


def test_the_exchanges_own_sdk_reads_order_books(exchange, sdk):
    (book,), truth = sdk("orderbooks.list", markets="KRW-BTC"), exchange.market.orderbook("KRW-BTC", AT)
    decimals(book, truth, "total_ask_size total_bid_size")
    for unit, true in zip(book["orderbook_units"], truth["orderbook_units"], strict=True):
        decimals(unit, true, "bid_price bid_size ask_price ask_size")
    assert sdk("orderbooks.list_instruments", markets="KRW-BTC") == [exchange.market.instrument("KRW-BTC", AT)]


@pytest.mark.parametrize(
    ("method", "unit", "arguments"),
    [
        ("list_seconds", "seconds", {}),
        ("list_minutes", "minutes/15", {"unit": 15}),
        ("list_days", "days", {"converting_price_unit": "KRW"}),
        ("list_weeks", "weeks", {}),
        ("list_months", "months", {}),
        ("list_years", "years", {}),
    ],
)
def test_the_exchanges_own_sdk_reads_candles(exchange, sdk, method, unit, arguments):
    rows = sdk(f"candles.{method}", market="BTC-ETH", count=3, **arguments)
    truth = exchange.market.candles("BTC-ETH", AT, unit, count=3, converted=True)
    for row, true in zip(rows, truth, strict=True):
        decimals(row, true, "opening_price high_price low_price trade_price")
        decimals(row, true, "candle_acc_trade_price candle_acc_trade_volume")
        assert row["candle_date_time_utc"] == true["candle_date_time_utc"]
        assert set(row) == set(true)


def test_ccxt_reads_trades_and_order_books(exchange, bot):
    trades, truth = bot("fetch_trades", "BTC/KRW", None, 50), exchange.market.trades("KRW-BTC", AT, count=50)
    assert sorted((trade["id"], trade["price"]) for trade in trades) == sorted(
        (str(true["sequential_id"]), float(true["trade_price"])) for true in truth
    )
    book, true = bot("fetch_order_book", "BTC/KRW", 5), exchange.market.orderbook("KRW-BTC", AT, count=5)
    for side in ("ask", "bid"):
        pairs = [(unit[f"{side}_price"], unit[f"{side}_size"]) for unit in true["orderbook_units"]]
        assert book[f"{side}s"] == [[float(price), float(size)] for price, size in pairs]


@pytest.mark.parametrize(
    ("frame", "unit", "length"),
    [("1s", "seconds", timedelta(seconds=1)), ("1m", "minutes/1", timedelta(minutes=1)), ("1d", "days", timedelta(1))],
)
def test_ccxt_reads_candles(exchange, bot, frame, unit, length):
    candles = bot("fetch_ohlcv", "BTC/KRW", frame, None, 9)
    truth = exchange.market.candles("KRW-BTC", AT, unit, count=9)
    assert [candle[1:5] for candle in reversed(candles)] == [
        [float(true[f"{name}_price"]) for name in ("opening", "high", "low", "trade")] for true in truth
    ]
    since = candles[-5][0]
    again = bot("fetch_ohlcv", "BTC/KRW", frame, since, 3)
    assert again == [
        candle for candle in candles if since <= candle[0] < since + 3 * length / timedelta(milliseconds=1)
    ]


def test_the_exchanges_own_sdk_reads_markets_and_tickers(exchange, sdk):
    pairs = sdk("trading_pairs.list", is_details=True)
    assert [pair["market"] for pair in pairs] == [listing.market for listing in exchange.market.markets()]
    assert pairs[0]["korean_name"] == "비트코인"
    (row,) = sdk("tickers.list_by_trading_pairs", markets="KRW-BTC")
    truth = exchange.market.ticker("KRW-BTC", AT)
    decimals(row, truth, "trade_price acc_trade_price_24h")
    assert (row["change"], row["timestamp"]) == (truth["change"], truth["timestamp"])
    assert len(sdk("tickers.list_by_quote_currencies", quote_currencies="KRW,BTC,USDT")) == 30
    with pytest.raises(RemoteError, match="NotFoundError"):
        sdk("tickers.list_by_trading_pairs", markets="KRW-NOPE")


def test_ccxt_reads_markets_and_tickers(exchange, bot):
    assert len(bot("load_markets")) == 30
    truth = exchange.market.ticker("KRW-BTC", AT)
    row = bot("fetch_ticker", "BTC/KRW")
    assert (row["symbol"], row["timestamp"]) == ("BTC/KRW", truth["trade_timestamp"])
    assert (row["last"], row["high"], row["low"]) == tuple(
        float(truth[f"{name}_price"]) for name in ("trade", "high", "low")
    )
    assert len(bot("fetch_tickers")) == 30
    with pytest.raises(RemoteError, match="BadSymbol"):
        bot("fetch_ticker", "NOPE/KRW")


def stream_with_sdk(channel, url, types, form, count):
    import json
    from uuid import uuid4

    from upbit import Upbit

    with Upbit(base_url=url, max_retries=0).ws_public.connect_public() as connection:
        connection.send([{"ticket": str(uuid4())}, *types, {"format": form}])
        while count > 0:
            events = connection.recv()
            for event in events if isinstance(events, list) else [events]:
                channel.send(json.dumps([type(event).__name__, event.model_dump(by_alias=True)]))
                count -= 1
    channel.send(None)


def stream_with_ccxt(channel, url, method, arguments, count):
    import asyncio
    import json

    from ccxt.pro import upbit

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    api = {"public": url, "private": url, "ws": url.replace("http", "ws") + "/websocket/v1"}
    bot = upbit({"urls": {"api": api}, "newUpdates": True, "asyncio_loop": loop})
    for _ in range(count):
        channel.send(json.dumps(loop.run_until_complete(getattr(bot, method)(*arguments))))
    loop.run_until_complete(bot.close())
    channel.send(None)


def received(channel):
    """Everything that a client received."""
    return [json.loads(text) for text in iter(lambda: channel.receive(60), None)]


@pytest.fixture(scope="module")
def busy():
    """An exchange with a running clock and many trades."""
    with running(5, activity=50, seconds=count(0, 0.05).__next__) as handle:
        yield handle


def trades_of(exchange, code):
    """All of today's trades that a streaming client could have received."""
    rows = exchange.market.trades(code, datetime.now(UTC), count=5000)
    return {row["sequential_id"]: row for row in rows}


TYPES = [{"type": kind, "codes": ["KRW-BTC"]} for kind in ("ticker", "trade", "orderbook", "candle.1s", "candle.240m")]


@pytest.mark.parametrize(
    "form",
    ["DEFAULT", "SIMPLE_LIST", *(pytest.param(form, marks=pytest.mark.long) for form in ("SIMPLE", "JSON_LIST"))],
)
def test_the_exchanges_own_sdk_reads_the_stream(busy, clients, form):
    channel = clients.remote_exec(stream_with_sdk, url=busy.url, types=TYPES, form=form, count=100)
    told, truth = received(channel), trades_of(busy, "KRW-BTC")
    prefix = "Simple" if form.startswith("SIMPLE") else ""
    candle = "SimpleCandle" if prefix else "WsCandleResponse"
    assert {name for name, _ in told} == {candle, *(prefix + name for name in ("Ticker", "Trade", "Orderbook"))}
    number, price = ("sid", "tp") if prefix else ("sequential_id", "trade_price")
    trades = [row for name, row in told if name.endswith("Trade")]
    assert len(trades) > 5
    for row in trades:
        assert Decimal(row[price]) == truth[row[number]]["trade_price"]


def test_the_exchanges_own_sdk_gets_the_error(busy, clients):
    channel = clients.remote_exec(stream_with_sdk, url=busy.url, types=[], form="DEFAULT", count=1)
    ((_, row),) = received(channel)
    assert row["error"]["name"] == "NO_TYPE"


def test_ccxt_streams_trades(busy, clients):
    arguments = [["BTC/KRW", "USDT/KRW"]]
    channel = clients.remote_exec(
        stream_with_ccxt, url=busy.url, method="watch_trades_for_symbols", arguments=arguments, count=10
    )
    told = [trade for batch in received(channel) for trade in batch]
    # two markets may have a trade of the same id
    truth = {"BTC/KRW": trades_of(busy, "KRW-BTC"), "USDT/KRW": trades_of(busy, "KRW-USDT")}
    assert len(told) >= 10
    for trade in told:
        row = truth[trade["symbol"]][int(trade["id"])]
        assert (trade["price"], trade["amount"]) == (float(row["trade_price"]), float(row["trade_volume"]))


def test_ccxt_streams_tickers_books_and_candles(busy, clients):
    def watch(method, *arguments):
        channel = clients.remote_exec(stream_with_ccxt, url=busy.url, method=method, arguments=arguments, count=3)
        return received(channel)

    assert {row["symbol"] for row in watch("watch_ticker", "BTC/KRW")} == {"BTC/KRW"}
    for book in watch("watch_order_book", "BTC/KRW"):
        assert 0 < book["bids"][0][0] <= book["asks"][0][0]
    for candle in watch("watch_ohlcv", "BTC/KRW"):
        assert candle[3] <= candle[1] <= candle[2]
