"""The archive of bronze: days as Parquet files, in a folder or an S3-compatible store, at three percent of the size.

`days` writes, compares and restores a day of a table; `assets` has the Dagster definitions. Keep the imports of this
module light: it is also imported without an archive.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from dagster import Failure

from upbit_assets.settings import settings


def is_configured() -> bool:
    return settings.UPBIT_ARCHIVE_URL is not None


class ArchiveError(RuntimeError):
    """An operation on the archive failed; the message says why and what to do."""


def restore_missing(context: Any, database: Any, tables: Sequence[sa.Table], moments: Sequence[datetime]) -> int:
    """Restore the days of these times that were dropped, or of which a table has no rows; returns the number of rows.

    Always restores whole days, so that a restored day is complete.

    Raises:
        Failure: a day could not be restored from the archive.
    """
    if not (is_configured() and moments):
        return 0
    from upbit_assets.archive.days import restore_lost

    try:
        rows = sum(restore_lost(database, table, moments) for table in tables)
    except ArchiveError as error:
        raise Failure(str(error)) from error
    if rows:
        context.log.info(f"{rows:,} rows were restored from the archive.")
        context.add_output_metadata({"rows from the archive": rows})
    return rows
