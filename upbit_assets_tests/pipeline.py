"""Driving the assets in tests: what a person does in the UI, without the UI."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

from upbit_assets.definitions import defs
from upbit_assets.partitions import key_of, window_at
from upbit_assets.postgres import tables
from upbit_assets.postgres.copy import Records, copy_records
from upbit_assets.postgres.resource import Database

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
CHAIN = ("bronze_ticker_raw", "silver_ticker", "gold_market_stats")


def materialize(
    *assets: str, first: datetime, last: datetime | None = None, instance: DagsterInstance | None = None
) -> ExecuteInProcessResult:
    """One run of the named assets, with their checks, over the windows that hold `first` to `last`."""
    start, end = key_of(window_at(first).start), key_of(window_at(last or first).start)
    job = defs.resolve_implicit_job_def_def_for_assets([AssetKey(name) for name in assets])
    assert job is not None
    with instance or DagsterInstance.ephemeral() as used:
        return job.execute_in_process(
            instance=used,
            asset_selection=[AssetKey(name) for name in assets],
            tags={RANGE_START: start, RANGE_END: end} if last else {"dagster/partition": start},
            raise_on_error=False,
        )


def now() -> datetime:
    return datetime.now(UTC)


def said(result: ExecuteInProcessResult) -> str:
    """What the run's failures say to the person who reads them."""
    return "\n".join(
        str(event.step_failure_data.error_display_string) for event in result.all_events if event.is_step_failure
    )


def ticker(market: str, **fields: Any) -> str:
    """A ticker's text that silver takes, unless `fields` (raw JSON text each, None leaves one out) say otherwise."""
    row = {
        "market": json.dumps(market),
        "trade_date_kst": '"20260129"',
        "trade_time_kst": '"140000"',
        "trade_timestamp": "1769662800000",
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
    with database.engine.begin() as connection:
        copy_records(connection, tables.bronze_ticker_raw, records)


def rows(database: Database, table: sa.Table, *, leave_out: Iterable[str] = ("id", "computed_at", "written_in")) -> Any:
    """All rows of a table but for what differs each time, in one order."""
    columns = [column for column in table.columns if column.name not in set(leave_out)]
    with database.connect() as connection:
        return sorted(map(tuple, connection.execute(sa.select(*columns))), key=repr)
