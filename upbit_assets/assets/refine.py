"""From raw rows to silver, for any kind of data: typed, validated, de-duplicated and counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import MetadataValue, TimeWindow

from upbit_assets.partitions import Axis, days
from upbit_assets.postgres_io import Load, Metadata, Rows, in_window, stage
from upbit_assets.settings import UPBIT_OPENED

# Upbit's figures are far within these bounds; jsonb would accept 1e-400 and 1e400
SMALLEST, LARGEST = Decimal("1e-20"), Decimal("1e20")
UPBIT_OPENED_MS = int(days.start_of(UPBIT_OPENED).timestamp()) * 1000
CLOCK_TOLERANCE_MS = 600_000

Column = sa.ColumnElement[Any]
Cases = Sequence[tuple[sa.ColumnElement[bool], str | Column]]
Further = Callable[[sa.TableClause], Mapping[sa.Table, Rows]]


@dataclass(frozen=True)
class Refinement:
    """How raw rows of one kind become silver.

    Args:
        axis: the windows, each of which is refined independently.
        bronze, silver, rejected, build: the tables.
        identity: bronze's key columns; of rows with the same key, the last one counts.
        code: the field with the market's code.
        texts, numbers, documents: fields to extract, by type; texts as {column: field}. "name|other name" for a field
            with alternative names; the column is named after the first.
        reasons: (condition, reason) pairs for rejecting a row; the first true one applies.
        columns: silver's columns, from an accepted row.
        join: a relation to join to each row before validation.
    """

    axis: Axis
    bronze: sa.Table
    silver: sa.Table
    rejected: sa.Table
    build: sa.Table
    identity: tuple[str, ...]
    reasons: Callable[[Any], Cases]
    columns: Callable[[Any], Sequence[Column]]
    code: str = "market"
    texts: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    join: Callable[[sa.Subquery], sa.FromClause] | None = None

    def load(self, bronze: sa.Select[Any], further: Further = lambda _row: {}) -> Load:
        """The window's silver, rejected rows and row counts, and what `further` derives from the validated rows."""
        validated = self.validated(bronze.subquery("source"))
        row = stage("validated", validated)
        return Load(
            {
                self.silver: self.accepted_rows(row),
                self.rejected: self.rejected_rows(row),
                self.build: self.row_counts(row),
                **further(row),
            },
            describe=self.describe,
            staged={row: validated},
        )

    def validated(self, bronze: sa.FromClause) -> sa.Select[Any]:
        """Every raw row with typed figures, the reason for its rejection (or NULL), and `row_number`: 1 for the newest
        among the accepted (or the rejected) rows with the same key."""
        raw = bronze.c.raw_data
        fields = optimization_fence(
            sa.select(
                *(column for column in bronze.c if column.name != "written_in"),
                text(raw, self.code).label("code"),
                *(text(raw, name).label(label) for label, name in self.texts.items()),
                *(document(raw, name).label(first_name(name)) for name in (*self.numbers, *self.documents)),
            )
        )
        numbers = set(map(first_name, self.numbers))
        figures = sa.select(*(number(c).label(c.name) if c.name in numbers else c for c in fields.c))
        if self.join is not None:
            joined = self.join(fields)
            figures = figures.add_columns(*joined.c).join_from(fields, joined, sa.true())
        typed = optimization_fence(figures)
        reason = sa.case(*unreadable(typed.c), *self.reasons(typed.c)).label("reason")
        with_reason = optimization_fence(sa.select(typed, reason))
        # don't carry through the sort what accepted rows no longer need
        light = [column for column in with_reason.c if column.name not in ("raw_data", "code", *self.documents)]
        row = optimization_fence(
            sa.select(*light, sa.case((with_reason.c.reason.is_not(None), with_reason.c.raw_data)).label("raw_data"))
        )
        same = [*(row.c[name] for name in self.identity), row.c.reason.is_not(None)]
        return sa.select(
            row, sa.func.row_number().over(partition_by=same, order_by=row.c.id.desc()).label("row_number")
        )

    def accepted_rows(self, row: sa.FromClause) -> sa.Select[Any]:
        return sa.select(*self.columns(row.c)).where(row.c.reason.is_(None), row.c.row_number == 1)

    def rejected_rows(self, row: sa.TableClause) -> sa.Select[Any]:
        moment = row.c[self.bronze.info["window"]]
        return sa.select(row.c.market, row.c.raw_data, row.c.reason, moment, row.c.id.label("bronze_id")).where(
            row.c.reason.is_not(None)
        )

    def row_counts(self, row: sa.TableClause) -> sa.Select[Any]:
        """Each window's numbers of raw, accepted, rejected and duplicate rows."""
        start = self.axis.floor(row.c[self.bronze.info["window"]]).label("window_start")
        good, rows = row.c.reason.is_(None), sa.func.count()
        return sa.select(
            start,
            rows.label("bronze_rows"),
            rows.filter(good, row.c.row_number == 1).label("silver_rows"),
            rows.filter(~good).label("rejected_rows"),
            rows.filter(good, row.c.row_number > 1).label("duplicate_rows"),
        ).group_by(start)

    def describe(self, connection: sa.Connection, window: TimeWindow) -> Metadata:
        """The row counts of the windows just written, and the most frequent reasons for rejection."""
        built, refused = self.build, self.rejected
        names = ("bronze_rows", "silver_rows", "rejected_rows", "duplicate_rows")
        totals = connection.execute(
            sa.select(*(sa.func.coalesce(sa.func.sum(built.c[name]), 0) for name in names)).where(
                in_window(built, window)
            )
        ).one()
        row_counts = {name.replace("_", " "): int(total) for name, total in zip(names, totals, strict=True)}
        if not row_counts["rejected rows"]:
            return row_counts
        reasons = connection.execute(
            sa.select(refused.c.reason, sa.func.count(), sa.func.min(refused.c.market))
            .where(in_window(refused, window))
            .group_by(refused.c.reason)
            .order_by(sa.func.count().desc())
            .limit(10)
        )
        lines = [f"| {reason} | {rows} | {market} |" for reason, rows, market in reasons]
        return row_counts | {
            "rejected": MetadataValue.md("\n".join(["| reason | rows | e.g. |", "|---|---|---|", *lines]))
        }


def optimization_fence(rows: sa.Select[Any]) -> sa.Subquery:
    """A subquery that the planner doesn't inline: otherwise it would extract a field from the JSON once per use.

    A volatile column prevents that, and unlike OFFSET neither parallel plans nor execution on a Citus cluster's shards.
    """
    fenced = rows.add_columns(sa.func.clock_timestamp().label("fence")).subquery()
    return sa.select(*(column for column in fenced.c if column.name != "fence")).subquery()


def first_name(names: str) -> str:
    return names.partition("|")[0]


def document(raw: Column, names: str) -> Column:
    """The first of the alternative fields that the raw row has."""
    return sa.func.coalesce(*(raw[name] for name in names.split("|"))) if "|" in names else raw[names]


def text(raw: Column, names: str) -> Column:
    """The same as text."""
    texts = [raw[name].astext for name in names.split("|")]
    return sa.func.coalesce(*texts) if len(texts) > 1 else texts[0]


def number(document: Column) -> sa.ColumnElement[Decimal]:
    """The JSON value as numeric; NULL if it isn't a number."""
    return sa.case((sa.func.jsonb_typeof(document) == "number", sa.cast(document, sa.Numeric)))


def unreadable(row: Any) -> Cases:
    """Reasons for rejection that apply to all kinds of rows."""
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
    """A time must be after Upbit's opening, and not after the row was collected."""
    newest = sa.extract("epoch", ingested_at) * 1000 + CLOCK_TOLERANCE_MS
    return [
        (figure.is_(None), f"{figure.key}: not a number"),
        (figure < UPBIT_OPENED_MS, f"{figure.key}: before Upbit opened"),
        (
            figure > newest,
            f"{figure.key}: in the future, over ten minutes after it was collected; was that machine's clock behind?",
        ),
    ]


def moment_of(milliseconds: Column) -> Column:
    return sa.func.to_timestamp(milliseconds / 1000)
