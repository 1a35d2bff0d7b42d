"""Values are unchanged by COPY."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from upbit_assets.postgres.resource import engine_for
from upbit_assets.postgres_io import REFUSALS, Records, copy_records, storable
from upbit_assets.postgres_io.copy import storable_text
from upbit_assets.postgres_io.frames import copy_frame
from upbit_assets_tests.postgres.lab import T0, figures

# the connection is one for all examples, and each example rolls back
real_database = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

decimals = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(-(10**27), 10**27),
    st.integers(-60, 30),
) | st.builds(lambda digits: Decimal("0." + digits), st.text("0123456789", min_size=60, max_size=60))
# PostgreSQL's text can't hold U+0000, and UTF-8 no surrogates
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
awkward = st.sampled_from(
    ["", " ", ",", '"', '""', "'", "\\", "\\N", "\\.", "NULL", "null", "\n", "\r\n", "a\nb", "한글", "🪙", "\t"]
)
zones = st.sampled_from([UTC, ZoneInfo("Asia/Seoul"), ZoneInfo("America/New_York"), timezone(timedelta(hours=5.5))])
moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=zones, allow_imaginary=False)  # noqa: DTZ001


@pytest.fixture
def connection(lab_url: str) -> Iterator[sa.Connection]:
    with engine_for(lab_url).connect() as connection:
        yield connection


def arrived(connection: sa.Connection, column: str) -> list[Any]:
    """The column's values in row order, from a transaction that is rolled back."""
    values = list(connection.scalars(sa.select(figures.c[column]).order_by(sa.cast(figures.c.market, sa.Integer))))
    connection.rollback()
    return values


def in_utc(moment: datetime | None) -> datetime | None:
    """The instant: Python never compares times of two zones as equal in the repeated hour of a clock change."""
    return moment.astimezone(UTC) if moment else None


def frame_of(column: str, values: list[Any], dtype: Any = object) -> pd.DataFrame:
    frame = pd.DataFrame({"at": T0, "market": [str(number) for number in range(len(values))]})
    return frame.assign(**{column: pd.Series(values, dtype=dtype)})


class TestFrames:
    @real_database
    @given(st.lists(st.none() | decimals, min_size=1, max_size=8))
    def test_decimals_arrive_with_every_digit(self, connection: sa.Connection, values: list[Any]):
        copy_frame(connection, figures, frame_of("price", values))

        assert arrived(connection, "price") == values

    @real_database
    @given(st.lists(st.none() | awkward | texts, min_size=1, max_size=8))
    @example([None, ""])
    def test_texts_arrive_unchanged_and_empty_is_not_null(self, connection: sa.Connection, values: list[Any]):
        for dtype in (object, "str"):
            copy_frame(connection, figures, frame_of("note", values, dtype))

            assert arrived(connection, "note") == values

    @real_database
    @given(st.lists(st.none() | moments, min_size=1, max_size=8))
    def test_timestamps_keep_their_instant_to_the_microsecond(self, connection: sa.Connection, values: list[Any]):
        for seen in (values, pd.to_datetime(values, utc=True)):
            copy_frame(connection, figures, frame_of("seen", list(seen)))

            assert [in_utc(moment) for moment in arrived(connection, "seen")] == [in_utc(moment) for moment in values]

    def test_timestamps_of_a_zones_own_column_type_arrive(self, connection: sa.Connection):
        seen = pd.Series([T0 + timedelta(microseconds=1), None], dtype="datetime64[us, Asia/Seoul]")
        copy_frame(connection, figures, frame_of("seen", [0, 0]).assign(seen=seen))

        assert arrived(connection, "seen") == [T0 + timedelta(microseconds=1), None]

    @real_database
    @given(st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=8))
    def test_floats_arrive_bit_by_bit_where_the_column_holds_floats(self, connection: sa.Connection, values: list[Any]):
        copy_frame(connection, figures, frame_of("weight", values, "float64"))

        assert arrived(connection, "weight") == values

    @pytest.mark.parametrize(
        ("column", "values", "dtype"),
        [
            ("whole", [2**63 - 1, None, -(2**63)], "Int64"),
            ("whole", [2**53 + 1], "int64"),
            ("price", [2**63 - 1], "int64"),
            ("sure", [True, None, False], "boolean"),
            ("sure", [True, None, False], object),
        ],
    )
    def test_whole_numbers_and_truths_arrive(
        self, connection: sa.Connection, column: str, values: list[Any], dtype: Any
    ):
        copy_frame(connection, figures, frame_of(column, values, dtype))

        assert arrived(connection, column) == values

    def test_a_frame_of_several_blocks_arrives_whole(self, connection: sa.Connection, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("upbit_assets.postgres_io.frames.ROWS_A_BLOCK", 3)
        values = [Decimal(number) for number in range(10)]

        assert copy_frame(connection, figures, frame_of("price", values)) == 10
        assert arrived(connection, "price") == values

    def test_every_missing_value_is_null_in_an_exact_column(self, connection: sa.Connection):
        for missing in (float("nan"), Decimal("NaN"), pd.NA):
            copy_frame(connection, figures, frame_of("price", [Decimal("0.1"), missing]))

            assert arrived(connection, "price") == [Decimal("0.1"), None]

    def test_floats_in_a_later_block_are_refused_too(self, connection: sa.Connection, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("upbit_assets.postgres_io.frames.ROWS_A_BLOCK", 3)
        rows = frame_of("price", [Decimal(number) for number in range(9)] + [0.1])

        with pytest.raises(ValueError, match="price is exact"):
            copy_frame(connection, figures, rows)


class TestRecords:
    @real_database
    @given(st.lists(st.tuples(decimals, st.none() | awkward | texts, moments), min_size=1, max_size=8))
    def test_values_arrive_unchanged(self, connection: sa.Connection, values: list[tuple[Any, ...]]):
        records = Records(
            ("at", "market", "price", "note", "seen"), [(T0, str(n), *row) for n, row in enumerate(values)]
        )
        copy_records(connection, figures, records)

        found = connection.execute(
            sa.select(figures.c.price, figures.c.note, figures.c.seen).order_by(sa.cast(figures.c.market, sa.Integer))
        )
        assert [(price, note, in_utc(seen)) for price, note, seen in found] == [
            (price, note, in_utc(seen)) for price, note, seen in values
        ]
        connection.rollback()

    @pytest.mark.parametrize(
        ("column", "values"),
        [("weight", [0.1, None]), ("whole", [2**63 - 1, None]), ("sure", [True, None]), ("document", ["{}", None])],
    )
    def test_every_column_type_is_accepted_and_none_is_null(
        self, connection: sa.Connection, column: str, values: list[Any]
    ):
        rows = [(T0, str(number), value) for number, value in enumerate(values)]
        copy_records(connection, figures, Records(("at", "market", column), rows))

        assert arrived(connection, column) == [{} if value == "{}" else value for value in values]

    def test_an_unknown_column_is_rejected(self, connection: sa.Connection):
        with pytest.raises(ValueError, match=r"lab\.figures has no column nope"):
            copy_records(connection, figures, Records(("at", "nope"), [(T0, 1)]))


def documents(connection: sa.Connection, texts: list[str]) -> list[str]:
    """The texts as stored by a single COPY."""
    records = Records(("at", "market", "document"), [(T0, str(number), text) for number, text in enumerate(texts)])
    connection.begin()
    try:
        copy_records(connection, figures, records)
    except REFUSALS:
        connection.rollback()
        copy_records(connection, figures, storable(connection, figures, records))
    found = connection.execute(
        sa.text("SELECT document::text FROM lab.figures WHERE market ~ '^[0-9]+$' ORDER BY market::integer")
    )
    values = [text for (text,) in found]
    connection.rollback()
    return values


def as_jsonb(connection: sa.Connection, text: str) -> str | None:
    """The text as PostgreSQL converts it; None if it rejects it."""
    try:
        return connection.execute(sa.text("SELECT CAST(:text AS jsonb)::text"), {"text": text}).scalar_one()
    except sa.exc.DataError:
        return None
    finally:
        connection.rollback()


number_texts = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,45})(\.[0-9]{1,45})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["1E-7", "1.16539E8", "9.9E-7", "1e400", "1e999999", "-0", "0.10", "01", "1.", ".5", "+1"]),
)
leaves = number_texts | st.sampled_from(
    [
        "NaN",
        "-Infinity",
        "null",
        "true",
        '"\\u0000"',
        '"\\ud800"',
        '"\\udc00x"',
        '"\\ud83e\\ude99"',
        '"a\nb"',
        "",
        "tru",
    ]
)
leaves |= texts.map(json.dumps) | texts.map(lambda text: json.dumps(text, ensure_ascii=False))
names = st.sampled_from(['"a"', '"b"', '"market"', '"한글"', '"\\u0000"', "a"])
json_ish = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
        | st.lists(st.tuples(names, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)


class TestDocuments:
    @pytest.mark.parametrize(
        ("sent", "held"),
        [
            ('{"a": 1234567890123456789012345678901234567890.0123456789}',) * 2,
            ('{"a": 1E-7}', '{"a": 0.0000001}'),
            ('{"a": 1.16539E8}', '{"a": 116539000}'),
            ('{"a": 0.10}',) * 2,
            ('{"a": 1, "b": 2, "a": 3}', '{"a": 3, "b": 2}'),
            ('{"b": 1, "aa": 2}',) * 2,
            ('"\\ud83e\\ude99"', '"🪙"'),
        ],
    )
    def test_a_document_arrives_as_jsonb_has_it(self, connection: sa.Connection, sent: str, held: str):
        assert documents(connection, [sent]) == [held]

    @pytest.mark.parametrize(
        "refused",
        [
            '{"a": NaN}',
            '{"a": "\\u0000"}',
            '{"a": "\\ud800"}',
            '{"a": 1e999999}',
            '{"a": "line\nbreak"}',
            "{'a': 1}",
            "",
            "[" * 20_000 + "]" * 20_000,
        ],
        ids=["NaN", "U+0000", "lone surrogate", "boundless", "raw line break", "no JSON", "empty", "too deep"],
    )
    def test_a_document_that_jsonb_rejects_is_stored_as_a_string(self, connection: sa.Connection, refused: str):
        before, kept, after = documents(connection, ['{"a": 1.50}', refused, "[2]"])

        assert json.loads(kept) == refused
        assert (before, after) == ('{"a": 1.50}', "[2]")

    def test_a_nul_character_is_stored_as_a_json_escape(self, connection: sa.Connection):
        kept, after = documents(connection, ['{"a": "\0"}', "[2]"])

        assert json.loads(kept) == '{"a": "\\u0000"}'
        assert after == "[2]"

    @real_database
    @given(st.lists(json_ish, min_size=1, max_size=6))
    def test_each_document_is_equal_jsonb_or_the_string(self, connection: sa.Connection, sent: list[str]):
        found = documents(connection, sent)

        for text, held in zip(sent, found, strict=True):
            alone = as_jsonb(connection, text)
            assert held == alone if alone is not None else json.loads(held) == text

    def test_a_bad_value_in_another_column_does_not_change_documents(self, connection: sa.Connection):
        records = Records(("at", "market", "document"), [(T0, "a" * 31, "[1]")])

        with pytest.raises(psycopg.errors.StringDataRightTruncation):
            copy_records(connection, figures, records)

    def test_a_statement_timeout_is_not_a_rejected_document(self, connection: sa.Connection):
        connection.execute(sa.text("SET LOCAL statement_timeout = 1"))
        slow = "[" + "1," * 2_000_000 + "NaN]"

        with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
            storable_text(connection, slow)
