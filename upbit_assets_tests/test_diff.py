"""A diff shows what the present code would compute from bronze, and writes nothing."""

from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from dagster import TimeWindow

from upbit_assets import diff as differing
from upbit_assets import postgres_io
from upbit_assets.assets import gold
from upbit_assets.assets.gold import gold_market_stats
from upbit_assets.assets.silver import silver_ticker
from upbit_assets.cli import main
from upbit_assets.definitions import defs
from upbit_assets.feeds import MARKET_STATS
from upbit_assets.figure_checks import sampled
from upbit_assets.partitions import DAY, WINDOW, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import WRITE_CHANNEL, lock_key
from upbit_assets_tests.pipeline import (
    PAST,
    ask,
    checks,
    compute,
    evaluate,
    final_day,
    materialize,
    put_bronze,
    run_errors,
    ticker,
)

KEY = "2026-01-29-14:00"
RANGE = f"{KEY}...2026-01-29-14:10"
CHAIN = "silver_ticker,gold_market_stats"


@pytest.fixture
def computed(market_url: str, database: Database) -> str:
    """Two windows of tickers with a rejected row and a duplicate, and the window a day before the first."""
    traded_at = str(int((PAST - DAY).timestamp()) * 1000)
    for start, last in ((PAST - DAY, PAST - DAY), (PAST, PAST + WINDOW)):
        for minute in (0, 1, 2, 10, 11, 12)[: 3 if start == last else 6]:
            prices = {"KRW-BTC": f"{100 + minute}.5", "KRW-ETH": "100", "KRW-XRP": "-1"}
            rows = [
                (market, ticker(market, trade_price=price, trade_timestamp=traded_at))
                for market, price in prices.items()
            ]
            put_bronze(database, start + timedelta(minutes=minute), [*rows, rows[0]])
        for asset in (silver_ticker, gold_market_stats):
            compute(database, asset, start, last)
    return market_url


def everything(url: str) -> list[Any]:
    """All computed rows, with ids and times."""
    return [
        sorted(map(repr, ask(url, f"SELECT * FROM {table.fullname}")))
        for table in tables.metadata.sorted_tables
        if table.schema in ("silver", "gold")
    ]


def diff(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["diff", *arguments])


def lines(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


@pytest.fixture
def other_formula(computed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Replaces the formula of gold.market_stats after it was computed."""
    for file in gold.SQL.iterdir():
        text = file.read_text(encoding="utf-8")
        changed = text.replace("max(trade_price)", "2 * max(trade_price)") if file.stem == "market_stats" else text
        (tmp_path / file.name).write_text(changed, encoding="utf-8")
    monkeypatch.setattr(gold, "SQL", tmp_path)


def test_unchanged_code_has_no_differences(computed: str):
    result = diff("--partition", RANGE, "--check")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "Nothing would change."), result.output
    assert lines(result.output)[2:7] == [
        ["silver.ticker", "12", "12", "0", "0", "0"],
        ["silver.ticker_rejected", "6", "6", "0", "0", "0"],
        ["silver.ticker_build", "2", "2", "0", "0", "0"],
        ["gold.market_stats", "4", "4", "0", "0", "0"],
        ["gold.market_stats_build", "2", "2", "0", "0", "0"],
    ]


@pytest.mark.usefixtures("other_formula")
def test_a_changed_formula_is_shown_by_column_and_nothing_is_written(computed: str):
    before = everything(computed)
    with psycopg.connect(computed, autocommit=True) as listening:
        listening.execute(f"LISTEN {WRITE_CHANNEL}".encode())
        result = diff("--partition", RANGE, "--check")
        assert list(listening.notifies(timeout=0.1)) == []
    assert result.exit_code == 1
    assert everything(computed) == before
    told = [" ".join(line) for line in lines(result.output)]
    assert "gold.market_stats 4 4 0 0 4 window_high: 4, volatility: 4" in told
    assert (
        "gold.market_stats 2026-01-29-14:00 KRW-BTC ingested_at 2026-01-29 14:02:00+09:00 window_high 102.5 205.0 50 %"
    ) in told
    assert told[-1] == "Something would change in 2026-01-29-14:00, 2026-01-29-14:10."

    of_silver = diff("--partition", RANGE, "--select", "silver_ticker", "--check")
    assert (of_silver.exit_code, "gold" in of_silver.output) == (0, False)
    assert diff("--partition", RANGE).exit_code == 0


def test_added_removed_and_changed_rows_are_distinguished(computed: str):
    ask(computed, "DELETE FROM silver.ticker WHERE market = 'KRW-ETH' AND ingested_at = %s", PAST)
    ask(
        computed,
        "UPDATE silver.ticker SET day_volume = 7, trade_price = trade_price + 1e-20 WHERE ingested_at = %s",
        PAST,
    )
    ask(
        computed,
        "INSERT INTO silver.ticker (market, trade_date, trade_time, trade_price, acc_trade_volume, ingested_at, "
        "acc_trade_price, change_rate, traded_at) SELECT 'KRW-OLD', trade_date, trade_time, trade_price, "
        "acc_trade_volume, ingested_at, acc_trade_price, change_rate, traded_at FROM silver.ticker "
        "WHERE market = 'KRW-BTC' AND ingested_at = %s",
        PAST + WINDOW,
    )
    result = diff("--partition", RANGE, "--select", "silver_ticker")
    told = [" ".join(line) for line in lines(result.output)]
    assert "silver.ticker 12 12 1 1 1 trade_price: 1, day_volume: 1" in told
    assert "silver.ticker 2026-01-29-14:00 KRW-ETH row added" in told
    assert "silver.ticker 2026-01-29-14:10 KRW-OLD row removed" in told
    assert "silver.ticker 2026-01-29-14:00 KRW-BTC day_volume 7" in told, "a figure that would be NULL"
    assert any("trade_price 100.50000000000000000001 100.5 9.95e-21 %" in line for line in told), told
    assert told[-1] == "Something would change in 2026-01-29-14:00, 2026-01-29-14:10."


def test_gold_is_computed_from_the_new_silver(computed: str, database: Database):
    """Also for the silver of the day before, if selected."""
    ask(computed, "UPDATE silver.ticker SET trade_price = 2 * trade_price WHERE ingested_at < %s", PAST)
    compute(database, gold_market_stats, PAST)
    part, asked = windows.at(PAST), TimeWindow(PAST - DAY, PAST + WINDOW)
    for span, changes in ((part, False), (asked, True)):
        found = differing.Diff(windows)
        differing.add(found, database, frozenset(CHAIN.split(",")), part, span)
        changed = {each.table.fullname: each.columns for each in found.differing}
        assert changed == ({"gold.market_stats": {"change_rate_24h": 2}} if changes else {})
    ask(computed, "UPDATE silver.ticker SET trade_price = 2 * trade_price WHERE ingested_at = %s", PAST + WINDOW / 5)
    told = lines(diff("--partition", KEY, "--select", "gold_market_stats").output)
    assert any("trade_price" in line for line in told), "only gold, from the stored silver"


def test_collecting_and_reading_continue_but_a_write_of_the_window_waits(
    computed: str, database: Database, monkeypatch: pytest.MonkeyPatch
):
    waited = list[Any]()

    def meanwhile(*arguments: Any) -> Any:
        found = postgres_io.compare(*arguments)
        with psycopg.connect(computed, options="-c lock_timeout=200") as other:
            put_bronze(database, PAST + timedelta(minutes=9), {"KRW-BTC": ticker("KRW-BTC")})
            assert other.execute("SELECT count(*) FROM silver.ticker").fetchone() == (18,)
            other.execute("DELETE FROM silver.ticker WHERE ingested_at < %s", [PAST])
            other.rollback()
            waited.append(
                other.execute("SELECT pg_try_advisory_lock(%s)", [lock_key(f"silver.ticker/{KEY}")]).fetchone()
            )
        return found

    monkeypatch.setattr(differing, "compare", meanwhile)
    assert diff("--partition", KEY, "--select", "silver_ticker").output.endswith("Nothing would change.\n")
    assert waited == [(False,)]


def test_every_partitioned_asset_of_silver_and_gold_has_a_diff():
    graph = defs.resolve_asset_graph()
    computed = [
        key.to_user_string()
        for key in graph.get_all_asset_keys()
        if key.path[-1].startswith(("silver_", "gold_")) and graph.get(key).is_partitioned
    ]
    assert sorted(computed) == sorted(differing.computed_assets(windows) + differing.computed_assets(days))


def test_a_day_of_candles(market_url: str, exchange: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPBIT_CANDLE_MARKETS", "KRW-BTC")
    day = final_day()
    result = materialize("bronze_candle_raw", "silver_candle", "gold_market_daily", first=day, axis=days)
    assert result.success, run_errors(result)
    key = days.key_of(day)
    assert diff("--partition", key, "--check").output.endswith("Nothing would change.\n")
    ask(market_url, "UPDATE silver.candle_coverage SET minutes_silent = minutes_silent + 1")
    ask(market_url, "UPDATE gold.market_daily SET volume = volume * 2")
    told = [" ".join(line) for line in lines(diff("--partition", key).output)]
    assert "silver.candle_coverage 1 1 0 0 1 minutes_silent: 1" in told
    assert "gold.market_daily 1 1 0 0 1 volume: 1" in told
    assert told[-1] == f"Something would change in {key}."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--partition", "today"], "today is not a partition: name a window like 2026-01-29-14:00, a day like"),
        (["--partition", "2026-01-29-14:00...2026-01-29"], "is not a partition"),
        (["--partition", "2026-01-29-14:05"], "windows are ten minutes long"),
        (["--partition", "2026-01-29-14:10...2026-01-29-14:00"], "runs backwards"),
        (
            ["--partition", "2026-01-29-14:00", "--select", "gold_market_daily"],
            "gold_market_daily with such partitions. There are silver",
        ),
    ],
)
def test_invalid_requests_are_rejected_with_the_reason(market_url: str, arguments: list[str], message: str):
    result = diff(*arguments)
    assert result.exit_code == 1
    assert message in result.output


def test_windows_whose_raw_rows_were_dropped_are_refused(computed: str):
    ask(computed, "DELETE FROM bronze.ticker_raw WHERE ingested_at < %s", PAST)
    ask(computed, "INSERT INTO bronze.retention VALUES ('bronze.ticker_raw', %s, now())", PAST)
    result = diff("--partition", windows.key_of(PAST - DAY))
    assert result.exit_code == 1
    assert "bronze.ticker_raw is kept from 2026-01-29 14:00 on" in result.output
    assert diff("--partition", KEY).exit_code == 0


@pytest.mark.usefixtures("other_formula")
def test_the_job_shows_the_same_in_the_ui(computed: str):
    def run(**config: Any) -> Any:
        job = defs.resolve_job_def("diff")
        return job.execute_in_process(run_config={"ops": {"compute_diff": {"config": config}}}, raise_on_error=False)

    result = run(partitions=RANGE, assets=["gold_market_stats"])
    assert result.success, run_errors(result)
    (output,) = (event.event_specific_data for event in result.all_node_events if event.is_successful_output)
    metadata = {name: entry.value for name, entry in output.metadata.items()}
    assert metadata["summary"] == "Something would change in 2026-01-29-14:00, 2026-01-29-14:10."
    assert "window_high: 4, volatility: 4" in metadata["silver and gold"]
    assert "| KRW-BTC" in metadata["largest differences"]
    assert "today is not a partition" in run_errors(run(partitions="today"))


NAME = "every_figure_follows_from_the_raw_rows"


def test_sampled_windows_that_differ_fail_the_nightly_check(computed: str, database: Database):
    gold = "gold_market_stats"
    evaluation = evaluate(gold, NAME)
    drawn = [PAST - DAY, PAST, PAST + WINDOW]
    assert (evaluation.passed, evaluation.description) == (True, f"Checked: {windows.named(drawn)}.")

    ask(computed, "UPDATE gold.market_stats SET trade_price = 7 WHERE window_start = %s", PAST)
    ask(computed, "DELETE FROM silver.ticker_rejected WHERE ingested_at < %s", PAST)
    evaluation = evaluate(gold, NAME)
    assert not evaluation.passed
    table = str(evaluation.metadata["failing windows"].value)
    assert "gold.market_stats: 0 rows added, 0 removed, 2 changed, trade_price: 2" in table
    assert "silver.ticker_rejected: 3 rows added, 0 removed, 0 changed" in table
    assert (KEY in table, windows.key_of(PAST - DAY) in table, windows.key_of(PAST + WINDOW) in table) == (
        True,
        True,
        False,
    )
    for start in (PAST - DAY, PAST):
        compute(database, silver_ticker, start)
        compute(database, gold_market_stats, start)
    assert evaluate(gold, NAME).passed


def test_a_sample_is_the_same_all_night_and_another_the_next(market_url: str, database: Database):
    starts = [PAST + nth * WINDOW for nth in range(200)]
    build = "SELECT start, {}, '2026-02-02' FROM generate_series(%s, %s, interval '10 minutes') AS start"
    silver, gold_rows = (
        "0, 0, 0, 0",
        "0, '2026-02-02', CASE WHEN start >= %s THEN CAST('2026-02-02' AS timestamptz) END",
    )
    ask(market_url, f"INSERT INTO silver.ticker_build {build.format(silver)}", starts[0], starts[-1])
    ask(
        market_url,
        f"INSERT INTO gold.market_stats_build {build.format(gold_rows)}",
        *(starts[0] + DAY, starts[0], starts[-1]),
    )
    with database.connect() as connection:
        nights = [[sampled(connection, MARKET_STATS, date(2026, 3, day)) for day in (1, 2, 3)] for _ in range(2)]
        assert nights[0] == nights[1]
        assert [len(night) for night in nights[0]] == [6] * 3
        assert len({start for night in nights[0] for start in night}) > 12

        put_bronze(database, starts[0], {"KRW-BTC": ticker("KRW-BTC")})
        ask(market_url, "INSERT INTO bronze.retention VALUES ('bronze.ticker_raw', %s, now())", starts[100])
        for night in range(1, 29):
            assert set(sampled(connection, MARKET_STATS, date(2026, 3, night))) <= set(starts[100:])


def test_runs_that_compute_do_not_check_samples(computed: str):
    result = materialize("gold_market_stats", first=PAST)
    assert NAME not in checks(result)
    jobs = {name: defs.resolve_job_def(name) for name in ("collect", "check_figures")}
    checked = {name: {key.name for key in job.asset_layer.asset_graph.asset_check_keys} for name, job in jobs.items()}
    assert NAME not in checked["collect"]
    assert checked["check_figures"] == {NAME}
