"""Short texts that all processes of this machine share, each in a file of its own."""

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
    """Put a new text in the place of `name`'s, which is "" at first; one caller at a time.

    `change` takes the text and returns the new one, a single line, with what is to be returned here. It may be
    called twice, so it only computes. The folder is UPBIT_LIMITS_DIR or else `upbit-limits-UID` among the system's
    temporary files; it is made for this user alone. Where no folder is safe to use, or the disk fails, the texts are
    this process's own, and a warning says so. A process that is killed takes its lock along.
    """
    try:
        with _locked(_folder() / name) as file:
            text = os.pread(file, LONGEST, 0).decode(errors="replace").partition("\n")[0]
            new, result = change(text)
            if new != text:
                # One write, which a kill doesn't divide; what a longer text leaves behind is another line
                os.pwrite(file, f"{new}\n".encode(), 0)
            return result
    except OSError as problem:
        _warn(str(problem))
    with _own_lock:
        _own[name], result = change(_own.get(name, ""))
        return result


def _folder() -> Path:
    folder = settings.UPBIT_LIMITS_DIR or Path(tempfile.gettempdir(), f"upbit-limits-{os.geteuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that this user alone can write to")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, _FLAGS, 0o600)
    except OSError as problem:
        # A link, or what another user left here
        if problem.errno not in (errno.ELOOP, errno.EACCES):
            raise
        path.unlink()
        file = os.open(path, _FLAGS, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


@functools.cache
def _warn(problem: str) -> None:
    log.warning("Calls to the exchange are counted for this process alone: %s. See UPBIT_LIMITS_DIR.", problem)
