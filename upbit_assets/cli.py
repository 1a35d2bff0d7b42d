"""The commands beside Dagster's own.

Modules that are slow to import, or read settings on import, are imported inside the commands.
"""

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from click.shell_completion import get_completion_class

from upbit_assets.postgres.embedded import EmbeddedPostgres, wheel_binaries
from upbit_assets.postgres.migrate import migrate as migrate_database
from upbit_assets.postgres.resource import PIPELINE_ROLE, embedded, market_url, reader_url
from upbit_assets.postgres.url import without_password
from upbit_assets.settings import BOARD_PORT, EXCHANGE_PORT, PROJECT, Settings, check, home_of, settings

VERSION = importlib.metadata.version("upbit-assets")
COMPLETION = "_UPBIT_ASSETS_COMPLETE"
GROUPS = {
    "Run everything on this machine": ("demo", "up", "down", "status"),
    "Use the data": ("psql", "export", "diff", "env"),
    "Run one part": ("board", "stream", "alerts", "alert-test", "exchange"),
    "Set up and keep": (
        *("migrate", "backup", "restore", "restore-archive"),
        *("metabase", "distribute", "completion"),
    ),
}


class GroupedCommands(click.Group):
    """Lists the commands by what they are for."""

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                rows = ((name, self.commands[name].get_short_help_str(limit=200)) for name in names)
                formatter.write_dl(list(rows))


@click.group(cls=GroupedCommands)
@click.version_option(VERSION, prog_name="upbit-assets")
def main() -> None:
    """Upbit market data in PostgreSQL: commands beside dagster and dg."""
    check()


def home_option(*, demo: bool) -> Callable[[Any], Any]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
        default=lambda: home_of(demo=demo),
        help="The folder of the stack's data and logs.",
    )


@main.command()
@home_option(demo=True)
def demo(home: Path) -> None:
    """Run everything on this machine, against the offline exchange."""
    from upbit_assets import stack

    stack.run(home, demo=True)


@main.command()
@home_option(demo=False)
@click.option("--stream/--no-stream", default=True, help="Whether to collect every trade live.")
def up(home: Path, stream: bool) -> None:
    """Run everything on this machine, against the real exchange (UPBIT_API_URL)."""
    from upbit_assets import stack

    stack.run(home, demo=False, stream=stream)


@main.command()
def down() -> None:
    """Stop embedded databases left running by plain Dagster commands."""
    errors = []
    for demo in (True, False):
        home = home_of(demo=demo)
        if message := in_use_message(home):
            errors.append(message)
        elif EmbeddedPostgres(home / ".postgres").stop():
            click.echo(f"Stopped the embedded PostgreSQL of {home}")
    if errors:
        raise click.ClickException(" ".join(errors))


def in_use_message(home: Path) -> str | None:
    """Which process uses the home and how to stop it, or None."""
    from upbit_assets import stack

    if state := stack.running(home):
        return f"{home} is in use by process {state.get('pid')}; stop it first, with Ctrl-C."
    return None


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(as_json: bool) -> None:
    """Say what runs, how fresh and whole each feed is, what is wrong, and what to do.

    Exits with 0 if everything is well, else with 1.
    """
    use_the_running_stack()
    if not settings.UPBIT_POSTGRES_URL and not embedded().answers():
        raise click.ClickException(f"Nothing runs in {settings.DAGSTER_HOME}. Start it with make up or make demo.")
    os.environ.setdefault("DAGSTER_HOME", str(settings.DAGSTER_HOME))
    from dagster import DagsterInstance

    from upbit_assets.monitoring.status import report
    from upbit_assets.postgres.resource import Database, DatabaseError

    try:
        with DagsterInstance.get() as instance, Database().connect() as connection:
            found = report(connection, instance, VERSION, datetime.now(UTC))
    except DatabaseError as error:
        raise click.ClickException(str(error)) from None
    except sa.exc.OperationalError as error:
        raise click.ClickException(f"Dagster's database is not reachable: {error.orig}") from None
    if as_json:
        click.echo(json.dumps(asdict(found), default=datetime.isoformat, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(found.lines()))
    sys.exit(1 if found.problems else 0)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell: eval "$(upbit-assets completion bash)"."""
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101
    click.echo(made(main, {}, "upbit-assets", COMPLETION).source())


@main.command()
def migrate() -> None:
    """Migrate the market database to the newest schema; safe to repeat."""
    try:
        migrate_database(market_url())
    except sa.exc.DBAPIError as error:
        raise click.ClickException(f"The migration failed and changed nothing: {error.orig}") from None
    click.echo("The schema is up to date.")


@main.command()
def distribute() -> None:
    """Distribute the market data over a Citus cluster, by market; safe to repeat. See docs/scaling.md."""
    from upbit_assets.postgres.citus import CitusError
    from upbit_assets.postgres.citus import distribute as distribute_tables

    try:
        distribute_tables(market_url(), click.echo)
    except CitusError as error:
        raise click.ClickException(str(error)) from None
    except sa.exc.DBAPIError as error:
        raise click.ClickException(f"Stopped after the steps above; run it again to continue: {error.orig}") from None


@main.command()
def metabase() -> None:
    """Create or update the dashboard in the Metabase at METABASE_URL; safe to repeat.

    Needs METABASE_ADMIN_EMAIL and METABASE_ADMIN_PASSWORD, which also set up an empty Metabase, and
    METABASE_DATABASE_URL: the market database as Metabase reaches it, with a reader's login. Each may be in a file
    named by NAME_FILE.
    """
    from upbit_assets.metabase import MetabaseError, provision

    email, password = settings.METABASE_ADMIN_EMAIL, settings.METABASE_ADMIN_PASSWORD
    database_url = settings.METABASE_DATABASE_URL
    if not (email and password and database_url):
        required = (Settings.METABASE_ADMIN_EMAIL, Settings.METABASE_ADMIN_PASSWORD, Settings.METABASE_DATABASE_URL)
        missing = ", ".join(setting.name for setting in required if not setting.value)
        raise click.ClickException(f"Set {missing}, or NAME_FILE to the path of a file with the value.")
    try:
        address = provision(settings.METABASE_URL, email, password, database_url, click.echo)
    except MetabaseError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"The dashboard is up to date: {address}")


@main.command()
@click.option("--table", "tables", multiple=True, help="A bronze table, like ticker_raw; by default all of them.")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day, in Seoul.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day, included.")
def restore_archive(tables: tuple[str, ...], first: datetime | None, last: datetime | None) -> None:
    """Restore bronze from UPBIT_ARCHIVE_URL, row by row as it was; also into an empty database. Safe to repeat.

    Rows that are there already stay. The database's schema must be up to date (upbit-assets migrate).
    """
    use_the_running_stack()
    from upbit_assets.archive import ArchiveError
    from upbit_assets.archive.days import TABLES, archived_days, restore_day
    from upbit_assets.archive.store import Store
    from upbit_assets.postgres.resource import Database, DatabaseError

    if unknown := set(tables) - {table.name for table in TABLES}:
        raise click.ClickException(
            f"No such table: {', '.join(sorted(unknown))}. There are {', '.join(table.name for table in TABLES)}."
        )
    try:
        store, database = Store(), Database()
        for found in archived_days(store):
            if isinstance(found, str):
                click.echo(f"{found}: not an archive, ignored", err=True)
                continue
            table, day = found
            start = day.start.replace(tzinfo=None)
            if (tables and table.name not in tables) or (first and start < first) or (last and start > last):
                continue
            rows = restore_day(database, store, table, day)
            click.echo(f"{table.fullname} {start:%Y-%m-%d}: {rows or 0:,} rows")
    except (ArchiveError, DatabaseError) as error:
        raise click.ClickException(f"{error} Days named above are restored; run it again for the others.") from None


@main.command()
@click.option("--partition", "partitions", required=True, help="A window, a day, or a range of them: FIRST...LAST.")
@click.option("--select", "assets", help="Assets of silver and gold, separated by commas; by default all of them.")
@click.option("--check", "must_agree", is_flag=True, help="Exit with 1 where anything differs.")
def diff(partitions: str, assets: str | None, must_agree: bool) -> None:
    """Show what would change if silver and gold were computed again from bronze. Nothing is written.

    For instance --partition 2026-01-29-14:00...2026-01-29-14:50 of tickers and order books, or --partition 2026-01-29
    of a day's candles and trades.
    """
    use_the_running_stack()
    from upbit_assets import diff as differing
    from upbit_assets.postgres.resource import Database, DatabaseError

    try:
        found = differing.diff(Database(), partitions, assets.split(",") if assets else ())
    except (differing.DiffError, DatabaseError) as error:
        raise click.ClickException(str(error)) from None
    for table in found.tables("simple").values():
        click.echo(f"{table}\n")
    click.echo(differing.summary(found))
    if must_agree and found.differing:
        raise SystemExit(1)


@main.command()
@click.argument("table")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The first day, in Seoul.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The last day, included.")
@click.option("--format", "form", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="The file; by default TABLE_FIRST_LAST.FORMAT, here.")
def export(table: str, first: datetime, last: datetime, form: str, output: Path | None) -> None:
    """Write the rows of some days of TABLE, like gold.market_stats, into one file; figures stay decimals."""
    use_the_running_stack()
    from upbit_assets.archive import export as exporting
    from upbit_assets.postgres.resource import Database, DatabaseError

    file = output or Path(f"{table}_{first:%Y-%m-%d}_{last:%Y-%m-%d}.{form}")
    try:
        span = exporting.span_of(first, last)
        rows = exporting.export(Database(), exporting.table_of(table), span, file, form)
    except (exporting.ExportError, DatabaseError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{rows:,} rows of {table} are in {file}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=False, resolve_path=True))
@home_option(demo=False)
def backup(folder: Path, home: Path) -> None:
    """Back up the embedded databases into a new FOLDER."""
    if folder.exists():
        raise click.ClickException(f"{folder} already exists; name a new one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_on_embedded(home, "backup.sh", folder)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
@home_option(demo=False)
def restore(folder: Path, home: Path) -> None:
    """Replace the embedded databases by the backup in FOLDER."""
    if message := in_use_message(home):
        raise click.ClickException(message)
    run_on_embedded(home, "restore.sh", folder)


def run_on_embedded(home: Path, script: str, folder: Path) -> None:
    """Run a script of deploy/ on a stack's embedded server, and migrate its schema."""
    server = EmbeddedPostgres(home / ".postgres")
    started = server.start(prepare=lambda: migrate_database(server.url("upbit")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    connection = {"PATH": f"{server.binaries}:{os.environ.get('PATH', '')}", "PGHOST": str(server.socket)}
    try:
        subprocess.run(["sh", PROJECT / "deploy" / script, folder], env=environment | connection, check=True)
        server.create_databases()  # a backup by an earlier version may restore another time zone setting
        migrate_database(server.url("upbit"))
    except subprocess.CalledProcessError:
        raise click.ClickException(f"deploy/{script} failed; see its output above.") from None
    finally:
        if started:
            server.stop()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=EXCHANGE_PORT, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the simulated market.")
@click.option("--markets", default=855, show_default=True, help="Number of listed markets.")
@click.option("--regional", is_flag=True, help="Imitate the hosts in Singapore, Indonesia and Thailand.")
@click.option("--activity", default=1.0, show_default=True, help="Factor on the number of trades.")
@click.option("--start", type=click.DateTime(), help="Start the simulated clock at this time (UTC) instead of now.")
@click.option(
    "--speed", default=1.0, show_default=True, help="Speed of the simulated clock, as a multiple of real time."
)
def exchange(
    host: str,
    port: int,
    seed: int,
    markets: int,
    regional: bool,
    activity: float,
    start: datetime | None,
    speed: float,
) -> None:
    """Run the offline exchange: Upbit's REST API and WebSocket with simulated data."""
    from upbit_assets.sandbox.clock import AdjustableClock
    from upbit_assets.sandbox.server import serve

    message = f"The offline exchange listens on http://{host}:{port}; all of its data is simulated."
    try:
        serve(
            host,
            port,
            seed=seed,
            markets=markets,
            activity=activity,
            clock=AdjustableClock(start.replace(tzinfo=UTC) if start else None, speed),
            regional=regional,
            ready=lambda: click.echo(message),
        )
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=BOARD_PORT, show_default=True)
@click.option("--allow-host", multiple=True, help="A host name to accept in addition to UPBIT_BOARD_HOSTS.")
def board(host: str, port: int, allow_host: tuple[str, ...]) -> None:
    """Serve the market board: a page and a read-only API over gold and silver."""
    from upbit_assets.dashboard.server import serve

    use_the_running_stack()
    message = f"The market board listens on http://{host}:{port}"
    hosts = (*settings.UPBIT_BOARD_HOSTS, *allow_host)
    try:
        serve(reader_url(), host, port, hosts, ready=lambda: click.echo(message))
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command()
def stream() -> None:
    """Collect every trade as it happens, from the exchange's WebSocket; a second one waits for the first to end."""
    import asyncio
    import logging

    from upbit_assets.postgres.origin import OriginError
    from upbit_assets.stream import status
    from upbit_assets.stream.collector import serve

    use_the_running_stack()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(settings.UPBIT_API_URL, market_url, status.folder()))
    except OriginError as error:
        raise click.ClickException(str(error)) from None


@main.command()
def alerts() -> None:
    """Tell UPBIT_ALERT_URLS when something goes wrong, and when it is over."""
    import logging

    use_the_running_stack()
    os.environ.setdefault("DAGSTER_HOME", str(settings.DAGSTER_HOME))
    from upbit_assets.monitoring.alerts import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    serve()


@main.command()
def alert_test() -> None:
    """Send a test message to UPBIT_ALERT_URLS."""
    from upbit_assets.monitoring.notify import Channel

    Channel().test()
    click.echo("The test message was sent.")


@main.command()
@click.option("--demo/--up", default=None, help="Which stack; by default the running one, else that of up.")
def env(demo: bool | None) -> None:
    """Print the environment for plain Dagster commands: eval "$(upbit-assets env)"."""
    from upbit_assets import stack

    if demo is None:
        demo = demo_is_running()
    home = home_of(demo=demo)
    stack.prepare(home)
    for name, value in stack.environment(home, demo=demo).items():
        click.echo(f"export {name}={shlex.quote(value)}")


def demo_is_running() -> bool:
    """Whether only the demo runs. If both stacks or neither run, commands use the real one."""
    from upbit_assets import stack

    return bool(stack.running(home_of(demo=True))) and not stack.running(home_of(demo=False))


def use_the_running_stack() -> None:
    if demo_is_running():
        os.environ.setdefault("DAGSTER_HOME", str(home_of(demo=True)))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql on the market database, with the pipeline's role."""
    use_the_running_stack()
    address, password = without_password(market_url())
    os.environ.update(PGOPTIONS=f"-c role={PIPELINE_ROLE}", PGTZ="Asia/Seoul")
    if password:
        os.environ["PGPASSWORD"] = password
    sys.stdout.flush()
    os.execv(wheel_binaries() / "psql", ["psql", address, *arguments])  # noqa: S606
