"""What the silver of tickers, order books, candles and trades has in common: raw rows typed, judged and counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import MetadataValue, TimeWindow

from upbit_assets.partitions import UPBIT_OPENED, Axis, days
from upbit_assets.postgres.io_manager import Load, Metadata, Rows, within

# Upbit's figures stay far inside these; jsonb would take 1e-400 and 1e400
SMALLEST, LARGEST = Decimal("1e-20"), Decimal("1e20")
UPBIT_OPENED_MS = int(days.start_of(UPBIT_OPENED).timestamp()) * 1000
CLOCK_TOLERANCE_MS = 600_000

Column = sa.ColumnElement[Any]
Cases = Sequence[tuple[sa.ColumnElement[bool], str]]


@dataclass(frozen=True)
class Refinement:
    """How raw rows of one kind become silver.

    Args:
        axis: the windows by which they are refined, each for itself.
        bronze, silver, rejected, build: the tables.
        identity: columns of bronze that are equal where two rows are of the same thing; the last one counts.
        taken: those columns as silver tells them.
        texts, numbers, documents: fields of the raw row, taken out as what they are: {column: field}.
        reasons: why silver can't take a row, the first that holds.
        columns: of silver, from a row that it can take.
        join: something to join to each row before it is judged.
    """

    axis: Axis
    bronze: sa.Table
    silver: sa.Table
    rejected: sa.Table
    build: sa.Table
    identity: tuple[str, ...]
    taken: Callable[[sa.Table], Sequence[Column]]
    reasons: Callable[[Any], Cases]
    columns: Callable[[Any], Sequence[Column]]
    texts: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    join: Callable[[sa.Subquery], sa.FromClause] | None = None

    def load(self, bronze: sa.Select[Any], window: TimeWindow, further: Mapping[sa.Table, Rows] | None = None) -> Load:
        """Silver of the window, what it rejected, its books, and what further tables are written with it."""
        raw = bronze.subquery("bronze")
        return Load(
            {
                self.silver: self.accepted(raw),
                self.rejected: self.refused(raw, window),
                self.build: self.books(raw, window),
                **(further or {}),
            },
            describe=self.describe,
        )

    def judged(self, bronze: sa.Subquery) -> sa.Subquery:
        """Every raw row with its figures typed, and the reason why silver can't take it, if there is one."""
        raw = bronze.c.raw_data
        kept = [column for column in bronze.c if column.name != "written_in"]
        # OFFSET 0 keeps the planner from taking each field out of the JSON once a use
        fields = (
            sa.select(
                *kept,
                raw["market"].astext.label("code"),
                *(raw[name].astext.label(label) for label, name in self.texts.items()),
                *(raw[name].label(name) for name in (*self.numbers, *self.documents)),
            )
            .offset(0)
            .subquery("fields")
        )
        typed = sa.select(*(number(c).label(c.name) if c.name in self.numbers else c for c in fields.c))
        if self.join is not None:
            joined = self.join(fields)
            typed = typed.add_columns(*joined.c).join_from(fields, joined, sa.true())
        row = typed.offset(0).subquery("typed")
        reason = sa.case(*unreadable(row.c), *self.reasons(row.c))
        return sa.select(row, reason.label("reason")).subquery("judged")

    def placed(self, bronze: sa.Subquery) -> sa.Subquery:
        """The good rows, numbered within each thing from the last said."""
        row = self.judged(bronze)
        same = [row.c[name] for name in self.identity]
        place = sa.func.row_number().over(partition_by=same, order_by=row.c.id.desc())
        return sa.select(row, place.label("place")).where(row.c.reason.is_(None)).subquery("good")

    def accepted(self, bronze: sa.Subquery) -> sa.Select[Any]:
        good = self.placed(bronze)
        return sa.select(*self.columns(good.c)).where(good.c.place == 1)

    def refused(self, bronze: sa.Subquery, window: TimeWindow) -> sa.Select[Any]:
        """The raw rows that have a reason."""
        row = self.judged(self.doubtful(bronze, window))
        moment = row.c[self.bronze.info["window"]]
        return sa.select(row.c.market, row.c.raw_data, row.c.reason, moment, row.c.id.label("bronze_id")).where(
            row.c.reason.is_not(None)
        )

    def doubtful(self, bronze: sa.Subquery, window: TimeWindow) -> sa.Subquery:
        """The raw rows of everything that has more of them than silver took: few to judge again."""
        same = [bronze.c[name] for name in self.identity]
        taken = sa.select(*self.taken(self.silver)).where(within(self.silver, window))
        surplus = sa.except_all(sa.select(*same), taken).subquery("surplus")
        return sa.select(bronze).where(sa.tuple_(*same).in_(sa.select(surplus))).subquery("doubtful")

    def books(self, bronze: sa.Subquery, window: TimeWindow) -> sa.Select[Any]:
        """What became of each window's raw rows, counted in the tables that were just written."""
        moment = self.bronze.info["window"]
        raw = self.count(sa.select(bronze.c[moment].label("moment")), "raw")
        taken = self.count(self.moments(self.silver, window), "taken")
        refused = self.count(self.moments(self.rejected, window), "refused")
        good = self.placed(self.doubtful(bronze, window))
        further = self.count(sa.select(good.c[moment].label("moment")).where(good.c.place > 1), "further")
        return (
            sa.select(
                raw.c.window_start,
                raw.c.rows.label("bronze_rows"),
                *(
                    sa.func.coalesce(each.c.rows, 0).label(name)
                    for each, name in ((taken, "silver_rows"), (refused, "rejected_rows"), (further, "duplicate_rows"))
                ),
            )
            .outerjoin_from(raw, taken, taken.c.window_start == raw.c.window_start)
            .outerjoin(refused, refused.c.window_start == raw.c.window_start)
            .outerjoin(further, further.c.window_start == raw.c.window_start)
        )

    def moments(self, table: sa.Table, window: TimeWindow) -> sa.Select[Any]:
        return sa.select(table.c[table.info["window"]].label("moment")).where(within(table, window))

    def count(self, moments: sa.Select[Any], name: str) -> sa.Subquery:
        """The rows of each window."""
        rows = moments.subquery(f"{name}_rows")
        start = self.axis.floor(rows.c.moment).label("window_start")
        return sa.select(start, sa.func.count().label("rows")).group_by(start).subquery(name)

    def describe(self, connection: sa.Connection, window: TimeWindow) -> Metadata:
        """The books of the windows just written, and the commonest reasons for a rejection."""
        built, refused = self.build, self.rejected
        names = ("bronze_rows", "silver_rows", "rejected_rows", "duplicate_rows")
        totals = connection.execute(
            sa.select(*(sa.func.coalesce(sa.func.sum(built.c[name]), 0) for name in names)).where(within(built, window))
        ).one()
        books = {name.replace("_", " "): int(total) for name, total in zip(names, totals, strict=True)}
        if not books["rejected rows"]:
            return books
        reasons = connection.execute(
            sa.select(refused.c.reason, sa.func.count(), sa.func.min(refused.c.market))
            .where(within(refused, window))
            .group_by(refused.c.reason)
            .order_by(sa.func.count().desc())
            .limit(10)
        )
        lines = [f"| {reason} | {rows} | {market} |" for reason, rows, market in reasons]
        return books | {"rejected": MetadataValue.md("\n".join(["| reason | rows | e.g. |", "|---|---|---|", *lines]))}


def number(document: Column) -> sa.ColumnElement[Decimal]:
    """The number that a JSON document is; NULL where it is none."""
    return sa.case((sa.func.jsonb_typeof(document) == "number", sa.cast(document, sa.Numeric)))


def unreadable(row: Any) -> Cases:
    """What no kind of row may be."""
    return [
        (
            row.code.is_(None) & (sa.func.jsonb_typeof(row.raw_data) == "string"),
            "raw row: kept as text, jsonb refused it",
        ),
        (row.code.is_(None), "market: missing"),
        (row.code != row.market, "market: longer than 30 characters, or not what bronze.market says"),
        (~row.code.regexp_match("^[A-Z0-9]+-[A-Z0-9]+$"), "market: not a market code"),
    ]


def positive(figure: Column) -> Cases:
    return [
        (figure.is_(None), f"{figure.key}: not a number"),
        (~figure.between(SMALLEST, LARGEST), f"{figure.key}: not positive, or out of range"),
    ]


def amount(figure: Column) -> Cases:
    return [
        (figure.is_(None), f"{figure.key}: not a number"),
        (~plausible(figure), f"{figure.key}: negative or out of range"),
    ]


def plausible(figure: Column) -> sa.ColumnElement[bool]:
    return (figure == 0) | figure.between(SMALLEST, LARGEST)


def milliseconds(figure: Column, ingested_at: Column) -> Cases:
    """A time that Upbit's history and the moment of collection allow."""
    newest = sa.extract("epoch", ingested_at) * 1000 + CLOCK_TOLERANCE_MS
    return [
        (figure.is_(None), f"{figure.key}: not a number"),
        (~figure.between(UPBIT_OPENED_MS, newest), f"{figure.key}: before Upbit opened, or in the future"),
    ]


def moment_of(milliseconds: Column) -> Column:
    return sa.func.to_timestamp(milliseconds / 1000)
