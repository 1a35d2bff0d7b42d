"""Helpers to run assets in tests, as from the UI."""

import functools
import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import dagster
import psycopg
import sqlalchemy as sa
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DagsterInstance,
    ExecuteInProcessResult,
    PartitionKeyRange,
    TimeWindow,
)

from upbit_assets import checks as ticker_checks
from upbit_assets import day_checks, figure_checks
from upbit_assets.assets.coverage import REPORTING_DELAY
from upbit_assets.dagster_internals import output_of
from upbit_assets.definitions import MarketDataIOManager, defs
from upbit_assets.partitions import DAY, RANGE_END, RANGE_START, SEOUL, Axis, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres_io import REFUSALS, Records, copy_records, in_window, storable

ALL_CHECKS = (*ticker_checks.all_checks, *day_checks.all_checks, *figure_checks.all_checks)
SECONDS_A_TEST = 10
IN_THE_FUTURE = "in the future, over ten minutes after it was collected; was that machine's clock behind?"
# in the window of README's recovery guide
PAST = datetime(2026, 1, 29, 14, 0, tzinfo=SEOUL)
CHAIN = ("bronze_ticker_raw", "silver_ticker", "gold_market_stats")


@functools.cache
def job_of(assets: tuple[str, ...]) -> dagster.JobDefinition:
    job = defs.resolve_implicit_job_def_def_for_assets([AssetKey(name) for name in assets])
    assert job is not None
    return job


def materialize(
    *assets: str,
    first: datetime,
    last: datetime | None = None,
    instance: DagsterInstance | None = None,
    axis: Axis = windows,
    config: Mapping[str, Any] | None = None,
) -> ExecuteInProcessResult:
    """One run of the named assets, with their checks, over the windows from `first` to `last`."""
    start, end = axis.key_of(axis.at(first).start), axis.key_of(axis.at(last or first).start)
    job = job_of(assets)
    with instance or DagsterInstance.ephemeral() as used:
        return job.execute_in_process(
            run_config=config,
            instance=used,
            asset_selection=[AssetKey(name) for name in assets],
            tags={RANGE_START: start, RANGE_END: end} if last else {"dagster/partition": start},
            raise_on_error=False,
        )


class Clock(datetime):
    """A clock fixed at `moment` until a test moves it; replaces a module's `datetime`."""

    moment = PAST

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.moment.astimezone(tz)


def compute(database: Database, asset: AssetsDefinition, first: datetime, last: datetime | None = None) -> None:
    """Compute and store the asset's windows as in a run, without a run."""
    partitions = asset.partitions_def
    axis = next(axis for axis in (windows, days) if axis.partitions is partitions)
    window = TimeWindow(axis.at(first).start, axis.at(last or first).end)
    sources = {name: tables.metadata.tables[name.replace("_", ".", 1)] for name in asset.keys_by_input_name}
    inputs = {name: sa.select(table).where(in_window(table, window)) for name, table in sources.items()}
    load = output_of(asset, window, **inputs)
    context = dagster.build_output_context(
        asset_key=asset.key,
        definition_metadata=asset.metadata_by_key[asset.key],
        asset_partitions_def=partitions,
        asset_partition_key_range=PartitionKeyRange(axis.key_of(window.start), axis.key_of(window.end - axis.length)),
    )
    MarketDataIOManager(database=database).handle_output(context, load)


def now() -> datetime:
    """The current time, in a window that stays open for a while."""
    left = (windows.at(datetime.now(UTC)).end - datetime.now(UTC)).total_seconds()
    if left < SECONDS_A_TEST:
        time.sleep(left + 0.01)
    return datetime.now(UTC)


def final_day() -> datetime:
    """The start of the newest day to which the exchange adds nothing any more."""
    return days.at(now() - REPORTING_DELAY).start - DAY


def run_errors(result: ExecuteInProcessResult) -> str:
    """The error messages of the run's failed steps."""
    return "\n".join(
        str(event.step_failure_data.error_display_string) for event in result.all_events if event.is_step_failure
    )


def checks(result: ExecuteInProcessResult) -> dict[str, AssetCheckEvaluation]:
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def evaluate(
    asset: str, check: str, first: datetime | None = None, last: datetime | None = None, axis: Axis = windows
) -> AssetCheckEvaluation:
    """One check alone, over the windows from `first` to `last`."""
    (definition,) = (each for each in ALL_CHECKS if AssetCheckKey(AssetKey(asset), check) in each.check_keys)
    tags = {RANGE_START: first, RANGE_END: last or first}
    result = dagster.materialize(
        [definition],
        # partition_key= needs an asset, and there is none
        tags={tag: axis.key_of(axis.at(moment).start) for tag, moment in tags.items() if moment},
        resources=defs.resources,
        selection=AssetSelection.checks(AssetCheckKey(AssetKey(asset), check)),
    )
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def metadata_of(result: ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of the run's last materialization of the asset."""
    (*_, last) = result.asset_materializations_for_node(asset)
    return {name: getattr(entry, "value", entry) for name, entry in last.metadata.items()}


def ask(url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Execute a statement as the tables' owner; returns its rows.

    Without ORDER BY, PostgreSQL promises no order: the rows are then reversed, so that a test that relies on one fails.
    """
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement, parameters or None)
        rows = cursor.fetchall() if cursor.description else []
        return rows if "ORDER BY" in statement else rows[::-1]


def exact(text: str) -> Any:
    """JSON with exact numbers."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def ticker(market: str, /, **fields: Any) -> str:
    """A ticker's JSON that silver accepts, unless `fields` (raw JSON each; None: omitted) change it."""
    traded_at = str(fields.get("trade_timestamp", "1769662800000"))
    kst = datetime.fromtimestamp(int(traded_at) // 1000 if traded_at.isdecimal() else 0, SEOUL)
    row = {
        "market": json.dumps(market),
        "trade_date_kst": f'"{kst:%Y%m%d}"',
        "trade_time_kst": f'"{kst:%H%M%S}"',
        "trade_timestamp": traded_at,
        "trade_price": "100.0",
        "acc_trade_price_24h": "1000.5",
        "acc_trade_volume_24h": "10.25",
        "signed_change_rate": "-0.0123456789",
    } | fields
    return "{" + ", ".join(f'"{name}": {text}' for name, text in row.items() if text is not None) + "}"


def put_bronze(database: Database, at: datetime, rows: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Raw rows as another process would write them: (market, text) pairs, collected at `at`."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    records = Records(("market", "raw_data", "ingested_at"), [(market, text, at) for market, text in pairs])
    put_records(database, tables.bronze_ticker_raw, records)


def put_records(database: Database, table: sa.Table, records: Records) -> None:
    """As the IO manager would: a document that jsonb rejects is stored as a string."""
    try:
        with database.engine.begin() as connection:
            copy_records(connection, table, records)
    except REFUSALS:
        with database.engine.begin() as connection:
            copy_records(connection, table, storable(connection, table, records))


def put_silver(database: Database, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows of silver as computed from bronze; omitted fields have defaults."""
    usual: dict[str, Any] = {
        "trade_date": "20260129",
        "trade_time": "140000",
        "change_rate": Decimal(0),
        "traded_at": PAST,
    }
    usual |= {"acc_trade_volume": Decimal(1), "acc_trade_price": Decimal(1)}
    if values := [usual | dict(row) for row in rows]:
        with database.engine.begin() as connection:
            connection.execute(sa.insert(tables.silver_ticker), values)


def put(database: Database, table: sa.Table, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Put rows into any table; values of JSONB columns are the documents' texts."""
    put_records(database, table, Records(tuple(columns.split()), list(rows)))


def rows(database: Database, table: sa.Table, *, leave_out: Iterable[str] = ("id", "computed_at", "written_in")) -> Any:
    """All rows of a table, sorted, without the columns that differ each time."""
    columns = [column for column in table.columns if column.name not in set(leave_out)]
    with database.connect() as connection:
        return sorted(map(tuple, connection.execute(sa.select(*columns))), key=repr)
