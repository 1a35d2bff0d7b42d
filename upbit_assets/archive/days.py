"""A day of a bronze table in the archive: writing, verifying and restoring it."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from dagster import DailyPartitionsDefinition, TimeWindow
from sqlalchemy.dialects.postgresql import REGCLASS

from upbit_assets.archive import ArchiveError
from upbit_assets.archive.rows import (
    Content,
    Hashing,
    archived_name,
    columns_of,
    hashed,
    read_table,
    schema_of,
    stored_names,
    write_rows,
)
from upbit_assets.archive.store import Store
from upbit_assets.partitions import DAY, DAY_FORMAT, SEOUL, Axis
from upbit_assets.postgres.origin import KIND, OriginError, claim_origin
from upbit_assets.postgres.partitioning import make_partitions
from upbit_assets.postgres.resource import Database
from upbit_assets.postgres.tables import (
    Moment,
    bronze_archive,
    bronze_collection_start,
    bronze_origin,
    bronze_restored,
    dropped,
    metadata,
    written_between,
)
from upbit_assets.postgres_io import in_window, lock_key, locked, stage
from upbit_assets.postgres_io.writer import CreateStage
from upbit_assets.settings import UPBIT_OPENED, settings
from upbit_assets.stale import committed

# bronze's tables of collected data
TABLES: tuple[sa.Table, ...] = tuple(
    table for table in metadata.sorted_tables if table.schema == "bronze" and "market" in table.c
)
seoul_days = Axis(
    DAY_FORMAT,
    lambda: DailyPartitionsDefinition(UPBIT_OPENED, timezone=str(SEOUL)),
    length=DAY,
    origin=datetime(2000, 1, 1, tzinfo=SEOUL),
    stride=365 * DAY,
)
ROW_GROUP = 8 * 2**20  # bytes before compression
ROWS_AT_ONCE = 4096  # when reading; pyarrow's default of 65,536 is 100 MB of JSON
FORMAT = b"upbit_assets.archive"  # marks our files
FILE, ORIGIN = "rows.parquet", "origin.json"


@dataclass(frozen=True)
class Archived:
    """A day's file: the content that its metadata declares, and its actual content."""

    path: str
    bytes: int
    unpacked: int
    declared: Content
    content: Content
    columns: tuple[str, ...]
    simulated: bool
    revision: str

    def require_whole(self) -> None:
        """Raise ArchiveError if the content is not the declared one."""
        if self.declared != self.content:
            raise ArchiveError(
                f"{self.path} was modified or damaged: it has {self.content.rows} rows but declares "
                f"{self.declared.rows}, or their hash differs. Restore a copy of the file, or archive the day again "
                "while its rows are in PostgreSQL."
            )


def path_of(table: sa.Table, day: TimeWindow) -> str:
    return f"table={table.name}/day={seoul_days.key_of(day.start)}/{FILE}"


def archive_day(database: Database, store: Store, table: sa.Table, day: TimeWindow) -> Archived | None:
    """Write a day's rows into the archive, verify the file, and record that; None if there are no rows.

    If retention dropped the day, it is restored first, so that late rows are added to its archive instead of replacing
    it. An archive has rows of one origin only.

    Raises:
        ArchiveError: the store failed, has data of the other origin, or returned a different file. The store then has
            the previous version or the new one; nothing is recorded.
    """
    with database.connect() as connection, locked(connection, [lock(table, day)]) as locking:
        with locking.begin():
            if not count(locking, table, day):
                return None
            claim_store(store, locking)
            lost = lost_version(locking, table, day)
        if lost is not None:
            restore_lost_version(locking, store, table, day, lost.rows)
        with tempfile.TemporaryFile() as file:
            with locking.begin():
                identity, snapshot = committed(locking)
                written = write_file(locking, table, day, file)
            store.put(path_of(table, day), file)
        found = read_back(store, table, day)
        if found is None or found.content != written:
            raise ArchiveError(
                f"{path_of(table, day)}, read back, differs from what was written. Archive the day again."
            )
        with locking.begin():
            record = {
                "table_name": table.fullname,
                "day": day.start,
                "archived_at": sa.func.clock_timestamp(),
                "rows": written.rows,
                "bytes": found.bytes,
                "content_hash": written.hash,
                "columns": list(found.columns),
                "database": identity,
                "snapshot": snapshot,
            }
            locking.execute(sa.insert(bronze_archive).values(record))
        return found


def lock(table: sa.Table, day: TimeWindow) -> int:
    return lock_key(f"archive of {table.fullname} {seoul_days.key_of(day.start)}")


def count(connection: sa.Connection, table: sa.Table, day: TimeWindow) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(in_window(table, day))) or 0


def lost_version(connection: sa.Connection, table: sa.Table, day: TimeWindow) -> sa.Row[Any] | None:
    """The newest archived version of a day if PostgreSQL no longer has all of its rows, else None."""
    newest = newest_record(connection, table, day)
    if newest is None or is_dropped(connection, table, day) or count(connection, table, day) < newest.rows:
        return newest
    return None


def restore_lost_version(connection: sa.Connection, store: Store, table: sa.Table, day: TimeWindow, rows: int) -> None:
    path = path_of(table, day)
    if (file := store.fetch(path)) is None:
        raise ArchiveError(
            f"{path} is missing, and its {rows} rows were dropped from PostgreSQL: restore a copy of it."
        )
    with file:
        restore_file(connection, table, day, file, path)


def is_dropped(connection: sa.Connection, table: sa.Table, day: TimeWindow) -> bool:
    """Whether retention dropped the day, and it was not restored since."""
    return connection.scalar(sa.select(dropped(table, sa.literal(day.start, Moment)))) is True


def newest_record(connection: sa.Connection, table: sa.Table, day: TimeWindow) -> sa.Row[Any] | None:
    """The record of the day's newest version."""
    of_day = (bronze_archive.c.table_name == table.fullname, bronze_archive.c.day == day.start)
    newest = sa.select(bronze_archive).where(*of_day).order_by(bronze_archive.c.archived_at.desc()).limit(1)
    return connection.execute(newest).one_or_none()


def claim_store(store: Store, connection: sa.Connection) -> None:
    """Prevent mixing real and simulated data in one archive.

    Raises:
        ArchiveError: it has data of the other kind.
    """
    simulated = bool(connection.scalar(sa.select(bronze_origin.c.simulated)))
    marker = store.fetch(ORIGIN)
    if marker is None:
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps({"simulated": simulated}).encode())
            store.put(ORIGIN, file)
        return
    with marker:
        existing = bool(json.load(marker)["simulated"])
    if existing != simulated:
        raise ArchiveError(
            f"{store.url} has {KIND[existing]} data, but this database has {KIND[simulated]} data; they can't share an "
            "archive. Set UPBIT_ARCHIVE_URL to another one."
        )


def write_file(connection: sa.Connection, table: sa.Table, day: TimeWindow, file: IO[bytes]) -> Content:
    """Stream the rows into a Parquet file, in the connection's transaction."""
    schema = schema_of(table)
    hashing = Hashing(schema)
    plain = [name for name in schema.names if name != "raw_data"]
    keys = [name for name in plain if name == "market" or name == archived_name(table.c[table.info["window"]])]
    sorting = [pq.SortingColumn(schema.get_field_index(name)) for name in sorted(keys, key="market".__ne__)]
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=["market"],
        write_statistics=plain,
        sorting_columns=sorting,
    ) as writer:
        for group in row_groups(hashing.passed(read_table(connection, table, day))):
            writer.write_table(group, row_group_size=len(group))
        content = hashing.content()
        simulated = bool(connection.scalar(sa.select(bronze_origin.c.simulated)))
        writer.add_key_value_metadata(
            {
                FORMAT.decode(): json.dumps(
                    {
                        "table": table.fullname,
                        "day": seoul_days.key_of(day.start),
                        "origin": KIND[simulated],
                        "schema_revision": connection.scalar(sa.text("SELECT version_num FROM alembic_version")),
                        "rows": content.rows,
                        "content_hash": content.hash,
                        "archived_at": datetime.now(UTC).isoformat(),
                    }
                )
            }
        )
    return content


def row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting = list[pa.RecordBatch]()
    for batch in batches:
        waiting.append(batch)
        if sum(each.nbytes for each in waiting) >= ROW_GROUP:
            yield pa.Table.from_batches(waiting)
            waiting.clear()
    if waiting:
        yield pa.Table.from_batches(waiting)


def read_back(store: Store, table: sa.Table, day: TimeWindow) -> Archived | None:
    """A day's file, read completely; None if there is none.

    Raises:
        ArchiveError: it can't be read, or is not the archive of this table and day.
    """
    if (file := store.fetch(path_of(table, day))) is None:
        return None
    with file:
        return described(file, table, day, path_of(table, day))


def described(file: IO[bytes], table: sa.Table, day: TimeWindow, path: str) -> Archived:
    with opened(file, path) as parquet:
        about = about_of(parquet, table, day, path)
        try:
            actual = hashed(parquet.schema_arrow, parquet.iter_batches(ROWS_AT_ONCE, use_threads=False))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(path, error) from None
        return Archived(
            path=path,
            bytes=file.seek(0, 2),
            declared=Content(about["rows"], about["content_hash"]),
            unpacked=actual.bytes,
            content=actual.content(),
            columns=tuple(parquet.schema_arrow.names),
            simulated=about["origin"] == KIND[True],
            revision=about["schema_revision"],
        )


def opened(file: IO[bytes], path: str) -> pq.ParquetFile:
    file.seek(0)
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: str, error: Exception) -> ArchiveError:
    return ArchiveError(f"{path} is damaged or not a Parquet file: restore a copy of it. ({error})")


def about_of(parquet: pq.ParquetFile, table: sa.Table, day: TimeWindow, path: str) -> dict[str, Any]:
    """The metadata of an archive file."""
    text = (parquet.metadata.metadata or {}).get(FORMAT)
    about = cast(dict[str, Any], json.loads(text)) if text else {}
    if (about.get("table"), about.get("day")) != (table.fullname, seoul_days.key_of(day.start)):
        raise ArchiveError(
            f"{path} is not the archive of {table.fullname} and that day, and only this project may write there: move "
            "it elsewhere, and archive the day again."
        )
    return about


def disagreement(connection: sa.Connection, store: Store, table: sa.Table, day: TimeWindow) -> tuple[int, str | None]:
    """Compare a day's file with the table, in one snapshot: (rows, why they differ or None).

    Raises:
        ArchiveError: the file can't be read, was modified or is damaged.
    """
    archived = read_back(store, table, day)
    if archived is None:
        return count(connection, table, day), f"{path_of(table, day)} is missing: archive the day."
    archived.require_whole()
    lacking = set(schema_of(table).names) - set(archived.columns)
    if lacking:
        return archived.content.rows, f"{archived.path} has an older schema: archive the day again."
    table_content = hashed(schema_of(table), read_table(connection, table, day)).content()
    if table_content.rows != archived.content.rows:
        return table_content.rows, (
            f"{archived.path} has {archived.content.rows} rows, the table {table_content.rows}: archive the day again."
        )
    if table_content != archived.content:
        return table_content.rows, f"{archived.path} has other values than the table: archive the day again."
    return table_content.rows, None


def agreed_rows(database: Database, store: Store, table: sa.Table, before: datetime) -> int:
    """The number of a table's rows before a day in Seoul, after verifying that the archive has the same rows.

    Raises:
        ArchiveError: an archive differs, or can't be read.
    """
    rows = 0
    with database.connect() as connection:
        days = days_with_rows(connection, table, before)
    with database.connect("REPEATABLE READ") as connection:
        for day in days:
            with connection.begin():
                found, reason = disagreement(connection, store, table, day)
            if reason:
                raise ArchiveError(reason)
            rows += found
    return rows


def days_with_rows(connection: sa.Connection, table: sa.Table, before: datetime) -> list[TimeWindow]:
    """The days before then with rows, oldest first."""
    moment = table.c[table.info["window"]]
    first = connection.scalar(sa.select(moment).order_by(moment).limit(1))
    if first is None or first >= before:
        return []
    starts = seoul_days.starts_in(TimeWindow(seoul_days.at(first).start, before))
    return [TimeWindow(start, start + DAY) for start in sorted(seoul_days.with_rows(connection, table, starts))]


def due(connection: sa.Connection, table: sa.Table, now: datetime) -> list[datetime]:
    """The days to archive, oldest first: those due by UPBIT_ARCHIVE_AFTER_DAYS whose archive is missing or outdated."""
    last = seoul_days.at(now).start - settings.UPBIT_ARCHIVE_AFTER_DAYS * DAY
    # rows from before the first partition belong to none, and requesting one would fail the whole tick
    days = [day for day in days_with_rows(connection, table, last) if day.start >= seoul_days.partitions.start]
    database, snapshot = committed(connection)
    newest = newest_records(connection, table)
    return [
        day.start
        for day in days
        if (record := newest.get(day.start)) is None
        or record.database != database
        or set(record.columns) != set(schema_of(table).names)
        or has_late_rows(connection, table, day, record.snapshot, snapshot)
    ]


def newest_records(connection: sa.Connection, table: sa.Table) -> dict[datetime, sa.Row[Any]]:
    records = sa.select(bronze_archive).where(bronze_archive.c.table_name == table.fullname)
    return {record.day: record for record in connection.execute(records.order_by(bronze_archive.c.archived_at))}


def has_late_rows(connection: sa.Connection, table: sa.Table, day: TimeWindow, since: str, until: str) -> bool:
    late = sa.select(1).where(in_window(table, day), written_between(table, since, until)).limit(1)
    return connection.scalar(late) is not None


def restore_day(database: Database, store: Store, table: sa.Table, day: TimeWindow) -> int | None:
    """Restore a day's missing rows from the archive; returns the archive's row count, None if it doesn't have the day.

    Rows are restored exactly, with their `id` and `ingested_at`, all of the day or nothing.

    Raises:
        ArchiveError: the file was modified or damaged, has another origin or a newer schema, or contradicts the table.
    """
    if (file := store.fetch(path_of(table, day))) is None:
        return None
    with file, database.connect() as connection, locked(connection, [lock(table, day)]) as locking:
        return restore_file(locking, table, day, file, path_of(table, day))


def restore_file(connection: sa.Connection, table: sa.Table, day: TimeWindow, file: IO[bytes], path: str) -> int:
    archived = described(file, table, day, path)
    archived.require_whole()
    if unknown := sorted(set(archived.columns) - set(schema_of(table).names)):
        raise ArchiveError(
            f"{path} has the newer schema {archived.revision} with unknown columns ({', '.join(unknown)}): upgrade "
            "this project, then restore it."
        )
    name = sa.cast(table.fullname, REGCLASS)
    with connection.begin():
        try:
            claim_origin(connection, path, simulated=archived.simulated)
        except OriginError as error:
            raise ArchiveError(str(error)) from None
        starts_at = bronze_collection_start.c.starts_at
        # an empty database was first started after the days that it gets
        connection.execute(sa.update(bronze_collection_start).values(starts_at=day.start).where(starts_at > day.start))
        if connection.scalar(
            sa.text("SELECT relkind = 'p' FROM pg_class WHERE oid = CAST(:name AS regclass)"), {"name": table.fullname}
        ):
            make_partitions(connection, day.start, day.start, [table])
    with connection.begin(), opened(file, path) as parquet:
        batches = parquet.iter_batches(ROWS_AT_ONCE, use_threads=False)
        if not count(connection, table, day):
            write_rows(connection, table, stored_names(table, parquet.schema_arrow), batches)
        else:
            add_missing(connection, table, path, parquet.schema_arrow, batches)
        newest = sa.select(sa.func.max(table.c.id)).where(in_window(table, day)).scalar_subquery()
        connection.execute(sa.select(sa.func.bronze.keep_ids_above(name, newest)))
        values = {
            "table_name": table.fullname,
            "day": day.start,
            "rows": archived.content.rows,
            "restored_at": sa.func.clock_timestamp(),
        }
        connection.execute(sa.insert(bronze_restored).values(values))
    return archived.content.rows


def add_missing(
    connection: sa.Connection, table: sa.Table, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Add the archived rows that are missing in a table that has some of the day.

    Raises:
        ArchiveError: the table has different rows with the same ids.
    """
    columns = [column for column in columns_of(table) if archived_name(column) in schema.names]
    nothing = sa.select(*columns).where(sa.false())
    staged = stage("archived_rows", nothing)
    connection.execute(CreateStage(staged, nothing))
    write_rows(connection, staged, stored_names(table, schema), batches)
    same_key = sa.and_(*(staged.c[column.name] == column for column in table.primary_key))
    differs = sa.or_(*(staged.c[column.name].is_distinct_from(column) for column in columns))
    if connection.scalar(sa.select(sa.func.count()).select_from(staged.join(table, same_key)).where(differs)):
        raise ArchiveError(
            f"{path} and {table.fullname} have different rows with the same ids: the file is from another database. "
            "Restore it into an empty one."
        )
    quoted = connection.dialect.identifier_preparer
    names = ", ".join(quoted.quote(column.name) for column in columns)
    connection.execute(
        sa.text(
            f"INSERT INTO {quoted.format_table(table)} ({names}) OVERRIDING SYSTEM VALUE "  # noqa: S608 - quoted
            f"SELECT {names} FROM {quoted.format_table(staged)} ON CONFLICT DO NOTHING"
        )
    )


def restore_lost(database: Database, table: sa.Table, moments: Iterable[datetime]) -> int:
    """Restore the days of these times that were dropped or have no rows; returns the number of archived rows."""
    store, rows = Store(), 0
    for start in sorted({seoul_days.at(moment).start for moment in moments}):
        day = TimeWindow(start, start + DAY)
        with database.connect() as connection:
            lost = is_dropped(connection, table, day) or not seoul_days.with_rows(connection, table, [start])
        if lost:
            rows += restore_day(database, store, table, day) or 0
    return rows


def archived_days(store: Store) -> Iterator[tuple[sa.Table, TimeWindow] | str]:
    """The archived days, by table, oldest first; for other files, the path."""
    tables = {table.name: table for table in TABLES}
    for path in store.paths():
        found = re.fullmatch(rf"table=(\w+)/day=(\d{{4}}-\d\d-\d\d)/{FILE}", path)
        if found and found[1] in tables and seoul_days.has(found[2]):
            yield tables[found[1]], seoul_days.at(seoul_days.start_of(found[2]))
        elif path != ORIGIN:
            yield path
