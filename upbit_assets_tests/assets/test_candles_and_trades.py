"""Candles and trades: each raw row is accepted exactly, rejected with a reason, or a duplicate."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from dagster import AssetsDefinition
from psycopg.types.range import Range

from upbit_assets.assets import pages
from upbit_assets.assets.silver import silver_candle, silver_trade
from upbit_assets.partitions import DAY, MINUTE, SEOUL, days
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.upbit import Row
from upbit_assets_tests.pipeline import IN_THE_FUTURE, ask, checks, compute, materialize, put, rows

TODAY = datetime(2026, 1, 29, 9, tzinfo=SEOUL)  # midnight UTC
COLLECTED = TODAY + 2 * DAY
Fields = Mapping[str, str | None]
NO_FIGURES = ["null", '"1"', "{}", "[1]", "true", None]
HALF_PAST = TODAY + 30 * MINUTE


def quoted(moment: datetime, form: str = "%Y-%m-%dT%H:%M:%S") -> str:
    return json.dumps(moment.strftime(form))


def milliseconds(moment: datetime) -> str:
    return str(round(moment.timestamp() * 1000))


def candle(start: datetime, **fields: str | None) -> str:
    """A candle's JSON that silver accepts, unless `fields` (raw JSON each; None: omitted) change it."""
    return text_of(
        {
            "market": '"KRW-BTC"',
            "candle_date_time_utc": quoted(start.astimezone(UTC)),
            "candle_date_time_kst": quoted(start.astimezone(SEOUL)),
            "opening_price": "100.0",
            "high_price": "120.5",
            "low_price": "99.5",
            "trade_price": "110.0",
            "timestamp": milliseconds(start + timedelta(seconds=59, milliseconds=500)),
            "candle_acc_trade_price": "1087.5",
            "candle_acc_trade_volume": "10.25",
            "unit": "1",
            **fields,
        }
    )


def trade(id_: int | str, at: datetime = HALF_PAST, **fields: str | None) -> str:
    """The same for a trade."""
    return text_of(
        {
            "market": '"KRW-BTC"',
            "trade_date_utc": quoted(at.astimezone(UTC), "%Y-%m-%d"),
            "trade_time_utc": quoted(at.astimezone(UTC), "%H:%M:%S"),
            "timestamp": milliseconds(at),
            "trade_price": "100.0",
            "trade_volume": "0.25",
            "ask_bid": '"ASK"',
            "sequential_id": str(id_),
            **fields,
        }
    )


def text_of(fields: Fields) -> str:
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items() if text is not None) + "}"


def collect(
    database: Database,
    table: sa.Table,
    said: Callable[[Row], pages.KeyedRow],
    texts: Iterable[str],
    day: datetime = TODAY,
) -> None:
    """Put these rows into bronze, with the keys that collecting gives them."""
    raws = [("KRW-BTC", text, COLLECTED, day, said(Row(text)).key) for text in texts]
    put(database, table, "market raw_data ingested_at day key", raws)


def put_candles(database: Database, *texts: str, day: datetime = TODAY) -> None:
    collect(database, tables.bronze_candle_raw, pages.candle, texts, day)


def put_trades(database: Database, *texts: str, day: datetime = TODAY) -> None:
    collect(database, tables.bronze_trade_raw, pages.trade, texts, day)


def reasons(url: str, kind: str) -> list[str]:
    """The rejected rows' reasons, in the order of collection."""
    return [reason for (reason,) in ask(url, f"SELECT reason FROM silver.{kind}_rejected ORDER BY bronze_id")]


PRICES = ("opening_price", "high_price", "low_price", "trade_price")
ANOTHER_DAY = "candle_date_time_utc: of another day"
NO_MINUTE = "candle_date_time_utc: not the start of a minute"
NOT_NINE = "candle_date_time_kst: not nine hours after the UTC time"
BETWEEN = "low_price, high_price: the other prices are not between them"
WRONG_CANDLES: list[tuple[Fields, str]] = [
    *(({name: text}, f"{name}: not a number") for name in PRICES for text in NO_FIGURES),
    *(({name: "0.0"}, f"{name}: not positive, or out of range") for name in PRICES),
    *(({name: "1e400"}, f"{name}: not positive, or out of range") for name in PRICES),
    ({"high_price": "99.0"}, BETWEEN),
    ({"high_price": "109.9"}, BETWEEN),
    ({"low_price": "100.1"}, BETWEEN),
    ({"candle_acc_trade_volume": "-1"}, "candle_acc_trade_volume: negative or out of range"),
    ({"candle_acc_trade_volume": '"10.25"'}, "candle_acc_trade_volume: not a number"),
    ({"candle_acc_trade_price": "1e-400"}, "candle_acc_trade_price: negative or out of range"),
    ({"timestamp": "null"}, "timestamp: not a number"),
    ({"timestamp": "1e14"}, f"timestamp: {IN_THE_FUTURE}"),
    ({"timestamp": milliseconds(HALF_PAST - timedelta(milliseconds=1))}, "timestamp: before the candle began"),
    ({"candle_date_time_utc": None}, NO_MINUTE),
    ({"candle_date_time_utc": "1769646600000"}, NO_MINUTE),
    ({"candle_date_time_utc": '"2026-01-29T00:30:01"'}, NO_MINUTE),
    ({"candle_date_time_utc": '"2026-01-29T00:30:00Z"'}, NO_MINUTE),
    ({"candle_date_time_utc": '"2026-01-29T00:30:00+09:00"'}, NO_MINUTE),
    ({"candle_date_time_utc": '"2026-01-29 00:30:00"'}, NO_MINUTE),
    ({"candle_date_time_utc": '"2026-01-29T24:00:00"'}, NO_MINUTE),
    ({"candle_date_time_utc": '"2026-01-30T00:30:00"'}, ANOTHER_DAY),
    ({"candle_date_time_utc": '"2026-02-30T00:30:00"'}, ANOTHER_DAY),
    ({"candle_date_time_utc": quoted(HALF_PAST)}, NOT_NINE),  # KST instead of UTC
    ({"candle_date_time_kst": '"2026-01-29T00:30:00"'}, NOT_NINE),
    ({"market": '"KRW-ETH"'}, "market: longer than 30 characters, or not what bronze.market says"),
    ({"market": "null"}, "market: missing"),
    ({"trade_price": "NaN"}, "raw row: kept as text, jsonb refused it"),
]


def test_a_wrong_candle_is_rejected_with_its_reason_and_the_others_are_accepted(market_url: str, database: Database):
    put_candles(
        database, candle(TODAY), *(candle(HALF_PAST, **fields) for fields, _ in WRONG_CANDLES), candle(HALF_PAST)
    )
    compute(database, silver_candle, TODAY)

    assert reasons(market_url, "candle") == [reason for _, reason in WRONG_CANDLES]
    assert ask(market_url, "SELECT started_at FROM silver.candle ORDER BY 1") == [(TODAY,), (HALF_PAST,)]
    wrong = len(WRONG_CANDLES)
    assert rows(database, tables.silver_candle_build) == [(TODAY, wrong + 2, 2, wrong, 0)]


def test_a_candles_figures_are_exact_and_its_last_trade_may_be_stored_after_its_end(
    market_url: str, database: Database
):
    last_minute = TODAY + DAY - MINUTE
    late = last_minute + MINUTE + timedelta(milliseconds=31)
    figures = {"opening_price": "1.16539E8", "low_price": "9.9E-7", "high_price": "12345678901234567.123456789"}
    amounts = {"candle_acc_trade_price": "3.14159265358979323846264338", "candle_acc_trade_volume": "0.0"}
    put_candles(database, candle(last_minute, timestamp=milliseconds(late), **figures, **amounts))
    compute(database, silver_candle, TODAY)

    assert ask(
        market_url,
        "SELECT started_at, opening_price, low_price, high_price, closing_price, turnover, volume, last_traded_at, "
        "ingested_at FROM silver.candle",
    ) == [(last_minute, *map(Decimal, [*figures.values(), "110", *amounts.values()]), late, COLLECTED)]


def test_the_last_of_a_candles_duplicates_counts(market_url: str, database: Database):
    put_candles(database, candle(TODAY), candle(HALF_PAST), candle(TODAY, trade_price="111", timestamp="null"))
    put_candles(database, candle(TODAY, trade_price="112"))
    result = materialize("silver_candle", first=TODAY, axis=days)

    assert ask(market_url, "SELECT closing_price FROM silver.candle ORDER BY started_at") == [(112,), (110,)]
    assert rows(database, tables.silver_candle_build) == [(TODAY, 4, 2, 1, 1)]
    assert checks(result)["every_bronze_row_is_accounted_for"].passed


def test_a_candle_with_a_wrong_key_is_rejected_without_failing_the_day(market_url: str, database: Database):
    put_candles(database, candle(TODAY))
    put(
        database,
        tables.bronze_candle_raw,
        "market raw_data ingested_at day key",
        [("KRW-BTC", candle(TODAY), COLLECTED, TODAY, "2026-01-29T00:01:00")],
    )
    compute(database, silver_candle, TODAY)

    assert reasons(market_url, "candle") == ["candle_date_time_utc: not what bronze.key says"]
    assert ask(market_url, "SELECT started_at FROM silver.candle") == [(TODAY,)]


NO_KEY = "sequential_id: not what bronze.key says"
NOT_THE_TIME = "trade_date_utc, trade_time_utc: not the time that timestamp says"
WRONG_TRADES: list[tuple[Fields, str]] = [
    *(({"sequential_id": text}, "sequential_id: not a number") for text in NO_FIGURES),
    ({"sequential_id": "1.7E16"}, NO_KEY),
    ({"sequential_id": "17.5"}, NO_KEY),
    ({"sequential_id": "-17"}, NO_KEY),
    ({"sequential_id": "1234567890123456789"}, NO_KEY),  # 19 digits
    ({"sequential_id": "0"}, "sequential_id: not a whole number of at most 18 digits"),
    *(({name: "0.0"}, f"{name}: not positive, or out of range") for name in ("trade_price", "trade_volume")),
    *(({name: '"1"'}, f"{name}: not a number") for name in ("trade_price", "trade_volume")),
    ({"timestamp": "{}"}, "timestamp: not a number"),
    ({"timestamp": "0"}, "timestamp: before Upbit opened"),
    ({"timestamp": milliseconds(TODAY - timedelta(milliseconds=1))}, "timestamp: of another day"),
    ({"timestamp": milliseconds(TODAY + DAY)}, "timestamp: of another day"),
    ({"timestamp": milliseconds(HALF_PAST + timedelta(seconds=1))}, NOT_THE_TIME),
    ({"trade_time_utc": quoted(HALF_PAST, "%H:%M:%S")}, NOT_THE_TIME),  # KST instead of UTC
    ({"trade_time_utc": None}, NOT_THE_TIME),
    ({"trade_date_utc": "null"}, NOT_THE_TIME),
    *(({"ask_bid": side}, "ask_bid: neither ASK nor BID") for side in ('"ask"', '""', "null", None, "1")),
    ({"market": '"KRW-ETH"'}, "market: longer than 30 characters, or not what bronze.market says"),
    ({"trade_volume": "NaN"}, "raw row: kept as text, jsonb refused it"),
]


def test_a_wrong_trade_is_rejected_with_its_reason_and_the_others_are_accepted(market_url: str, database: Database):
    put_trades(
        database, trade(1), *(trade(100 + nth, HALF_PAST, **fields) for nth, (fields, _) in enumerate(WRONG_TRADES))
    )
    compute(database, silver_trade, TODAY)

    assert reasons(market_url, "trade") == [reason for _, reason in WRONG_TRADES]
    assert ask(market_url, "SELECT trade_id FROM silver.trade") == [(1,)]
    assert rows(database, tables.silver_trade_build) == [(TODAY, len(WRONG_TRADES) + 1, 1, len(WRONG_TRADES), 0)]


def test_trades_alike_but_for_the_id_are_two_and_the_same_id_twice_is_one(market_url: str, database: Database):
    ids = [9007199254740993, 17696466000000001, 17696466000000002, 123456789012345678]  # above 2^53, 17 and 18 digits
    put_trades(database, *map(trade, ids), trade(ids[1], ask_bid='"BID"'), trade(ids[2]))
    result = materialize("silver_trade", first=TODAY, axis=days)

    found = ask(market_url, "SELECT trade_id, traded_at, price, volume, taker FROM silver.trade ORDER BY trade_id")
    assert found == [(id_, HALF_PAST, 100, Decimal("0.25"), "BID" if id_ == ids[1] else "ASK") for id_ in sorted(ids)]
    assert rows(database, tables.silver_trade_build) == [(TODAY, 6, 4, 0, 2)]
    assert checks(result)["every_bronze_row_is_accounted_for"].passed


def test_a_trades_time_is_kept_to_the_millisecond_up_to_the_edges_of_the_day(market_url: str, database: Database):
    moments = [TODAY, TODAY + timedelta(milliseconds=1), TODAY + DAY - timedelta(milliseconds=1)]
    put_trades(database, *(trade(nth + 1, at) for nth, at in enumerate(moments)))
    compute(database, silver_trade, TODAY)

    assert ask(market_url, "SELECT traded_at FROM silver.trade ORDER BY trade_id") == [(at,) for at in moments]


def cover(database: Database, kind: str, market: str, start: datetime, end: datetime) -> None:
    """Record this part of a day as collected."""
    page = (market, days.at(start).start, Range(start, end), 0, None, COLLECTED - DAY)
    table = tables.metadata.tables[f"bronze.{kind}_page"]
    put(database, table, "market day covered rows problem ingested_at", [page])


@pytest.mark.parametrize(
    ("rejected", "minutes_missing"),
    [
        ([{"trade_price": "0"}], 1),
        ([{"trade_price": "0"}, {"trade_price": "-1"}], 1),
        ([{"candle_date_time_utc": None}, {"candle_date_time_utc": None, "trade_price": "0"}], 2),
        ([{"candle_date_time_utc": quoted(TODAY), "candle_date_time_kst": quoted(TODAY)}], 1),
    ],
)
def test_a_minute_that_was_rejected_is_missing_once(
    market_url: str, database: Database, rejected: list[Fields], minutes_missing: int
):
    put_candles(database, candle(TODAY), *(candle(HALF_PAST, **fields) for fields in rejected))
    cover(database, "candle", "KRW-BTC", TODAY, TODAY + DAY)
    compute(database, silver_candle, TODAY)

    minutes = ask(market_url, "SELECT minutes_traded, minutes_silent, minutes_missing FROM silver.candle_coverage")
    assert minutes == [(1, 1439 - minutes_missing, minutes_missing)]


def test_days_computed_together_equal_days_computed_separately(market_url: str, database: Database):
    for nth in range(3):
        day = TODAY + nth * DAY
        of_the_next = candle(day + DAY)  # valid on the next day
        put_candles(database, candle(day), candle(day), candle(day + MINUTE, trade_price="0"), of_the_next, day=day)
        cover(database, "candle", "KRW-BTC", day, day + DAY)
        # the same id on each day, and a trade of the day before
        put_trades(database, trade(7, day), trade(8, day, ask_bid="1"), trade(9, day - MINUTE), day=day)
    kinds: list[tuple[AssetsDefinition, str]] = [(silver_candle, "candle"), (silver_trade, "trade")]
    for asset, kind in kinds:
        built = [tables.metadata.tables[f"silver.{kind}{part}"] for part in ("", "_rejected", "_build")]
        built += [tables.silver_candle_coverage] if kind == "candle" else []
        compute(database, asset, TODAY, TODAY + 2 * DAY)
        together = [rows(database, table) for table in built]
        for nth in (1, 2, 0):
            compute(database, asset, TODAY + nth * DAY)

        assert [rows(database, table) for table in built] == together
        assert len(together[0]) == 3
