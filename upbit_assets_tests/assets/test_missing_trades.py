"""Trades that the stream missed are requested over REST: exactly those, newest first, and verified again."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from dagster import DagsterInstance, RunRequest

from upbit_assets.assets.missing_trades import joined
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.automation import missing_trades
from upbit_assets.automation.attempts import Attempt
from upbit_assets.automation.missing_trades import close_trade_gaps
from upbit_assets.partitions import DAY, MINUTE, WINDOW, days, ten_minute_partitions, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.server import Handle, running
from upbit_assets_tests.assets.test_trade_stream import Trade, put_all, put_raw, put_snapshot, trades_of
from upbit_assets_tests.pipeline import ask, checks, compute, materialize, metadata_of, now, put, run_errors
from upbit_assets_tests.test_automation import Daemon

CHAIN = ("bronze_trade_stream_raw", "silver_trade_stream", "gold_trade_stats")
MARKETS, ACTIVITY = 6, 4
LOST = "SELECT count(*) FROM silver.trade_coverage WHERE state <> 'proved'"


@pytest.fixture(scope="module")
def served() -> Iterator[Handle]:
    with running(MARKETS, activity=ACTIVITY) as handle:
        yield handle


@pytest.fixture
def exchange(served: Handle, monkeypatch: pytest.MonkeyPatch) -> Handle:
    served.faults.clear()
    monkeypatch.setenv("UPBIT_API_URL", served.url)
    return served


@pytest.fixture(scope="module")
def start() -> datetime:
    """A window that was over an hour ago, whose trades the exchange still tells; not a day's last one."""
    found = windows.at(datetime.now(UTC) - timedelta(hours=1)).start
    return found - WINDOW if days.at(found) != days.at(found + WINDOW) else found


@pytest.fixture(scope="module")
def trades(start: datetime, served: Handle) -> list[Trade]:
    return trades_of(served.market, start - 2 * MINUTE, start + WINDOW + timedelta(seconds=1))


@pytest.fixture(scope="module")
def market(served: Handle) -> Market:
    return served.market


@pytest.fixture
def snapshots(database: Database, start: datetime, market: Market) -> None:
    for minute in range(-1, 11):
        put_snapshot(database, market, start + minute * MINUTE)
    compute(database, silver_ticker, start - WINDOW, start + WINDOW)


def asked(exchange: Handle) -> list[str]:
    """The requests for trades since `watch`."""
    return [each["match"] for each in exchange.faults.show() if each["seen"]]


def watch(exchange: Handle) -> None:
    """Have the exchange count who asks for the trades of each market, by faults that change nothing."""
    for each in exchange.market.markets():
        exchange.faults.add(f"ticks.*market={each.market}(&|$)", "slow")


def in_bronze(url: str, since: datetime, until: datetime) -> list[tuple[Any, ...]]:
    found = "SELECT market, key FROM bronze.trade_stream_raw WHERE traded_at >= %s AND traded_at < %s ORDER BY 1, 2"
    return ask(url, found, since, until)


def keys(trades: list[Trade], since: datetime, until: datetime) -> list[tuple[str, str]]:
    return sorted((each.market, str(each.key)) for each in trades if since <= each.at < until)


@pytest.mark.long
def test_a_silence_broken_by_some_trades_costs_a_market_few_requests(
    database: Database, market_url: str, exchange: Handle, market: Market, start: datetime, trades: list[Trade]
):
    """As on the first start: the stream's first frames are the last trade of each market, in the window before."""
    put_snapshot(database, market, start + WINDOW)
    put_all(database, [each for each in trades if each.at >= start and each.at.second < 5])
    watch(exchange)
    assert materialize(*CHAIN, first=start).success
    assert in_bronze(market_url, start, start + WINDOW) == keys(trades, start, start + WINDOW)
    requests = {each["match"]: each["seen"] for each in exchange.faults.show()}
    assert min(requests.values()) <= 3, "for a market with less than a page of trades"


def test_a_markets_gaps_less_than_a_window_apart_are_one(start: datetime):
    def gaps(market: str, *minutes: tuple[int, int]) -> list[tuple[str, datetime, datetime]]:
        return [(market, start + first * MINUTE, start + last * MINUTE) for first, last in minutes]

    apart = [*gaps("KRW-A", (0, 2), (3, 9), (12, 13)), *gaps("KRW-B", (1, 2), (12, 13)), *gaps("KRW-C", (0, 9), (4, 5))]
    found = joined(reversed(apart))
    assert found == [*gaps("KRW-A", (0, 13)), *gaps("KRW-B", (1, 2), (12, 13)), *gaps("KRW-C", (0, 9))]


@pytest.mark.usefixtures("snapshots")
class TestAsking:
    def test_what_is_missing_is_asked_for_and_nothing_else(
        self, database: Database, market_url: str, exchange: Handle, start: datetime, trades: list[Trade]
    ):
        lost = [each for each in trades if each.market == "KRW-BTC" and start + MINUTE < each.at < start + 2 * MINUTE]
        put_all(database, [each for each in trades if each not in lost])
        watch(exchange)
        result = materialize(*CHAIN, first=start)
        assert result.success, run_errors(result)
        assert [match.split("=")[1][:7] for match in asked(exchange)] == ["KRW-BTC"]
        assert in_bronze(market_url, start, start + WINDOW) == keys(trades, start, start + WINDOW)
        told = "SELECT count(*), min(connection) FROM bronze.trade_stream_raw WHERE connection = 'rest'"
        assert ask(market_url, told) == [(len(lost), "rest")]
        assert ask(market_url, LOST) == [(0,)]
        assert checks(result)["every_trade_is_there"].passed
        assert f"{len(lost):,} new trades" in metadata_of(result, CHAIN[0])["requested over REST"]

    @pytest.mark.long
    def test_what_nobody_streamed_comes_over_rest_where_the_counters_moved(
        self, database: Database, market_url: str, exchange: Handle, start: datetime, trades: list[Trade]
    ):
        put_all(database, [each for each in trades if not start <= each.at < start + WINDOW])
        watch(exchange)
        result = materialize(*CHAIN, first=start)
        assert result.success, run_errors(result)
        assert in_bronze(market_url, start, start + WINDOW) == keys(trades, start, start + WINDOW)
        assert len(asked(exchange)) == len({each.market for each in trades if start - MINUTE <= each.at})
        assert ask(market_url, LOST) == [(0,)]

    def test_where_rest_and_the_stream_disagree_on_a_trade_rest_counts_and_both_stay(
        self, database: Database, market_url: str, exchange: Handle, start: datetime, trades: list[Trade]
    ):
        wrong = next(each for each in trades if each.market == "KRW-BTC" and each.at > start + MINUTE)
        put_all(database, [each for each in trades if each != wrong])
        put_raw(database, wrong._replace(volume="1234567"))
        assert materialize(*CHAIN, first=start).success
        volume = "SELECT volume, source FROM silver.trade_stream WHERE trade_id = %s AND market = 'KRW-BTC'"
        assert ask(market_url, volume, wrong.key) == [(Decimal(wrong.volume), "rest")]
        assert len(ask(market_url, "SELECT 1 FROM bronze.trade_stream_raw WHERE key = %s", str(wrong.key))) == 2
        assert ask(market_url, LOST) == [(0,)]

    def test_an_exchange_that_gives_nothing_keeps_no_window_from_being_computed(
        self, database: Database, market_url: str, exchange: Handle, start: datetime, trades: list[Trade]
    ):
        put_all(database, trades[::2])
        exchange.faults.add("ticks", "status", status=418)
        result = materialize(*CHAIN, first=start)
        assert result.success, run_errors(result)
        assert not checks(result)["every_trade_is_there"].passed
        assert "stopped" in str(metadata_of(result, CHAIN[0])["unavailable"])

    def test_a_market_that_the_exchange_does_not_know_any_more_is_told(
        self, database: Database, market_url: str, exchange: Handle, start: datetime, trades: list[Trade]
    ):
        put_all(database, [each for each in trades if each.market != "KRW-BTC"])
        body = '{"error":{"name":404,"message":"Code not found"}}'
        exchange.faults.add("ticks.*market=KRW-BTC", "status", status=404, body=body)
        result = materialize(*CHAIN, first=start)
        assert result.success, run_errors(result)
        assert "KRW-BTC" in metadata_of(result, CHAIN[0])["unavailable"]
        assert ask(market_url, "SELECT DISTINCT market FROM silver.trade_coverage WHERE state = 'missing'") == [
            ("KRW-BTC",)
        ]

    @pytest.mark.long
    def test_the_open_window_is_repaired_by_a_snapshot_of_its_own(
        self, market_url: str, exchange: Handle, market: Market, database: Database
    ):
        now = windows.at(datetime.now(UTC))
        for minute in (-11, -2):
            put_snapshot(database, market, now.start + minute * MINUTE)
        compute(database, silver_ticker, now.start - 2 * WINDOW, now.start - WINDOW)
        put_all(database, trades_of(market, now.start - 12 * MINUTE, now.start - 11 * MINUTE))
        result = materialize(*CHAIN, first=now.start - WINDOW, last=now.start)
        assert result.success, run_errors(result)
        until = ask(market_url, "SELECT max(ingested_at) FROM bronze.ticker_raw")[0][0]
        assert until > now.start
        wanted = keys(trades_of(market, now.start, until), now.start, until - timedelta(seconds=1))
        assert set(wanted) <= set(in_bronze(market_url, now.start, until))
        assert ask(market_url, "SELECT count(*) FROM silver.trade_coverage WHERE state = 'missing'") == [(0,)]


class Sensor(Daemon):
    sensor = close_trade_gaps

    @staticmethod
    def _asked(request: RunRequest) -> Any:
        start = request.tags.get("dagster/asset_partition_range_start", request.tags.get("dagster/partition"))
        return start, request.tags.get("dagster/asset_partition_range_end", start), request.tags["dagster/priority"]


@pytest.fixture
def sensor() -> Iterator[Sensor]:
    with DagsterInstance.ephemeral() as instance:
        yield Sensor(instance)


def cover(database: Database, *starts: datetime, state: str = "proved", missing: str | None = None) -> None:
    rows = [(start, "KRW-BTC", state, missing) for start in starts]
    put(database, tables.silver_trade_coverage, "window_start market state missing", rows)


class TestSensor:
    def test_nothing_is_asked_for_where_the_stream_never_ran(self, sensor: Sensor, database: Database):
        assert sensor.tick() == set()
        assert sensor.skipped == "Nothing is missing"

    def test_when_the_stream_hears_again_its_silence_is_asked_for_at_once_and_once(
        self, sensor: Sensor, database: Database
    ):
        now = datetime.now(UTC)
        put_all(database, [Trade(key=n + 1, at=now - timedelta(seconds=s)) for n, s in enumerate((80, 75, 3, 2))])
        cover(database, windows.at(now).start - WINDOW)
        first, last = (windows.key_of(windows.at(now - timedelta(seconds=s)).start) for s in (75, 3))
        sensor.cursor = json.dumps({"received_at": (now - timedelta(seconds=75)).isoformat()})
        assert sensor.tick() == {(first, last, "9")}
        assert sensor.tick() == set()

    def test_no_window_before_the_first_is_asked_for(
        self, sensor: Sensor, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        at = now()
        first, last = windows.key_of(windows.at(at).start - WINDOW), windows.key_of(windows.at(at).start)
        monkeypatch.setenv("UPBIT_START", first)
        monkeypatch.setitem(vars(windows), "partitions", ten_minute_partitions())
        monkeypatch.setattr(missing_trades, "RECENT", timedelta(hours=1))
        put_all(database, [Trade(at=at)])
        assert sensor.tick() == {(first, last, "9")}

    def test_windows_are_asked_for_newest_first_in_stretches_and_a_few_times_only(
        self, sensor: Sensor, database: Database, market_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("upbit_assets.automation.attempts.FIRST_RETRY", timedelta(0))
        newest = windows.at(datetime.now(UTC)).start - 2 * WINDOW
        put_all(database, [Trade(at=newest - 8 * DAY)])
        starts = [newest - n * WINDOW for n in range(9 * 144)]
        cover(database, *starts, *(newest + n * WINDOW for n in (1, 2)))
        lacking = [newest, newest - WINDOW, newest - 5 * WINDOW, newest - 8 * DAY]
        mark = "UPDATE silver.trade_coverage SET state = 'missing', missing = tstzmultirange(tstzrange(%s, %s))"
        for start in lacking:
            ask(market_url, mark + " WHERE window_start = %s", start, start + WINDOW, start)
        both = (windows.key_of(newest - WINDOW), windows.key_of(newest), "-10")
        third = (windows.key_of(newest - 5 * WINDOW),) * 2 + ("-10",)
        asked = [sensor.tick() for _ in range(8)]
        assert asked == [{both}] * 3 + [{third}] * 3 + [set()] * 2
        assert sensor.skipped == "3 windows are incomplete, none is due"

    def test_windows_that_nobody_looked_at_are_since_the_stream_began(self, sensor: Sensor, database: Database):
        over = windows.at(datetime.now(UTC) - missing_trades.COMPUTED).start
        put_all(database, [Trade(at=over - 3 * WINDOW)])
        cover(database, over - 3 * WINDOW, over)
        assert sensor.tick() == {(windows.key_of(over - 2 * WINDOW), windows.key_of(over - WINDOW), "-10")}


def test_another_lack_is_another_attempt():
    assert Attempt.of(["a", 3, 0.0], "b").times == 0
