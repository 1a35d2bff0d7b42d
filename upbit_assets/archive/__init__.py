"""Bronze for ever, for three percent of the disk: days as Parquet files in a folder or an S3-compatible store.

`days` writes, compares and restores a day of a table; `assets` is what Dagster knows of it. Loads nothing heavy, as
who has no archive imports it too.
"""

from upbit_assets.settings import settings


def is_configured() -> bool:
    return settings.UPBIT_ARCHIVE_URL is not None


class ArchiveError(RuntimeError):
    """What the archive is asked for can't be done; the message says why, and what to do."""
