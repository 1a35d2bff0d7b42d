"""The database as created by the migrations."""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from psycopg import sql

from upbit_assets.cli import main
from upbit_assets.partitions import SEOUL
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import alembic_config, migrate
from upbit_assets.postgres.partitioning import DAYS_AHEAD
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets_tests.pipeline import ask
from upbit_assets_tests.postgres.lab import until

DAY = timedelta(days=1)
AHEAD = datetime(2031, 3, 15, tzinfo=SEOUL)  # a day that has no partition yet
PARTITIONED_BY_DAY, PARTITIONED_BY_MONTH = 14, 7
MARKET_TABLES = [table.fullname for table in tables.metadata.sorted_tables if "market" in table.c]


@pytest.fixture
def owner(market_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(market_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def another_owner(another_url: str) -> Iterator[psycopg.Connection[Any]]:
    """For tests that leave partitions behind."""
    with psycopg.connect(another_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pipeline(owner: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    owner.execute("SET ROLE upbit_pipeline")
    return owner


@pytest.fixture
def reader(owner: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    owner.execute("SET ROLE upbit_reader")
    return owner


def column(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> list[Any]:
    return [row[0] for row in connection.execute(query, parameters)]


def put_raw(connection: psycopg.Connection[Any], at: datetime, market: str = "KRW-BTC") -> None:
    connection.execute(
        "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at) VALUES (%s, '{}', %s)", [market, at]
    )


def make_partitions(connection: psycopg.Connection[Any], first: datetime, last: datetime) -> int:
    [made] = column(connection, "SELECT bronze.make_partitions(%s, %s)", first, last)
    return made


class TestSchema:
    def test_the_tables_in_the_code_are_those_in_the_database(self, market_url: str):
        engine = sa.create_engine(sqlalchemy_url(market_url), poolclass=sa.NullPool)
        with engine.connect() as connection:
            partitions = set(connection.scalars(sa.text("SELECT relname FROM pg_class WHERE relispartition")))
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": True,
                    "include_name": lambda name, kind, _parents: (
                        name in {"bronze", "silver", "gold", "live"} if kind == "schema" else name not in partitions
                    ),
                    "compare_type": True,
                    "compare_server_default": True,
                },
            )
            assert compare_metadata(context, tables.metadata) == []

    def test_migrating_again_changes_nothing(self, market_url: str, owner: psycopg.Connection[Any]):
        def everything() -> list[Any]:
            columns = (
                "SELECT attrelid::regclass::text, attname, atttypid::regtype::text, attnotnull, "
                "col_description(attrelid, attnum) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
                "WHERE relnamespace::regnamespace::text IN ('bronze', 'silver', 'gold') ORDER BY attrelid, attnum"
            )
            rights = "SELECT oid::regclass::text, relacl::text, obj_description(oid) FROM pg_class WHERE oid > 16383"
            return [owner.execute(columns).fetchall(), sorted(map(repr, owner.execute(rights)))]

        put_raw(owner, AHEAD)
        migrate(market_url)  # a day may have begun since the first time
        before = everything()
        migrate(market_url)

        assert everything() == before
        assert column(owner, "SELECT market FROM bronze.ticker_raw") == ["KRW-BTC"]

    def test_several_at_once_migrate_an_empty_database_once(self, owner: psycopg.Connection[Any], server: Any):
        owner.execute("CREATE DATABASE twice")
        owner.execute("ALTER DATABASE twice SET timezone = 'UTC'")
        failures: list[BaseException] = []

        def run() -> None:
            try:
                migrate(server.url("twice"))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with psycopg.connect(server.url("twice")) as connection:
            assert column(connection, "SELECT count(*) FROM bronze.ticker_raw") == [0]
            assert column(connection, "SHOW timezone") == ["Asia/Seoul"]
        owner.execute("DROP DATABASE twice WITH (FORCE)")

        assert failures == []

    @pytest.mark.parametrize(
        ("name", "columns"),
        [
            (
                "bronze.ticker_raw",
                [
                    ("id", "bigint"),
                    ("market", "character varying(30)"),
                    ("raw_data", "jsonb"),
                    ("ingested_at", "timestamp with time zone"),
                ],
            ),
            (
                "silver.ticker",
                [
                    ("id", "bigint"),
                    ("market", "character varying(30)"),
                    ("trade_date", "character varying(8)"),
                    ("trade_time", "character varying(6)"),
                    ("trade_price", "numeric"),
                    ("acc_trade_volume", "numeric"),
                    ("ingested_at", "timestamp with time zone"),
                ],
            ),
            (
                "gold.market_stats",
                [
                    ("id", "bigint"),
                    ("ingested_at", "timestamp with time zone"),
                    ("market", "character varying(30)"),
                    ("trade_price", "numeric"),
                    ("daily_volume", "numeric"),
                    ("rank_volume", "integer"),
                ],
            ),
        ],
    )
    def test_a_table_begins_with_the_dictionarys_columns(
        self, owner: psycopg.Connection[Any], name: str, columns: list[tuple[str, str]]
    ):
        found = owner.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            [name],
        ).fetchall()

        assert found[: len(columns)] == columns

    def test_the_database_reads_plain_times_as_seouls(self, owner: psycopg.Connection[Any]):
        put_raw(owner, datetime(2026, 1, 29, 14, 5, tzinfo=SEOUL))
        between = "ingested_at BETWEEN '2026-01-29 14:00:00' AND '2026-01-29 14:10:00'"

        assert column(owner, f"SELECT count(*) FROM bronze.ticker_raw WHERE {between}") == [1]


class TestReadyToBeDistributed:
    @pytest.mark.parametrize("name", MARKET_TABLES)
    def test_every_key_contains_the_market(self, owner: psycopg.Connection[Any], name: str):
        keys = column(
            owner,
            "SELECT ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey)) "
            "FROM pg_index WHERE indrelid = %s::regclass AND (indisunique OR indisprimary)",
            name,
        )

        assert keys
        assert all("market" in key for key in keys)

    @pytest.mark.parametrize("name", MARKET_TABLES)
    def test_the_market_is_never_null(self, owner: psycopg.Connection[Any], name: str):
        not_null = "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'market'"

        assert column(owner, not_null, name) == [True]

    def test_ids_are_bigint_identities(self, owner: psycopg.Connection[Any]):
        ids = owner.execute(
            "SELECT atttypid::regtype::text, attidentity::text FROM pg_attribute "
            "JOIN pg_class ON pg_class.oid = attrelid WHERE attname = 'id' AND relkind = 'p' "
            "AND relnamespace::regnamespace::text IN ('bronze', 'silver', 'gold')"
        ).fetchall()

        # all but silver.trade_coverage, which has a row per window and market
        assert ids == [("bigint", "a")] * (PARTITIONED_BY_DAY + PARTITIONED_BY_MONTH - 1)

    def test_there_are_no_triggers_and_no_foreign_keys(self, owner: psycopg.Connection[Any]):
        # partitioned tables of some versions have internal triggers of PostgreSQL's own
        assert column(owner, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
        assert column(owner, "SELECT conname FROM pg_constraint WHERE contype = 'f'") == []


REFUSED = psycopg.errors.InsufficientPrivilege


class TestPrivileges:
    @pytest.mark.parametrize("table", ["bronze.ticker_raw", "bronze.market_raw", "bronze.origin"])
    @pytest.mark.parametrize("statement", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {}"])
    def test_the_pipeline_only_adds_to_bronze(self, pipeline: psycopg.Connection[Any], table: str, statement: str):
        name = "simulated" if table == "bronze.origin" else "market"
        with pytest.raises(REFUSED):
            pipeline.execute(statement.format(table, name, name))

    @pytest.mark.parametrize("statement", ["UPDATE {} SET market = ''", "DELETE FROM {}", "TRUNCATE {}"])
    def test_nor_does_it_change_bronze_through_a_partition(self, owner: psycopg.Connection[Any], statement: str):
        partitions = column(
            owner, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'bronze.ticker_raw'::regclass"
        )
        owner.execute("SET ROLE upbit_pipeline")
        assert len(partitions) > 10
        for partition in partitions:
            with pytest.raises(REFUSED):
                owner.execute(statement.format(partition))

    @pytest.mark.parametrize(
        "statement",
        [
            "DROP TABLE bronze.ticker_raw",
            "ALTER TABLE silver.ticker DROP COLUMN trade_price",
            "CREATE TABLE gold.more (a integer)",
            "CREATE TABLE public.more (a integer)",
            "CREATE SCHEMA more",
            "CREATE INDEX ON silver.ticker (traded_at)",
            "DROP SCHEMA silver CASCADE",
            "TRUNCATE silver.ticker",
        ],
    )
    def test_the_pipeline_makes_no_ddl(self, pipeline: psycopg.Connection[Any], statement: str):
        with pytest.raises(REFUSED):
            pipeline.execute(sql.SQL(statement))

    def test_the_pipeline_can_not_grant_itself_privileges(self, pipeline: psycopg.Connection[Any]):
        pipeline.execute("GRANT DELETE ON bronze.ticker_raw TO upbit_pipeline")  # PostgreSQL only warns

        with pytest.raises(REFUSED):
            pipeline.execute("DELETE FROM bronze.ticker_raw")

    def test_the_pipeline_makes_partitions_ahead(self, another_owner: psycopg.Connection[Any]):
        another_owner.execute("SET ROLE upbit_pipeline")

        assert make_partitions(another_owner, AHEAD, AHEAD) == PARTITIONED_BY_DAY + PARTITIONED_BY_MONTH

    def test_the_reader_creates_no_partitions(self, reader: psycopg.Connection[Any]):
        with pytest.raises(REFUSED):
            make_partitions(reader, AHEAD, AHEAD)

    def test_the_reader_reads_silver_and_gold(self, reader: psycopg.Connection[Any]):
        for table in tables.metadata.sorted_tables:
            if table.schema != "bronze":
                assert column(reader, f"SELECT count(*) FROM {table.fullname}") == [0]
        assert column(reader, "SELECT count(*) FROM gold.turnover_top10") == [0]

    def test_the_reader_learns_of_bronze_only_whether_it_is_simulated(self, reader: psycopg.Connection[Any]):
        reader.execute("SELECT simulated FROM bronze.origin")
        for table in tables.metadata.sorted_tables:
            if table.schema == "bronze" and table is not tables.bronze_origin:
                with pytest.raises(REFUSED):
                    reader.execute(f"SELECT count(*) FROM {table.fullname}")

    @pytest.mark.parametrize("privilege", ["INSERT", "UPDATE", "DELETE", "TRUNCATE"])
    def test_the_reader_writes_nothing(self, owner: psycopg.Connection[Any], privilege: str):
        granted = column(
            owner,
            "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') "
            "AND relnamespace::regnamespace::text IN ('bronze', 'silver', 'gold', 'public') "
            "AND has_table_privilege('upbit_reader', oid, %s)",
            privilege,
        )

        assert granted == []


class TestPartitions:
    def test_a_row_of_a_day_without_a_partition_moves_to_it_when_it_is_made(
        self, another_owner: psycopg.Connection[Any]
    ):
        days = [AHEAD, AHEAD + DAY - timedelta(microseconds=1), AHEAD + DAY]
        for at in days:
            put_raw(another_owner, at)
        before = another_owner.execute(
            "SELECT id, written_in, ingested_at FROM bronze.ticker_raw ORDER BY id"
        ).fetchall()
        assert where(another_owner) == ["bronze.ticker_raw_default"] * 3

        make_partitions(another_owner, AHEAD, AHEAD)

        assert where(another_owner) == ["bronze.ticker_raw_20310315"] * 2 + ["bronze.ticker_raw_default"]
        after = another_owner.execute(
            "SELECT id, written_in, ingested_at FROM bronze.ticker_raw ORDER BY id"
        ).fetchall()
        assert after == before

    def test_an_id_after_a_move_is_a_new_one(self, another_owner: psycopg.Connection[Any]):
        put_raw(another_owner, AHEAD)
        make_partitions(another_owner, AHEAD, AHEAD)
        put_raw(another_owner, AHEAD)

        first, second = column(another_owner, "SELECT id FROM bronze.ticker_raw ORDER BY id")
        assert second > first

    @pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul", "America/New_York", "Pacific/Kiritimati"])
    def test_partitions_begin_at_midnight_in_seoul_whatever_the_sessions_zone(
        self, another_owner: psycopg.Connection[Any], zone: str
    ):
        another_owner.execute(sql.SQL("SET timezone = {}").format(zone))
        for at in (AHEAD, AHEAD + timedelta(hours=23, minutes=59)):
            make_partitions(another_owner, at, at)

        another_owner.execute("SET timezone = 'UTC'")
        assert (
            bounds(another_owner, "silver.ticker_20310315")
            == "FROM ('2031-03-14 15:00:00+00') TO ('2031-03-15 15:00:00+00')"
        )
        assert bounds(another_owner, "gold.market_stats_203103") == (
            "FROM ('2031-02-28 15:00:00+00') TO ('2031-03-31 15:00:00+00')"
        )
        assert column(another_owner, "SELECT to_regclass('silver.ticker_20310314')::text") == [None]

    def test_creating_partitions_again_creates_none(self, another_owner: psycopg.Connection[Any]):
        assert make_partitions(another_owner, AHEAD, AHEAD + 2 * DAY) == 3 * PARTITIONED_BY_DAY + PARTITIONED_BY_MONTH
        assert make_partitions(another_owner, AHEAD, AHEAD + 2 * DAY) == 0

    def test_partitions_of_years_are_created_in_calls_with_few_locks(self, another_owner: psycopg.Connection[Any]):
        one = "SELECT bronze.make_partitions('bronze.market_raw', %s, %s)"
        made = [column(another_owner, one, AHEAD, AHEAD + 249 * DAY) for _ in range(4)]
        assert made == [[100], [100], [50], [0]]

    def test_a_migrated_database_has_partitions_for_two_weeks(
        self, another_owner: psycopg.Connection[Any], another_url: str
    ):
        now = datetime.now(UTC)
        migrate(another_url)
        for at in (now - DAY, now, now + DAYS_AHEAD):
            put_raw(another_owner, at)

        assert "bronze.ticker_raw_default" not in where(another_owner)

    def test_concurrent_calls_create_each_partition_once(
        self, another_owner: psycopg.Connection[Any], another_url: str
    ):
        made: list[int] = []

        def run() -> None:
            with psycopg.connect(another_url) as connection:
                made.append(make_partitions(connection, AHEAD, AHEAD))

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(made) == [0, PARTITIONED_BY_DAY + PARTITIONED_BY_MONTH]

    def test_a_row_that_is_being_written_to_the_default_meanwhile_moves_too(
        self, another_owner: psycopg.Connection[Any], another_url: str
    ):
        with psycopg.connect(another_url) as writer:
            put_raw(writer, AHEAD)
            maker = make_concurrently(another_url)
            until(lambda: waits(another_owner), "the maker waits for the writer")
            writer.commit()
            maker()

        assert where(another_owner) == ["bronze.ticker_raw_20310315"]

    @pytest.mark.parametrize(
        ("held", "wanted"),
        [
            ("silver.ticker", "bronze.ticker_raw"),
            ("silver.ticker", "silver.ticker_rejected"),
            ("bronze.ticker_raw", "bronze.market_raw"),
            ("gold.market_stats", "silver.ticker"),
        ],
    )
    def test_a_write_under_way_and_new_partitions_never_wait_for_each_other(
        self, another_owner: psycopg.Connection[Any], another_url: str, held: str, wanted: str
    ):
        """In the order in which the assets' writes touch their tables."""
        with psycopg.connect(another_url) as writer:
            writer.execute(f"LOCK TABLE ONLY {held} IN ROW EXCLUSIVE MODE")
            maker = make_concurrently(another_url)
            until(lambda: waits(another_owner), "the maker waits for the writer")
            writer.execute("SET LOCAL lock_timeout = '500ms'")
            writer.execute(f"LOCK TABLE ONLY {wanted} IN ROW EXCLUSIVE MODE")
            writer.commit()
            maker()


def make_concurrently(url: str) -> Callable[[], None]:
    """Creates partitions in another session; the returned call waits for it and raises its error."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with psycopg.connect(url) as connection:
                make_partitions(connection, AHEAD, AHEAD)
        except BaseException as error:
            failures.append(error)

    def finish() -> None:
        thread.join()
        assert failures == []

    thread = threading.Thread(target=run)
    thread.start()
    return finish


def waits(connection: psycopg.Connection[Any]) -> bool:
    return bool(column(connection, "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))


def where(connection: psycopg.Connection[Any]) -> list[str]:
    return column(connection, "SELECT tableoid::regclass::text FROM bronze.ticker_raw ORDER BY id")


def bounds(connection: psycopg.Connection[Any], partition: str) -> str:
    [found] = column(
        connection, "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", partition
    )
    return re.sub("^FOR VALUES ", "", found)


@pytest.fixture
def of_version(server: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """Creates an empty database of a revision; returns its URL."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:

        def make(revision: str) -> str:
            connection.execute("CREATE DATABASE former")
            engine = sa.create_engine(sqlalchemy_url(server.url("former")), poolclass=sa.NullPool)
            with engine.begin() as former:
                alembic.command.upgrade(alembic_config(former), revision)
            return server.url("former")

        yield make
        connection.execute("DROP DATABASE former WITH (FORCE)")


def test_coverage_by_an_empty_reply_alone_is_void_after_an_upgrade(of_version: Callable[[str], str]):
    url, day = of_version("0010"), datetime(2026, 7, 1, tzinfo=UTC)
    with psycopg.connect(url, autocommit=True) as owner:
        for kind in ("candle", "trade"):
            for rows, hours in ((0, 20), (7, 4)):
                owner.execute(
                    f"INSERT INTO bronze.{kind}_page (market, day, covered, rows, ingested_at) "
                    "VALUES ('KRW-BTC', %(day)s, tstzrange(%(day)s, %(day)s + make_interval(hours => %(hours)s)), "
                    "%(rows)s, now())",
                    {"day": day, "rows": rows, "hours": hours},
                )
        build = "INSERT INTO silver.trade_build VALUES (%s, 7, 7, 0, 0, '2026-07-02')"
        for start in (day, day + DAY):
            owner.execute(build, [start])
    migrate(url)
    with psycopg.connect(url, autocommit=True) as owner:
        for kind in ("candle", "trade"):
            covered = column(owner, f"SELECT isempty(covered) FROM bronze.{kind}_page ORDER BY id")
            assert covered == [True, False]
        recomputed = "SELECT computed_at > '2026-07-02' FROM silver.trade_build ORDER BY window_start"
        assert column(owner, recomputed) == [True, False]


def test_a_database_that_holds_data_keeps_the_first_window_that_it_had(of_version: Callable[[str], str]):
    url = of_version("0018")
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("INSERT INTO bronze.origin (simulated) VALUES (true)")
        migrate(url)
        assert column(owner, "SELECT starts_at FROM bronze.collection_start") == [datetime(2026, 1, 1, tzinfo=SEOUL)]


def test_a_database_that_is_newer_than_the_code_is_an_error_that_says_so(
    another_url: str, monkeypatch: pytest.MonkeyPatch
):
    ask(another_url, "UPDATE alembic_version SET version_num = '9999'")
    monkeypatch.setenv("UPBIT_POSTGRES_URL", another_url)
    result = CliRunner().invoke(main, ["migrate"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: The market database has schema 9999, but this version of upbit_assets only")
    assert "a newer version has migrated it. Use that version, or restore a backup" in result.output


@pytest.mark.parametrize("role", ["upbit_pipeline", "upbit_reader"])
def test_either_role_reads_every_table_and_view_of_figures(owner: psycopg.Connection[Any], role: str):
    denied = column(
        owner,
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') "
        "AND relnamespace::regnamespace::text IN ('silver', 'gold', 'live') AND NOT relispartition "
        "AND NOT has_table_privilege(%s, oid, 'SELECT')",
        role,
    )
    assert denied == []
