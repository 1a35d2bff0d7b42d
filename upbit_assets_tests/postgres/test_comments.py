"""Each column has a comment; a figure's has its unit, bounds, decimals and when it is NULL."""

import re

import pytest
import sqlalchemy as sa

from upbit_assets.postgres import tables

COLUMNS = [column for table in tables.metadata.sorted_tables for column in table.columns]
FIGURES = [
    column
    for column in COLUMNS
    if column.table.schema in ("silver", "gold")
    and isinstance(column.type.item_type if isinstance(column.type, sa.ARRAY) else column.type, sa.Numeric)
]
UNIT = "in the quote currency|in units of the coin|in KRW|in basis points|a fraction"
BOUNDS = r"-?\d[\d,]*(e-?\d+)? to -?\d[\d,]*(e\d+)?|0 or more|1 all buyers, -1 all sellers"
QUOTIENT = r" / |√"


@pytest.mark.parametrize("column", COLUMNS, ids=str)
def test_a_column_says_what_it_is_and_when_it_is_null(column: sa.Column):
    assert column.comment
    assert "NULL" in column.comment or not column.nullable


@pytest.mark.parametrize("column", FIGURES, ids=str)
def test_a_figure_says_its_unit_and_bounds_and_a_quotient_its_decimals(column: sa.Column):
    comment = column.comment or ""
    assert re.search(UNIT, comment, re.IGNORECASE), comment
    assert re.search(BOUNDS, comment), comment
    if re.search(QUOTIENT, comment) and column.name not in ("change_rate", "mid_price"):
        assert re.search(r"to \d\d decimals", comment), comment
