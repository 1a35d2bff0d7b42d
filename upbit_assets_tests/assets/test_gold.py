"""Gold, recomputed from its definition in plain Python."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from dagster import TimeWindow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets.assets.gold import figures, gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.partitions import MINUTE, SEOUL, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.pipeline import (
    PAST,
    ask,
    compute,
    materialize,
    metadata_of,
    put_bronze,
    put_silver,
    run_errors,
    ticker,
)

DAY = timedelta(days=1)
MARKETS = ["KRW-BTC", "KRW-USDT", "KRW-ETH", "BTC-ETH", "USDT-ETH", "BTC-XRP", "JPY-BTC"]
Row = dict[str, Any]


def row(at: datetime, market: str, price: int | str = 1, turnover: int | str = 1) -> Row:
    figures = {"trade_price": Decimal(price), "acc_trade_price": Decimal(turnover)}
    return {"ingested_at": at, "market": market, **figures}


# two windows, and the same two the day before, with snapshots at uneven distances; few figures, so that they tie
MOMENTS = [
    PAST - day * DAY + window * WINDOW + timedelta(minutes=minute)
    for day in (0, 1)
    for window in (0, 1)
    for minute in (0, 3, 6, 9)
]
silver_rows = st.lists(
    st.builds(row, st.sampled_from(MOMENTS), st.sampled_from(MARKETS), st.integers(1, 7), st.integers(0, 3)),
    max_size=60,
    unique_by=lambda each: (each["ingested_at"], each["market"]),
)

COLUMNS = [
    *("window_start", "market", "ingested_at", "trade_price", "turnover_krw", "rank_volume", "rank_note"),
    *("change_rate_24h", "window_high", "window_low", "volatility", "rank_volatility"),
]


def build(last: datetime | None = None) -> None:
    result = materialize("gold_market_stats", first=PAST, last=last)
    assert result.success, run_errors(result)


def gold(url: str, columns: str) -> list[tuple[Any, ...]]:
    return ask(url, f"SELECT {columns} FROM gold.market_stats ORDER BY window_start, market")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(silver_rows)
def test_gold_equals_its_definition(market_url: str, database: Database, silver):
    ask(market_url, "DELETE FROM silver.ticker")
    put_silver(database, silver)

    # the asset's own statement without a run, for speed
    span = TimeWindow(PAST, PAST + 2 * WINDOW)
    with database.connect() as connection:
        result = connection.execute(figures(tables.gold_market_stats, span))
        found = sorted(tuple(getattr(row, name) for name in COLUMNS) for row in result)
    assert found == [figures for start in (PAST, PAST + WINDOW) for figures in stats(silver, start)]


def stats(silver: Sequence[Row], start: datetime) -> list[tuple[Any, ...]]:
    """A window's figures by definition, in the order of the selected columns."""
    inside = of_window(silver, start)
    prices = {(row["ingested_at"], row["market"]): row["trade_price"] for row in silver}
    last = {row["market"]: row for row in sorted(inside, key=lambda row: row["ingested_at"])}
    converted = {market: in_krw(row, prices, last) for market, row in last.items()}
    turnover = {market: krw for market, (krw, _) in converted.items()}
    newest = max((row["ingested_at"] for row in inside), default=None)
    span = {market: [row["trade_price"] for row in inside if row["market"] == market] for market in last}
    volatility = {
        market: to_10_digits((max(all_) - min(all_)) / min(all_)) if len(all_) > 1 else None
        for market, all_ in span.items()
    }
    found = []
    for market, row in sorted(last.items()):
        before = prices.get((nearest(silver, start, row["ingested_at"]), market))
        found.append(
            (
                *(start, market, row["ingested_at"], row["trade_price"]),
                *(turnover[market], rank(turnover[market], turnover.values())),
                "; ".join(
                    [*converted[market][1], *["not in the window's last snapshot"] * (row["ingested_at"] < newest)]
                )
                or None,
                None if before is None else to_10_digits(row["trade_price"] / before - 1),
                *(max(span[market]), min(span[market])),
                volatility[market],
                None if volatility[market] is None else rank(volatility[market], volatility.values()),
            )
        )
    return found


def of_window(silver: Sequence[Row], start: datetime) -> list[Row]:
    return [row for row in silver if windows.at(row["ingested_at"]).start == start]


def in_krw(
    row: Row, prices: dict[tuple[datetime, str], Decimal], last: dict[str, Row]
) -> tuple[Decimal | None, list[str]]:
    """The turnover in KRW, and the note on the rate."""
    quote, turnover = row["market"].partition("-")[0], row["acc_trade_price"]
    code = f"KRW-{quote}"
    if quote == "KRW":
        return turnover, []
    if (row["ingested_at"], code) in prices:
        return turnover * prices[row["ingested_at"], code], []
    if code in last:
        newest = last[code]
        note = f"{code} of {newest['ingested_at'].astimezone(SEOUL):%H:%M:%S} KST: not in the same snapshot"
        return turnover * newest["trade_price"], [note]
    return None, [f"no rate: no {code} in the window"]


def nearest(silver: Sequence[Row], start: datetime, at: datetime) -> Any:
    """The snapshot of the same window a day earlier that is nearest in time, the earlier of two."""
    there = {row["ingested_at"] for row in of_window(silver, start - DAY)}
    return min(there, key=lambda moment: (abs(at - DAY - moment), moment), default=None)


def rank(figure: Decimal | None, all_: Iterable[Decimal | None]) -> int:
    """RANK(): 1 for the largest, equal figures share a rank, NULLs last."""
    return 1 + sum(other is not None and (figure is None or other > figure) for other in all_)


def to_10_digits(figure: Decimal) -> Decimal:
    return figure.quantize(Decimal("1e-10"), ROUND_HALF_UP)


def test_equal_turnovers_share_a_rank_and_the_next_is_skipped(market_url: str, database: Database):
    put_silver(database, [row(PAST, "KRW-A", turnover=5), row(PAST, "KRW-B", turnover=5), row(PAST, "KRW-C")])
    build()

    assert gold(market_url, "market, rank_volume") == [("KRW-A", 1), ("KRW-B", 1), ("KRW-C", 3)]


def test_turnover_is_converted_at_the_rate_of_the_same_snapshot(market_url: str, database: Database):
    later = PAST + timedelta(minutes=1)
    put_silver(
        database,
        [
            *(row(PAST, "KRW-BTC", "100"), row(PAST, "BTC-OLD", turnover="0.5")),
            *(row(later, "KRW-BTC", "200"), row(later, "BTC-NEW", turnover="0.5")),
        ],
    )
    build()

    assert gold(market_url, "market, turnover_krw, rank_volume") == [
        ("BTC-NEW", Decimal(100), 1),
        ("BTC-OLD", Decimal(50), 2),
        ("KRW-BTC", Decimal(1), 3),
    ]


def test_a_quote_currency_without_a_rate_ranks_last_with_a_note(market_url: str, database: Database):
    put_silver(database, [row(PAST, "JPY-BTC", turnover="1e15"), row(PAST, "KRW-BTC", turnover=0)])
    build()

    assert gold(market_url, "market, turnover_krw, turnover, rank_volume, rank_note") == [
        ("JPY-BTC", None, Decimal("1e15"), 2, "no rate: no KRW-JPY in the window"),
        ("KRW-BTC", 0, 0, 1, None),
    ]


def test_a_rate_that_the_last_snapshot_lacks_is_the_windows_newest_and_reported(market_url: str, database: Database):
    last = PAST + timedelta(minutes=2)
    put_silver(
        database,
        [
            *(
                row(PAST, "KRW-USDT", "1300"),
                row(PAST + MINUTE, "KRW-USDT", "1400"),
                row(last - WINDOW, "KRW-USDT", "1"),
            ),
            *(row(PAST, "USDT-OLD", turnover=3), row(last, "USDT-NEW", turnover=2), row(last, "KRW-A", turnover=9)),
        ],
    )
    build()

    note = "KRW-USDT of 14:01:00 KST: not in the same snapshot"
    gone = "not in the window's last snapshot"
    assert gold(market_url, "market, turnover_krw, rank_volume, rank_note") == [
        ("KRW-A", 9, 3, None),
        ("KRW-USDT", 1, 4, gone),
        ("USDT-NEW", 2800, 2, note),
        ("USDT-OLD", 3900, 1, gone),
    ]


def test_a_market_with_one_snapshot_has_no_volatility_and_no_rank_of_it(market_url: str, database: Database):
    still, moved = (row(PAST + MINUTE, "KRW-STILL", "5"), row(PAST + MINUTE, "KRW-MOVED", "6"))
    put_silver(database, [row(PAST, "KRW-STILL", "5"), row(PAST, "KRW-MOVED", "5"), still, moved, row(PAST, "KRW-ONE")])
    build()

    assert gold(market_url, "market, volatility, rank_volatility") == [
        ("KRW-MOVED", Decimal("0.2"), 1),
        ("KRW-ONE", None, None),
        ("KRW-STILL", 0, 2),
    ]
    shown = metadata_of(materialize("gold_market_stats", first=PAST), "gold_market_stats")
    assert "| – |" in shown["turnover top 10"]


def test_rates_are_exact_to_the_tenth_decimal_however_far_prices_lie_apart(market_url: str, database: Database):
    low, high = Decimal("0.0000003"), Decimal("20000000000000000000")
    put_silver(database, [row(PAST - DAY, "KRW-A", str(low)), row(PAST, "KRW-A", str(low))])
    put_silver(database, [row(PAST + MINUTE, "KRW-A", str(high))])
    build()

    exact = Decimal("66666666666666666666666665.6666666667")
    assert gold(market_url, "volatility, change_rate_24h") == [(exact, exact)]


def test_windows_of_a_range_are_ranked_separately(market_url: str, database: Database):
    put_silver(database, [row(PAST, "KRW-A", turnover=1), row(PAST + WINDOW, "KRW-B", turnover=9)])
    build(last=PAST + WINDOW)

    assert gold(market_url, "market, rank_volume") == [("KRW-A", 1), ("KRW-B", 1)]


def test_the_top_10_is_that_of_the_newest_window(market_url: str, database: Database):
    for minutes, last_market in ((0, 20), (10, 12)):
        rows = {f"KRW-{n}": ticker(f"KRW-{n}", acc_trade_price_24h=f"{n}.0") for n in range(1, last_market + 1)}
        put_bronze(database, PAST + timedelta(minutes=minutes), rows)
    assert materialize("silver_ticker", "gold_market_stats", first=PAST, last=PAST + WINDOW).success

    top10 = ask(market_url, "SELECT rank_volume, market, window_start FROM gold.turnover_top10 ORDER BY rank_volume")
    assert top10 == [(rank, f"KRW-{13 - rank}", PAST + WINDOW) for rank in range(1, 11)]


def test_the_run_shows_the_top_10_in_words(database: Database):
    put_silver(database, [row(PAST, "KRW-BTC", "116539000", "345600000000"), row(PAST, "KRW-ETH", turnover=1)])
    shown = metadata_of(materialize("gold_market_stats", first=PAST), "gold_market_stats")

    table = shown["turnover top 10"].replace("\u2060", "")
    assert "| 1 | KRW-BTC | 116,539,000 | +0.00% | 3,456.00억 |" in table
    assert "| 2 | KRW-ETH | 1 | +0.00% | 1 |" in table


def test_an_emptied_silver_empties_gold(market_url: str, database: Database):
    put_silver(database, [row(PAST, "KRW-BTC")])
    build()
    ask(market_url, "DELETE FROM silver.ticker")
    build()

    assert gold(market_url, "market") == []


RESET = PAST.replace(hour=9)


def counted(at: datetime, volume: str | None, turnover: str | None, market: str = "KRW-A") -> Row:
    """A ticker with its counters of the exchange's day, at its last trade."""
    amounts = {"day_volume": volume and Decimal(volume), "day_turnover": turnover and Decimal(turnover)}
    return {**row(at, market, "100"), **amounts, "traded_at": at}


COUNTERS: list[tuple[list[tuple[str | None, str | None]], Decimal | None]] = [
    # exact, whatever the counters in between
    ([("10", "1000"), ("11", "1100"), ("13", "1310")], Decimal("310") / 3),
    ([("1e12", "9.9e5"), ("1000000000003", "990001.000001")], Decimal("1.000001") / 3),
    ([("10", "1000"), (None, None), ("1e15", "1"), ("12", "1300")], Decimal(150)),
    # nothing traded, or one snapshot alone
    ([("10", "1000"), ("10", "1000")], None),
    ([("10", "1000")], None),
    # missing, decreased, or only one of the two changed
    ([(None, "1000"), ("12", "1300")], None),
    ([("10", "1000"), ("12", None)], None),
    ([("10", "1000"), ("9", "1300")], None),
    ([("10", "1000"), ("12", "900")], None),
    ([("10", "1000"), ("9", "900")], None),
    ([("10", "1000"), ("10", "1300")], None),
    ([("10", "1000"), ("12", "1000")], None),
]


def test_a_windows_vwap_is_computed_from_its_day_counters(market_url: str, database: Database):
    markets = [f"KRW-{nth:02}" for nth in range(len(COUNTERS))]
    for market, (counters, _) in zip(markets, COUNTERS, strict=True):
        put_silver(database, [counted(PAST + nth * MINUTE, *each, market) for nth, each in enumerate(counters)])
    compute(database, gold_market_stats, PAST)

    assert gold(market_url, "vwap") == [(vwap and round(vwap, 16),) for _, vwap in COUNTERS]


@pytest.mark.parametrize(
    ("before", "after"), [(("500", "50000"), ("2", "210")), (("1", "100"), ("2", "210")), (("0", "0"), ("2", "210"))]
)
def test_day_counters_start_at_0_at_nine(market_url: str, database: Database, before, after):
    # the first reply after nine may still have the previous day's counters
    put_silver(
        database,
        [
            {**counted(RESET, *before), "traded_at": RESET - MINUTE},
            counted(RESET + MINUTE, "1", "100"),
            counted(RESET + 2 * MINUTE, *after),
        ],
    )
    compute(database, gold_market_stats, RESET)

    assert gold(market_url, "vwap") == [(105,)]


def test_each_window_and_market_has_a_vwap_of_its_own(market_url: str, database: Database):
    moments = [(PAST, "1"), (PAST + MINUTE, "2"), (PAST + WINDOW, "5"), (PAST + WINDOW + MINUTE, "6")]
    rows = [counted(at, volume, str(100 * int(volume) ** 2)) for at, volume in moments]
    still = [{**each, "market": "KRW-B", "day_volume": Decimal(1), "day_turnover": Decimal(1)} for each in rows]
    put_silver(database, [*rows, *still])
    compute(database, gold_market_stats, PAST, PAST + WINDOW)

    assert gold(market_url, "market, vwap") == [("KRW-A", 300), ("KRW-B", None), ("KRW-A", 1100), ("KRW-B", None)]


def test_invalid_counters_are_null(market_url: str, database: Database):
    said = [("-1.0", "1"), ("null", '"5"'), ("1e400", "{}"), ("2.0", "3.5")]
    for nth, (volume, turnover) in enumerate(said):
        fields = {"acc_trade_volume": volume, "acc_trade_price": turnover}
        put_bronze(database, PAST + nth * MINUTE, {"KRW-A": ticker("KRW-A", **fields)})
    compute(database, silver_ticker, PAST)

    found = ask(market_url, "SELECT day_volume, day_turnover FROM silver.ticker ORDER BY ingested_at")
    assert found == [(None, 1), (None, None), (None, None), (2, Decimal("3.5"))]
