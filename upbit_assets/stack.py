"""The whole stack on one machine, in the foreground: what `make demo` and `make up` run."""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
import psutil
import requests
import sqlalchemy as sa

from upbit_assets.assets.preview import format_decimal, format_krw
from upbit_assets.local_http import session_for
from upbit_assets.partitions import SEOUL, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import Database, DatabaseError, embedded, market_url
from upbit_assets.settings import BOARD_PORT, EXCHANGE_PORT, PROJECT, UI_PORT, settings
from upbit_assets.stream import status

IDLE_TIMEOUT_SECONDS = 60  # a starting process that neither logs anything nor uses CPU for this long is given up
CPU_STEP_SECONDS = 1  # CPU time that counts as progress
STATUS_EVERY_SECONDS = 30  # between "still starting" messages
MAX_LOG_BYTES = 50_000_000  # about two days of Dagster's log
STOP_TIMEOUT_SECONDS = 20  # from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class StackError(click.ClickException):
    """The stack can't start or keep running; the message says why."""


def prepare(home: Path) -> None:
    """Create the folder, with the project's current dagster.yaml."""
    home.mkdir(parents=True, exist_ok=True)
    if home != PROJECT:
        (home / "dagster.yaml").unlink(missing_ok=True)
        shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster.yaml")


def environment(home: Path, *, demo: bool, exchange: str | None = None) -> dict[str, str]:
    """The environment variables for plain Dagster commands to use this stack."""
    exchange = exchange or running(home).get("exchange") or f"http://127.0.0.1:{EXCHANGE_PORT}"
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": sys.prefix,
        "DAGSTER_HOME": str(home),
        "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME": "upbit_assets.definitions",
        # the default of a week of trades would be millions of rows
        **({"UPBIT_API_URL": exchange, "UPBIT_DAYS_BACK": "1"} if demo else {}),
    }


def running(home: Path) -> dict[str, str]:
    """The pid of the stack running in this home and, once known, its addresses; empty if none runs."""
    path = home / ".stack.json"
    if not path.exists():
        return {}
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return json.load(file)
    return {}


@contextmanager
def lock_home(home: Path) -> Iterator[Callable[[dict[str, str]], None]]:
    """Lock the home's state file for the lifetime of the stack; yields a function that writes the addresses to it."""
    path = home / ".stack.json"
    path.touch()
    with path.open("rb+") as file:

        def write_state(addresses: dict[str, str]) -> None:
            # one write, padded so that it covers what was there: readers never see a partial file
            os.pwrite(file.fileno(), json.dumps({"pid": str(os.getpid())} | addresses).ljust(1000).encode(), 0)

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(already_running_message(home)) from None
        write_state({})
        yield write_state


def already_running_message(home: Path) -> str:
    state = running(home)
    stop = f"To stop it, press Ctrl-C there or run: kill {state.get('pid')}"
    if "ui" in state:
        return f"It is already running: {state['ui']}, the board at {state['board']}. {stop}"
    return f"It is already starting and will print its addresses in its terminal; its logs are in {home}. {stop}"


def free_port(wanted: int) -> int:
    """`wanted` if it is free, else the next free port on loopback."""
    for port in range(wanted, wanted + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StackError(f"No free port from {wanted} to {wanted + 49} on 127.0.0.1.")


@dataclass
class Process:
    """A child process in its own process group, so that its descendants are stopped too. On Linux it dies with us."""

    name: str
    arguments: list[str]
    log: Path
    child: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.log.write_bytes(b"")
        with self.log.open("ab") as output:  # append mode, so that truncating the log works
            self.child = subprocess.Popen(
                [str(Path(sys.executable).parent / self.arguments[0]), *self.arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
                cwd=PROJECT,
            )

    def require_alive(self) -> None:
        if self.child.poll() is not None:
            raise StackError(f"{self.name} ended unexpectedly. The end of its log, {self.log}:\n{self.log_tail()}")

    def progress(self) -> tuple[int, int]:
        """Increases while the process is working: the size of its log and the CPU time of it and its descendants."""
        cpu = 0.0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.child.pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    cpu += sum(process.cpu_times()[:4])  # its own and its exited children's
        return self.log.stat().st_size, int(cpu / CPU_STEP_SECONDS)

    def shorten_log(self) -> None:
        """Rotate the log once it is too long, keeping one previous file."""
        if self.log.stat().st_size > MAX_LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".log.before"))
            os.truncate(self.log, 0)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        """Terminate it, then kill what is left of its process group."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                click.echo(f"{self.name} did not stop within {STOP_TIMEOUT_SECONDS} s; killing it.")
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.child.wait()


def die_with_parent() -> None:
    """On Linux, have the kernel send SIGTERM to this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def chosen_port(name: str, wanted: int) -> int:
    """A free port; prints a message if it isn't the wanted one."""
    port = free_port(wanted)
    if port != wanted:
        click.echo(f"Port {wanted} is in use: {name} uses {port} instead.")
    return port


def run(home: Path, *, demo: bool, stream: bool = True) -> None:
    """Start everything, report progress, and stop everything on Ctrl-C, SIGTERM or SIGHUP.

    Without the `stream`, runs collect every minute.
    """
    handle_stop_signals(interrupt)
    prepare(home)
    with ExitStack() as started:
        write_state = started.enter_context(lock_home(home))
        try:
            serve(started, home, write_state, demo=demo, stream=stream)
        except Interrupted:
            click.echo("\nStopping ...")
        finally:
            handle_stop_signals(
                signal.SIG_IGN
            )  # so that shutdown completes, including that of pg_ctl, which inherits this
    click.echo("Everything is stopped; the data is kept.")


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP was received."""


def handle_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: it is ignored in a shell's background job
        signal.signal(signum, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        signal.signal(signal.SIGHUP, handler)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    handle_stop_signals(signal.SIG_IGN)  # a second signal must not interrupt the shutdown
    raise Interrupted


def serve(
    started: ExitStack, home: Path, write_state: Callable[[dict[str, str]], None], *, demo: bool, stream: bool
) -> None:
    if settings.UPBIT_ALERT_URLS:
        from upbit_assets.monitoring.notify import Channel  # takes a while

        Channel()  # an error in them ends this before anything is started
    ports = {"ui": chosen_port("Dagster", UI_PORT), "board": chosen_port("the board", BOARD_PORT)}
    if demo:
        ports["exchange"] = chosen_port("the offline exchange", EXCHANGE_PORT)
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    os.environ.update(environment(home, demo=demo, exchange=addresses.get("exchange")))
    os.environ["UPBIT_DAGSTER_URL"] = addresses["ui"]

    if not (settings.UPBIT_POSTGRES_URL and settings.DAGSTER_POSTGRES_URL):
        click.echo("PostgreSQL: starting the embedded one ...")
        started.callback(embedded().stop)
        embedded().start()
    try:
        migrate(market_url())
    except sa.exc.DBAPIError as error:
        raise StackError(f"The migration of the market database failed: {error.orig}") from None
    click.echo("PostgreSQL: ready, the schema is up to date.")

    processes = []
    if demo:
        exchange = ["upbit-assets", "exchange", "--port", str(ports["exchange"])]
        processes.append(start(started, "The offline exchange", exchange, home))
        wait_for(processes[-1], addresses["exchange"])
        click.echo(f"Exchange:   {addresses['exchange']}  (simulated data)")
    else:
        click.echo(f"Exchange:   {settings.UPBIT_API_URL}")
    dev = ["dagster", "dev", "--host", "127.0.0.1", "--port", str(ports["ui"])]
    dagster = start(started, "Dagster", dev, home)
    processes.append(dagster)
    write_state(addresses)
    click.echo("Dagster:    starting webserver and daemon while the first snapshot is collected ...")
    first = start(started, "The first run", first_run(), home)
    processes.append(start(started, "The board", ["upbit-assets", "board", "--port", str(ports["board"])], home))
    wait_for(processes[-1], addresses["board"])
    click.echo(f"Board:      {addresses['board']}")
    wait_for(dagster, addresses["ui"] + "/server_info")
    click.echo(f"Dagster:    {addresses['ui']}  (schedules and sensors are on; log: {home / 'dagster.log'})")
    status.path_in(status.folder()).unlink(missing_ok=True)  # of an earlier one
    if stream:
        processes.append(start(started, "The stream", ["upbit-assets", "stream"], home))
        click.echo(f"Stream:     collecting every trade live (log: {processes[-1].log})")
    if report_first_run(first, addresses["ui"]):
        # now that there is a ranking; the schedule would collect them within ten minutes
        today = materialize("bronze_candle_raw,silver_candle", days.key_of(days.at(datetime.now(UTC)).start))
        start(started, "The candles of today", today, home)
    if settings.UPBIT_ALERT_URLS:
        processes.append(start(started, "Alerts", ["upbit-assets", "alerts"], home))
        click.echo(f"Alerts:     sent to UPBIT_ALERT_URLS (log: {processes[-1].log})")
    click.echo("Collecting every minute. Press Ctrl-C to stop everything.")
    watch(processes)


def start(started: ExitStack, name: str, arguments: list[str], home: Path) -> Process:
    process = Process(name, arguments, home / f"{name.removeprefix('The ').replace(' ', '-').lower()}.log")
    started.callback(process.stop)
    return process


def first_run() -> list[str]:
    """Materialize the tickers of the current window, or of the next one if it is about to close."""
    window = windows.at(datetime.now(UTC))
    left = (window.end - datetime.now(UTC)).total_seconds()
    if left < 10:
        time.sleep(left)
        window = windows.at(datetime.now(UTC))
    return materialize("group:ticker", windows.key_of(window.start))


def materialize(assets: str, partition: str) -> list[str]:
    return ["dagster", "asset", "materialize", "--select", assets, "--partition", partition]


def wait_for(process: Process, address: str) -> None:
    """Wait until the process responds, as long as it is alive and making progress."""
    started = reported = progressed = time.monotonic()
    progress = process.progress()
    with session_for(address) as session:
        while not responds(session, address):
            process.require_alive()
            now = time.monotonic()
            if (latest := process.progress()) != progress:
                progress, progressed = latest, now
            elif now - progressed > IDLE_TIMEOUT_SECONDS:
                raise StackError(
                    f"{process.name} does not respond at {address} and has been idle for {IDLE_TIMEOUT_SECONDS} s. "
                    f"The end of its log, {process.log}:\n{process.log_tail()}"
                )
            if now - reported > STATUS_EVERY_SECONDS:
                reported = now
                click.echo(f"{process.name} is still starting after {now - started:.0f} s; its log: {process.log}")
            time.sleep(0.2)


def responds(session: requests.Session, address: str) -> bool:
    try:
        return session.get(address, timeout=10).ok
    except requests.RequestException:
        return False


def report_first_run(first: Process, ui: str) -> bool:
    """Print the result of the first run, or why it failed. Returns whether it succeeded."""
    if first.child.wait() == 0:
        print_top10()
        return True
    errors = re.findall(r"(?:Failure|Error): (.+)", first.log.read_text(errors="replace"))
    reason = errors[0] if errors else first.log_tail()
    click.secho(f"The first collection failed: {reason}", fg="red")
    click.echo(f"It is retried every minute. For the errors of failed runs, see {ui}/runs")
    return False


def print_top10() -> None:
    with Database().connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM gold.turnover_top10 ORDER BY rank_volume, market")).all()
        simulated = connection.scalar(sa.select(tables.bronze_origin.c.simulated))
    if not rows:
        return
    window, kind = rows[0].window_start.astimezone(SEOUL), "simulated" if simulated else "real"
    click.echo(f"\n거래대금 상위 10 · turnover top 10, window of {window:%Y-%m-%d %H:%M} KST ({kind} data)")
    largest = max(row.turnover_krw or 0 for row in rows) or 1
    for row in rows:
        bar = f"{'█' * round(24 * (row.turnover_krw or 0) / largest):<25}"
        name = row.korean_name or row.english_name or ""
        click.echo(
            f"{row.rank_volume:>4}  {row.market:<12}{format_decimal(row.trade_price):>16}  {row.change_rate:>+8.2%}"
            f"{format_krw(row.turnover_krw):>14}  {bar}{name}"
        )
    click.echo()


def progress(connection: sa.Connection, since: datetime) -> list[tuple[datetime, str]]:
    """The latest build of each table since then, as messages in order of time."""
    from upbit_assets.feeds import FEEDS, GOLD_TABLES  # needs the database, which is started here

    builds = [
        *((feed.refinement.build, feed.axis, "silver_rows", feed.row_label) for feed in FEEDS if feed.row_label),
        *((gold.build, gold.axis, "gold_rows", gold.row_label) for gold in GOLD_TABLES),
    ]
    messages = []
    for build, axis, count, row_label in builds:
        last = sa.select(build.c.computed_at, build.c.window_start, build.c[count]).order_by(build.c.computed_at.desc())
        for computed_at, start, rows in connection.execute(last.where(build.c.computed_at > since).limit(1)):
            messages.append((computed_at, f"{axis.key_of(start)}: {rows:,} {row_label}"))
    return sorted(messages)


def watch(processes: list[Process]) -> None:
    """Print the progress until a process ends or the stack is interrupted."""
    since, problem = datetime.now(UTC), status.problem()
    while True:
        for process in processes:
            process.require_alive()
            process.shorten_log()
        try:
            with Database().connect() as connection:
                messages = progress(connection, since)
        except DatabaseError as error:
            raise StackError(str(error)) from None
        for computed_at, message in messages:
            click.echo(f"{computed_at.astimezone(SEOUL):%H:%M:%S}  {message}")
            since = max(since, computed_at)
        former, problem = problem, status.problem()
        if problem != former:
            click.echo(problem or "The stream receives data.")
        time.sleep(5)
