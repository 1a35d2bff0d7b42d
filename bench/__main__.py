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
    """Run the benchmarks; a run of all of them at full scale writes docs/bench.md.

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
            else:
                rows = year.year(stage) if names == ("year",) else results(stage, names or tuple(ROWS))
                lines = list(measured(rows))
        finally:
            server.stop()
    text = {(): ("bench", REPORT_TEXT), ("capacity",): ("capacity", capacity.TEXT), ("year",): ("year", year.TEXT)}
    if names in text and scale >= (SMALLEST_YEAR if names == ("year",) else 1):
        name, report = text[names]
        report = report.format(machine=machine, scale=scale, table="\n".join(lines))
        (DOCS / f"{name}.md").write_text(report)


def results(stage: Stage, names: Iterable[str]) -> Iterator[Result]:
    for name in names:
        yield from ROWS[name](stage)


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

Written by `make bench`, on {machine}.

The two contenders of a line took turns (A B A B …); the times are the medians of all rounds. "× the speed" is the
baseline's time divided by ours, so more is better; "× the time" is ours divided by the baseline's, so less is better.

{table}
"""

main()
