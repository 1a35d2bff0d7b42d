"""The cards' SQL on PostgreSQL, as the reader, with variables substituted as by Metabase."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from upbit_assets.metabase.declared import declared
from upbit_assets.partitions import SEOUL, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets_tests.conftest import empty

PARTITIONED = ("gold.market_stats", "gold.orderbook_stats", "gold.market_daily")
CARDS = {card.key: card for card in declared().cards}
DAY = timedelta(days=1)
NOW = windows.at(datetime.now(UTC)).start
NEWEST, BEFORE = NOW - WINDOW, NOW - 2 * WINDOW
JANUARY = datetime(2020, 1, 29, tzinfo=SEOUL)
SUMS = [Decimal(f"{10 - n}000000000000.12345678901234567890") for n in range(10)]


def in_metabases_way(sql: str, values: dict[str, Any], *, inline: bool) -> tuple[str, list[Any]]:
    """The SQL with its {{tags}} bound, or written out, several values with commas; a [[clause]] with a tag that has no
    value is left out. Source: metabase.driver.sql.parameters.substitution.
    """
    bound: list[Any] = []

    def clause(found: re.Match[str]) -> str:
        return found[1] if all(tag in values for tag in re.findall(r"\{\{(\w+)\}\}", found[1])) else ""

    def value(found: re.Match[str]) -> str:
        several = values[found[1]] if isinstance(values[found[1]], list) else [values[found[1]]]
        if inline:
            return ", ".join(f"date '{each}'" if isinstance(each, date) else f"'{each}'" for each in several)
        bound.extend(several)
        return ", ".join("%s" for _ in several)

    sql = re.sub(r"\[\[(.*?)\]\]", clause, sql, flags=re.DOTALL)
    return re.sub(r"\{\{(\w+)\}\}", value, sql if inline else sql.replace("%", "%%")), bound


@pytest.fixture(scope="module")
def connection(market_database: str) -> Iterator[psycopg.Connection[Any]]:
    """The reader among known rows, in a transaction that ends in nothing and in which time stands still. The session's
    zone is not Seoul's, as JDBC brings its own.
    """
    empty(market_database)
    engine = sa.create_engine(sqlalchemy_url(market_database), poolclass=sa.NullPool)
    with engine.connect() as owner:
        for name in PARTITIONED:
            owner.execute(sa.text(f"SELECT bronze.make_partitions('{name}', '2019-12-31+09', '2020-03-01+09')"))
        for table, rows in known_rows():
            owner.execute(sa.insert(table), list(rows))
        owner.execute(sa.text("SET ROLE upbit_reader"))
        owner.execute(sa.text("SET timezone = UTC"))
        connection = owner.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        yield connection
        owner.rollback()


@pytest.fixture
def reader(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    with connection.transaction(force_rollback=True):
        yield connection


def known_rows() -> Iterator[tuple[sa.Table, Iterable[dict[str, Any]]]]:
    yield tables.gold_market_stats, [*newest_stats(), *january_stats()]
    yield tables.gold_market_stats_build, builds(gold_rows=13)
    yield tables.gold_orderbook_stats, books()
    yield tables.gold_orderbook_stats_build, builds(gold_rows=2)
    yield tables.gold_market_daily, daily()
    yield tables.silver_candle_coverage, coverage()


def builds(gold_rows: int) -> Iterator[dict[str, Any]]:
    """The newest window with rows, the one before it, and the current one, which has none yet."""
    for start, there in ((BEFORE, 1), (NEWEST, gold_rows), (NOW, 0)):
        yield {"window_start": start, "gold_rows": there}


def stats(market: str, start: datetime, price: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        **{"ingested_at": start + timedelta(minutes=9, seconds=30), "window_start": start, "market": market},
        **{"trade_price": Decimal(price), "daily_volume": 1, "rank_volume": 1, "rank_volatility": 1, "turnover": 1},
        **{"quote_currency": market.partition("-")[0], "turnover_krw": Decimal(1), "change_rate": 0, "volatility": 0},
        **{"window_high": Decimal(price), "window_low": Decimal(price), "vwap": None, **figures},
    }


def newest_stats() -> Iterator[dict[str, Any]]:
    """Ten KRW markets, one of BTC and two of a currency without a rate, C9 the most volatile; and the window before."""
    for n, turnover in enumerate(SUMS):
        figures = {
            **{"rank_volume": n + 1, "turnover_krw": turnover, "change_rate": Decimal("-0.0123")},
            **{"volatility": Decimal(n) / 1000, "window_high": n + 2, "window_low": n + 1, "rank_volatility": 10 - n},
        }
        yield stats(f"KRW-C{n}", NEWEST, f"{n + 1}.5", figures)
    eleventh = {"rank_volume": 11, "turnover_krw": Decimal("5.5"), "rank_volatility": 11}
    yield stats("BTC-C1", NEWEST, "1E-8", eleventh)
    for market in ("XYZ-A", "XYZ-B"):
        yield stats(market, NEWEST, "1", {"rank_volume": 12, "turnover_krw": None, "rank_volatility": 11})
    yield stats("KRW-C0", BEFORE, "99", {"vwap": Decimal("98.7654321"), "turnover_krw": SUMS[0] * 2})


def january_stats() -> Iterator[dict[str, Any]]:
    """KRW-BTC's windows around 29 January in Seoul, and one of KRW-ETH."""
    for start, price, vwap in (
        (JANUARY - WINDOW, "100", "100.1"),
        (JANUARY, "101", "101.123456789012345678"),
        (JANUARY + DAY - WINDOW, "102", None),
        (JANUARY + DAY, "103", "103.1"),
    ):
        yield stats("KRW-BTC", start, price, {"vwap": vwap and Decimal(vwap)})
    yield stats("KRW-ETH", JANUARY, "7", {})


def books() -> Iterator[dict[str, Any]]:
    for start, market, mean in (
        *((NEWEST, "KRW-BTC", "1.25"), (NEWEST, "KRW-ETH", "9"), (BEFORE, "KRW-BTC", "2.5"), (JANUARY, "KRW-BTC", "3")),
        *((JANUARY + DAY - WINDOW, "KRW-BTC", "4"), (JANUARY + DAY, "KRW-BTC", "5")),
    ):
        yield {
            **{"ingested_at": start + timedelta(minutes=9), "window_start": start, "market": market},
            **{"quote_currency": "KRW", "best_bid": 99, "best_ask": 101, "mid_price": 100, "spread_bps": 200},
            **{"spread_bps_mean": Decimal(mean), "bid_depth_01": 1, "ask_depth_01": 2, "bid_depth_05": 3},
            **{"ask_depth_05": 4, "bid_depth_1": 5, "ask_depth_1": 6, "imbalance": Decimal("-0.0909090909")},
            **{"reach": Decimal("0.015")},
        }


def exchange_day(days: int) -> datetime:
    """The exchange's day of the 29th of January, or one so many days after it: it starts at 09:00."""
    return JANUARY + days * DAY + timedelta(hours=9)


def daily() -> Iterator[dict[str, Any]]:
    for days, market, rank in ((-30, "KRW-BTC", 1), (0, "KRW-BTC", 2), (0, "KRW-ETH", 1), (1, "KRW-BTC", 1)):
        yield {
            **{"day": exchange_day(days), "market": market, "quote_currency": "KRW", "opening_price": 1},
            **{"high_price": 4, "low_price": Decimal("0.5"), "closing_price": 3, "volume": 10},
            **{"turnover": 20, "turnover_krw": 20, "rank_turnover": rank, "vwap": Decimal("2.0000000000000001")},
            **{"vwap_source": "trades", "realized_volatility": Decimal("0.0123456789"), "rank_volatility": 1},
            **{"minutes_traded": 1400, "minutes_silent": 30, "minutes_missing": 10},
        }


def coverage() -> Iterator[dict[str, Any]]:
    today = {"day": NOW.replace(hour=9, minute=0) - DAY, "minutes_traded": 1440, "minutes_silent": 0, "pages": 8}
    yield today | {"market": "KRW-BTC", "minutes_missing": 0, "problem": None}
    for days, market, missing in ((0, "KRW-BTC", 0), (0, "KRW-ETH", 40), (1, "KRW-BTC", 5)):
        yield {
            **{"day": exchange_day(days), "market": market, "minutes_traded": 1400 - missing, "minutes_silent": 40},
            **{"minutes_missing": missing, "problem": "gone" if missing == 40 else None, "pages": 8},
        }


def kst(start: datetime) -> datetime:
    return start.astimezone(SEOUL).replace(tzinfo=None)


def rows(reader: psycopg.Connection[Any], card: str, **values: Any) -> list[tuple[Any, ...]]:
    """The card's rows; the same with bound or literal values, and in any time zone."""
    seen = []
    for zone in ("UTC", "Asia/Seoul"):
        reader.execute(f"SET timezone = '{zone}'")
        for inline in (False, True):
            sql, bound = in_metabases_way(CARDS[card].sql, values, inline=inline)
            cursor = reader.execute(sql, bound) if bound else reader.execute(sql.replace("%%", "%"))
            seen.append(cursor.fetchall())
    assert all(each == seen[0] for each in seen)
    return seen[0]


def test_turnover_top10_are_the_newest_windows_ten_largest_to_the_last_digit(reader):
    assert rows(reader, "turnover_top10") == [
        (n + 1, f"KRW-C{n}", Decimal(f"{n + 1}.5"), Decimal("-0.0123"), SUMS[n], kst(NEWEST)) for n in range(10)
    ]


def test_volatility_rank_begins_with_the_most_volatile(reader):
    first, *_, last = shown = rows(reader, "volatility_rank")
    assert first == (1, "KRW-C9", Decimal("0.009"), 11, 10, Decimal("10.5"), kst(NEWEST))
    assert [row[1] for row in shown[-3:]] == ["BTC-C1", "XYZ-A", "XYZ-B"]
    assert last[0] == 11


def test_volatility_rank_stays_with_the_window_before_until_a_price_has_moved(reader):
    before = rows(reader, "volatility_rank")
    reader.execute("RESET ROLE")
    reader.execute(
        """INSERT INTO gold.market_stats (ingested_at, window_start, market, trade_price, daily_volume, rank_volume,
                                          rank_volatility, turnover, quote_currency, change_rate, volatility,
                                          window_high, window_low)
           VALUES (%(now)s, %(now)s, 'KRW-C1', 1, 1, 1, 1, 1, 'KRW', 0, 0, 1, 1)""",
        {"now": NOW},
    )
    reader.execute("UPDATE gold.market_stats_build SET gold_rows = 1 WHERE window_start = %s", [NOW])
    assert rows(reader, "volatility_rank") == before
    reader.execute("UPDATE gold.market_stats SET volatility = 1e-10 WHERE window_start = %s", [NOW])
    assert [row[1] for row in rows(reader, "volatility_rank")] == ["KRW-C1"]


def test_turnover_by_quote_adds_up_each_currency_and_counts_what_has_no_rate(reader):
    assert rows(reader, "turnover_by_quote") == [
        ("KRW", Decimal("55000000000001.2345678901234567890"), 10, 0),
        ("BTC", Decimal("5.5"), 1, 0),
        ("XYZ", None, 2, 2),
    ]


@pytest.mark.parametrize("dates", [{"from": date(2020, 1, 29), "to": date(2020, 1, 29)}, {"to": date(2020, 1, 29)}])
def test_price_and_vwap_are_those_of_the_day_in_seoul_both_ends_included(reader, dates):
    evening = kst(JANUARY + DAY - WINDOW)
    assert rows(reader, "price_vwap", market="KRW-BTC", **dates) == [
        (kst(JANUARY), "KRW-BTC VWAP", Decimal("101.123456789012345678")),
        (kst(JANUARY), "KRW-BTC 현재가", 101),
        (evening, "KRW-BTC VWAP", None),
        (evening, "KRW-BTC 현재가", 102),
    ]


def test_price_and_vwap_have_a_line_each_of_several_markets(reader):
    shown = rows(
        reader, "price_vwap", market=["KRW-BTC", "KRW-ETH"], **{"from": date(2020, 1, 28), "to": date(2020, 2, 1)}
    )
    assert {row[1] for row in shown} == {f"KRW-{coin} {line}" for coin in ("BTC", "ETH") for line in ("현재가", "VWAP")}
    assert len(shown) == 10


def test_without_dates_price_and_vwap_are_those_of_the_last_day(reader):
    assert rows(reader, "price_vwap", market=["KRW-C0"]) == [
        (kst(BEFORE), "KRW-C0 VWAP", Decimal("98.7654321")),
        (kst(BEFORE), "KRW-C0 현재가", 99),
        (kst(NEWEST), "KRW-C0 VWAP", None),
        (kst(NEWEST), "KRW-C0 현재가", Decimal("1.5")),
    ]


def test_spread_is_the_mean_of_each_window_of_the_chosen_markets(reader):
    assert rows(reader, "spread", market="KRW-BTC") == [
        (kst(BEFORE), "KRW-BTC", Decimal("2.5")),
        (kst(NEWEST), "KRW-BTC", Decimal("1.25")),
    ]
    day = {"from": date(2020, 1, 29), "to": date(2020, 1, 29)}
    assert [row[2] for row in rows(reader, "spread", market="KRW-BTC", **day)] == [3, 4]


@pytest.mark.parametrize(("values", "markets"), [({}, ["KRW-BTC", "KRW-ETH"]), ({"market": "KRW-ETH"}, ["KRW-ETH"])])
def test_depth_is_that_of_the_newest_window(reader, values, markets):
    figures = (99, 101, 200, 1, 2, 3, 4, 5, 6, Decimal("-0.0909090909"), Decimal("0.015"), kst(NEWEST))
    assert rows(reader, "depth", **values) == [(market, *figures) for market in markets]


FIGURES = (1, 4, Decimal("0.5"), 3, Decimal("2.0000000000000001"), 10, 20)


def test_daily_figures_come_the_newest_day_and_the_largest_turnover_first(reader):
    def row(day: date, market: str, rank: int) -> tuple[Any, ...]:
        return (day, market, *FIGURES, rank, Decimal("0.0123456789"), 1, 10)

    dates = {"from": date(2020, 1, 29), "to": date(2020, 1, 30)}
    the_29th, the_30th = date(2020, 1, 29), date(2020, 1, 30)
    both = [row(the_30th, "KRW-BTC", 1), row(the_29th, "KRW-ETH", 1), row(the_29th, "KRW-BTC", 2)]
    assert rows(reader, "market_daily", **dates) == both
    assert rows(reader, "market_daily", market="KRW-BTC", **dates) == [both[0], both[2]]


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        ({}, []),
        ({"from": date(2020, 1, 30)}, [30]),
        ({"to": date(2020, 1, 28)}, [30]),  # of December: 30 days with the last one
        ({"to": date(2020, 1, 29)}, [29, 29]),
    ],
)
def test_daily_figures_of_one_end_only(reader, dates, days):
    assert [row[0].day for row in rows(reader, "market_daily", **dates)] == days


def test_coverage_has_every_window_of_the_last_day_and_marks_the_missing_ones(reader):
    ((now,),) = reader.execute("SELECT now()")
    filling = windows.at(now).start
    reader.execute("RESET ROLE")
    for start in (filling - DAY - WINDOW, filling - DAY, filling - WINDOW):
        reader.execute("INSERT INTO silver.ticker_build VALUES (%s, 860, 855, 2, 3)", [start])
    reader.execute("SET ROLE upbit_reader")
    shown = rows(reader, "coverage_windows")
    assert [row[0] for row in shown] == [kst(filling - DAY + n * WINDOW) for n in range(145)]
    assert shown[0][1:] == shown[-2][1:] == (855, 2, 3, "수집")
    assert shown[-1][1:] == (0, 0, 0, "진행 중")
    assert {row[1:] for row in shown[1:-2]} == {(0, 0, 0, "미수집")}


def test_coverage_of_minutes_shows_what_is_missing_first(reader):
    day = {"from": date(2020, 1, 29), "to": date(2020, 1, 30)}
    the_29th, the_30th = date(2020, 1, 29), date(2020, 1, 30)
    assert rows(reader, "coverage_minutes", **day) == [
        (the_30th, "KRW-BTC", 1395, 40, 5, None),
        (the_29th, "KRW-ETH", 1360, 40, 40, "gone"),
        (the_29th, "KRW-BTC", 1400, 40, 0, None),
    ]
    assert [row[1] for row in rows(reader, "coverage_minutes", market=["KRW-ETH", "KRW-XRP"], **day)] == ["KRW-ETH"]
    assert rows(reader, "coverage_minutes") == [((NOW - DAY).date(), "KRW-BTC", 1440, 0, 0, None)]


def test_the_choices_of_the_filter_are_the_newest_windows_markets_the_largest_first(reader):
    assert rows(reader, "markets") == [(f"KRW-C{n}",) for n in range(10)] + [("BTC-C1",), ("XYZ-A",), ("XYZ-B",)]


def test_a_market_from_outside_is_a_value_and_never_sql(reader):
    hostile = "'; DROP TABLE gold.market_stats; --"
    sql, bound = in_metabases_way(CARDS["price_vwap"].sql, {"market": hostile}, inline=False)
    assert (reader.execute(sql, bound).fetchall(), bound) == ([], [hostile])


@pytest.fixture(scope="module")
def many(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The reader where there are 20 markets in 504 January windows and in the newest, instead of the known rows."""
    with connection.transaction(force_rollback=True):
        connection.execute("RESET ROLE")
        for table in (tables.gold_market_stats, tables.gold_orderbook_stats):
            connection.execute(f"DELETE FROM {table.fullname}")
            fill(connection, table)
            connection.execute(f"ANALYZE {table.fullname}")
        connection.execute("SET ROLE upbit_reader")
        yield connection


def fill(connection: psycopg.Connection[Any], table: sa.Table) -> None:
    facts = {
        **{each.name: "1" for each in table.columns if isinstance(each.type, sa.Numeric | sa.Integer)},
        **{
            "market": "'KRW-C' || m",
            "quote_currency": "'KRW'",
            "window_start": "w",
            "ingested_at": "w + interval '9 min'",
        },
    }
    del facts["id"]
    connection.execute(
        f"INSERT INTO {table.fullname} ({', '.join(facts)}) SELECT {', '.join(facts.values())} FROM "
        "(SELECT %s + n * interval '10 min' AS w FROM generate_series(0, 503) n UNION ALL SELECT %s) windows, "
        "generate_series(1, 20) m ORDER BY w",
        [JANUARY - 7 * DAY, NEWEST],
    )


def plan(many: psycopg.Connection[Any], card: str, **values: Any) -> dict[str, Any]:
    sql, bound = in_metabases_way(CARDS[card].sql, values, inline=False)
    ((found,),) = many.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", bound)
    return found[0]["Plan"]


def tables_read(node: dict[str, Any]) -> set[str]:
    """The tables and partitions that the plan actually read."""
    own = {node["Relation Name"]} if "Relation Name" in node and node["Actual Loops"] else set()
    return own.union(*map(tables_read, node.get("Plans", [])))


def blocks_read(node: dict[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


@pytest.mark.parametrize(("card", "table"), [("price_vwap", "market_stats"), ("spread", "orderbook_stats")])
def test_a_span_reads_its_own_months_and_the_markets_own_rows(many, card, table):
    of_a_day = plan(many, card, market="KRW-C7", **{"from": date(2020, 1, 23), "to": date(2020, 1, 23)})
    assert tables_read(of_a_day) == {f"{table}_202001"}
    assert blocks_read(of_a_day) < 144 + 20  # a block per row, and the index
    assert f"{table}_202001" not in tables_read(plan(many, card, market="KRW-C7"))


def test_daily_figures_read_the_months_of_their_span(many):
    span = {"from": date(2020, 1, 5), "to": date(2020, 1, 6)}
    assert tables_read(plan(many, "market_daily", **span)) == {"market_daily_202001"}


@pytest.mark.parametrize("card", ["turnover_top10", "volatility_rank", "turnover_by_quote", "depth", "markets"])
def test_the_newest_window_is_found_without_looking_at_the_others(many, card):
    of_newest = plan(many, card)
    assert not [name for name in tables_read(of_newest) if name.endswith("_202001")]
    assert blocks_read(of_newest) < 100


@pytest.mark.parametrize(("card", "points"), [("price_vwap", 169), ("spread", 253)])
def test_a_long_span_is_thinned_evenly_and_keeps_its_newest_window(many, card, points):
    sql, bound = in_metabases_way(CARDS[card].sql, {"market": "KRW-C7", "from": date(2020, 1, 1)}, inline=False)
    times = sorted({row[0] for row in many.execute(sql, bound)})
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert (len(times), times[-1], len(set(steps[:-1]))) == (points, kst(NEWEST), 1)
