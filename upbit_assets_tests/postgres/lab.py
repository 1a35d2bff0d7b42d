"""Tables and assets for testing the IO manager, and their runs."""

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import psycopg
import sqlalchemy as sa
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    DagsterInstance,
    ExecuteInProcessResult,
    ResourceDependency,
    RetryPolicy,
    asset,
)
from dagster import materialize as dagster_materialize
from sqlalchemy.dialects.postgresql import JSONB

from upbit_assets.partitions import RANGE_END, RANGE_START, SEOUL, WINDOW, windows
from upbit_assets.postgres.resource import PIPELINE_ROLE, Database
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets.postgres_io import Load, PostgresIOManager, Write, stored_in
from upbit_assets_tests.pipeline import run_errors

T0 = datetime(2026, 1, 29, 14, 0, tzinfo=SEOUL)
PATIENCE = 20
HOSTILE = "ro\"bert'); DROP TABLE lab.figures; --"

lab = sa.MetaData(schema="lab")
Moment = sa.DateTime(timezone=True)


def table(name: str) -> sa.Table:
    return sa.Table(
        name,
        lab,
        sa.Column("at", Moment, primary_key=True, comment="When"),
        sa.Column("market", sa.String(30), primary_key=True, comment="Which"),
        sa.Column("price", sa.Numeric, comment="How much"),
        sa.Column("note", sa.Text),
        sa.Column("seen", Moment),
        sa.Column("weight", sa.Double),
        sa.Column("whole", sa.BigInteger),
        sa.Column("sure", sa.Boolean),
        sa.Column("document", JSONB),
        info={"window": "at"},
    )


figures, further = table("figures"), table("further")
hostile = sa.Table(
    HOSTILE,
    lab,
    sa.Column("a;t\"'", Moment, primary_key=True),
    sa.Column('%(price)s "; DROP TABLE lab.figures; --', sa.Numeric),
    info={"window": "a;t\"'"},
)


class LabIOManager(PostgresIOManager):
    tables = lab
    database: ResourceDependency[Database]

    def connect(self) -> AbstractContextManager[sa.Connection]:
        return self.database.connect()


def make_tables(url: str) -> None:
    """The lab's schema, created by the owner, with the pipeline's usual privileges."""
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema("lab"))
        lab.create_all(connection)
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA lab TO {PIPELINE_ROLE}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA lab TO {PIPELINE_ROLE}")


def returning(
    rows: Callable[[AssetExecutionContext], Any],
    *,
    into: sa.Table = figures,
    write: Write = "replace",
    metadata: dict[str, Any] | None = None,
    retry_policy: RetryPolicy | None = None,
) -> AssetsDefinition:
    """An asset, named after its table, that returns what `rows` returns."""

    @asset(
        name="figures",
        partitions_def=windows.partitions,
        backfill_policy=BackfillPolicy.single_run(),
        io_manager_key="postgres",
        metadata=stored_in(into, write=write) if metadata is None else metadata,
        retry_policy=retry_policy,
    )
    def stored(context: AssetExecutionContext) -> Any:
        return rows(context)

    return stored


@contextmanager
def an_instance() -> Iterator[DagsterInstance]:
    """One instance for all runs, as creating one takes longer than a run; threads can't share it."""
    if threading.current_thread() is threading.main_thread():
        yield main_instance()
    else:
        with DagsterInstance.ephemeral() as own:
            yield own


@functools.cache
def main_instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()


def materialize(
    *assets: AssetsDefinition, first: datetime = T0, last: datetime | None = None, select: str | None = None
) -> ExecuteInProcessResult:
    """One run over the windows from `first` to `last`."""
    start, end = windows.key_of(windows.at(first).start), windows.key_of(windows.at(last or first).start)
    with an_instance() as instance:
        return dagster_materialize(
            assets,
            instance=instance,
            selection=select,
            resources={"postgres": LabIOManager(database=Database())},
            partition_key=None if last else start,
            tags={RANGE_START: start, RANGE_END: end} if last else {},
            raise_on_error=False,
        )


def run_whole(asset: AssetsDefinition) -> ExecuteInProcessResult:
    """One run of an asset without partitions."""
    with an_instance() as instance:
        resources = {"postgres": LabIOManager(database=Database())}
        return dagster_materialize([asset], instance=instance, resources=resources, raise_on_error=False)


def frame(*prices: Any, at: datetime = T0, market: str = "KRW-BTC") -> pd.DataFrame:
    """One row per price, a second apart."""
    return pd.DataFrame(
        {
            "at": [at + timedelta(seconds=place) for place in range(len(prices))],
            "market": [market] * len(prices),
            "price": [Decimal(price) for price in prices],
        }
    )


def write(
    rows: Any, *, first: datetime = T0, last: datetime | None = None, how: Write = "replace", into: sa.Table = figures
) -> None:
    """A write that must succeed."""
    result = materialize(returning(lambda _: rows, write=how, into=into), first=first, last=last)
    assert result.success, run_errors(result)


def held(rows: Any, then: Callable[[], None]) -> Load:
    """A load that calls `then` when its rows are written but not yet committed."""

    def describe(_connection: sa.Connection, _window: Any) -> dict[str, Any]:
        then()
        return {}

    return Load({figures: rows}, describe)


class Pause:
    """Pauses a write until `over` is set."""

    def __init__(self) -> None:
        self.reached, self.over = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.over.wait(PATIENCE), "the pause was never ended"


@contextmanager
def paused_write(
    rows: Any, *, first: datetime = T0, last: datetime | None = None
) -> Iterator[tuple[Pause, "Future[ExecuteInProcessResult]"]]:
    """A run that has written its rows and waits; it continues at the end of the block at the latest."""
    pause = Pause()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(materialize, returning(lambda _: held(rows, pause)), first=first, last=last)
        try:
            assert pause.reached.wait(PATIENCE), run_errors(run.result(0))
            yield pause, run
        finally:
            pause.over.set()
    assert run.result().success, run_errors(run.result())


def prices(database: Database, into: sa.Table = figures, at: datetime | None = None) -> list[Decimal]:
    """The table's rows, or those of the window that contains `at`."""
    wanted = sa.select(into.c.price).order_by(into.c.at, into.c.market)
    if at:
        start = windows.at(at).start
        wanted = wanted.where(into.c.at >= start, into.c.at < start + WINDOW)
    with database.connect() as connection:
        return list(connection.scalars(wanted))


ADVISORY = (
    "SELECT mode, granted, ((classid::bigint << 32) | objid::bigint) AS key FROM pg_locks "
    "WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def advisory_locks(url: str) -> list[tuple[str, bool, int]]:
    with psycopg.connect(url) as connection:
        return connection.execute(ADVISORY).fetchall()


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE, *, pause: float = 0.01) -> Any:
    """Poll until the result is truthy; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(pause)
    return found


def waits_for_a_lock(url: str) -> bool:
    return any(not granted for _, granted, _ in advisory_locks(url))


def end_backends(url: str, *, busy: bool = False) -> None:
    """End the pipeline's sessions on this database, as an administrator or a restart would, and wait for it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'upbit_assets' "
            "AND datname = current_database() AND (NOT %s OR state <> 'idle')",
            [busy],
        )


def write_until_killed(url: str, reached: Any) -> None:
    """The process to be killed: a write that never ends."""

    def run_forever() -> None:
        reached.set()
        time.sleep(PATIENCE)

    os.environ["UPBIT_POSTGRES_URL"] = url
    materialize(returning(lambda _: held(frame(7, 8, 9), run_forever)))


spawn = multiprocessing.get_context("spawn")
