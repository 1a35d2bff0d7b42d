"""What the stream says of itself, every second, to whoever asks whether it is well. Imports little."""

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from upbit_assets.settings import settings

STAND_BY, COLLECTING = "stand-by", "collecting"
SILENT = timedelta(seconds=15)  # of the stream itself
MUTE = timedelta(seconds=90)  # of the exchange, which ends connections after a third of it


@dataclass(frozen=True)
class Status:
    """How the stream is. Times are UTC, as ISO 8601.

    Args:
        since: since when it has this role.
        data_at: when each connection last brought data.
        stored, waiting, lost: trades in the database, in memory, and in neither as the disk was full.
        spilled: bytes that wait in files.
        problem: what is wrong, in words.
    """

    at: str
    role: str
    since: str
    data_at: Mapping[str, str | None] = field(default_factory=dict)
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

    def complaint(self, now: datetime) -> str | None:
        """What is wrong with it: that it does nothing any more, or is alive and hears nothing of the exchange."""
        if now - moment(self.at) > SILENT:
            return f"The stream has said nothing since {self.at}."
        heard = [moment(at) for at in self.data_at.values() if at]
        if self.role == COLLECTING and now - max([*heard, moment(self.since)]) > MUTE:
            return f"The stream runs and has heard no data since {max(heard, default='it began')}."
        return None


def moment(text: Any) -> datetime:
    return datetime.fromisoformat(text)


def folder() -> Path:
    """Where the stream keeps its files."""
    return settings.DAGSTER_HOME / "stream"


def path_in(folder: Path) -> Path:
    """Of this machine, or container: another's stream may share the folder."""
    return folder / f"{socket.gethostname()}.json"


def problem() -> str | None:
    """What is wrong with the stream of this machine, as a health check asks."""
    try:
        status = Status(**json.loads(path_in(folder()).read_text()))
    except FileNotFoundError:
        return "The stream has not begun."
    return status.complaint(datetime.now(UTC))
