"""Order books: each is accepted exactly, rejected with a reason, or a duplicate; figures equal their definition."""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upbit_assets.assets.gold import gold_orderbook_stats
from upbit_assets.assets.silver import silver_orderbook
from upbit_assets.partitions import MINUTE, WINDOW
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets_tests.pipeline import (
    IN_THE_FUTURE,
    PAST,
    ask,
    compute,
    exact,
    materialize,
    metadata_of,
    put,
    rows,
    run_errors,
)

on_real_database = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
Level = tuple[str, str]  # price and size as the exchange formats them
PADDING: Level = ("0.0", "0.0")
FIGURES = ("bid_price", "bid_size", "ask_price", "ask_size")
MADE_AT = 1769662799123  # a moment before PAST


def book(market: str, bids: Sequence[Level], asks: Sequence[Level], /, **fields: str | None) -> str:
    """A book's JSON with the exchange's padding; `fields` as in `ticker`."""
    size = max(len(bids), len(asks))
    padded = [[*side, *[PADDING] * (size - len(side))] for side in (bids, asks)]
    units = [dict(zip(FIGURES, (*bid, *ask), strict=True)) for bid, ask in zip(*padded, strict=True)]
    return text_of({"market": json.dumps(market), "orderbook_units": listed(units), **fields})


def listed(units: Sequence[Mapping[str, str]]) -> str:
    levels = ("{" + ", ".join(f'"{name}": {text}' for name, text in unit.items()) + "}" for unit in units)
    return f"[{', '.join(levels)}]"


def text_of(fields: Mapping[str, str | None]) -> str:
    usual: dict[str, str | None] = {"timestamp": str(MADE_AT), "total_ask_size": "7.5", "total_bid_size": "0.0"}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in (usual | {**fields}).items() if text) + "}"


def collect(database: Database, *books: tuple[str, str], at: Any = PAST) -> None:
    put(database, tables.bronze_orderbook_raw, "market raw_data ingested_at", [(*each, at) for each in books])


def one(database: Database, url: str, bids: Sequence[Level], asks: Sequence[Level]) -> Any:
    """(bids, asks) of one book in silver."""
    collect(database, ("KRW-BTC", book("KRW-BTC", bids, asks)))
    compute(database, silver_orderbook, PAST)
    return silver(url)[0][1]


def silver(url: str) -> list[tuple[str, Any]]:
    """(market, (bids, asks)) of every accepted book."""
    books = ask(url, "SELECT market, bid_prices, bid_sizes, ask_prices, ask_sizes FROM silver.orderbook")
    return [
        (market, (list(zip(bids, bid_sizes, strict=True)), list(zip(asks, ask_sizes, strict=True))))
        for market, bids, bid_sizes, asks, ask_sizes in books
    ]


def decimals(*levels: Level) -> list[tuple[Decimal, Decimal]]:
    return [(Decimal(price), Decimal(size)) for price, size in levels]


BID, ASK = ("99.5", "2.0"), ("100.5", "3.0")
UNSOUND = "orderbook_units: not levels with a price and a size each, the best first"


@pytest.mark.parametrize(
    ("bids", "asks"),
    [
        ([BID, ("98", "1")], [ASK]),
        ([BID], []),
        ([], [ASK, ("101", "4e-8")]),
        ([("1.16538E8", "9.9E-7")], [("1.16539E8", "3.14159265358979323846264338")]),
        ([("12345678901234567.123456789", "1")], [("12345678901234567.12345678900000001", "1e20")]),
    ],
)
def test_levels_are_exact_and_best_first_without_padding(market_url: str, database: Database, bids, asks):
    assert one(database, market_url, bids, asks) == (decimals(*bids), decimals(*asks))


def test_a_book_that_is_all_padding_has_no_levels(market_url: str, database: Database):
    assert one(database, market_url, [PADDING, PADDING], []) == ([], [])


WRONG: list[tuple[list[Level], list[Level], dict[str, str | None], str]] = [
    ([ASK], [BID], {}, "orderbook_units: the best bid is not below the best ask"),
    ([BID], [(BID[0], "1")], {}, "orderbook_units: the best bid is not below the best ask"),
    ([("98", "1"), BID], [ASK], {}, UNSOUND),
    ([BID], [ASK, ("100.4", "1")], {}, UNSOUND),
    ([("99", "0.0")], [ASK], {}, UNSOUND),
    ([("0", "1")], [ASK], {}, UNSOUND),
    ([("-1", "1")], [ASK], {}, UNSOUND),
    ([("1e-21", "1")], [ASK], {}, UNSOUND),
    ([BID], [("1.1e20", "1")], {}, UNSOUND),
    ([('"99.5"', "1")], [ASK], {}, UNSOUND),
    ([BID], [("100.5", "null")], {}, UNSOUND),
    ([BID], [ASK], {"orderbook_units": "{}"}, UNSOUND),
    ([BID], [ASK], {"orderbook_units": "[]"}, UNSOUND),
    ([BID], [ASK], {"orderbook_units": "[[99.5, 2.0], 7, null]"}, UNSOUND),
    ([BID], [ASK], {"orderbook_units": '"none"'}, UNSOUND),
    ([BID], [ASK], {"orderbook_units": None}, UNSOUND),
    ([BID], [ASK], {"total_ask_size": "-1"}, "total_ask_size: negative or out of range"),
    ([BID], [ASK], {"total_bid_size": '"1"'}, "total_bid_size: not a number"),
    ([BID], [ASK], {"timestamp": "null"}, "timestamp: not a number"),
    ([BID], [ASK], {"timestamp": "17696627991230"}, f"timestamp: {IN_THE_FUTURE}"),
    ([BID], [ASK], {"market": None}, "market: missing"),
    ([BID], [("NaN", "1")], {}, "raw row: kept as text, jsonb refused it"),
]


def test_a_rejection_has_its_reason_and_the_others_are_accepted(market_url: str, database: Database):
    markets = [f"KRW-{nth:02}" for nth in range(len(WRONG))]
    bad = {market: book(market, *sides, **fields) for market, (*sides, fields, _) in zip(markets, WRONG, strict=True)}
    collect(database, *bad.items(), ("KRW-BTC", book("KRW-BTC", [BID], [ASK])))
    compute(database, silver_orderbook, PAST)

    reasons = ask(market_url, "SELECT reason FROM silver.orderbook_rejected ORDER BY market")
    assert reasons == [(reason,) for *_, reason in WRONG]
    assert ask(market_url, "SELECT market FROM silver.orderbook") == [("KRW-BTC",)]


def test_the_last_valid_duplicate_of_a_book_counts(market_url: str, database: Database):
    sides = [([BID], [ASK]), ([("99", "1")], [ASK]), ([ASK], [BID])]
    collect(database, *(("KRW-BTC", book("KRW-BTC", *each)) for each in sides))
    result = materialize("silver_orderbook", first=PAST)

    assert ask(market_url, "SELECT bid_prices FROM silver.orderbook") == [([Decimal(99)],)]
    assert rows(database, tables.silver_orderbook_build) == [(PAST, 3, 1, 1, 1)]
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations()), run_errors(result)


NO_FIGURES = ["null", '"1"', "{}", "[1]", "true", "-1.0", "0.0", "1e400", "1e-400", "NaN", '"\\u0000"']
STEPS = ["1000", "0.5", "1e-8", "0.00000000000000001234567"]
SIZES = ["0.00000001", "3.14159265358979323846264338", "5.485e-05", "4.8E+12", "12"]


@st.composite
def books(draw: st.DrawFn) -> tuple[str, str]:
    """A market and its book's JSON, in which anything may be wrong."""
    step, best = Decimal(draw(st.sampled_from(STEPS))), draw(st.integers(20, 10**8))
    market = draw(st.sampled_from(["KRW-BTC", "BTC-ETH", "USDT-BIGTIME"]))

    def side(nth: int, direction: int) -> list[Level]:
        distances = sorted(draw(st.lists(st.integers(0, 9), max_size=4, unique=True)))
        prices = [(best + nth + direction * distance) * step for distance in distances]
        spelt = draw(st.sampled_from(["f", "E"]))
        return [(format(price, spelt), draw(st.sampled_from(SIZES))) for price in prices]

    bids, asks = side(0, -1), side(1, 1)
    damage = draw(st.sampled_from(["none", "none", "swapped", "order", "figure", "field"]))
    if damage == "swapped":
        bids, asks = asks, bids
    sides = [bids, asks]
    if damage in ("order", "figure") and (levels := draw(st.sampled_from(sides))):
        if damage == "order":
            levels[:] = draw(st.permutations(levels))
        else:
            place, figure = draw(st.integers(0, len(levels) - 1)), draw(st.integers(0, 1))
            level = list(levels[place])
            level[figure] = draw(st.sampled_from(NO_FIGURES))
            levels[place] = (level[0], level[1])
    fields: dict[str, Any] = {}
    if damage == "field":
        name = draw(st.sampled_from(["market", "timestamp", "total_ask_size", "total_bid_size", "orderbook_units"]))
        fields[name] = draw(st.sampled_from([None, *NO_FIGURES]))
    return market, book(market, *sides, **fields)


def read(market: str, text: str) -> Any:
    """By definition: (bids, asks) of a valid book, None for any other."""
    if "NaN" in text or "\\u0000" in text:  # rejected by jsonb
        return None
    row = exact(text)
    total = [row.get(f"total_{side}_size") for side in ("ask", "bid")]
    if row.get("market") != market or row.get("timestamp") != MADE_AT or not all(map(is_amount, total)):
        return None
    units = row.get("orderbook_units")
    if not isinstance(units, list) or not units or not all(isinstance(unit, dict) for unit in units):
        return None
    sides = [[(unit.get(f"{side}_price"), unit.get(f"{side}_size")) for unit in units] for side in ("bid", "ask")]
    levels = [level for side in sides for level in side]
    if not all(is_amount(price) and is_amount(size) and (price == 0) == (size == 0) for price, size in levels):
        return None
    bids, asks = ([level for level in side if level != (0, 0)] for side in sides)
    rising = [price for price, _ in [*reversed(bids), *asks]]
    crossed = bids and asks and bids[0][0] >= asks[0][0]
    return (bids, asks) if rising == sorted(rising) and not crossed else None


def is_amount(figure: Any) -> bool:
    return isinstance(figure, Decimal) and (figure == 0 or Decimal("1e-20") <= figure <= Decimal("1e20"))


@on_real_database
@given(st.lists(books(), min_size=1, max_size=40))
def test_any_book_is_accepted_exactly_or_rejected_alone(market_url: str, database: Database, raws):
    ask(market_url, "DELETE FROM bronze.orderbook_raw")
    collect(database, *raws)
    compute(database, silver_orderbook, PAST)

    good = [(market, sides) for market, text in raws if (sides := read(market, text))]
    assert dict(silver(market_url)) == dict(good)
    rejected, last = len(raws) - len(good), len(dict(good))
    assert ask(market_url, "SELECT count(*) FROM silver.orderbook_rejected WHERE reason LIKE '%: %'") == [(rejected,)]
    assert rows(database, tables.silver_orderbook_build) == [
        (PAST, len(raws), last, rejected, len(raws) - last - rejected)
    ]


def in_gold(url: str, columns: str) -> list[tuple[Any, ...]]:
    return ask(url, f"SELECT {columns} FROM gold.orderbook_stats ORDER BY window_start, market")


def build(database: Database, *books: tuple[str, Sequence[Level], Sequence[Level]], last: int = 0) -> None:
    """Silver and gold of books a minute apart, from PAST on."""
    for minute, (market, bids, asks) in enumerate(books):
        collect(database, (market, book(market, bids, asks)), at=PAST + minute * MINUTE)
    for asset in (silver_orderbook, gold_orderbook_stats):
        compute(database, asset, PAST, PAST + last * WINDOW)


def stats(books: Sequence[tuple[Sequence[Level], Sequence[Level]]]) -> list[Decimal | None]:
    """By definition: the figures of a market with these two-sided books in a window."""
    spreads = []
    for sides in books:
        bids, asks = ([(Fraction(price), Fraction(size)) for price, size in side] for side in sides)
        middle = (bids[0][0] + asks[0][0]) / 2
        spreads.append(Fraction(to_10_digits((asks[0][0] - bids[0][0]) / middle * 10_000)))
    depth = {
        (share, side): total(price * size for price, size in levels if abs(price - middle) <= middle * Fraction(share))
        for share, (side, levels) in product(("0.001", "0.005", "0.01"), (("bid", bids), ("ask", asks)))
    }
    buyers, sellers = depth["0.01", "bid"], depth["0.01", "ask"]
    reach = [to_10_digits(abs(levels[-1][0] / middle - 1)) if len(levels) == 30 else None for levels in (bids, asks)]
    return [
        *map(whole, (bids[0][0], asks[0][0], middle)),
        *map(to_10_digits, (spreads[-1], total(spreads) / len(spreads))),
        *map(whole, depth.values()),
        to_10_digits((buyers - sellers) / (buyers + sellers)) if buyers + sellers else None,
        min((each for each in reach if each is not None), default=None),
        *reach,
    ]


def total(figures: Iterable[Fraction]) -> Fraction:
    return sum(figures, Fraction(0))


def to_10_digits(figure: Fraction) -> Decimal:
    """Rounds halves away from zero, as PostgreSQL does."""
    nearest = int(abs(figure) * 10**10 + Fraction(1, 2))
    return whole(Fraction(-nearest if figure < 0 else nearest, 10**10))


def whole(figure: Fraction) -> Decimal:
    """The fraction as a decimal."""
    with localcontext(prec=200):
        return Decimal(figure.numerator) / figure.denominator


COLUMNS = (
    "best_bid, best_ask, mid_price, spread_bps, spread_bps_mean, bid_depth_01, ask_depth_01, bid_depth_05, "
    "ask_depth_05, bid_depth_1, ask_depth_1, imbalance, reach, bid_reach, ask_reach"
)


@st.composite
def valid_books(draw: st.DrawFn) -> tuple[list[Level], list[Level]]:
    """Books of a market near 1000, with levels also exactly on the borders of the depths."""
    middle = draw(st.sampled_from([1000, 1001, 2000]))
    unit = Decimal(draw(st.sampled_from(["0.5", "1e-9", "61728.3950617283951"])))
    steps = st.lists(st.sampled_from([1, 2, 3, 5, 9, 10, 11, 15, 20, 21, 40]), min_size=1, max_size=8, unique=True)

    def side(direction: int) -> list[Level]:
        prices = [(middle + direction * step) * unit for step in sorted(draw(steps))]
        return [(str(price), draw(st.sampled_from(SIZES))) for price in prices]

    return side(-1), side(1)


@on_real_database
@given(st.lists(st.tuples(st.sampled_from(["KRW-BTC", "BTC-ETH", "USDT-ETH"]), valid_books()), min_size=1, max_size=9))
def test_gold_equals_its_definition(market_url: str, database: Database, books):
    ask(market_url, "DELETE FROM bronze.orderbook_raw")
    build(database, *((market, *sides) for market, sides in books))

    assert in_gold(market_url, f"market, {COLUMNS}") == [
        (market, *stats([sides for name, sides in books if name == market])) for market in sorted(dict(books))
    ]


def test_a_level_on_the_border_of_a_depth_is_within_it(market_url: str, database: Database):
    bids = [("999", "1"), ("995", "1"), ("990", "1"), ("989.9", "1")]
    build(database, ("KRW-A", bids, [("1001", "1"), ("1001.000001", "1"), ("1005", "1"), ("1010", "1")]))

    assert in_gold(market_url, "bid_depth_01, bid_depth_05, bid_depth_1, ask_depth_01, ask_depth_05, ask_depth_1") == [
        (999, 1994, 2984, 1001, Decimal("3007.000001"), Decimal("4017.000001"))
    ]


def test_a_spread_wider_than_2_percent_has_no_imbalance(market_url: str, database: Database):
    build(database, ("KRW-A", [("98.9", "1")], [("101.1", "1")]), ("KRW-B", [("99", "3")], [("101", "1")]))
    shown = metadata_of(materialize("gold_orderbook_stats", first=PAST), "gold_orderbook_stats")["tightest spreads"]

    found = in_gold(market_url, "market, bid_depth_1, ask_depth_1, imbalance")
    assert found == [("KRW-A", 0, 0, None), ("KRW-B", 297, 101, Decimal("0.4924623116"))]
    assert shown.count("| – |") == 1


def test_a_one_sided_book_has_no_figures_that_need_both_sides(market_url: str, database: Database):
    build(database, ("KRW-A", [("99", "1")], []), ("KRW-B", [("99", "1")], [("101", "1")]), ("KRW-C", [PADDING], []))
    build(database, ("KRW-D", [("9", "1")], [("11", "1")]))
    collect(database, ("KRW-B", book("KRW-B", [], [("101", "1")])), at=PAST + 5 * MINUTE)
    for asset in (silver_orderbook, gold_orderbook_stats):
        compute(database, asset, PAST)

    assert in_gold(market_url, "market, ingested_at, best_bid, best_ask, spread_bps_mean") == [
        ("KRW-A", PAST, 99, None, None),
        ("KRW-B", PAST + 5 * MINUTE, None, 101, 200),
        ("KRW-C", PAST + 2 * MINUTE, None, None, None),
        ("KRW-D", PAST, 9, 11, 2000),
    ]
    needing_two = [*COLUMNS.replace("best_bid, best_ask, ", "").replace("spread_bps_mean, ", "").split(", ")]
    for *figures, market in in_gold(market_url, f"{', '.join(needing_two)}, market"):
        assert all(figure is None for figure in figures) == (market != "KRW-D")
    assert rows(database, tables.gold_orderbook_stats_build, leave_out=("computed_at", "silver_computed_at")) == [
        (PAST, 4)
    ]


def test_reach_is_of_the_side_that_the_exchange_cut_off(market_url: str, database: Database):
    bids, asks = ([(str(1000 + sign * n), "1") for n in range(1, 31)] for sign in (-1, 1))
    build(
        database,
        *(("KRW-BOTH", bids, asks), ("KRW-BIDS", bids, asks[:29])),
        *(("KRW-ASKS", bids[:1], asks), ("KRW-NONE", bids[:29], asks[:2])),
    )

    cut = Decimal("0.03")
    assert in_gold(market_url, "market, bid_reach, ask_reach, reach") == [
        ("KRW-ASKS", None, cut, cut),
        ("KRW-BIDS", cut, None, cut),
        ("KRW-BOTH", cut, cut, cut),
        ("KRW-NONE", None, None, None),
    ]


def test_a_spread_is_exact_where_the_ask_is_many_times_the_bid(market_url: str, database: Database):
    books = [(f"KRW-{n}", [("1", "1")], [(str(n), "1")]) for n in (4, 6, 13, 28, 10**9, 10**20)]
    build(database, *books)

    assert in_gold(market_url, "market, spread_bps") == sorted(
        (market, to_10_digits(Fraction(20_000 * (int(asks[0][0]) - 1), int(asks[0][0]) + 1)))
        for market, _, asks in books
    )


def test_windows_of_a_range_equal_windows_computed_separately(market_url: str, database: Database):
    books = [("KRW-A", [(str(90 + nth), "1")], [ASK]) for nth in (0, 3, 5, 7, 6, 1, 2, 3, 8, 2, 7, 5)]
    build(database, *books, last=1)
    together = rows(database, tables.gold_orderbook_stats)
    for start in (PAST + WINDOW, PAST):
        compute(database, gold_orderbook_stats, start)

    assert rows(database, tables.gold_orderbook_stats) == together
    assert len(together) == 2
