"""A day's figures, recomputed from their definition in plain Python."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets.assets.gold import gold_market_daily
from upbit_assets.assets.silver import silver_candle, silver_trade
from upbit_assets.partitions import DAY, MINUTE
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.assets.test_candles_and_trades import COLLECTED, TODAY, candle, cover, trade
from upbit_assets_tests.pipeline import ask, compute, put, rows

TOMORROW = TODAY + DAY
MARKETS = ["KRW-BTC", "KRW-USDT", "KRW-ETH", "BTC-ETH", "USDT-ETH", "JPY-ETH"]
LAYERS = (silver_candle, silver_trade, gold_market_daily)


class Candle(NamedTuple):
    market: str
    start: datetime
    prices: tuple[str, str, str, str]  # opening, high, low, closing
    volume: str
    turnover: str


class Trade(NamedTuple):
    market: str
    at: datetime
    price: str
    volume: str


def put_candles(database: Database, candles: Iterable[Candle]) -> None:
    names = ("opening_price", "high_price", "low_price", "trade_price")
    raws = []
    for market, start, prices, volume, turnover in candles:
        figures = dict(zip(names, prices, strict=True))
        amounts = {"candle_acc_trade_volume": volume, "candle_acc_trade_price": turnover}
        text = candle(start, market=f'"{market}"', **figures, **amounts)
        raws.append((market, text, COLLECTED, day_of(start), f"{start - 9 * 60 * MINUTE:%Y-%m-%dT%H:%M:%S}"))
    put(database, tables.bronze_candle_raw, "market raw_data ingested_at day key", raws)


def put_trades(database: Database, trades: Iterable[Trade]) -> None:
    raws = []
    for nth, (market, at, price, volume) in enumerate(trades, 17696466000000001):
        text = trade(nth, at, market=f'"{market}"', trade_price=price, trade_volume=volume)
        raws.append((market, text, COLLECTED, day_of(at), str(nth)))
    put(database, tables.bronze_trade_raw, "market raw_data ingested_at day key", raws)


def day_of(moment: datetime) -> datetime:
    return TODAY + (moment - TODAY) // DAY * DAY


def build(database: Database, first: datetime = TODAY, last: datetime = TODAY) -> None:
    for asset in LAYERS:
        compute(database, asset, first, last)


def gold(url: str, columns: str) -> list[tuple[Any, ...]]:
    return ask(url, f"SELECT {columns} FROM gold.market_daily ORDER BY day, market")


def flat(market: str, minute: int = 0, price: str = "100", volume: str = "1", day: datetime = TODAY) -> Candle:
    """A candle without price moves."""
    turnover = str(Decimal(price) * Decimal(volume))
    return Candle(market, day + minute * MINUTE, (price, price, price, price), volume, turnover)


PRICES = ["100", "100.5", "9.9E+1", "1.16539E2", "99.00016456"]
VOLUMES = ["0.00000001", "1", "3.1415926535897932", "4.8E+12"]


@st.composite
def candles(draw: st.DrawFn) -> Candle:
    figures = [Decimal(draw(st.sampled_from(PRICES))) for _ in range(4)]
    opening, *_, closing = figures
    minute = draw(st.sampled_from([0, 1, 2, 700, 1438, 1439, 1440, 1441, 2879]))
    prices = (str(opening), str(max(figures)), str(min(figures)), str(closing))
    # mostly consistent with the prices, sometimes impossible
    volume = Decimal(draw(st.sampled_from(VOLUMES)))
    worth = draw(st.sampled_from([min(figures), max(figures), closing, closing, 2 * max(figures)]))
    amounts = str(volume), str(volume * worth)
    return Candle(draw(st.sampled_from(MARKETS)), TODAY + minute * MINUTE, prices, *amounts)


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    at = TODAY + draw(st.sampled_from([0, 1, 1439, 1440, 2879])) * MINUTE + timedelta(milliseconds=7)
    figures = draw(st.sampled_from(PRICES)), draw(st.sampled_from(VOLUMES))
    return Trade(draw(st.sampled_from(MARKETS)), at, *figures)


market_days = st.tuples(st.sampled_from(MARKETS), st.sampled_from([TODAY, TOMORROW]))


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    st.lists(candles(), max_size=40, unique_by=lambda each: (each.market, each.start)),
    st.lists(trades(), max_size=30),
    st.sets(market_days),
    st.sets(market_days),
)
def test_gold_equals_its_definition(market_url: str, database: Database, all_candles, all_trades, whole, agreeing):
    all_candles = [
        agree(each, all_candles, all_trades) if day_of_market(each) in agreeing else each for each in all_candles
    ]
    for table in ("candle_raw", "candle_page", "trade_raw", "trade_page"):
        ask(market_url, f"DELETE FROM bronze.{table}")
    put_candles(database, all_candles)
    put_trades(database, all_trades)
    for market in MARKETS:
        for day in (TODAY, TOMORROW):
            cover(database, "candle", market, day, day + DAY)
            # in two pages that overlap, and of the others all but a millisecond
            cover(database, "trade", market, day + 700 * MINUTE, day + DAY)
            left_out = timedelta(milliseconds=(market, day) not in whole)
            cover(database, "trade", market, day + left_out, day + 701 * MINUTE)
    build(database, last=TOMORROW)

    assert gold(market_url, COLUMNS) == [
        row for day in (TODAY, TOMORROW) for row in figures(all_candles, all_trades, whole, day)
    ]


def day_of_market(row: Candle | Trade) -> tuple[str, datetime]:
    return row.market, day_of(row.start if isinstance(row, Candle) else row.at)


def agree(candle: Candle, candles: Sequence[Candle], trades: Sequence[Trade]) -> Candle:
    """The candle with volume and turnover such that the day's candles add up to its trades (all in the first)."""
    same_day = [each for each in trades if day_of_market(each) == day_of_market(candle)]
    if candle != min(each for each in candles if day_of_market(each) == day_of_market(candle)) or not same_day:
        return candle if not same_day else candle._replace(volume="0", turnover="0")
    with localcontext(prec=100):
        volume, turnover = amounts_of(same_day)
    return candle._replace(volume=f"{volume:f}", turnover=f"{turnover:f}")


COLUMNS = (
    "day, market, opening_price, high_price, low_price, closing_price, volume, turnover, turnover_krw, rank_turnover, "
    "vwap, vwap_source, realized_volatility, rank_volatility, minutes_traded, minutes_silent, minutes_missing, "
    "rank_note, log_volatility, annualized_volatility, parkinson_volatility, garman_klass_volatility"
)


def figures(candles: Sequence[Candle], trades: Sequence[Trade], whole: set[Any], day: datetime) -> list[Any]:
    """A day's rows by definition, in the order of the selected columns."""
    with localcontext(prec=100):
        amounts, found = {}, []
        by_market = {
            market: minutes
            for market in sorted(MARKETS)
            if (minutes := sorted(each for each in candles if each.market == market and day_of(each.start) == day))
        }
        for market, minutes in by_market.items():
            traded = [each for each in trades if each.market == market and day_of(each.at) == day]
            amounts[market] = of_one_source(minutes, traded if (market, day) in whole else [])
        krw = {market: turnover_krw(market, amounts) for market in by_market}
        moved = {market: volatility(minutes) for market, minutes in by_market.items()}
        for market, minutes in by_market.items():
            opening, high, low, closing = ([Decimal(each.prices[nth]) for each in minutes] for nth in range(4))
            found.append(
                (
                    *(day, market, opening[0], max(high), min(low), closing[-1], *amounts[market][:2]),
                    *(krw[market], rank(krw[market], krw.values()), *amounts[market][2:]),
                    *(moved[market], None if moved[market] is None else rank(moved[market], moved.values())),
                    *(len(minutes), 1440 - len(minutes), 0),
                    None if krw[market] is not None else f"no rate: no VWAP of KRW-{market.partition('-')[0]}",
                    *log_volatilities(closing),
                    *ranges(opening[0], max(high), min(low), closing[-1]),
                )
            )
        return found


def sums(minutes: Sequence[Candle]) -> tuple[Decimal, Decimal]:
    return total(Decimal(each.volume) for each in minutes), total(Decimal(each.turnover) for each in minutes)


def total(figures: Iterable[Decimal]) -> Decimal:
    return sum(figures, Decimal(0))


def of_one_source(minutes: Sequence[Candle], trades: Sequence[Trade]) -> tuple[Decimal, Decimal, Decimal | None, str]:
    """(volume, turnover, VWAP, source)"""
    volume, turnover = sums(minutes)
    same = all(
        abs(one - other) <= Decimal("1e-9") * other
        for one, other in zip(amounts_of(trades), (volume, turnover), strict=True)
    )
    if trades and same:
        volume, turnover = amounts_of(trades)
    low, high = min(Decimal(each.prices[2]) for each in minutes), max(Decimal(each.prices[1]) for each in minutes)
    vwap = round(turnover / volume, 16)
    return volume, turnover, vwap if low <= vwap <= high else None, "trades" if trades and same else "candles"


def amounts_of(trades: Sequence[Trade]) -> tuple[Decimal, Decimal]:
    """Volume and turnover."""
    turnover = total(Decimal(each.price) * Decimal(each.volume) for each in trades)
    return total(Decimal(each.volume) for each in trades), turnover


def turnover_krw(market: str, amounts: dict[str, tuple[Decimal, Decimal, Decimal | None, str]]) -> Decimal | None:
    quote, turnover = market.partition("-")[0], amounts[market][1]
    if quote == "KRW":
        return turnover
    rate = amounts[f"KRW-{quote}"][2] if f"KRW-{quote}" in amounts else None
    return None if rate is None else turnover * rate


def volatility(minutes: Sequence[Candle]) -> Decimal | None:
    closing = [Decimal(each.prices[3]) for each in minutes]
    changes = [after / before - 1 for before, after in pairwise(closing)]
    return round(total(change * change for change in changes).sqrt(), 10) if changes else None


def log_volatilities(closing: Sequence[Decimal]) -> list[Decimal | None]:
    """Of a day, and annualised."""
    squares = [(after / before).ln() ** 2 for before, after in pairwise(closing)]
    return [round((days * total(squares)).sqrt(), 10) if squares else None for days in (1, 365)]


def ranges(opening: Decimal, high: Decimal, low: Decimal, closing: Decimal) -> list[Decimal]:
    """Parkinson's, and Garman and Klass' estimators."""
    log2 = Decimal(2).ln()
    span, change = (high / low).ln() ** 2, (closing / opening).ln() ** 2
    variances = [span / (4 * log2), span / 2 - (2 * log2 - 1) * change]
    return [round((365 * variance).sqrt(), 10) for variance in variances]


def rank(figure: Decimal | None, all_: Iterable[Decimal | None]) -> int:
    """RANK(): 1 for the largest, equal figures share a rank, NULLs last."""
    return 1 + sum(other is not None and (figure is None or other > figure) for other in all_)


def test_equal_figures_share_a_rank_and_the_next_is_skipped(market_url: str, database: Database):
    for market in ("KRW-A", "KRW-B", "KRW-C"):
        price = "5" if market < "KRW-C" else "4"
        put_candles(database, [flat(market, minute, price=price) for minute in (0, 1)])
        cover(database, "candle", market, TODAY, TOMORROW)
    build(database)

    ranks = gold(market_url, "market, rank_turnover, rank_volatility")
    assert ranks == [("KRW-A", 1, 1), ("KRW-B", 1, 1), ("KRW-C", 3, 1)]


def test_a_day_with_one_candle_has_no_volatility_of_steps_and_no_rank_of_it(market_url: str, database: Database):
    moved = Candle("KRW-B", TODAY, ("100", "110", "100", "110"), "1", "105")
    put_candles(database, [flat("KRW-A"), moved, flat("KRW-B", 1, price="110")])
    for market in ("KRW-A", "KRW-B"):
        cover(database, "candle", market, TODAY, TOMORROW)
    build(database)

    columns = (
        "market, realized_volatility, rank_volatility, log_volatility, annualized_volatility, parkinson_volatility"
    )
    assert gold(market_url, columns) == [
        ("KRW-A", None, None, None, None, 0),
        ("KRW-B", 0, 1, 0, 0, Decimal("1.0935609533")),
    ]


def test_volatilities_are_right_over_all_that_silver_admits(market_url: str, database: Database):
    for nth, prices in enumerate([("1e-20", "1e20"), ("3e-7", "7.1e13", "2e-19"), ("1", "1.00000001", "1.00000003")]):
        put_candles(database, [flat(f"KRW-{nth}", minute, price) for minute, price in enumerate(prices)])
        cover(database, "candle", f"KRW-{nth}", TODAY, TOMORROW)
    build(database)

    columns = "log_volatility, annualized_volatility, parkinson_volatility, garman_klass_volatility"
    for market, *found in gold(market_url, f"market, realized_volatility, {columns}"):
        with localcontext(prec=100):
            closing = [Decimal(price) for (price,) in ask(market_url, CLOSING, market)]
            changes = [after / before - 1 for before, after in pairwise(closing)]
            realized = round(total(change * change for change in changes).sqrt(), 10)
            exact = [realized, *log_volatilities(closing), *ranges(closing[0], max(closing), min(closing), closing[-1])]
            assert found == exact


CLOSING = "SELECT closing_price FROM silver.candle WHERE market = %s ORDER BY started_at"


def test_volume_turnover_and_vwap_are_of_one_source_and_the_vwap_within_the_days_prices(
    market_url: str, database: Database
):
    told = {"TRADES": ("4", "380"), "CANDLES": ("2", "210"), "BEYOND": ("4", "444"), "OTHERS": ("4", "380.1")}
    prices = ("100", "110", "90", "100")
    put_candles(database, [Candle(f"KRW-{name}", TODAY, prices, *amounts) for name, amounts in told.items()])
    put_candles(database, [Candle("KRW-ROUNDED", TODAY, ("100", "100", "100", "100"), "3", "300.00000000000004")])
    trades = {"TRADES": ("95", "4"), "BEYOND": ("111", "4"), "OTHERS": ("95", "4")}
    put_trades(database, [Trade(f"KRW-{name}", TODAY, *figures) for name, figures in trades.items()])
    for name in (*told, "ROUNDED"):
        cover(database, "candle", f"KRW-{name}", TODAY, TOMORROW)
        if name in trades:
            cover(database, "trade", f"KRW-{name}", TODAY, TOMORROW)
    build(database)

    assert gold(market_url, "market, volume, turnover, vwap, vwap_source") == [
        ("KRW-BEYOND", 4, 444, None, "trades"),
        ("KRW-CANDLES", 2, 210, 105, "candles"),
        ("KRW-OTHERS", 4, Decimal("380.1"), Decimal("95.025"), "candles"),
        ("KRW-ROUNDED", 3, Decimal("300.00000000000004"), 100, "candles"),
        ("KRW-TRADES", 4, 380, 95, "trades"),
    ]


def test_a_day_with_a_rejected_trade_uses_its_candles(market_url: str, database: Database):
    wide = Candle("KRW-A", TODAY, ("90", "130", "90", "130"), "3", "330")
    put_candles(database, [wide, flat("KRW-B", price="100", volume="2")])
    trades = [Trade(market, TODAY, price, "1") for market in ("KRW-A", "KRW-B") for price in ("90", "110")]
    put_trades(database, [*trades, Trade("KRW-B", TODAY, "-1", "1"), Trade("KRW-A", TODAY, "130", "1")])
    for market in ("KRW-A", "KRW-B"):
        for kind in ("candle", "trade"):
            cover(database, kind, market, TODAY, TOMORROW)
    build(database)

    assert gold(market_url, "market, vwap, vwap_source") == [("KRW-A", 110, "trades"), ("KRW-B", 100, "candles")]


def test_a_day_with_only_empty_candles_has_no_vwap(market_url: str, database: Database):
    put_candles(database, [flat("KRW-A", volume="0")])
    cover(database, "candle", "KRW-A", TODAY, TOMORROW)
    build(database)

    assert gold(market_url, "vwap, turnover, rank_turnover") == [(None, 0, 1)]


def test_a_partly_collected_day_counts_missing_minutes(market_url: str, database: Database):
    put_candles(database, [flat("KRW-A", minute) for minute in (100, 101, 500)])
    cover(database, "candle", "KRW-A", TODAY + 100 * MINUTE, TODAY + 200 * MINUTE)
    cover(database, "candle", "KRW-A", TODAY + 150 * MINUTE, TODAY + 501 * MINUTE)
    put_candles(database, [flat("BTC-A"), flat("KRW-BTC")])
    cover(database, "candle", "BTC-A", TODAY, TOMORROW)
    cover(database, "candle", "KRW-BTC", TODAY, TODAY + MINUTE)
    build(database)

    assert gold(market_url, "market, minutes_traded, minutes_silent, minutes_missing, rank_note") == [
        ("BTC-A", 1, 1439, 0, "partial rate: 1439 minutes of KRW-BTC missing or to come"),
        ("KRW-A", 3, 398, 1039, "partial: 1039 minutes missing or to come"),
        ("KRW-BTC", 1, 0, 1439, "partial: 1439 minutes missing or to come"),
    ]


def test_an_emptied_silver_empties_gold_and_an_empty_day_has_no_rows(market_url: str, database: Database):
    put_candles(database, [flat("KRW-A")])
    cover(database, "candle", "KRW-A", TODAY, TOMORROW)
    build(database, last=TOMORROW)
    assert gold(market_url, "day, market") == [(TODAY, "KRW-A")]

    ask(market_url, "DELETE FROM silver.candle")
    compute(database, gold_market_daily, TODAY)
    assert gold(market_url, "market") == []


def test_days_of_a_range_equal_days_computed_separately(market_url: str, database: Database):
    for day, price in ((TODAY, "1"), (TOMORROW, "2"), (TOMORROW + DAY, "3")):
        put_candles(database, [flat(market, nth, price, day=day) for nth, market in enumerate(MARKETS[:4])])
        put_trades(database, [Trade(market, day, price, "1") for market in MARKETS[:2]])
        for market in MARKETS[:4]:
            cover(database, "candle", market, day, day + DAY)
            cover(database, "trade", market, day, day + DAY)
    build(database, last=TOMORROW + DAY)
    together = rows(database, tables.gold_market_daily)
    for day in (TOMORROW, TOMORROW + DAY, TODAY):
        compute(database, gold_market_daily, day)

    assert rows(database, tables.gold_market_daily) == together
    assert len(together) == 12
