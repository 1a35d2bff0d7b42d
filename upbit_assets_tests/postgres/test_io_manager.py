"""Assets are written to tables and read from them."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from dagster import (
    AssetExecutionContext,
    AssetIn,
    BackfillPolicy,
    DagsterExecutionInterruptedError,
    ExecuteInProcessResult,
    MaterializeResult,
    RetryPolicy,
    TableSchema,
    asset,
)
from hypothesis import given
from hypothesis import strategies as st

from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.postgres_io import Load, Records, asset_writer, lock_key, locks, stage, stored_in
from upbit_assets.postgres_io.frames import ROWS_A_BLOCK
from upbit_assets_tests.pipeline import run_errors
from upbit_assets_tests.postgres.lab import (
    HOSTILE,
    PATIENCE,
    T0,
    advisory_locks,
    end_backends,
    figures,
    frame,
    further,
    held,
    hostile,
    materialize,
    paused_write,
    prices,
    returning,
    run_whole,
    spawn,
    until,
    waits_for_a_lock,
    write,
    write_until_killed,
)

NEXT, DAY = T0 + WINDOW, timedelta(days=1)


def metadata_of(result: ExecuteInProcessResult) -> dict[str, Any]:
    [materialization] = result.asset_materializations_for_node("figures")
    return {name: value.value for name, value in materialization.metadata.items()}


def refused(result: ExecuteInProcessResult) -> str:
    assert not result.success
    return run_errors(result)


class TestWriting:
    def test_a_select_is_written_inside_the_database(self, lab_database: Database):
        doubled = sa.select(figures.c.at, sa.literal("USDT-BTC").label("market"), (figures.c.price * 2).label("price"))
        write(frame("0.1", "1e-40"))
        write(doubled, how="append")

        assert prices(lab_database) == [Decimal("0.1"), Decimal("0.2"), Decimal("1e-40"), Decimal("2e-40")]

    def test_a_selects_columns_are_matched_by_name(self, lab_database: Database):
        write(sa.select(sa.literal(5).label("price"), sa.literal("KRW-A").label("market"), sa.literal(T0).label("at")))

        assert prices(lab_database) == [5]

    def test_append_never_deletes(self, lab_database: Database):
        write(frame(1), how="append")
        write(frame(2, at=T0 + timedelta(seconds=30)), how="append")
        write(frame(), how="append")

        assert prices(lab_database) == [1, 2]

    def test_a_rerun_replaces_its_window_and_leaves_the_neighbours_untouched(self, lab_database: Database):
        for step, price in ((-1, 1), (0, 2), (1, 3)):
            write(frame(price, at=T0 + step * WINDOW), first=T0 + step * WINDOW)
        write(frame(20, 21))

        assert prices(lab_database) == [1, 20, 21, 3]

    def test_a_row_at_the_start_belongs_to_the_window_and_one_at_the_end_to_the_next(self, lab_database: Database):
        ends = [T0 - timedelta(microseconds=1), T0, NEXT - timedelta(microseconds=1), NEXT]
        for price, at in enumerate(ends):
            write(frame(price, at=at), first=at, how="append")
        write(frame())

        assert prices(lab_database) == [0, 3]

    def test_a_range_of_windows_is_one_write(self, lab_database: Database):
        last = T0 + 5 * WINDOW
        for at in (T0 - WINDOW, T0, last, last + WINDOW):
            write(frame(1, at=at), first=at)
        rows = pd.concat([frame(7, at=T0 + step * WINDOW) for step in range(6)])
        runs = []

        def collected(context: AssetExecutionContext) -> pd.DataFrame:
            runs.append(context.run.run_id)
            return rows

        result = materialize(returning(collected), first=T0, last=last)

        assert result.success, run_errors(result)
        assert len(runs) == 1
        assert prices(lab_database) == [1, 7, 7, 7, 7, 7, 7, 1]

    @pytest.mark.parametrize(
        "nothing",
        [
            frame(),
            pd.DataFrame(),
            sa.select(figures.c.at, figures.c.market).where(sa.false()),
            Records(("at", "market"), []),
        ],
        ids=["frame", "frame without columns", "select", "records"],
    )
    def test_an_empty_result_clears_the_window_and_reports_no_rows(self, lab_database: Database, nothing: Any):
        write(frame(1, 2))
        result = materialize(returning(lambda _: nothing))

        assert prices(lab_database) == []
        assert metadata_of(result)["dagster/partition_row_count"] == 0

    def test_none_leaves_the_window_unchanged(self, lab_database: Database):
        write(frame(1))
        write(None)

        assert prices(lab_database) == [1]

    def test_records_are_written_like_frames(self, lab_database: Database):
        write(Records(("at", "market", "price", "document"), [(T0, "KRW-BTC", Decimal("1e-30"), '{"a": 1.10}')]))

        with lab_database.connect() as connection:
            price, document = connection.execute(sa.text("SELECT price, document::text FROM lab.figures")).one()
        assert (price, document) == (Decimal("1e-30"), '{"a": 1.10}')

    def test_hostile_names_are_quoted(self, lab_database: Database):
        at, price = (column.name for column in hostile.columns)
        write(frame(1))
        for rows in (
            pd.DataFrame({at: [T0], price: [Decimal(1)]}),
            Records((at, price), [(T0, Decimal(2))]),
            sa.select(sa.literal(T0).label(at), sa.literal(3).label(price)),
        ):
            write(rows, into=hostile)

        with lab_database.connect() as connection:
            assert connection.scalars(sa.select(hostile.c[price])).all() == [3]
        assert prices(lab_database) == [1]
        assert hostile.name == HOSTILE


class TestRefusing:
    """Unsupported values are rejected with a reason, and the window is unchanged."""

    @pytest.fixture(autouse=True)
    def old_rows(self, lab_database: Database):
        write(frame(1))
        yield
        assert prices(lab_database) == [1]

    def refusal(self, rows: Any) -> str:
        return refused(materialize(returning(lambda _: rows)))

    def test_an_unsupported_return_type(self):
        reason = self.refusal([{"at": T0}])

        assert "can be written from sqlalchemy.Select, pandas.DataFrame or Records, not from list" in reason

    def test_binary_floats_for_an_exact_column(self):
        assert "lab.figures.price is exact" in self.refusal(frame(1).astype({"price": "float64"}))

    def test_binary_floats_in_a_nullable_column_type(self):
        assert "lab.figures.price is exact" in self.refusal(frame(1).astype({"price": "Float64"}))

    def test_binary_floats_among_decimals(self):
        mixed = frame(1, 2)
        mixed["price"] = pd.Series([Decimal(1), 0.1], dtype=object)

        assert "lab.figures.price is exact" in self.refusal(mixed)

    def test_an_unknown_column(self):
        assert "lab.figures has no column vloume; it has at, market" in self.refusal(frame(1).assign(vloume=1))

    def test_an_unknown_column_of_a_select(self):
        assert "lab.figures has no column vloume" in self.refusal(
            sa.select(sa.literal(T0).label("at"), sa.literal("m").label("market"), sa.literal(1).label("vloume"))
        )

    @pytest.mark.parametrize("at", [T0 - timedelta(microseconds=1), NEXT], ids=["before its start", "at its end"])
    @pytest.mark.parametrize(
        ("kind", "how"),
        [("frame", "replace"), ("records", "replace"), ("select", "replace"), ("select", "append")],
    )
    def test_a_row_outside_of_the_window(self, at: Any, kind: str, how: Any):
        rows = {
            "frame": pd.concat([frame(2), frame(3, at=at)]),
            "records": Records(("at", "market"), [(T0, "a"), (at, "b")]),
            "select": sa.select(sa.func.unnest(sa.literal([T0, at])).label("at"), sa.literal("m").label("market")),
        }[kind]
        reason = refused(materialize(returning(lambda _: rows, write=how)))

        # records stop at the first one outside
        first, last = (at, at) if kind == "records" else (min(T0, at), max(T0, at))
        assert f"lab.figures: rows from {first} to {last} are not all within [{T0}, {NEXT})" in reason

    @pytest.mark.parametrize("rows", [frame(2), None], ids=["a frame", "nothing"])
    def test_a_range_that_runs_backwards(self, rows: Any):
        reason = refused(materialize(returning(lambda _: rows), first=NEXT, last=T0))

        assert "The range of partitions is reversed: the first one must not be later than the last." in reason

    def test_a_violated_constraint_in_plain_words(self):
        reason = self.refusal(frame(2).assign(market=None))

        assert "DatabaseError: PostgreSQL rejected the statement. The transaction was rolled back." in reason
        assert 'null value in column "market"' in reason

    def test_an_asset_without_a_write_mode(self):
        silent = {"dagster/table_name": "lab.figures"}

        assert "doesn't declare its write mode: write='append' or 'replace'" in refused(
            materialize(returning(lambda _: frame(2), metadata=silent))
        )

    def test_an_asset_without_a_table(self):
        assert "figures is not stored in a known table" in refused(
            materialize(returning(lambda _: frame(2), metadata={"write": "replace"}))
        )

    def test_replace_of_an_unpartitioned_asset(self, lab_url: str):
        @asset(io_manager_key="postgres", metadata=stored_in(figures, write="replace"))
        def whole() -> pd.DataFrame:
            return frame(2)

        assert "replace needs a partitioned asset" in refused(run_whole(whole))


class TestMetadata:
    def test_a_run_reports_rows_and_speed(self, lab_database: Database):
        told = metadata_of(materialize(returning(lambda _: frame(1, 2, 3))))

        assert told["dagster/partition_row_count"] == told["rows in lab.figures"] == 3
        assert told["seconds"] >= 0
        assert told["rows per second"] > 0

    def test_a_range_reports_no_count_of_one_partition(self, lab_database: Database):
        told = metadata_of_each(materialize(returning(lambda _: frame(1, 2)), last=NEXT))

        assert [("dagster/partition_row_count" in each, each["rows in lab.figures"]) for each in told] == [
            (False, 2),
            (False, 2),
        ]

    def test_an_asset_has_metadata_of_its_table_and_its_columns_with_their_meaning(self):
        told = returning(lambda _: None).metadata_by_key
        [metadata] = told.values()
        schema = metadata["dagster/column_schema"]

        assert metadata["dagster/table_name"] == "lab.figures"
        assert isinstance(schema, TableSchema)
        assert [(column.name, column.type, column.description) for column in schema.columns[:3]] == [
            ("at", "timestamp with time zone", "When"),
            ("market", "varchar(30)", "Which"),
            ("price", "numeric", "How much"),
        ]
        assert [column.constraints.nullable for column in schema.columns[:3]] == [False, False, True]

    def test_a_description_is_read_in_the_writes_own_transaction(self, lab_database: Database):
        def describe(connection: sa.Connection, window: Any) -> dict[str, Any]:
            return {
                "largest": str(connection.execute(sa.select(sa.func.max(figures.c.price))).scalar_one()),
                "window": windows.key_of(window.start),
            }

        told = metadata_of(materialize(returning(lambda _: Load({figures: frame(1, 5, 3)}, describe))))

        assert (told["largest"], told["window"]) == ("5", windows.key_of(T0))


def metadata_of_each(result: ExecuteInProcessResult) -> list[dict[str, Any]]:
    return [
        {name: value.value for name, value in materialization.metadata.items()}
        for materialization in result.asset_materializations_for_node("figures")
    ]


class TestSeveralTables:
    def test_a_load_writes_each_table_in_its_order(self, lab_database: Database):
        from_first = sa.select(figures.c.at, figures.c.market, (figures.c.price + 1).label("price"))
        result = materialize(returning(lambda _: Load({figures: frame(1, 2), further: from_first})))

        assert result.success, run_errors(result)
        assert prices(lab_database, further) == [2, 3]
        told = metadata_of(result)
        assert (told["dagster/partition_row_count"], told["rows in lab.further"]) == (2, 2)

    @pytest.mark.parametrize(("several", "times"), [(False, 1), (True, 0)])
    def test_a_write_sends_one_notification_and_single_appends_send_none(
        self, lab_database: Database, lab_url: str, several: bool, times: int
    ):
        def rows(context: AssetExecutionContext) -> MaterializeResult | Load:
            each = [
                Load({figures: frame(1, at=T0 + timedelta(minutes=number)), further: frame(1, 2)})
                for number in range(3)
            ]
            if not several:
                return each[0]
            with lab_database.connect() as connection, asset_writer(context, connection, figures) as out:
                for load in each:
                    out.append(Load({figures: load.tables[figures]}))
            return MaterializeResult(metadata=out.metadata())

        with psycopg.connect(lab_url, autocommit=True) as listening:
            listening.execute("LISTEN asset_written")
            assert materialize(returning(rows, write="append")).success
            heard = [json.loads(each.payload) for each in listening.notifies(timeout=0.1)]

        window = {"start": T0.isoformat(), "end": (T0 + WINDOW).isoformat()}
        assert heard == [{"table": "lab.figures", **window}] * times

    def test_a_staged_relation_is_computed_once_and_dropped_after_the_write(self, lab_database: Database):
        rolled = sa.select(
            sa.literal(T0).label("at"),
            sa.literal("KRW-BTC").label("market"),
            sa.cast(sa.func.random(), sa.Numeric).label("price"),
        )
        dice = stage('a "staged" table', rolled)
        load = Load({figures: sa.select(dice), further: sa.select(dice)}, staged={dice: rolled})

        for _ in range(2):
            assert materialize(returning(lambda _: load)).success
            assert prices(lab_database, further) == prices(lab_database)
        with lab_database.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="does not exist"):
            connection.execute(sa.select(dice))

    def test_a_document_that_jsonb_rejects_fails_nothing_and_duplicates_nothing(self, lab_database: Database):
        texts = Records(("at", "market", "document"), [(T0, "good", '{"a": 1}'), (T0, "odd", '{"a": NaN}')])
        load = Load({further: frame(1, 2), figures: texts})

        assert materialize(returning(lambda _: load, write="append")).success

        with lab_database.connect() as connection:
            found = connection.execute(sa.select(figures.c.document).order_by(figures.c.market)).scalars().all()
        assert found == [{"a": 1}, '{"a": NaN}']
        assert prices(lab_database, further) == [1, 2]

    @pytest.mark.parametrize(
        "broken",
        [
            frame(5).assign(market=None),
            sa.select(sa.literal(T0).label("at"), sa.cast("no number", sa.Numeric).label("price")),
            Records(("at", "market"), [(T0, "m"), (T0, "m")]),
            "no rows at all",
        ],
        ids=["frame", "select", "records", "another type"],
    )
    def test_a_load_is_atomic(self, lab_database: Database, broken: Any):
        assert materialize(returning(lambda _: Load({figures: frame(1), further: frame(2)}))).success

        refused(materialize(returning(lambda _: Load({figures: frame(3, 4), further: broken}))))

        assert (prices(lab_database), prices(lab_database, further)) == ([1], [2])


class TestReading:
    def read(self, kind: Any, *, first: Any = T0, last: Any = None) -> Any:
        """The input of a downstream asset, annotated with `kind`."""
        got = []

        @asset(
            ins={"upstream": AssetIn("figures")},
            partitions_def=windows.partitions,
            backfill_policy=BackfillPolicy.single_run(),
            io_manager_key="postgres",
            metadata=stored_in(further, write="replace"),
        )
        def reader(upstream: kind) -> None:
            got.append(upstream)

        source = returning(lambda _: None)
        result = materialize(source, reader, first=first, last=last, select="reader")
        assert result.success, run_errors(result)
        return got[0]

    @pytest.fixture(autouse=True)
    def three_windows(self, lab_database: Database):
        for step in (-1, 0, 1):
            write(frame(10 + step, 20 + step, at=T0 + step * WINDOW), first=T0 + step * WINDOW)

    @pytest.mark.parametrize("annotation", [sa.Select, sa.Select[Any]], ids=["Select", "Select[Any]"])
    def test_a_select_is_narrowed_to_the_partition(self, lab_database: Database, annotation: Any):
        select = self.read(annotation)

        with lab_database.connect() as connection:
            assert [row.price for row in connection.execute(select.order_by("price"))] == [10, 20]

    def test_a_frame_has_the_partitions_rows(self):
        assert sorted(self.read(pd.DataFrame)["price"]) == [10, 20]

    def test_a_range_is_read_as_one(self):
        assert sorted(self.read(pd.DataFrame, first=T0 - WINDOW, last=T0)["price"]) == [9, 10, 19, 20]

    def test_a_range_that_runs_backwards_is_refused(self):
        with pytest.raises(AssertionError, match="The range of partitions is reversed"):
            self.read(sa.Select, first=T0, last=T0 - WINDOW)

    def test_an_empty_window_is_a_frame_with_the_tables_columns(self):
        read = self.read(pd.DataFrame, first=T0 + DAY)

        assert list(read.columns) == figures.c.keys()
        assert read.empty

    def test_a_frames_numbers_are_exact(self, lab_database: Database):
        digits = "0." + "1234567890" * 6
        write(frame(digits, "1e-30", "3"))
        read = self.read(pd.DataFrame)["price"]

        assert set(read) == {Decimal(digits), Decimal("1e-30"), Decimal(3)}
        assert {type(price) for price in read} == {Decimal}

    @pytest.mark.parametrize("annotation", [list, dict[str, int], Any])
    def test_an_unsupported_annotation_is_rejected(self, annotation: Any):
        with pytest.raises(AssertionError, match=r"can be read as sqlalchemy\.Select or pandas\.DataFrame, not as"):
            self.read(annotation)


class TestReadersMeanwhile:
    def test_an_unfinished_write_shows_the_old_rows(self, lab_database: Database):
        write(frame(1, 2))
        with paused_write(frame(3, 4, 5)):
            assert prices(lab_database) == [1, 2]

        assert prices(lab_database) == [3, 4, 5]

    def test_a_reader_never_sees_an_empty_or_mixed_window(self, lab_database: Database):
        old, new = tuple(range(200)), tuple(range(1000, 1200))
        write(frame(*old))
        seen, over = set(), threading.Event()

        def read() -> None:
            while not over.is_set():
                seen.add(tuple(map(int, prices(lab_database))))

        reader = threading.Thread(target=read)
        reader.start()
        for rows in (new, old, new, old, new):
            write(frame(*rows))
        over.set()
        reader.join()

        assert seen == {old, new}


class TestWritersMeanwhile:
    def test_two_runs_of_a_window_are_serialized(self, lab_database: Database, lab_url: str):
        with paused_write(frame(1, 2, 3)) as (pause, _):
            second = threading.Thread(target=write, args=[frame(4, 5)])
            second.start()
            until(lambda: waits_for_a_lock(lab_url), "the second run waits")
            pause.over.set()
            second.join()

        assert prices(lab_database) == [4, 5]

    def test_concurrent_runs_leave_one_runs_output(self, lab_database: Database):
        outputs = [[Decimal(run)] * 50 for run in range(6)]
        threads = [threading.Thread(target=write, args=[frame(*output)]) for output in outputs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert prices(lab_database) in outputs

    def test_a_run_that_waited_sees_the_others_commit(self, lab_database: Database, lab_url: str):
        """Its snapshot is taken after its lock, so it includes the first run's output."""
        copied = sa.select(figures.c.at, sa.literal("copy").label("market"), figures.c.price)
        with paused_write(frame(1, 2)) as (pause, _):
            second = threading.Thread(target=write, args=[copied], kwargs={"how": "append"})
            second.start()
            until(lambda: waits_for_a_lock(lab_url), "the second run waits")
            pause.over.set()
            second.join()

        assert prices(lab_database) == [1, 1, 2, 2]

    def test_a_window_waits_for_a_range_that_covers_it(self, lab_database: Database, lab_url: str):
        with paused_write(frame(1), first=T0 - WINDOW, last=NEXT) as (pause, _):
            second = threading.Thread(target=write, args=[frame(2)])
            second.start()
            until(lambda: waits_for_a_lock(lab_url), "the window's run waits")
            pause.over.set()
            second.join()

        assert prices(lab_database) == [2]

    def test_adjacent_windows_do_not_wait_for_each_other(self, lab_database: Database):
        with paused_write(frame(1), first=T0):
            write(frame(2, at=NEXT), first=NEXT)
            assert prices(lab_database) == [2]

        assert prices(lab_database) == [1, 2]

    def test_overlapping_ranges_never_deadlock(self, lab_database: Database):
        spans = [(T0 + step * WINDOW, T0 + (step + 7) * WINDOW) for step in (0, 5, 2, 3, 1, 4)]
        threads = [
            threading.Thread(target=write, args=[frame(1, at=first)], kwargs={"first": first, "last": last})
            for first, last in spans
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert not any(thread.is_alive() for thread in threads)

    def test_a_very_wide_range_locks_the_whole_table(
        self, lab_database: Database, lab_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(locks, "MAX_WINDOW_LOCKS", 3)  # Dagster takes seconds for a thousand
        with paused_write(frame(1), first=T0, last=T0 + 3 * WINDOW) as (pause, _):
            assert advisory_locks(lab_url) == [("ExclusiveLock", True, lock_key("lab.figures"))]
            outside = threading.Thread(target=write, args=[frame(2, at=T0 - DAY)], kwargs={"first": T0 - DAY})
            outside.start()
            until(lambda: waits_for_a_lock(lab_url), "a window's run waits for the table")
            pause.over.set()
            outside.join()

        assert prices(lab_database) == [2, 1]

    def test_a_thousand_windows_are_locked_one_by_one_and_more_as_a_whole(self):
        keys = [str(number) for number in range(1001)]

        assert len(locks.locks(figures, keys[:1000])[0]) == 1000
        assert locks.locks(figures, keys) == ([lock_key("lab.figures")], None)

    @given(
        st.lists(st.sampled_from([windows.key_of(T0 + step * WINDOW) for step in range(20)]), unique=True, min_size=1)
    )
    def test_locks_are_taken_in_one_order(self, keys: list[str]):
        exclusive, shared = locks.locks(figures, keys)

        assert shared == lock_key("lab.figures")
        assert exclusive == sorted({lock_key(f"lab.figures/{key}") for key in keys})

    def test_no_lock_outlives_its_run(self, lab_database: Database, lab_url: str):
        write(frame(1))
        refused(materialize(returning(lambda _: "no rows at all")))

        assert advisory_locks(lab_url) == []


class EndsTheSession(Sequence[tuple[Any, ...]]):
    """A row, or a value, that ends its writer's session when it is read."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _place: Any) -> Any:
        raise IndexError

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        end_backends(self.url, busy=True)
        return iter([(T0, "KRW-BTC", Decimal(1))])

    def __str__(self) -> str:
        end_backends(self.url, busy=True)
        return "0"


class TestAccidents:
    """Whatever is interrupted, the rows are complete, and the next run recovers."""

    @pytest.fixture(autouse=True)
    def old_rows(self, lab_database: Database):
        write(frame(1, 2))

    @pytest.fixture
    def heals(self, lab_database: Database, lab_url: str) -> Callable[[], None]:
        def check() -> None:
            assert prices(lab_database) == [1, 2]
            write(frame(3))
            assert prices(lab_database) == [3]
            assert advisory_locks(lab_url) == []

        return check

    def test_a_process_killed_in_the_middle_of_a_write(self, lab_url: str, heals: Callable[[], None]):
        reached = spawn.Event()
        process = spawn.Process(target=write_until_killed, args=[lab_url, reached])
        process.start()
        assert reached.wait(PATIENCE)
        process.kill()
        process.join()

        heals()

    def test_sessions_ended_before_a_write_are_not_even_noticed(self, lab_url: str, heals: Callable[[], None]):
        end_backends(lab_url)

        heals()

    def test_a_session_ended_while_it_waits_for_its_turn(self, lab_url: str, lab_database: Database):
        with paused_write(frame(3)):
            results: list[ExecuteInProcessResult] = []
            waiting = threading.Thread(target=lambda: results.append(materialize(returning(lambda _: frame(4)))))
            waiting.start()
            until(lambda: waits_for_a_lock(lab_url), "the second run waits")
            with psycopg.connect(lab_url, autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
            waiting.join()

        assert "DatabaseError: PostgreSQL is not reachable, or the connection was lost" in refused(results[0])
        assert prices(lab_database) == [3]

    def test_a_session_ended_before_its_copy(self, lab_url: str, heals: Callable[[], None]):
        rows = Records(("at", "market", "price"), EndsTheSession(lab_url))
        reason = refused(materialize(returning(lambda _: rows)))

        assert "DatabaseError: PostgreSQL is not reachable, or the connection was lost" in reason
        heals()

    def test_a_session_ended_in_the_middle_of_a_copy(self, lab_url: str, heals: Callable[[], None]):
        count = ROWS_A_BLOCK + 1
        rows = pd.DataFrame({"at": [T0] * count, "market": [str(number) for number in range(count)]})
        rows["price"] = pd.Series([Decimal(1)] * ROWS_A_BLOCK + [EndsTheSession(lab_url)], dtype=object)
        reason = refused(materialize(returning(lambda _: rows)))

        assert "DatabaseError: PostgreSQL is not reachable, or the connection was lost" in reason
        heals()

    def test_a_session_ended_after_the_rows_and_before_the_commit(self, lab_url: str, heals: Callable[[], None]):
        reason = refused(materialize(returning(lambda _: held(frame(5), lambda: end_backends(lab_url, busy=True)))))

        assert "DatabaseError: PostgreSQL is not reachable, or the connection was lost" in reason
        heals()

    def test_a_session_ended_between_two_tables(self, lab_url: str, heals: Callable[[], None]):
        rows = Records(("at", "market", "price"), EndsTheSession(lab_url))
        reason = refused(materialize(returning(lambda _: Load({figures: frame(5), further: rows}))))

        assert "DatabaseError: PostgreSQL is not reachable, or the connection was lost" in reason
        heals()

    def test_an_interrupted_asset_releases_its_lock(self, lab_url: str, heals: Callable[[], None]):
        def interrupt() -> None:
            raise KeyboardInterrupt

        refused(materialize(returning(lambda _: held(frame(5), interrupt))))

        heals()

    @pytest.mark.parametrize("how", [KeyboardInterrupt, DagsterExecutionInterruptedError])
    def test_a_stopped_run_is_not_retried(self, heals: Callable[[], None], how: type[BaseException]):
        def stop() -> None:
            raise how

        result = materialize(returning(lambda _: held(frame(5), stop), retry_policy=RetryPolicy(max_retries=1)))

        assert "Interrupted: terminated" in refused(result)
        assert not [event for event in result.all_events if event.is_step_up_for_retry]
        heals()

    @pytest.mark.parametrize("how", [KeyboardInterrupt, DagsterExecutionInterruptedError])
    def test_a_stopped_run_of_appends_is_not_retried_and_keeps_its_rows(
        self, lab_database: Database, lab_url: str, how: type[BaseException]
    ):
        def rows(context: AssetExecutionContext) -> None:
            with lab_database.connect() as connection, asset_writer(context, connection, figures) as out:
                out.append(Load({figures: frame(7, at=T0 + timedelta(minutes=1))}))
                assert advisory_locks(lab_url) != []
                raise how

        result = materialize(returning(rows, write="append", retry_policy=RetryPolicy(max_retries=1)))

        assert "Interrupted: terminated" in refused(result)
        assert not [event for event in result.all_events if event.is_step_up_for_retry]
        assert prices(lab_database) == [1, 2, 7]
        assert advisory_locks(lab_url) == []


class TestNoDatabase:
    @pytest.fixture
    def reason(self, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("UPBIT_POSTGRES_URL", "postgresql://me:top%20secret@127.0.0.1:1/upbit")
        return refused(materialize(returning(lambda _: frame(1))))

    def test_an_unreachable_server_says_what_to_do(self, reason: str):
        assert (
            "DatabaseError: PostgreSQL is not reachable, or the connection was lost. Start it, then run this again."
            in reason
        )

    def test_an_error_shows_where_and_never_the_password(self, reason: str):
        assert "me:***@127.0.0.1:1/upbit" in reason
        assert "secret" not in reason

    def test_a_database_without_the_schema_says_what_to_do(self, lab_url: str, database: Database):
        with pytest.raises(DatabaseError, match="Run: upbit-assets migrate"), database.connect() as connection:
            connection.execute(sa.text("SELECT * FROM lab.not_there"))

    def test_sessions_have_the_pipelines_role_and_seouls_time_zone(self, database: Database):
        with database.connect() as connection:
            assert connection.execute(sa.text("SELECT current_user, current_setting('timezone')")).one() == (
                "upbit_pipeline",
                "Asia/Seoul",
            )
