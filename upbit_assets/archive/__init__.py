"""Bronze for ever, for three percent of the disk: days as Parquet files in a folder or an S3-compatible store.

`days` writes, compares and restores a day of a table; `assets` is what Dagster knows of it. Loads nothing heavy, as
who has no archive imports it too.
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
    """What the archive is asked for can't be done; the message says why, and what to do."""


def bring_back(context: Any, database: Any, tables: Sequence[sa.Table], moments: Sequence[datetime]) -> int:
    """Restore the days of these moments that retention dropped, or of which a table has nothing; returns their rows.

    Always whole days, so that a day is either as its archive or as it was never archived.

    Raises:
        Failure: the archive has such a day, and it couldn't be restored.
    """
    if not (is_configured() and moments):
        return 0
    from upbit_assets.archive.days import restore_lost

    try:
        rows = sum(restore_lost(database, table, moments) for table in tables)
    except ArchiveError as error:
        raise Failure(str(error)) from error
    if rows:
        context.log.info(f"{rows:,} rows came back from the archive.")
        context.add_output_metadata({"rows from the archive": rows})
    return rows
