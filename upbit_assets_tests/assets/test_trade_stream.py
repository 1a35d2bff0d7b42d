"""Trades of the stream in silver and gold, window by window, computed again in plain Python."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from functools import cache
from typing import Any, NamedTuple

import pytest
from dagster import TimeWindow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets import stale
from upbit_assets.assets.gold import gold_trade_stats
from upbit_assets.assets.silver import silver_ticker, silver_trade, silver_trade_stream
from upbit_assets.automation import changed_windows
from upbit_assets.check_results import Result
from upbit_assets.checks import every_trade_is_there
from upbit_assets.feeds import TRADE_STATS
from upbit_assets.partitions import EPOCH, MINUTE, WINDOW, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox import wire
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.model import SLOT_MS
from upbit_assets.sandbox.tape import Event, Tape
from upbit_assets_tests.pipeline import (
    PAST,
    ask,
    checks,
    compute,
    materialize,
    metadata_of,
    put,
    put_bronze,
    run_errors,
    ticker,
)

MS = timedelta(milliseconds=1)
LAYERS = (silver_trade_stream, gold_trade_stats)


class Trade(NamedTuple):
    market: str = "KRW-BTC"
    key: int = 17696466000000001
    at: datetime = PAST
    price: str = "100.5"
    volume: str = "2"
    taker: str = "BID"

    def frame(self, **fields: Any) -> str:
        """The WebSocket's frame; `fields` are raw JSON, None: omitted."""
        utc = self.at.astimezone(UTC)
        row = {
            "type": '"trade"',
            "code": json.dumps(self.market),
            "timestamp": str(int(self.at.timestamp() * 1000) + 40),
            "trade_date": f'"{utc:%Y-%m-%d}"',
            "trade_time": f'"{utc:%H:%M:%S}"',
            "trade_timestamp": str(int(self.at.timestamp() * 1000)),
            "trade_price": self.price,
            "trade_volume": self.volume,
            "ask_bid": f'"{self.taker}"',
            "sequential_id": str(self.key),
        } | fields
        return self.json(row)

    def row(self) -> str:
        """REST's row."""
        utc = self.at.astimezone(UTC)
        return self.json(
            {
                "market": json.dumps(self.market),
                "trade_date_utc": f'"{utc:%Y-%m-%d}"',
                "trade_time_utc": f'"{utc:%H:%M:%S}"',
                "timestamp": str(int(self.at.timestamp() * 1000)),
                "trade_price": self.price,
                "trade_volume": self.volume,
                "ask_bid": f'"{self.taker}"',
                "sequential_id": str(self.key),
            }
        )

    def json(self, row: Mapping[str, str | None]) -> str:
        return "{" + ", ".join(f'"{name}": {text}' for name, text in row.items() if text is not None) + "}"


def put_raw(database: Database, trade: Trade, text: str | None = None, connection: str = "trades-1") -> None:
    row = (trade.market, text or trade.frame(), trade.at + 50 * MS, trade.at, str(trade.key), connection)
    put(database, tables.bronze_trade_stream_raw, "market raw_data ingested_at traded_at key connection", [row])


def put_all(database: Database, trades: Iterable[Trade]) -> None:
    rows = [(each.market, each.frame(), each.at, each.at, str(each.key), "trades-1") for each in trades]
    put(database, tables.bronze_trade_stream_raw, "market raw_data ingested_at traded_at key connection", rows)


def build(database: Database, first: datetime = PAST, last: datetime | None = None) -> None:
    for asset in LAYERS:
        compute(database, asset, first, last)


def silver(url: str) -> list[tuple[Any, ...]]:
    found = "market, trade_id, traded_at, price, volume, taker, source"
    return ask(url, f"SELECT {found} FROM silver.trade_stream ORDER BY trade_id, market")


def test_a_trade_is_typed_exactly(database: Database, market_url: str):
    put_raw(database, trade := Trade(at=PAST + 123 * MS, price="116233000.00000000", volume="0.00077720"))
    build(database)
    price, volume = Decimal("116233000.00000000"), Decimal("0.00077720")
    assert silver(market_url) == [("KRW-BTC", trade.key, trade.at, price, volume, "BID", "stream")]


def test_duplicates_count_once_and_ids_are_unique_within_a_market(database: Database, market_url: str):
    for trade, times in ((Trade(), 3), (Trade("KRW-ETH"), 1), (Trade(key=Trade().key + 1), 1)):
        for _ in range(times):
            put_raw(database, trade)
    build(database)
    assert [row[:2] for row in silver(market_url)] == [
        ("KRW-BTC", Trade().key),
        ("KRW-ETH", Trade().key),
        ("KRW-BTC", Trade().key + 1),
    ]
    counted = "SELECT bronze_rows, silver_rows, rejected_rows, duplicate_rows FROM silver.trade_stream_build"
    assert ask(market_url, counted) == [(5, 3, 0, 2)]


def test_ids_that_are_the_same_as_floats_are_two_trades_of_the_stream_and_of_rest(database: Database, market_url: str):
    ids = [2**54 + 1, 2**54 + 2]
    assert len(set(map(float, ids))) == 1
    for trade in (Trade(key=key) for key in ids):
        put_raw(database, trade)
        put_raw(database, trade, trade.row(), "rest")
    build(database)
    assert [row[1] for row in silver(market_url)] == ids


def test_backfilled_trades_are_read_by_their_rest_fields(database: Database, market_url: str):
    put_raw(database, Trade(), Trade().row(), "rest")
    build(database)
    assert [row[-1] for row in silver(market_url)] == ["rest"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"sequential_id": None}, "sequential_id: not a number"),
    "another id": ({"sequential_id": "5"}, "sequential_id: not what bronze.key says"),
    "no price": ({"trade_price": "0"}, "trade_price: not positive, or out of range"),
    "no volume": ({"trade_volume": '"1"'}, "trade_volume: not a number"),
    "another time": ({"trade_timestamp": "1769662800001"}, "trade_timestamp: not what bronze.traded_at says"),
    "another time of day": ({"trade_time": '"00:00:00"'}, "trade_date, trade_time: not the time"),
    "no side": ({"ask_bid": '"X"'}, "ask_bid: neither ASK nor BID"),
    "another market": ({"code": '"KRW-ETH"'}, "market: longer than 30 characters, or not what"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_invalid_trades_are_rejected_with_a_reason(database: Database, market_url: str, wrong: str):
    fields, reason = WRONG[wrong]
    put_raw(database, Trade(), Trade().frame(**fields))
    build(database)
    assert silver(market_url) == []
    ((told,),) = ask(market_url, "SELECT reason FROM silver.trade_stream_rejected")
    assert told.startswith(reason)


def test_malformed_frames_are_rejected(database: Database, market_url: str):
    put_raw(database, Trade(market=""), '"no JSON"')
    build(database)
    assert ask(market_url, "SELECT reason FROM silver.trade_stream_rejected") == [
        ("raw row: kept as text, jsonb refused it",)
    ]


def test_all_trades_has_each_trade_once_with_its_source(database: Database, market_url: str):
    both, streamed, asked = (Trade(key=Trade().key + n) for n in range(3))
    put_all(database, [both, streamed])
    day = days.at(PAST).start
    rows = [(each.market, each.row(), PAST, day, str(each.key)) for each in (both, asked)]
    put(database, tables.bronze_trade_raw, "market raw_data ingested_at day key", rows)
    build(database)
    compute(database, silver_trade, PAST)
    assert ask(market_url, "SELECT trade_id, source FROM silver.all_trades ORDER BY trade_id") == [
        (both.key, "stream"),
        (streamed.key, "stream"),
        (asked.key, "rest"),
    ]


MARKETS = ("KRW-BTC", "KRW-ETH", "BTC-ETH", "USDT-ETH")
TRADES = st.lists(
    st.builds(
        Trade,
        st.sampled_from(MARKETS),
        st.integers(1, 10**17),
        st.integers(0, 2 * 600_000 - 1).map(lambda ms: PAST + ms * MS),
        st.decimals("0.0001", 1000, places=4).map(str),
        st.decimals("0.0001", 1000, places=4).map(str),
        st.sampled_from(("ASK", "BID")),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda each: each.key,
)


def to_decimals(value: Decimal, places: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def expected(trades: Iterable[Trade]) -> dict[tuple[datetime, str], dict[str, Any]]:
    """Gold by its definition."""
    grouped = defaultdict(list)
    for each in sorted(trades, key=lambda each: (each.at, each.key)):
        grouped[windows.at(each.at).start, each.market].append((Decimal(each.price), Decimal(each.volume), each.taker))
    found: dict[tuple[datetime, str], dict[str, Any]] = {}
    for place, rows in grouped.items():
        prices = [price for price, _, _ in rows]
        bought, sold = (sum((v for _, v, side in rows if side == taker), Decimal(0)) for taker in ("BID", "ASK"))
        turnover, volume = sum(p * v for p, v, _ in rows), bought + sold
        found[place] = {
            "trades": len(rows),
            "opening_price": prices[0],
            "high_price": max(prices),
            "low_price": min(prices),
            "closing_price": prices[-1],
            "volume": volume,
            "turnover": turnover,
            "vwap": min(max(to_decimals(turnover / volume, 16), min(prices)), max(prices)),
            "buy_volume": bought,
            "sell_volume": sold,
            "strength": to_decimals(100 * bought / sold, 10) if sold else None,
            "largest_trade": max(p * v for p, v, _ in rows),
        }
    for (start, market), row in found.items():
        quote = market.partition("-")[0]
        rate = Decimal(1) if quote == "KRW" else found.get((start, f"KRW-{quote}"), {}).get("vwap")
        row["turnover_krw"] = None if rate is None else row["turnover"] * rate
    for (start, _), row in found.items():
        others = [other for (at, _), other in found.items() if at == start]
        krw = -1 if row["turnover_krw"] is None else row["turnover_krw"]
        row["rank_turnover"] = 1 + sum((-1 if o["turnover_krw"] is None else o["turnover_krw"]) > krw for o in others)
        row["rank_trades"] = 1 + sum(other["trades"] > row["trades"] for other in others)
    return found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trades=TRADES)
def test_gold_equals_its_definition(database: Database, market_url: str, trades: list[Trade]):
    for table in ("bronze.trade_stream_raw", "silver.trade_stream", "gold.trade_stats"):
        ask(market_url, f"DELETE FROM {table}")
    put_all(database, trades)
    for start in {windows.at(each.at).start for each in trades}:
        build(database, start)
    with localcontext(prec=200):
        wanted = expected(trades)
    names = list(next(iter(wanted.values()), {"trades": 0}))
    rows = ask(market_url, f"SELECT window_start, market, {', '.join(names)} FROM gold.trade_stats")
    assert {row[:2]: dict(zip(names, row[2:], strict=True)) for row in rows} == wanted


def test_windows_rebuilt_separately_are_the_same(database: Database, market_url: str):
    put_all(database, [Trade(key=n + 1, at=PAST + n * timedelta(minutes=1)) for n in range(30)])
    build(database, PAST, PAST + 2 * WINDOW)
    whole = silver(market_url)
    build(database, PAST + WINDOW)
    assert silver(market_url) == whole
    assert len(whole) == 30


def test_a_run_makes_all_three_layers_with_their_checks(database: Database, market_url: str):
    put_all(database, [Trade(), Trade("BTC-ETH", 7)])
    result = materialize("bronze_trade_stream_raw", "silver_trade_stream", "gold_trade_stats", first=PAST)
    assert result.success
    assert metadata_of(result, "bronze_trade_stream_raw")["dagster/partition_row_count"] == 2
    assert {name: evaluation.passed for name, evaluation in checks(result).items()} == {
        "every_bronze_row_is_accounted_for": True,
        "every_trade_is_there": False,  # ten minutes with two trades and no snapshot can't be proved
        "ranks_are_complete": True,
    }


def test_a_window_is_computed_once_it_is_over_and_again_where_trades_came_late(database: Database, market_url: str):
    put_raw(database, Trade())
    assert not changed_windows.computable(TRADE_STATS, PAST, PAST + WINDOW + timedelta(seconds=9))
    assert changed_windows.computable(TRADE_STATS, PAST, PAST + WINDOW + timedelta(seconds=10))
    with database.connect() as connection:
        wanted = frozenset(("bronze_trade_stream_raw", "silver_trade_stream", "gold_trade_stats"))
        assert [each.assets for each in stale.stale(connection, TRADE_STATS, {PAST})] == [wanted]
        build(database)
        assert stale.stale(connection, TRADE_STATS, {PAST}) == []
        put_raw(database, Trade(key=5))
        assert [each.assets for each in stale.stale(connection, TRADE_STATS, {PAST})] == [wanted]


def put_snapshot(database: Database, market: Market, at: datetime, ahead: timedelta = timedelta()) -> None:
    """The offline exchange's tickers of all markets at a time, received a little later."""
    rows = {each.market: wire.text(market.ticker(each.market, at)) for each in market.markets(at)}
    put_bronze(database, at + 200 * MS + ahead, rows)


def trades_of(market: Market, first: datetime, end: datetime) -> list[Trade]:
    """The offline exchange's trades in [first, end), to the slot."""
    trades, tape = [], Tape(market)
    since, until = (int(at.timestamp() * 1000) for at in (first, end))
    for slot in range(since // SLOT_MS, until // SLOT_MS):
        for event in map(Event._make, tape.slot(slot).tolist()):
            row = market.trade_row(market.order[event.market], event.trade)
            at = EPOCH + event.time * MS
            price, volume = f"{row['trade_price']:f}", f"{row['trade_volume']:f}"
            trades.append(Trade(row["market"], row["sequential_id"], at, price, volume, row["ask_bid"]))
    return trades


@pytest.mark.long
class TestEveryTradeIsThere:
    """Compared with the offline exchange's own counters and trades."""

    MARKET = Market(count=12, activity=4)

    def fill(self, database: Database, start: datetime, *steps: timedelta) -> None:
        """A snapshot every minute, from before the window to after it."""
        for minute in range(-1, 11):
            ahead = steps[minute % len(steps)] if steps else timedelta()
            put_snapshot(database, self.MARKET, start + minute * MINUTE, ahead)
        compute(database, silver_ticker, start - WINDOW, start + WINDOW)

    @staticmethod
    @cache
    def trades(start: datetime) -> list[Trade]:
        return trades_of(TestEveryTradeIsThere.MARKET, start - 2 * MINUTE, start + WINDOW + MINUTE / 2)

    def result(self, database: Database, start: datetime) -> Result:
        compute(database, silver_trade_stream, start)
        with database.connect() as connection:
            return every_trade_is_there.function(connection, TimeWindow(start, start + WINDOW))[start]

    @pytest.mark.parametrize("start", [PAST, days.at(PAST).start], ids=["in a day", "where a day begins"])
    def test_complete_windows_are_proved_and_a_missing_trades_market_and_minute_are_named(
        self, database: Database, market_url: str, start: datetime
    ):
        self.fill(database, start)
        put_all(database, trades := self.trades(start))
        found, markets = self.result(database, start), len(self.MARKET.markets(start))
        assert found.passed, found.details
        assert found.details["markets proved"] == markets
        lost = next(each for each in trades if each.market == "KRW-BTC" and start + 3 * MINUTE < each.at)
        ask(
            market_url, "DELETE FROM bronze.trade_stream_raw WHERE market = %s AND key = %s", lost.market, str(lost.key)
        )
        found = self.result(database, start)
        assert not found.passed
        assert found.details["markets with missing trades"] == "KRW-BTC"
        assert found.details["markets proved"] == markets - 1
        ((missing,),) = ask(market_url, "SELECT missing FROM silver.trade_coverage WHERE missing IS NOT NULL")
        (part,) = missing
        assert part.lower <= lost.at < part.upper <= part.lower + MINUTE + timedelta(seconds=11)

    def test_a_clock_that_steps_by_five_seconds_both_ways_loses_no_proof(self, database: Database):
        self.fill(database, PAST, timedelta(seconds=5), timedelta(seconds=-5), timedelta())
        put_all(database, self.trades(PAST))
        assert self.result(database, PAST).details["markets missing"] == 0
        wrong = next(each for each in self.trades(PAST) if each.at > PAST + MINUTE)
        put_raw(database, wrong._replace(volume="1234567"))
        assert self.result(database, PAST).details["markets missing"] == 1

    @pytest.mark.parametrize("edge", [timedelta(), WINDOW - MS], ids=["first", "last"])
    def test_a_missing_trade_at_a_windows_edge_is_detected(self, database: Database, edge: timedelta):
        self.fill(database, PAST)
        inside = [each.at for each in self.trades(PAST) if PAST <= each.at < PAST + WINDOW]
        at = min(inside, key=lambda at: abs(at - (PAST + edge)))
        put_all(database, [each for each in self.trades(PAST) if each.at != at])
        assert not self.result(database, PAST).passed

    def test_the_last_minute_is_proved_by_a_snapshot_not_yet_in_silver(self, database: Database, market_url: str):
        self.fill(database, PAST)
        ask(market_url, "DELETE FROM silver.ticker WHERE ingested_at >= %s", PAST + WINDOW)
        put_all(database, self.trades(PAST))
        assert self.result(database, PAST).details["markets proved"] == len(self.MARKET.markets(PAST))

    def test_without_a_later_snapshot_a_window_is_collected_not_proved(self, database: Database, market_url: str):
        self.fill(database, PAST)
        ask(market_url, "DELETE FROM silver.ticker WHERE ingested_at >= %s", PAST + WINDOW)
        ask(market_url, "DELETE FROM bronze.ticker_raw WHERE ingested_at >= %s", PAST + WINDOW)
        put_all(database, self.trades(PAST))
        found = self.result(database, PAST)
        assert found.passed
        assert found.details["markets collected"] > 0

    def test_a_window_without_trades_is_proved_by_unchanged_counters(self, database: Database, market_url: str):
        put_all(database, [Trade(at=PAST - days.length)])
        for minute in (-1, 5, 11):
            put_bronze(database, PAST + minute * MINUTE, {"KRW-BTC": ticker("KRW-BTC", **COUNTERS)})
        compute(database, silver_ticker, PAST - WINDOW, PAST + WINDOW)
        result = materialize("bronze_trade_stream_raw", "silver_trade_stream", "gold_trade_stats", first=PAST)
        assert result.success, run_errors(result)
        assert ask(market_url, "SELECT market, state FROM silver.trade_coverage") == [("KRW-BTC", "proved")]
        assert checks(result)["every_trade_is_there"].passed

    def test_a_window_not_received_whose_counters_moved_is_missing_and_not_materialized(
        self, database: Database, market_url: str
    ):
        put_all(database, [Trade(at=PAST - days.length)])
        for minute, volume in ((-1, "1"), (11, "2")):
            fields = COUNTERS | {"acc_trade_volume": volume, "trade_timestamp": ms(PAST + (minute - 1) * MINUTE)}
            put_bronze(database, PAST + minute * MINUTE, {"KRW-BTC": ticker("KRW-BTC", **fields)})
        compute(database, silver_ticker, PAST - WINDOW, PAST + WINDOW)
        result = materialize("bronze_trade_stream_raw", "silver_trade_stream", first=PAST)
        assert "Nothing was collected in" in run_errors(result)
        assert ask(market_url, "SELECT market, state FROM silver.trade_coverage") == [("KRW-BTC", "missing")]
        assert metadata_of(result, "bronze_trade_stream_raw")["too old to request"].startswith("1 intervals")

    @pytest.mark.parametrize("counted", [1, 2], ids=["in its middle", "at its end"])
    @pytest.mark.parametrize("lost", [False, True], ids=["whole", "lost"])
    def test_a_snapshot_in_a_millisecond_of_several_trades_hides_none_that_is_missing(
        self, database: Database, market_url: str, counted: int, lost: bool
    ):
        twins = [Trade(key=n, at=PAST - 2 * MINUTE) for n in (1, 2)]
        others = [Trade(key=3, at=PAST + MINUTE, volume="1"), Trade(key=4, at=PAST + 2 * MINUTE, volume="3")]
        put_counters(database, PAST - MINUTE, twins[:counted])
        put_counters(database, PAST + 11 * MINUTE, [*twins, *others])
        put_all(database, [*twins, *others[lost:]])
        compute(database, silver_trade_stream, PAST)
        assert ask(market_url, STATES) == [("KRW-BTC", "missing" if lost else "proved")]

    def test_what_was_traded_between_a_days_last_snapshot_and_its_end_is_asked_for_once(
        self, database: Database, market_url: str
    ):
        day = days.at(PAST).start
        start, second = day - WINDOW, timedelta(seconds=1)
        old, quiet = Trade(key=1, at=start - 2 * MINUTE), Trade("KRW-ETH", key=1, at=start - 2 * MINUTE)
        before, after = Trade(key=2, at=day - 40 * second), Trade(key=3, at=day + 10 * second)
        days_trades = {start - MINUTE: [old], day - 30 * second: [old, before], day + 30 * second: [after]}
        for at, trades in days_trades.items():
            put_counters(database, at, trades, [quiet])
        put_all(database, [old, quiet, before, after])
        compute(database, silver_trade_stream, start)
        ((missing,),) = ask(market_url, "SELECT missing FROM silver.trade_coverage WHERE state = 'missing'")
        assert (missing[-1].lower, missing[-1].upper) == (day - 39 * second - 800 * MS, day)
        page = ("KRW-BTC", start, missing[-1], 0, None, day + MINUTE)
        names = "market window_start covered rows problem ingested_at"
        put(database, tables.bronze_trade_stream_page, names, [page])
        compute(database, silver_trade_stream, start)
        assert ask(market_url, STATES) == [("KRW-BTC", "collected"), ("KRW-ETH", "proved")]

    def test_a_silence_across_two_windows_is_missing_whether_they_are_computed_together_or_alone(
        self, database: Database, market_url: str
    ):
        seconds = [n for n in range(-700, 700, 4) if not -6 <= n < 6]
        put_all(database, [Trade(key=n + 1000, at=PAST + WINDOW + timedelta(seconds=n)) for n in seconds])
        for spans in ([(PAST, PAST + WINDOW)], [(PAST, PAST), (PAST + WINDOW, PAST + WINDOW)]):
            for first, last in spans:
                compute(database, silver_trade_stream, first, last)
            parts = ask(market_url, "SELECT missing FROM silver.trade_coverage ORDER BY window_start")
            assert [(part[0].lower, part[0].upper) for (part,) in parts] == [
                (PAST + WINDOW - timedelta(seconds=8), PAST + WINDOW),
                (PAST + WINDOW, PAST + WINDOW + timedelta(seconds=8)),
            ]

    def test_a_market_that_is_renamed_has_no_proof_in_that_window_and_nothing_missing(
        self, database: Database, market_url: str
    ):
        renamed, end = PAST + 5 * MINUTE, PAST + 2 * WINDOW

        def named(market: str, at: datetime) -> str:
            return "KRW-NEW" if market == "KRW-BTC" and at >= renamed else market

        for at in (PAST + minute * MINUTE for minute in (-1, *range(11), 21)):
            texts = [wire.text(self.MARKET.ticker(each.market, at)) for each in self.MARKET.markets(at)]
            codes = [named(each.market, at) for each in self.MARKET.markets(at)]
            rows = [(code, text.replace('"KRW-BTC"', f'"{code}"')) for code, text in zip(codes, texts, strict=True)]
            put_bronze(database, at + 200 * MS, rows)
        compute(database, silver_ticker, PAST - WINDOW, end)
        trades = trades_of(self.MARKET, PAST - 2 * MINUTE, end + 2 * MINUTE)
        put_all(database, [each._replace(market=named(each.market, each.at)) for each in trades])
        compute(database, silver_trade_stream, PAST, PAST + WINDOW)
        found = "SELECT market, state FROM silver.trade_coverage WHERE window_start = %s"
        then, next_one = (dict(ask(market_url, found, start)) for start in (PAST, PAST + WINDOW))
        assert {market for market, state in then.items() if state != "proved"} == {"KRW-BTC", "KRW-NEW"}
        assert {then["KRW-BTC"], then["KRW-NEW"]} == {"collected"}
        assert next_one == dict.fromkeys(then.keys() - {"KRW-BTC"}, "proved")

    def test_a_window_without_snapshots_is_reported_as_unproved(self, database: Database):
        with database.connect() as connection:
            found = every_trade_is_there.function(connection, TimeWindow(PAST, PAST + WINDOW))[PAST]
        assert found.passed
        assert found.note == "There are neither snapshots nor trades around this window."


STATES = "SELECT market, state FROM silver.trade_coverage ORDER BY market"


def put_counters(database: Database, at: datetime, *markets: list[Trade]) -> None:
    """A snapshot received a little after a time, whose counters include these trades of each market."""
    rows = {}
    for trades in markets:
        volume = sum(Decimal(each.volume) for each in trades)
        turnover = sum(Decimal(each.volume) * Decimal(each.price) for each in trades)
        fields = {"acc_trade_volume": f"{volume}", "acc_trade_price": f"{turnover}"}
        rows[trades[0].market] = ticker(trades[0].market, **fields, trade_timestamp=ms(trades[-1].at))
    put_bronze(database, at + 200 * MS, rows)
    compute(database, silver_ticker, at)


def ms(at: datetime) -> str:
    return str(int(at.timestamp() * 1000))


COUNTERS = {"acc_trade_volume": "1", "acc_trade_price": "100", "trade_timestamp": ms(PAST - timedelta(hours=1))}
