"""The market list: every market's names and warnings, the newest ones, and none forgotten."""

import json
from datetime import datetime, timedelta
from typing import Any

from upbit_assets.definitions import defs
from upbit_assets.partitions import DAY, MINUTE
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import Records, copy_records
from upbit_assets.sandbox.server import Handle
from upbit_assets_tests.http import get
from upbit_assets_tests.pipeline import ask, materialize, now, run_errors

QUIET = {"PRICE_FLUCTUATIONS": False, "GLOBAL_PRICE_DIFFERENCES": False}


def listed(database: Database, at: datetime, markets: dict[str, Any]) -> None:
    """A market list as collected."""
    rows = [(code, json.dumps(said), at) for code, said in markets.items()]
    with database.engine.begin() as connection:
        copy_records(connection, tables.bronze_market_raw, Records(("market", "raw_data", "ingested_at"), rows))


def add_lists() -> None:
    result = defs.resolve_job_def("list_markets").execute_in_process(raise_on_error=False)
    assert result.success, run_errors(result)


def markets(url: str) -> dict[str, tuple[Any, ...]]:
    query = (
        "SELECT market, korean_name, english_name, warning, cautions, first_seen_at, last_seen_at FROM silver.market"
    )
    return {code: tuple(rest) for code, *rest in ask(url, query)}


def test_the_newest_list_counts_and_a_delisted_market_is_not_forgotten(database: Database, market_url: str):
    first, last = now() - 2 * DAY, now() - MINUTE
    event = {"warning": False, "caution": QUIET}
    old = {"korean_name": "옛이름", "english_name": "Old", "market_event": event}
    listed(database, first, {"KRW-A": old, "KRW-GONE": old})
    add_lists()
    add_lists()
    risky = {"warning": True, "caution": QUIET | {"PRICE_FLUCTUATIONS": True}}
    listed(database, first + DAY, {"KRW-A": old})
    listed(database, last, {"KRW-A": {"korean_name": "새이름", "english_name": "New", "market_event": risky}})
    add_lists()
    assert markets(market_url) == {
        "KRW-A": ("새이름", "New", True, ["PRICE_FLUCTUATIONS"], first, last),
        "KRW-GONE": ("옛이름", "Old", False, [], first, first),
    }


def test_what_a_host_outside_korea_or_nobody_can_say_is_null(database: Database, market_url: str):
    at = now() - timedelta(minutes=1)
    abroad = {"english_name": "Bitcoin", "market_warning": "CAUTION"}
    listed(database, at, {"SGD-BTC": abroad, "KRW-ODD": "a text", "KRW-BARE": {"market_event": {"caution": [1]}}})
    add_lists()
    assert markets(market_url) == {
        "SGD-BTC": (None, "Bitcoin", True, [], at, at),
        "KRW-ODD": (None, None, False, [], at, at),
        "KRW-BARE": (None, None, False, [], at, at),
    }


def test_the_first_run_names_the_markets_and_the_top_10_has_the_names(frozen_exchange: Handle, market_url: str):
    chain = ("bronze_ticker_raw", "silver_ticker", "gold_market_stats", "silver_market")
    result = materialize(*chain, first=now())
    assert result.success, run_errors(result)
    said = {each["market"]: each for each in get(f"{frozen_exchange.url}/v1/market/all?is_details=true").json()}
    stored = markets(market_url)
    assert {code: names[:2] for code, names in stored.items()} == {
        code: (each["korean_name"], each["english_name"]) for code, each in said.items()
    }
    assert {code for code, row in stored.items() if row[2]} == {
        code for code, each in said.items() if each["market_event"]["warning"]
    }
    assert ("KRW-BTC", "비트코인") in ask(market_url, "SELECT market, korean_name FROM gold.turnover_top10")
