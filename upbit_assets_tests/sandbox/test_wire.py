import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upbit_assets.sandbox import wire


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        ("91200000", "91200000.0"),
        ("91200000.00000000", "91200000.0"),
        ("-224000", "-224000.0"),
        ("0", "0.0"),
        ("0E-8", "0.0"),
        ("0.00016456", "0.00016456"),
        ("0.00005485", "5.485e-05"),
        ("-0.00005485", "-5.485e-05"),
        ("0.00000006", "6e-08"),
        ("27800806282.3986212345678", "27800806282.3986212345678"),
        ("1.2E+19", "12000000000000000000.0"),
    ],
)
def test_numbers_are_formatted_as_by_the_exchange(value, spelling):
    assert wire.number(Decimal(value)) == spelling


@given(st.decimals(allow_nan=False, allow_infinity=False, places=16, min_value=-(10**20), max_value=10**20))
def test_a_number_survives_the_wire_to_the_last_digit(value):
    assert json.loads(wire.number(value), parse_float=Decimal) == value


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none())))
def test_any_row_is_json_in_its_own_order(row):
    (back,) = json.loads(wire.array([wire.raw(row)]))
    assert list(back.items()) == list(row.items())


def test_nested_values_are_as_exact():
    assert wire.text([{"size": Decimal("1E-8"), "side": ["a", {}]}]) == '[{"size":1e-08,"side":["a",{}]}]'
