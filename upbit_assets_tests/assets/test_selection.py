"""Selection of markets: by a setting, or by the day's ranking."""

from datetime import datetime, timedelta

import pytest

from upbit_assets.assets import selection
from upbit_assets.assets.selection import NoRankingError
from upbit_assets.partitions import DAY, days
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.pipeline import PAST, ask, materialize, put_bronze, ticker

VARIABLE = "UPBIT_CANDLE_MARKETS"
TODAY = days.at(PAST).start


def chosen(said: str | None, monkeypatch: pytest.MonkeyPatch, *starts: datetime) -> list[tuple[datetime, str]]:
    monkeypatch.setenv(VARIABLE, said or "top2")
    with Database().connect() as connection:
        return selection.candles.markets(connection, starts)


def rank(database: Database, at: datetime, *markets: str) -> None:
    """Make this the ranking by turnover at a time."""
    turnovers = {market: str(1000 - nth) for nth, market in enumerate(markets)}
    at_ms = str(int(at.timestamp() * 1000))
    texts = {m: ticker(m, acc_trade_price_24h=t, trade_timestamp=at_ms) for m, t in turnovers.items()}
    put_bronze(database, at, texts)
    assert materialize("silver_ticker", "gold_market_stats", first=at).success


def test_named_markets_are_taken_in_their_order_once_each_and_need_no_ranking(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    named = chosen(" krw-eth, KRW-BTC,KRW-ETH", monkeypatch, TODAY - DAY, TODAY)
    assert named == [(day, market) for day in (TODAY, TODAY - DAY) for market in ("KRW-ETH", "KRW-BTC")]


@pytest.mark.parametrize("said", [None, "top3", "all"])
def test_without_a_ranking_it_says_what_to_do(database: Database, monkeypatch: pytest.MonkeyPatch, said: str | None):
    with pytest.raises(NoRankingError, match=f"materialize gold_market_stats first, or name them in {VARIABLE}"):
        chosen(said, monkeypatch, TODAY)
    assert chosen(said, monkeypatch) == []  # no days, no markets


def test_each_day_has_its_own_last_ranking_and_days_before_the_first_have_that(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    rank(database, PAST, "KRW-A", "KRW-B", "KRW-C")
    rank(database, PAST + timedelta(minutes=10), "KRW-B", "KRW-A", "KRW-C")
    rank(database, PAST + DAY, "KRW-C", "KRW-D")
    expected = {
        TODAY - DAY: ["KRW-A", "KRW-B"],
        TODAY: ["KRW-B", "KRW-A"],
        TODAY + DAY: ["KRW-C", "KRW-D"],
        TODAY + 5 * DAY: ["KRW-C", "KRW-D"],
    }
    found = chosen(None, monkeypatch, *expected)
    assert found == [(day, market) for day in sorted(expected, reverse=True) for market in expected[day]]
    assert chosen("top1", monkeypatch, TODAY) == [(TODAY, "KRW-B")]
    assert chosen("all", monkeypatch, TODAY) == [(TODAY, f"KRW-{each}") for each in "BAC"]


def test_a_ranking_that_retention_dropped_is_none(database: Database, market_url: str, monkeypatch: pytest.MonkeyPatch):
    rank(database, PAST, "KRW-A", "KRW-B")
    rank(database, PAST + 40 * DAY, "KRW-C", "KRW-D")
    ask(market_url, "DELETE FROM gold.market_stats WHERE window_start = %s", PAST)
    ask(market_url, "INSERT INTO bronze.retention VALUES ('gold.market_stats', %s, now())", PAST + DAY)
    assert chosen(None, monkeypatch, TODAY) == [(TODAY, "KRW-C"), (TODAY, "KRW-D")]
