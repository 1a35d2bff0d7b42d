"""What was asked of the exchange, and so what a missing row means: nobody traded, or nothing sound was collected."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow
from sqlalchemy.dialects import postgresql

from upbit_assets.partitions import DAY
from upbit_assets.postgres import tables
from upbit_assets.postgres.io_manager import within
from upbit_assets.postgres.tables import Moment, written_after

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Gap:
    """A part of a market's day that was not collected: `[start, end)`."""

    day: datetime
    market: str
    start: datetime
    end: datetime


GAPS = """
SELECT wanted.day, wanted.market, lower(gap), upper(gap)
FROM (SELECT day, market, min(nth) AS nth
      FROM unnest(CAST(:days AS timestamptz[]), CAST(:markets AS text[])) WITH ORDINALITY AS each (day, market, nth)
      GROUP BY day, market) AS wanted
CROSS JOIN LATERAL (
  SELECT coalesce(range_agg(covered), '{{}}') AS covered,
         (array_agg(problem IS NOT NULL ORDER BY id DESC))[1] AS hopeless
  FROM ({pages}) AS page WHERE NOT :again AND day = wanted.day AND market = wanted.market
) AS pages
CROSS JOIN LATERAL unnest(
  tstzmultirange(tstzrange(wanted.day, greatest(wanted.day, least(wanted.day + :length, :until)))) - pages.covered
) AS gap
WHERE :hopeless OR pages.hopeless IS NOT TRUE
ORDER BY wanted.day DESC, wanted.nth, upper(gap) DESC
"""


def gaps(
    connection: sa.Connection,
    page: sa.Table,
    wanted: Sequence[tuple[datetime, str]],
    until: datetime,
    *,
    hopeless: bool,
    again: bool = False,
    raw: sa.Table | None = None,
) -> list[Gap]:
    """What is not collected of the wanted (day, market)s until a moment, newest day first.

    `hopeless`: those too of which the exchange said last that it doesn't have them. `again`: whatever was collected
    already. `raw`: where the rows must still be; what was dropped there is not collected any more.
    """
    pages = sa.select(page) if raw is None else sa.select(page).where(held(page, raw))
    found = connection.execute(
        sa.text(GAPS.format(pages=in_sql(pages))),
        {
            "days": [day for day, _ in wanted],
            "markets": [market for _, market in wanted],
            "length": DAY,
            "until": until,
            "hopeless": hopeless,
            "again": again,
        },
    )
    return [Gap(*row) for row in found]


def begun(connection: sa.Connection, page: sa.Table, starts: Iterable[datetime]) -> list[tuple[datetime, str]]:
    """The (day, market)s of these days of which something was asked for."""
    pages = sa.select(page.c.day, page.c.market).where(page.c.day == sa.any_(sa.cast(list(starts), sa.ARRAY(Moment))))
    return list(connection.execute(pages.distinct().order_by(page.c.day.desc(), page.c.market)).tuples())


def touched(connection: sa.Connection, page: sa.Table, snapshot: str) -> set[datetime]:
    """The days of which something was asked for since `snapshot`."""
    return set(connection.scalars(sa.select(page.c.day).where(written_after(page, snapshot)).distinct()))


def held(page: sa.Table, raw: sa.Table) -> sa.ColumnElement[bool]:
    """Whether the rows that a page tells of were not dropped since."""
    dropped = tables.bronze_retention.c
    gone = (dropped.table_name == raw.fullname, page.c.day < dropped.kept_from, page.c.ingested_at < dropped.dropped_at)
    return ~sa.exists().where(*gone)


def in_sql(rows: sa.Select[Any]) -> str:
    return str(rows.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))


def covered(page: sa.Table, raw: sa.Table, window: TimeWindow) -> sa.Subquery:
    """Each market's day with the parts of it that were collected, as a multirange."""
    return (
        sa.select(
            page.c.day,
            page.c.market,
            sa.func.range_agg(page.c.covered).label("covered"),
            sa.func.max(page.c.problem).label("problem"),
            sa.func.count().label("pages"),
        )
        .where(within(page, window), held(page, raw))
        .group_by(page.c.day, page.c.market)
        .subquery("covered")
    )


def candle_coverage(judged: sa.TableClause, window: TimeWindow) -> sa.Select[Any]:
    """How many minutes of each market's day traded, were silent, or are missing: not collected, or rejected."""
    page, minutes = covered(tables.bronze_candle_page, tables.bronze_candle_raw, window), minutes_told(judged)
    part = sa.func.unnest(page.c.covered).column_valued("part")
    seconds = sa.extract("epoch", sa.func.upper(part) - sa.func.lower(part))
    asked = sa.select(sa.cast(sa.func.sum(seconds) / 60, sa.Integer).label("minutes")).lateral("asked")
    traded, rejected = (
        sa.cast(sa.func.coalesce(each, 0), sa.Integer) for each in (minutes.c.traded, minutes.c.rejected)
    )
    silent = sa.func.greatest(sa.func.coalesce(asked.c.minutes, 0) - traded - rejected, 0)
    missing = DAY // MINUTE - traded - silent
    return (
        sa.select(
            page.c.day,
            page.c.market,
            traded.label("minutes_traded"),
            silent.label("minutes_silent"),
            missing.label("minutes_missing"),
            sa.case((missing > 0, page.c.problem)).label("problem"),
            page.c.pages,
        )
        .join_from(page, asked, sa.true())
        .outerjoin(minutes, (minutes.c.day == page.c.day) & (minutes.c.market == page.c.market))
    )


def minutes_told(judged: sa.TableClause) -> sa.Subquery:
    """The minutes of each market's day that have a candle, and those whose candles were all rejected: somebody traded,
    and nothing sound is known.

    A candle whose time is what is wrong with it may be of any minute, and so is one of its own.
    """
    row, itself = judged.c, sa.cast(judged.c.id, sa.Text)
    minute = sa.case((row.reason.startswith("candle_date_time"), itself), else_=sa.func.coalesce(row.started, itself))
    rejected = sa.func.bool_and(row.reason.is_not(None)).label("rejected")
    each = sa.select(row.day, row.market, rejected).group_by(row.day, row.market, minute).subquery("each")
    minutes = sa.func.count()
    return (
        sa.select(
            each.c.day,
            each.c.market,
            minutes.filter(~each.c.rejected).label("traded"),
            minutes.filter(each.c.rejected).label("rejected"),
        )
        .group_by(each.c.day, each.c.market)
        .subquery("minutes")
    )
