"""Dagster assets in PostgreSQL; see README.md.

It depends on Dagster, SQLAlchemy and psycopg, for frames also on pandas and pyarrow, and on nothing else in this
project. Its imports are relative, so that the folder can be copied into another project.
"""

from .copy import REFUSALS, Records, copy_records, storable
from .diff import Difference, WindowDiff, compare
from .io_manager import PostgresIOManager, asset_writer, no_retry_on_interrupt, stored_in, time_window
from .locks import lock_key, locked
from .writer import (
    WRITE_CHANNEL,
    Load,
    Metadata,
    Rows,
    Write,
    Writer,
    create_stages,
    in_window,
    insert,
    is_distributed,
    moment_of,
    stage,
    writer,
)

__all__ = [
    "REFUSALS",
    "WRITE_CHANNEL",
    "Difference",
    "Load",
    "Metadata",
    "PostgresIOManager",
    "Records",
    "Rows",
    "WindowDiff",
    "Write",
    "Writer",
    "asset_writer",
    "compare",
    "copy_records",
    "create_stages",
    "in_window",
    "insert",
    "is_distributed",
    "lock_key",
    "locked",
    "moment_of",
    "no_retry_on_interrupt",
    "stage",
    "storable",
    "stored_in",
    "time_window",
    "writer",
]
