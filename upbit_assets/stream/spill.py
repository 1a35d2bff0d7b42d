"""What the database can't take yet: append-only files in a folder, each brought in as a whole when it can.

A line is a JSON array of [when the frame was received, connection, the frame's text]. A file belongs to the process
that holds its lock, so one that was left by a killed process is anybody's.
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

LARGEST = 16 * 2**20  # bytes, after which another file is begun
_LINE = msgspec.json.Decoder(tuple[datetime, str, str])


class Spill:
    """The files of a folder. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: IO[bytes] | None = None

    def append(self, trades: Sequence[Trade]) -> None:
        """Write rows down; when this returns they outlive the machine's power.

        Raises:
            OSError: the disk is full or fails; none of them is written then.
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
        """Write into the present file no more."""
        if self.file:
            self.file.close()
            self.file = None

    def size(self) -> int:
        """Bytes that wait."""
        return sum(path.stat().st_size for path in self.folder.glob("*.jsonl")) if self.folder.exists() else 0

    def oldest(self) -> "Waiting | None":
        """The oldest file that is nobody else's; what comes from now on goes into another."""
        self.end()
        for path in sorted(self.folder.glob("*.jsonl")):
            file = path.open("rb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process still writes, or brings it in
                file.close()
            else:
                return Waiting(path, file, list(read(file, path)))
        return None


@dataclass(frozen=True)
class Waiting:
    """A file whose rows are being brought in. Whoever has it calls `done`, or `release` where they are not all in."""

    path: Path
    file: IO[bytes]
    trades: list[Trade]

    def done(self) -> None:
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        self.file.close()


def read(file: IO[bytes], path: Path) -> Iterator[Trade]:
    """The rows of a file, without those that a kill or a power cut has torn."""
    for line in file:
        try:
            received_at, connection, text = _LINE.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            log.warning("%s: a line of %d bytes is torn, and its trade lost.", path, len(line))
        else:
            yield frames.trade(frames.parse(text), text, received_at, connection)
