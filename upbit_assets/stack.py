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

from upbit_assets.assets.preview import plain, won
from upbit_assets.feeds import FEEDS, GOLD_TABLES
from upbit_assets.local_http import session_for
from upbit_assets.partitions import SEOUL, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.migrate import migrate
from upbit_assets.postgres.resource import Database, DatabaseError, embedded, market_url
from upbit_assets.settings import BOARD_PORT, EXCHANGE_PORT, PROJECT, UI_PORT, settings

STILL_SECONDS = 60  # in which a process that is starting at least logs something, or uses so many seconds of CPU:
LITTLE_CPU = 1
SAID_AGAIN = 30  # seconds after which it is said that it is still starting
MOST_LOG_BYTES = 50_000_000  # two days of Dagster's
PATIENCE = 20  # seconds a process has to end by itself
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class StackError(click.ClickException):
    """The stack can't start or go on; the message says why."""


def prepare(home: Path) -> None:
    """Make the folder, with the instance's settings as they are in the project now."""
    home.mkdir(parents=True, exist_ok=True)
    if home != PROJECT:
        (home / "dagster.yaml").unlink(missing_ok=True)
        shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster.yaml")


def environment(home: Path, *, demo: bool, exchange: str | None = None) -> dict[str, str]:
    """What makes plain Dagster commands work on this stack."""
    exchange = exchange or running(home).get("exchange") or f"http://127.0.0.1:{EXCHANGE_PORT}"
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": sys.prefix,
        "DAGSTER_HOME": str(home),
        "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME": "upbit_assets.definitions",
        # a week of trades would be millions of rows, for a look
        **({"UPBIT_API_URL": exchange, "UPBIT_DAYS_BACK": "1"} if demo else {}),
    }


def running(home: Path) -> dict[str, str]:
    """What a running stack says of itself: its process, and once it has them its addresses; empty if none runs."""
    note = home / ".stack.json"
    if not note.exists():
        return {}
    with note.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return json.load(file)
    return {}


@contextmanager
def only_one(home: Path) -> Iterator[Callable[[dict[str, str]], None]]:
    """Hold the stack's note while it runs, so that a second one says where the first is; yields what writes it."""
    path = home / ".stack.json"
    path.touch()
    with path.open("rb+") as file:

        def note(addresses: dict[str, str]) -> None:
            # in one piece that is never shorter than what was there, for whoever reads meanwhile
            os.pwrite(file.fileno(), json.dumps({"pid": str(os.getpid())} | addresses).ljust(1000).encode(), 0)

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(where_it_runs(home)) from None
        note({})
        yield note


def where_it_runs(home: Path) -> str:
    there = running(home)
    stop = f"Ctrl-C there stops it, or: kill {there.get('pid')}"
    if "ui" in there:
        return f"It is already running: {there['ui']}, the board at {there['board']}. {stop}"
    return f"It is already starting, and prints its addresses where it was started; its logs are in {home}. {stop}"


def free_port(wanted: int) -> int:
    """`wanted` if nobody listens there, else the next free port on loopback."""
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
    """A child in a process group of its own, so that it ends with all that it started; and with us, however we end."""

    name: str
    arguments: list[str]
    log: Path
    child: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.log.write_bytes(b"")
        with self.log.open("ab") as output:  # which goes on at the file's end, wherever that is
            self.child = subprocess.Popen(
                [str(Path(sys.executable).parent / self.arguments[0]), *self.arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
                cwd=PROJECT,
            )

    def require_alive(self) -> None:
        if self.child.poll() is not None:
            raise StackError(f"{self.name} ended unexpectedly. The end of its log, {self.log}:\n{self.last_words()}")

    def progress(self) -> tuple[int, int]:
        """What grows while it does something: the bytes of its log, and the CPU that it and what it started used."""
        cpu = 0.0
        with contextlib.suppress(psutil.Error):
            itself = psutil.Process(self.child.pid)
            for each in (itself, *itself.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    cpu += sum(each.cpu_times()[:4])  # its own, and those of its children that have ended
        return self.log.stat().st_size, int(cpu / LITTLE_CPU)

    def shorten_log(self) -> None:
        """Begin its log anew where it has become long; the part before is kept beside it, until there is another."""
        if self.log.stat().st_size > MOST_LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".log.before"))
            os.truncate(self.log, 0)

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        """Ask it to end, wait, and end whatever is left of its group."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                click.echo(f"{self.name} does not end by itself; ending it.")
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.child.wait()


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process where its parent is killed; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def chosen_port(name: str, wanted: int) -> int:
    """A free port; it is said where that is not the one that people know."""
    port = free_port(wanted)
    if port != wanted:
        click.echo(f"Port {wanted} is taken: {name} gets {port}.")
    return port


def run(home: Path, *, demo: bool) -> None:
    """Start everything, tell what happens, and end everything at Ctrl-C, SIGTERM, or with its terminal."""
    at_signals(interrupt)
    prepare(home)
    with ExitStack() as started:
        note = started.enter_context(only_one(home))
        try:
            serve(started, home, note, demo=demo)
        except Interrupted:
            click.echo("\nStopping ...")
        finally:
            at_signals(signal.SIG_IGN)  # what ends is ended in order, and so is what pg_ctl does, which inherits this
    click.echo("Everything is stopped; the data stay.")


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM, or the end of the terminal came."""


def at_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job starts with it ignored
        signal.signal(each, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # of a terminal that closes, unless nohup said to stay
        signal.signal(signal.SIGHUP, handler)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    at_signals(signal.SIG_IGN)  # another one, at whatever moment, doesn't interrupt the stopping
    raise Interrupted


def serve(started: ExitStack, home: Path, note: Callable[[dict[str, str]], None], *, demo: bool) -> None:
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
        raise StackError(f"The market data's database can't be brought up to date: {error.orig}") from None
    click.echo("PostgreSQL: ready, the schema is up to date.")

    processes = []
    if demo:
        exchange = ["upbit-assets", "exchange", "--port", str(ports["exchange"])]
        processes.append(start(started, "The offline exchange", exchange, home))
        wait_for(processes[-1], addresses["exchange"])
        click.echo(f"Exchange:   {addresses['exchange']}  (simulated: no figure on it is real)")
    else:
        click.echo(f"Exchange:   {settings.UPBIT_API_URL}")
    dev = ["dagster", "dev", "--host", "127.0.0.1", "--port", str(ports["ui"])]
    dagster = start(started, "Dagster", dev, home)
    processes.append(dagster)
    note(addresses)
    click.echo("Dagster:    starting webserver and daemon; the first snapshot is being collected meanwhile ...")
    first = start(started, "The first run", first_run(), home)
    processes.append(start(started, "The board", ["upbit-assets", "board", "--port", str(ports["board"])], home))
    wait_for(processes[-1], addresses["board"])
    click.echo(f"Board:      {addresses['board']}")
    wait_for(dagster, addresses["ui"] + "/server_info")
    click.echo(f"Dagster:    {addresses['ui']}  (schedule and sensor are on; logs: {home / 'dagster.log'})")
    if tell_first_run(first, addresses["ui"]):
        # which need the ranking, and which the schedule would bring in up to ten minutes
        today = materialize("bronze_candle_raw,silver_candle", days.key_of(days.at(datetime.now(UTC)).start))
        start(started, "The candles of today", today, home)
    click.echo("Collecting every minute. Ctrl-C stops everything.")
    watch(processes)


def start(started: ExitStack, name: str, arguments: list[str], home: Path) -> Process:
    process = Process(name, arguments, home / f"{name.removeprefix('The ').replace(' ', '-').lower()}.log")
    started.callback(process.stop)
    return process


def first_run() -> list[str]:
    """The chain for the window now open; for the next one where it is about to close."""
    window = windows.at(datetime.now(UTC))
    left = (window.end - datetime.now(UTC)).total_seconds()
    if left < 10:
        time.sleep(left)
        window = windows.at(datetime.now(UTC))
    return materialize("group:ticker", windows.key_of(window.start))


def materialize(assets: str, partition: str) -> list[str]:
    return ["dagster", "asset", "materialize", "--select", assets, "--partition", partition]


def wait_for(process: Process, address: str) -> None:
    """Wait until the process answers, however long it takes; not for one that has ended or does nothing any more."""
    began = said = moved = time.monotonic()
    progress = process.progress()
    with session_for(address) as session:
        while not answers(session, address):
            process.require_alive()
            now = time.monotonic()
            if (latest := process.progress()) != progress:
                progress, moved = latest, now
            elif now - moved > STILL_SECONDS:
                raise StackError(
                    f"{process.name} does not answer at {address}, and has done nothing for {STILL_SECONDS} s. "
                    f"The end of its log, {process.log}:\n{process.last_words()}"
                )
            if now - said > SAID_AGAIN:
                said = now
                click.echo(f"{process.name} is still starting, after {now - began:.0f} s; its log: {process.log}")
            time.sleep(0.2)


def answers(session: requests.Session, address: str) -> bool:
    try:
        return session.get(address, timeout=10).ok
    except requests.RequestException:
        return False


def tell_first_run(first: Process, ui: str) -> bool:
    """Show what the first run brought, or why it failed; whether it succeeded."""
    if first.child.wait() == 0:
        print_top10()
        return True
    said = re.findall(r"(?:Failure|Error): (.+)", first.log.read_text(errors="replace"))
    reason = said[0] if said else first.last_words()
    click.secho(f"The first collection failed: {reason}", fg="red")
    click.echo(f"It is tried again every minute; the failed runs say why at {ui}/runs")
    return False


def print_top10() -> None:
    with Database().connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM gold.turnover_top10")).all()
        simulated = connection.scalar(sa.select(tables.bronze_origin.c.simulated))
    if not rows:
        return
    window, kind = rows[0].window_start.astimezone(SEOUL), "simulated" if simulated else "real"
    click.echo(f"\n거래대금 상위 10 · turnover top 10, window of {window:%Y-%m-%d %H:%M} KST ({kind} data)")
    largest = max(row.turnover_krw or 0 for row in rows) or 1
    for row in rows:
        bar = "█" * round(24 * (row.turnover_krw or 0) / largest)
        click.echo(
            f"{row.rank_volume:>4}  {row.market:<12}{plain(row.trade_price):>16}  {row.change_rate:>+8.2%}"
            f"{won(row.turnover_krw):>14}  {bar}"
        )
    click.echo()


# (table that notes what was computed, axis, column that counts rows, what they are)
PROGRESS = [
    *((feed.refinement.build, feed.axis, "silver_rows", feed.row_label) for feed in FEEDS if feed.row_label),
    *((gold.build, gold.axis, "gold_rows", gold.row_label) for gold in GOLD_TABLES),
]


def progress(connection: sa.Connection, since: datetime) -> list[tuple[datetime, str]]:
    """What was computed since then, in the order in which it was."""
    found = []
    for build, axis, count, row_label in PROGRESS:
        last = sa.select(build.c.computed_at, build.c.window_start, build.c[count]).order_by(build.c.computed_at.desc())
        for computed_at, start, rows in connection.execute(last.where(build.c.computed_at > since).limit(1)):
            found.append((computed_at, f"{axis.key_of(start)}: {rows:,} {row_label}"))
    return sorted(found)


def watch(processes: list[Process]) -> None:
    """Tell of what is written, until a process ends or somebody stops us."""
    since = datetime.now(UTC)
    while True:
        for process in processes:
            process.require_alive()
            process.shorten_log()
        try:
            with Database().connect() as connection:
                found = progress(connection, since)
        except DatabaseError as error:
            raise StackError(str(error)) from None
        for computed_at, message in found:
            click.echo(f"{computed_at.astimezone(SEOUL):%H:%M:%S}  {message}")
            since = max(since, computed_at)
        time.sleep(2)
