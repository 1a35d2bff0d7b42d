"""The few commands that are not Dagster's.

What takes long to import, or reads a setting as it is imported, is imported by the commands that need it.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from upbit_assets.postgres.embedded import EmbeddedPostgres, wheel_binaries
from upbit_assets.postgres.migrate import migrate as migrate_database
from upbit_assets.postgres.resource import PIPELINE_ROLE, market_url, reader_url
from upbit_assets.postgres.url import without_password
from upbit_assets.settings import BOARD_PORT, EXCHANGE_PORT, PROJECT, Settings, check, home_of, settings


@click.group()
def main() -> None:
    """Upbit market data in PostgreSQL: what there is beside the dagster and dg commands."""
    check()


def home_option(*, demo: bool) -> Callable[[Any], Any]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
        default=lambda: home_of(demo=demo),
        help="Where the stack keeps its data and logs.",
    )


@main.command()
@home_option(demo=True)
def demo(home: Path) -> None:
    """Everything on this machine, against the offline exchange."""
    from upbit_assets import stack

    stack.run(home, demo=True)


@main.command()
@home_option(demo=False)
def up(home: Path) -> None:
    """Everything on this machine, against the real exchange (UPBIT_API_URL)."""
    from upbit_assets import stack

    stack.run(home, demo=False)


@main.command()
def down() -> None:
    """Stop embedded databases that plain Dagster commands have started."""
    in_use = []
    for demo in (True, False):
        home = home_of(demo=demo)
        if user := user_of(home):
            in_use.append(user)
        elif EmbeddedPostgres(home / ".postgres").stop():
            click.echo(f"Stopped the embedded PostgreSQL of {home}")
    if in_use:
        raise click.ClickException(" ".join(in_use))


def user_of(home: Path) -> str | None:
    """Who uses it, and what to do about that."""
    from upbit_assets import stack

    if there := stack.running(home):
        return f"{home} is in use by process {there.get('pid')}: stop that one, with Ctrl-C."
    return None


@main.command()
def migrate() -> None:
    """Bring the market data's database to the newest schema; safe to repeat."""
    try:
        migrate_database(market_url())
    except sa.exc.DBAPIError as error:
        raise click.ClickException(f"Nothing was changed: {error.orig}") from None
    click.echo("The schema is up to date.")


@main.command()
def distribute() -> None:
    """Spread the market data over the machines of a Citus cluster, by market; safe to repeat. See docs/scaling.md."""
    from upbit_assets.postgres.citus import CitusError
    from upbit_assets.postgres.citus import distribute as distribute_tables

    try:
        distribute_tables(market_url(), click.echo)
    except CitusError as error:
        raise click.ClickException(str(error)) from None
    except sa.exc.DBAPIError as error:
        raise click.ClickException(f"What is said above is done; then it stopped, run it again: {error.orig}") from None


@main.command()
def metabase() -> None:
    """Make the dashboard in the Metabase at METABASE_URL, or bring it up to date; safe to repeat.

    Needs METABASE_ADMIN_EMAIL and METABASE_ADMIN_PASSWORD, with which an empty Metabase is set up, and
    METABASE_DATABASE_URL: the market data with the reader's login, as Metabase reaches them. Each may be in a file that
    NAME_FILE names.
    """
    from upbit_assets.metabase import MetabaseError, provision

    email, password = settings.METABASE_ADMIN_EMAIL, settings.METABASE_ADMIN_PASSWORD
    database_url = settings.METABASE_DATABASE_URL
    if not (email and password and database_url):
        wanted = (Settings.METABASE_ADMIN_EMAIL, Settings.METABASE_ADMIN_PASSWORD, Settings.METABASE_DATABASE_URL)
        missing = ", ".join(each.name for each in wanted if not each.value)
        raise click.ClickException(f"Set {missing}, or the same with _FILE and a file's path.")
    try:
        address = provision(settings.METABASE_URL, email, password, database_url, click.echo)
    except MetabaseError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"The dashboard is up to date: {address}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=False, resolve_path=True))
@home_option(demo=False)
def backup(folder: Path, home: Path) -> None:
    """Write the embedded databases into a new FOLDER."""
    if folder.exists():
        raise click.ClickException(f"{folder} is there already; name a new one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    on_embedded(home, "backup.sh", folder)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
@home_option(demo=False)
def restore(folder: Path, home: Path) -> None:
    """Put what backup wrote into FOLDER in place of the embedded databases."""
    if user := user_of(home):
        raise click.ClickException(user)
    on_embedded(home, "restore.sh", folder)


def on_embedded(home: Path, script: str, folder: Path) -> None:
    """Run a script of deploy/ on the embedded server of a stack, and bring its schema up to date."""
    server = EmbeddedPostgres(home / ".postgres")
    started = server.start(prepare=lambda: migrate_database(server.url("upbit")))
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    here = {"PATH": f"{server.binaries}:{os.environ.get('PATH', '')}", "PGHOST": str(server.socket)}
    try:
        subprocess.run(["sh", PROJECT / "deploy" / script, folder], env=elsewhere | here, check=True)
        server.create_databases()  # a backup of an earlier version brings other zones
        migrate_database(server.url("upbit"))
    except subprocess.CalledProcessError:
        raise click.ClickException(f"deploy/{script} failed; its reason is above.") from None
    finally:
        if started:
            server.stop()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=EXCHANGE_PORT, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Another seed, another market.")
@click.option("--markets", default=855, show_default=True, help="How many markets it lists.")
@click.option("--regional", is_flag=True, help="Speak as the hosts in Singapore, Indonesia and Thailand do.")
@click.option("--activity", default=1.0, show_default=True, help="So many times the usual trades.")
@click.option("--start", type=click.DateTime(), help="Begin at this time, in UTC, rather than now.")
@click.option("--speed", default=1.0, show_default=True, help="Run so many times as fast as the real time.")
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
    """The offline exchange: Upbit's REST API and WebSocket with simulated data."""
    from upbit_assets.sandbox.clock import AdjustableClock
    from upbit_assets.sandbox.server import serve

    said = f"The offline exchange listens on http://{host}:{port}; all its data are simulated."
    try:
        serve(
            host,
            port,
            seed=seed,
            markets=markets,
            activity=activity,
            clock=AdjustableClock(start.replace(tzinfo=UTC) if start else None, speed),
            regional=regional,
            ready=lambda: click.echo(said),
        )
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=BOARD_PORT, show_default=True)
@click.option(
    "--allow-host", multiple=True, help="A name by which browsers may call it beside those of UPBIT_BOARD_HOSTS."
)
def board(host: str, port: int, allow_host: tuple[str, ...]) -> None:
    """The market board: a page and a read-only API over gold and silver."""
    from upbit_assets.dashboard.server import serve

    use_the_running_stack()
    said = f"The market board listens on http://{host}:{port}"
    hosts = (*settings.UPBIT_BOARD_HOSTS, *allow_host)
    try:
        serve(reader_url(), host, port, hosts, ready=lambda: click.echo(said))
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--demo/--up", default=None, help="Which stack; by default the one that is running, else that of up.")
def env(demo: bool | None) -> None:
    """Print what makes plain Dagster commands work: eval "$(upbit-assets env)"."""
    from upbit_assets import stack

    if demo is None:
        demo = demo_is_running()
    home = home_of(demo=demo)
    stack.prepare(home)
    for name, value in stack.environment(home, demo=demo).items():
        click.echo(f"export {name}={shlex.quote(value)}")


def demo_is_running() -> bool:
    """Whether it is the demo that commands are about: where both run, or none does, it is the real stack."""
    from upbit_assets import stack

    return bool(stack.running(home_of(demo=True))) and not stack.running(home_of(demo=False))


def use_the_running_stack() -> None:
    if demo_is_running():
        os.environ.setdefault("DAGSTER_HOME", str(home_of(demo=True)))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql on the market data, with the pipeline's rights."""
    use_the_running_stack()
    address, password = without_password(market_url())
    os.environ.update(PGOPTIONS=f"-c role={PIPELINE_ROLE}", PGTZ="Asia/Seoul")
    if password:
        os.environ["PGPASSWORD"] = password
    sys.stdout.flush()
    os.execv(wheel_binaries() / "psql", ["psql", address, *arguments])  # noqa: S606
