"""Coverage: which intervals were collected, so whether a missing row means no trade or missing data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dagster import TimeWindow
from sqlalchemy.dialects import postgresql

from upbit_assets.partitions import DAY, MINUTE
from upbit_assets.postgres import tables
from upbit_assets.postgres.tables import Moment, written_between
from upbit_assets.postgres_io import in_window

REPORTING_DELAY = timedelta(minutes=10)  # how long the exchange may still add rows of a past moment


@dataclass(frozen=True)
class Gap:
    """A part of a market's day that was not collected: `[start, end)`.

    An empty gap at the day's end means that all of the day was collected, but not verified yet.
    """

    day: datetime
    market: str
    start: datetime
    end: datetime


GAPS = """
WITH wanted AS (
  SELECT day, market, min(nth) AS nth
  FROM unnest(CAST(:days AS timestamptz[]), CAST(:markets AS text[])) WITH ORDINALITY AS each (day, market, nth)
  GROUP BY day, market
),

pages AS MATERIALIZED (
  SELECT day, market,
         range_agg(covered) FILTER (WHERE valid) AS covered,
         bool_or(proved) FILTER (WHERE valid) AS proved,
         (array_agg(problem IS NOT NULL ORDER BY id DESC))[1] AS unavailable
  FROM ({pages}) AS page
  WHERE NOT :full_refresh AND day = ANY(CAST(:days AS timestamptz[])) AND market = ANY(CAST(:markets AS text[]))
  GROUP BY day, market
)

SELECT wanted.day, wanted.market, gap.start, gap.end
FROM wanted
LEFT JOIN pages USING (day, market)
CROSS JOIN LATERAL (
  SELECT lower(part), upper(part)
  FROM unnest(
    tstzmultirange(tstzrange(wanted.day, greatest(wanted.day, least(wanted.day + :length, :until))))
      - coalesce(pages.covered, '{{}}')
  ) AS part
  UNION ALL
  SELECT wanted.day + :length, wanted.day + :length
  WHERE pages.proved IS NOT TRUE AND wanted.day + :length + :delay <= :until
) AS gap (start, "end")
WHERE :include_unavailable OR pages.unavailable IS NOT TRUE
ORDER BY wanted.day DESC, wanted.nth, gap.start = gap.end, gap.end DESC
"""


def gaps(
    connection: sa.Connection,
    page: sa.Table,
    wanted: Sequence[tuple[datetime, str]],
    until: datetime,
    *,
    include_unavailable: bool,
    full_refresh: bool = False,
    raw: sa.Table | None = None,
) -> list[Gap]:
    """The missing intervals of the wanted (day, market)s before `until`, newest day first.

    Args:
        include_unavailable: also those that the exchange last reported as unavailable.
        full_refresh: also those already collected.
        raw: count intervals whose rows were dropped from this table as missing.
    """
    pages = sa.select(page, not_disproved(page).label("valid"))
    found = connection.execute(
        sa.text(GAPS.format(pages=in_sql(pages if raw is None else pages.where(not_dropped(page, raw))))),
        {
            "days": [day for day, _ in wanted],
            "markets": [market for _, market in wanted],
            "length": DAY,
            "delay": REPORTING_DELAY,
            "until": until,
            "include_unavailable": include_unavailable,
            "full_refresh": full_refresh,
        },
    )
    return [Gap(*row) for row in found]


def requested_market_days(
    connection: sa.Connection, page: sa.Table, starts: Iterable[datetime]
) -> list[tuple[datetime, str]]:
    """The (day, market)s of these days that have pages."""
    pages = sa.select(page.c.day, page.c.market).where(page.c.day == sa.any_(sa.cast(list(starts), sa.ARRAY(Moment))))
    return list(connection.execute(pages.distinct().order_by(page.c.day.desc(), page.c.market)).tuples())


def days_written_between(connection: sa.Connection, page: sa.Table, since: str, until: str) -> set[datetime]:
    """The days that got pages between two snapshots."""
    return set(connection.scalars(sa.select(page.c.day).where(written_between(page, since, until)).distinct()))


def not_dropped(page: sa.Table, raw: sa.Table) -> sa.ColumnElement[bool]:
    """SQL: whether a page's rows were not dropped since."""
    return ~tables.dropped(raw, page.c.day, known=page.c.ingested_at)


def not_disproved(page: sa.Table) -> sa.ColumnElement[bool]:
    """SQL: whether no later verification of the page's day failed."""
    later = page.alias("later")
    same = (later.c.day == page.c.day, later.c.market == page.c.market)
    return ~sa.exists().where(*same, later.c.id > page.c.id, ~later.c.proved)


def in_sql(rows: sa.Select[Any]) -> str:
    return str(rows.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))


def covered(page: sa.Table, raw: sa.Table, window: TimeWindow) -> sa.Subquery:
    """Each market's day with its collected intervals, as a multirange, and whether it was proved."""
    return (
        sa.select(
            page.c.day,
            page.c.market,
            sa.func.range_agg(page.c.covered).filter(not_disproved(page)).label("covered"),
            sa.func.bool_or(page.c.proved).filter(not_disproved(page)).label("proved"),
            sa.func.max(page.c.problem).label("problem"),
            sa.func.count().label("pages"),
        )
        .where(in_window(page, window), not_dropped(page, raw))
        .group_by(page.c.day, page.c.market)
        .subquery("covered")
    )


def candle_coverage(validated: sa.TableClause, window: TimeWindow) -> sa.Select[Any]:
    """The numbers of traded, silent and missing (not collected, or rejected) minutes of each market's day."""
    page, minutes = covered(tables.bronze_candle_page, tables.bronze_candle_raw, window), minute_counts(validated)
    part = sa.func.unnest(page.c.covered).column_valued("part")
    seconds = sa.extract("epoch", sa.func.upper(part) - sa.func.lower(part))
    collected = sa.select(sa.cast(sa.func.sum(seconds) / 60, sa.Integer).label("minutes")).lateral("collected")
    traded, rejected = (
        sa.cast(sa.func.coalesce(each, 0), sa.Integer) for each in (minutes.c.traded, minutes.c.rejected)
    )
    silent = sa.func.greatest(sa.func.coalesce(collected.c.minutes, 0) - traded - rejected, 0)
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
            page.c.proved,
        )
        .join_from(page, collected, sa.true())
        .outerjoin(minutes, (minutes.c.day == page.c.day) & (minutes.c.market == page.c.market))
    )


def minute_counts(validated: sa.TableClause) -> sa.Subquery:
    """The number of minutes of each market's day that have an accepted candle, and of those with only rejected ones.

    A candle with an invalid time may be of any minute, so it counts as a minute of its own.
    """
    row, itself = validated.c, sa.cast(validated.c.id, sa.Text)
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
