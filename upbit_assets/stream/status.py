"""The stream's status, written every second and read by the health check. Keep the imports light."""

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from upbit_assets.settings import settings

STAND_BY, COLLECTING = "stand-by", "collecting"
SILENT = timedelta(seconds=15)  # without a status
MUTE = timedelta(seconds=90)  # without data; connections are aborted after a third of it


@dataclass(frozen=True)
class Status:
    """The stream's status. Times are UTC, in ISO 8601.

    Args:
        since: when it assumed its role.
        data_at: when each connection last received data.
        frames: the number of frames received, by type.
        reconnects: how often a lost connection was opened again.
        stored, waiting, lost: trades in the database, in memory, and lost because the disk was full.
        spilled: bytes in spill files.
        problem: the current problem, as text.
    """

    at: str
    role: str
    since: str
    data_at: Mapping[str, str | None] = field(default_factory=dict)
    frames: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    stored: int = 0
    waiting: int = 0
    lost: int = 0
    spilled: int = 0
    problem: str | None = None

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        draft = path_in(folder).with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(path_in(folder))

    def health_problem(self, now: datetime) -> str | None:
        """The problem that a health check reports: the stream hangs, or receives no data. None if it is healthy."""
        if now - moment(self.at) > SILENT:
            return f"The stream has not updated its status since {self.at}."
        received = [moment(at) for at in self.data_at.values() if at]
        if self.role == COLLECTING and now - max([*received, moment(self.since)]) > MUTE:
            return f"The stream runs but has received no data since {max(received, default='its start')}."
        return None


def moment(text: Any) -> datetime:
    return datetime.fromisoformat(text)


def folder() -> Path:
    """The folder of the stream's files."""
    return settings.DAGSTER_HOME / "stream"


def path_in(folder: Path) -> Path:
    """The status file of this machine or container, as several may share the folder."""
    return folder / f"{socket.gethostname()}.json"


def last() -> Status | None:
    """The last status of this machine's stream; None if it has not started."""
    try:
        return Status(**json.loads(path_in(folder()).read_text()))
    except FileNotFoundError:
        return None


def problem() -> str | None:
    """The problem of this machine's stream, or None."""
    status = last()
    return status.health_problem(datetime.now(UTC)) if status else "The stream has not started."
