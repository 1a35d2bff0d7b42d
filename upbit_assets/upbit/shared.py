"""Short texts shared by all processes on this machine, each in its own file."""

import errno
import fcntl
import functools
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from upbit_assets.settings import settings

T = TypeVar("T")
log = logging.getLogger(__name__)

LONGEST = 64 * 1024
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_own: dict[str, str] = {}
_own_lock = threading.Lock()


def update(name: str, change: Callable[[str], tuple[str, T]]) -> T:
    """Replace the text of `name`, which is initially "", under a lock.

    `change` takes the text and returns the new one (a single line) and this function's result. It may be called twice,
    so it must have no side effects. The folder is UPBIT_LIMITS_DIR, by default `upbit-limits-UID` among the system's
    temporary files, accessible to this user only. If no folder is safe to use, or the disk fails, the texts are local
    to this process and a warning is logged. The lock is released if its process is killed.
    """
    try:
        with _locked(_folder() / name) as file:
            text = os.pread(file, LONGEST, 0).decode(errors="replace").partition("\n")[0]
            new, result = change(text)
            if new != text:
                # One atomic write; the rest of a longer old text stays behind on the second line
                os.pwrite(file, f"{new}\n".encode(), 0)
            return result
    except OSError as error:
        _warn(str(error))
    with _own_lock:
        _own[name], result = change(_own.get(name, ""))
        return result


def _folder() -> Path:
    folder = settings.UPBIT_LIMITS_DIR or Path(tempfile.gettempdir(), f"upbit-limits-{os.geteuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that only this user can write to")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        # A symlink, or another user's file
        if error.errno not in (errno.ELOOP, errno.EACCES):
            raise
        path.unlink()
        file = os.open(path, _FLAGS, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


@functools.cache
def _warn(error: str) -> None:
    log.warning("Calls to the exchange are counted for this process only: %s. See UPBIT_LIMITS_DIR.", error)
