import json
import time
import timeit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upbit_assets.upbit.replies import Row, split

SPACE = st.text(" \t\r\n", max_size=3)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(['"', "]", "],[", "\\", "\\\\]", "{", "\x7f", "한글", "\ud800"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?\Z").map(str)
TEXTS = st.one_of(st.builds(json.dumps, VALUES, ensure_ascii=st.booleans()), NUMBERS)


@given(st.lists(st.tuples(SPACE, TEXTS, SPACE)), SPACE, SPACE, SPACE)
def test_every_element_is_returned_exactly(elements, before, inside, after):
    inner = ",".join(left + text + right for left, text, right in elements) or inside
    rows = split(f"{before}[{inner}]{after}")
    assert rows == [text for _, text, _ in elements]


@given(st.lists(TEXTS, min_size=1, max_size=4), st.data())
def test_every_truncation_is_detected(elements, data):
    whole = f"[{','.join(elements)}]"
    with pytest.raises(ValueError, match="is "):
        split(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    "odd",
    [
        '{"market":"KRW-ODD","trade_price":NaN}',
        '{"market":"KRW-ODD","trade_price":-Infinity}',
        '{"market":"KRW-ODD","trade_price":' + "9" * 5000 + "}",
        '{"market":"KRW-ODD","trade_price":1e999999}',
        '{"market":"KRW-ODD","name":"\\u0000 \\ud800 \t ]},{\\""}',
        '{"deep":{"market":"no"},"market":"KRW-ODD","list":[[1,[2]],"]"]}',
        '{"market":"KRW-ODD","deep":' + "[" * 1_200 + '{"}]":"\\"]"}' + "]" * 1_200 + "}",
        '{"market":"KRW-ODD","deep":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
        '{"market":"KRW-ODD","text":"' + "x" * 2_000_000 + '"}',
        '{"market":"KRW-ODD","bytes":"\\xff"}',
        '{"market":"KRW-ODD","price":nonsense}',
    ],
)
def test_a_malformed_row_does_not_lose_the_others(odd):
    good = '{"market":"KRW-BTC","trade_price":1.16539E8}'
    rows = split(f"[{good},{odd},{good}]")
    assert rows == [good, odd, good]
    assert [row.market for row in rows] == ["KRW-BTC", "KRW-ODD", "KRW-BTC"]


@pytest.mark.parametrize("nameless", ["{}", '{"market":null}', '{"market":7}', '"KRW-BTC"', "[1]", "null", "1.0"])
def test_an_element_without_a_market_has_an_empty_one(nameless):
    rows = split(f"[ {nameless} ]")
    assert rows == [nameless]
    assert rows[0].market == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{}",
        "<html>",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[1 2]",
        "[1]]",
        "[1] x",
        "[,1]",
        "[nan]",
        "[" * 200_000,
    ],
)
def test_anything_but_one_array_is_an_error(text):
    with pytest.raises(ValueError, match="is "):
        split(text)


def test_a_large_reply_is_split_in_milliseconds():
    ticker = {f"a_field_of_the_ticker_{number}": 12345.678 * number for number in range(18)}
    text = json.dumps([{"market": f"KRW-C{number}"} | ticker for number in range(855)])
    assert min(timeit.repeat(lambda: split(text), timer=time.process_time, number=1, repeat=20)) < 0.1


TRICKY = st.text(alphabet='{}[],:"\\ 가market', max_size=12)


@st.composite
def as_the_exchange_writes(draw: st.DrawFn) -> list[Row]:
    """Rows that begin with their market, whatever their strings hold."""
    more = st.dictionaries(TRICKY.map("x{}".format), TRICKY | st.integers() | st.lists(TRICKY), max_size=3)
    objects = draw(st.lists(st.builds(lambda market, more: {"market": market} | more, TRICKY, more), min_size=1))
    return [Row(json.dumps(each, separators=(",", ":"), ensure_ascii=False)) for each in objects]


def array_of(rows: list[Row]) -> str:
    return f"[{','.join(rows)}]"


@given(as_the_exchange_writes())
def test_rows_are_split_correctly_whatever_their_strings(rows):
    cut = split(array_of(rows))
    assert cut == rows
    assert [row.market for row in cut] == [json.loads(row)["market"] for row in rows]


@given(as_the_exchange_writes(), st.data())
@example([Row('{"market":"A","x":"}]"}')], None)
@example([Row('{"market":"}]"}')], None)
def test_truncated_rows_are_detected(rows, data):
    whole = array_of(rows)
    cuts = [data.draw(st.integers(0, len(whole) - 1))] if data else range(len(whole))
    for cut in cuts:
        with pytest.raises(ValueError, match="is "):
            split(whole[:cut])


def test_of_two_markets_in_one_row_the_last_counts_as_for_jsonb():
    good, twice = '{"market":"A"}', '{"market":"B","x":1,"market":"C"}'
    rows = split(f"[{good},{twice},{good}]")
    assert rows == [good, twice, good]
    assert [row.market for row in rows] == ["A", "C", "A"]


def test_a_row_that_is_not_json_does_not_lose_the_others():
    good, torn = '{"market":"A","x":1}', '{"market":"B","x":"1}'
    rows = split(f"[{good},{torn},{good}]")
    assert rows == [good, torn, good]
    assert [row.market for row in rows] == ["A", "B", "A"]
