"""The check's evaluation and SQL both have which window fails which check, since when and why."""

from itertools import pairwise
from typing import Any

import psycopg
import pytest
from dagster import AssetCheckEvaluation, DagsterInstance
from hypothesis import given
from hypothesis import strategies as st

from upbit_assets.definitions import defs
from upbit_assets.partitions import DAY, WINDOW, windows
from upbit_assets.postgres.resource import READER_ROLE, Database
from upbit_assets_tests.pipeline import PAST, ask, evaluate, materialize, put_bronze, ticker

SILVER = ("silver_ticker", "every_bronze_row_is_accounted_for")
FAILING = "SELECT window_start FROM silver.check_result WHERE NOT passed ORDER BY window_start"


@pytest.fixture
def three_windows(market_url: str, database: Database) -> str:
    """Silver and gold of three adjacent windows, without faults."""
    for nth in range(3):
        put_bronze(database, PAST + nth * WINDOW, {"KRW-BTC": ticker("KRW-BTC"), "KRW-ETH": ticker("KRW-ETH")})
    assert materialize("silver_ticker", "gold_market_stats", first=PAST, last=PAST + 2 * WINDOW).success
    return market_url


def damage(url: str, *nths: int) -> None:
    for nth in nths:
        ask(url, "DELETE FROM silver.ticker WHERE market = 'KRW-ETH' AND ingested_at = %s", PAST + nth * WINDOW)


def table(evaluation: AssetCheckEvaluation) -> list[str]:
    """The lines of the evaluation's table of failing windows."""
    return [line for line in failing_windows_table(evaluation).splitlines() if line.startswith("| [")]


def failing_windows_table(evaluation: AssetCheckEvaluation) -> str:
    found: Any = evaluation.metadata["failing windows"]
    return found.value


def test_every_window_of_a_run_has_its_result(three_windows: str):
    found = ask(
        three_windows, "SELECT asset, check_name, count(*), bool_and(passed) FROM silver.check_result GROUP BY 1, 2"
    )
    assert {(asset, name): (count, passed) for asset, name, count, passed in found} == {
        SILVER: (3, True),
        ("silver_ticker", "no_price_is_missing"): (3, True),
        ("gold_market_stats", "ranks_are_complete"): (3, True),
    }


def test_a_run_of_a_good_window_leaves_the_check_failing_for_a_bad_one(three_windows: str):
    damage(three_windows, 1)
    assert not evaluate(*SILVER, PAST + WINDOW).passed
    evaluation = evaluate(*SILVER, PAST)

    assert not evaluation.passed
    assert evaluation.description == "Checked: 2026-01-29-14:00. 1 window fails."
    (line,) = table(evaluation)
    assert line.startswith("| [2026-01-29-14:10](/assets/silver_ticker?view=partitions&partition=2026-01-29-14%3A10) |")
    assert "raw: 2; silver: 1; rejected: 0; duplicates: 0" in line


def test_a_range_names_each_window_that_fails(three_windows: str):
    damage(three_windows, 0, 2)
    evaluation = evaluate(*SILVER, PAST, PAST + 2 * WINDOW)

    assert evaluation.description == "Checked: 2026-01-29-14:00 to 2026-01-29-14:20, 3 windows. 2 windows fail."
    assert [line[3:19] for line in table(evaluation)] == ["2026-01-29-14:20", "2026-01-29-14:00"]
    assert ask(three_windows, FAILING) == [(PAST,), (PAST + 2 * WINDOW,)]


def test_repaired_windows_pass_and_others_keep_their_first_failure_time(three_windows: str):
    damage(three_windows, 0, 1)
    evaluate(*SILVER, PAST, PAST + WINDOW)
    since = "SELECT failing_since, checked_at, run_id FROM silver.check_result WHERE check_name = %s AND NOT passed"
    ((first, _, one_run), _) = ask(three_windows, since, SILVER[1])
    assert materialize("silver_ticker", first=PAST).success
    evaluation = evaluate(*SILVER, PAST, PAST + WINDOW)

    assert len(table(evaluation)) == 1
    ((failing_since, checked_at, run_id),) = ask(three_windows, since, SILVER[1])
    assert failing_since == first < checked_at
    assert run_id != one_run
    assert materialize("silver_ticker", first=PAST + WINDOW).success
    assert evaluate(*SILVER, PAST).passed


def test_a_check_run_alone_covers_failing_windows_and_the_newest(three_windows: str):
    damage(three_windows, 0)
    evaluate(*SILVER, PAST)
    damage(three_windows, 2)
    evaluation = evaluate(*SILVER)

    assert [line[3:19] for line in table(evaluation)] == ["2026-01-29-14:20", "2026-01-29-14:00"]
    assert evaluation.description == "Checked: 2026-01-29-14:00 to 2026-01-29-14:20, 2 windows. 2 windows fail."


def test_a_check_that_is_run_alone_on_an_empty_database_passes(market_url: str):
    assert evaluate(*SILVER).passed


def test_the_newest_failing_windows_are_named_and_all_are_counted(three_windows: str):
    ask(
        three_windows,
        "INSERT INTO silver.check_result SELECT asset, check_name, window_start - n * interval '10 minutes', false, "
        "severity, 'bad', now(), now(), run_id FROM silver.check_result, generate_series(1, 500) AS n "
        "WHERE window_start = %s",
        PAST,
    )
    evaluation = evaluate(*SILVER, PAST)
    assert evaluation.description == "Checked: 2026-01-29-14:00. 500 windows fail."
    assert [line[3:19] for line in table(evaluation)[:2]] == ["2026-01-29-13:50", "2026-01-29-13:40"]
    assert len(table(evaluation)) == 10
    assert "And 490 more" in failing_windows_table(evaluation)


def test_windows_with_dropped_data_do_not_fail(three_windows: str):
    damage(three_windows, 0)
    assert not evaluate(*SILVER, PAST).passed
    ask(three_windows, "INSERT INTO bronze.retention VALUES ('silver.ticker', %s, now())", PAST + WINDOW)
    assert evaluate(*SILVER, PAST + WINDOW).passed


def test_a_failing_check_does_not_undo_the_write(three_windows: str, database: Database):
    put_bronze(database, PAST + DAY, {"KRW-BTC": ticker("KRW-BTC")})
    ask(
        three_windows,
        "INSERT INTO silver.ticker_rejected (market, raw_data, reason, ingested_at, bronze_id) "
        "VALUES ('KRW-X', '{}', 'made up', %s, 1)",
        PAST + 2 * DAY,
    )
    assert materialize("silver_ticker", first=PAST + DAY).success
    assert not evaluate(*SILVER, PAST + 2 * DAY).passed
    assert ask(three_windows, "SELECT count(*) FROM silver.ticker WHERE ingested_at = %s", PAST + DAY) == [(1,)]


def test_the_readers_see_the_results(three_windows: str):
    with psycopg.connect(three_windows) as connection:
        connection.execute(f"SET ROLE {READER_ROLE}")
        assert connection.execute("SELECT count(*) FROM silver.check_result").fetchall() == [(9,)]


def test_to_dagster_no_check_has_partitions():
    graph = defs.resolve_asset_graph()
    assert graph.asset_check_keys
    assert [key for key in graph.asset_check_keys if graph.get(key).partitions_def] == []


def test_the_checks_of_an_asset_are_one_step(database: Database):
    put_bronze(database, PAST, {"KRW-BTC": ticker("KRW-BTC")})
    with DagsterInstance.ephemeral() as instance:
        result = materialize("silver_ticker", first=PAST, instance=instance)
        assert result.success
        event_types = [
            event.event_type_value for event in result.all_events if event.step_key == "silver_ticker_checks"
        ]
    assert event_types.count("STEP_START") == 1


@given(st.sets(st.integers(0, 30), min_size=1))
def test_spans_are_the_windows_and_nothing_else(nths: set[int]):
    starts = [PAST + nth * WINDOW for nth in sorted(nths)]
    found = list(windows.spans(starts))
    assert [start for span in found for start in windows.starts_in(span)] == starts
    assert all(one.end < other.start for one, other in pairwise(found))


@given(st.sets(st.integers(0, 30)), st.integers(1, 5))
def test_spans_of_limited_length_are_the_same_windows(nths: set[int], most: int):
    starts = [PAST + nth * WINDOW for nth in sorted(nths)]
    found = [windows.starts_in(span) for span in windows.spans(starts, most)]
    assert [start for span in found for start in span] == starts
    assert all(1 <= len(span) <= most for span in found)
    assert all(len(one) == most or one[-1] + WINDOW < other[0] for one, other in pairwise(found))


def test_no_windows_are_no_spans():
    assert list(windows.spans([])) == []
