"""Runs the benchmarks and writes docs/bench.md: python -m bench [--scale N] [NAME ... | capacity | year]."""

import logging
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import psycopg

from bench import archive, board, calls, candles, capacity, copying, history, layers, project, running, stream, year
from bench.measure import Result, readable
from bench.stage import Stage
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate

DOCS = Path(__file__).parents[1] / "docs"
ROWS = {
    each.__name__: each
    for each in (
        copying.snapshot,
        copying.frame,
        layers.silver,
        layers.backfill,
        project.chain,
        candles.candle_day,
        calls.calls,
        board.board,
        stream.stream,
        archive.archive,
        archive.diff,
        # last: after tens of millions of rows are dropped, the server stays busy for a while
        history.replace_window,
        history.top10,
    )
}
ALONE = {"capacity", "year"}
SMALLEST_YEAR = 0.2  # the smallest scale whose figures are written to docs/year.md
HEAD = ("what", "baseline", "target", "ratio", "measured", "baseline measured", "")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*ROWS, *ALONE]))
@click.option("--scale", default=1.0, help="Amount of data: 0.05 is a twentieth.")
@click.option("--quick", "scale", flag_value=0.05, type=float, help="A twentieth of the data.")
def main(names: tuple[str, ...], scale: float) -> None:
    """Run the benchmarks; at full scale, each writes its section of docs/bench.md.

    `capacity` measures the size of a day of data and writes docs/capacity.md; `year` measures what becomes slower
    with a year of data and writes docs/year.md. Each of the two runs alone.
    """
    if ALONE & {*names} and len(names) > 1:
        raise click.UsageError("capacity and year each run alone")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="upbit-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "server")
        server.start(prepare=lambda: migrate(server.url("upbit")))
        try:
            machine = about(server)
            click.echo(machine)
            stage = Stage(server, Path(folder), scale)
            if names == ("capacity",):
                lines = [*capacity.report(stage), "", *running.report(stage)]
                click.echo("\n".join(lines))
                write("capacity", capacity.TEXT.format(machine=machine, table="\n".join(lines)), scale >= 1)
            elif names == ("year",):
                lines = list(measured(year.year(stage)))
                text = year.TEXT.format(machine=machine, scale=scale, table="\n".join(lines))
                write("year", text, scale >= SMALLEST_YEAR)
            else:
                for name in names or ROWS:
                    lines = list(measured(ROWS[name](stage)))
                    write("bench", with_section(name, machine, lines), scale >= 1)
        finally:
            server.stop()


def write(name: str, text: str, is_full_scale: bool) -> None:
    if is_full_scale:
        (DOCS / f"{name}.md").write_text(text)


def with_section(name: str, machine: str, lines: list[str]) -> str:
    """docs/bench.md with this benchmark's section replaced or added."""
    _, *parts = (DOCS / "bench.md").read_text().split("\n## ")
    sections = {part.partition("\n")[0]: part.rstrip() for part in parts}
    sections[name] = f"{name}\n\nOn {machine}.\n\n" + "\n".join(lines)
    return REPORT_TEXT + "".join(f"\n## {sections[each]}\n" for each in ROWS if each in sections)


def measured(results: Iterable[Result]) -> Iterator[str]:
    for line in (row(HEAD), row(("---",) * len(HEAD))):
        click.echo(line)
        yield line
    for result in results:
        click.echo(line := row(cells(result)))
        yield line


def cells(result: Result) -> tuple[str, ...]:
    return (
        result.what,
        result.baseline,
        result.target,
        f"{result.ratio:.2f}×",
        *(f"{each:g}" if result.counted else readable(each) for each in (result.ours, result.theirs)),
        "met" if result.met else "**not met**",
    )


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def about(server: EmbeddedPostgres) -> str:
    with psycopg.connect(server.url("postgres")) as connection:
        version = connection.info.parameter_status("server_version")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    today = datetime.now(UTC).date()
    return f"{cores} cores, PostgreSQL {version}, Python {platform.python_version()}, {platform.system()}, {today}"


REPORT_TEXT = """# Benchmarks

Written by `make bench`; `python -m bench NAME` writes one section.

The two contenders of a line took turns (A B A B …); the times are the medians of all rounds. "× the speed" is the
baseline's time divided by ours, so more is better; "× the time" is ours divided by the baseline's, so less is better.
"""

main()
