"""Spill files: append-only files of trades that could not be written to the database yet.

A line is a JSON array: [time of receipt, connection, the frame's text]. A file belongs to the process that holds its
lock; any process may load a file left by a killed one.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import msgspec

from upbit_assets.stream import frames
from upbit_assets.stream.frames import Trade

log = logging.getLogger(__name__)

LARGEST = 16 * 2**20  # bytes, after which a new file is started
_LINE = msgspec.json.Decoder(tuple[datetime, str, str])


class Spill:
    """The files of a folder. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: IO[bytes] | None = None

    def append(self, trades: Sequence[Trade]) -> None:
        """Append rows durably (fsync).

        Raises:
            OSError: the disk is full or fails; none of them is written.
        """
        lines = [msgspec.json.encode((each.ingested_at, each.connection, each.raw_data)) for each in trades]
        file = self.file or self.begin()
        size = file.tell()
        try:
            whole = memoryview(b"\n".join([*lines, b""]))
            while whole:
                whole = whole[file.write(whole) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
                file.seek(size)
            raise
        if file.tell() > LARGEST:
            self.end()

    def begin(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = (self.folder / f"{time.time_ns()}.jsonl").open("xb", buffering=0)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return self.file

    def end(self) -> None:
        """Close the current file."""
        if self.file:
            self.file.close()
            self.file = None

    def size(self) -> int:
        """The total size in bytes."""
        total = 0
        for path in self.folder.glob("*.jsonl") if self.folder.exists() else ():
            with contextlib.suppress(FileNotFoundError):  # loaded since the folder was listed
                total += path.stat().st_size
        return total

    def oldest(self) -> "Waiting | None":
        """The oldest file that no other process uses; further rows go into a new one."""
        self.end()
        for path in sorted(self.folder.glob("*.jsonl")):
            with contextlib.suppress(FileNotFoundError):  # another process has just loaded it
                if file := unused(path):
                    return Waiting(path, file, list(read(file, path)))
        return None


def unused(path: Path) -> IO[bytes] | None:
    """The file, locked; None if another process is writing or loading it, or has loaded it."""
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if not os.fstat(file.fileno()).st_nlink:
        file.close()
        return None
    return file


@dataclass(frozen=True)
class Waiting:
    """A file being loaded. Call `done` when all of its rows are in the database, else `release`."""

    path: Path
    file: IO[bytes]
    trades: list[Trade]

    def done(self) -> None:
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        self.file.close()


def read(file: IO[bytes], path: Path) -> Iterator[Trade]:
    """The rows of a file, without lines truncated by a kill or a power failure."""
    for line in file:
        try:
            received_at, connection, text = _LINE.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            log.warning("%s: a line of %d bytes is truncated; its trade is lost.", path, len(line))
        else:
            yield frames.trade(frames.parse(text), text, received_at, connection)
