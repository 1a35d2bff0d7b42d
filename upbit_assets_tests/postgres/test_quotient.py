"""gold.quotient compared with exact fractions, for all values that silver accepts."""

from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

PLACES = 160  # decimals of any figure here


@pytest.fixture
def reader(market_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(market_url, autocommit=True) as connection:
        yield connection.execute("SET ROLE upbit_reader").connection


@st.composite
def amounts(draw: st.DrawFn) -> Decimal:
    """From 1e-20 to 1e20 with up to 26 significant digits, as observed from the exchange."""
    digits, first = draw(st.integers(1, 10**26)), draw(st.integers(-20, 19))
    return Decimal(digits).scaleb(first - len(str(digits)) + 1)


differences = st.builds(lambda one, other: one - other, amounts(), amounts()) | amounts() | st.just(Decimal(0))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(differences, amounts(), st.sampled_from([0, 10, 16, 20]))
@example(Decimal("12345678904999999999999999") / 10**26, Decimal(1), 10)  # which 16 digits would round twice
@example(Decimal(-5), Decimal(2), 0)
@example(Decimal(10) ** 20, Decimal("1e-20"), 16)
def test_a_quotient_is_right_in_its_last_decimal(reader, dividend: Decimal, divisor: Decimal, decimals: int):
    ((found, negative),) = reader.execute(
        "SELECT gold.quotient(%(one)s, %(other)s, %(decimals)s), gold.quotient(%(one)s, -%(other)s, %(decimals)s)",
        {"one": dividend, "other": divisor, "decimals": decimals},
    )
    assert found == rounded(Fraction(dividend) / Fraction(divisor), decimals)
    assert negative == found.copy_negate()
    assert found.as_tuple().exponent == -decimals


def rounded(figure: Fraction, decimals: int) -> Decimal:
    """Halves away from zero."""
    nearest = int(abs(figure) * 10**decimals + Fraction(1, 2))
    with localcontext(prec=PLACES):
        return Decimal(-nearest if figure < 0 else nearest).scaleb(-decimals)


def test_division_by_0_is_null(reader):
    assert reader.execute("SELECT gold.quotient(1, 0, 10), gold.quotient(NULL, 1, 10)").fetchall() == [(None, None)]


def test_the_function_is_inlined(reader):
    plan = reader.execute(
        "EXPLAIN (VERBOSE) SELECT gold.quotient(spread_bps, mid_price, 10) FROM gold.orderbook_stats"
    ).fetchall()
    assert "quotient" not in str(plan)
    assert "div(" in str(plan)
    kind = "SELECT provolatile::text, proparallel::text FROM pg_proc WHERE oid = 'gold.quotient'::regproc"
    assert reader.execute(kind).fetchall() == [("i", "s")]
