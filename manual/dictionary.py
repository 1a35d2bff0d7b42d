"""The data dictionary in English and Korean, from the schema: docs/dictionary.md, docs/dictionary.ko.md and diagrams.

The English descriptions are the comments in `upbit_assets/postgres/tables.py`. korean.po has the Korean one of each; if
an English one changes, its Korean one is marked as fuzzy until somebody has looked at it.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from sqlalchemy.dialects import postgresql

from manual.diagram import Box, svg
from manual.lineage import AXES, origin, sources
from upbit_assets.partitions import windows
from upbit_assets.postgres.tables import Moment, metadata, views

KOREAN = Path(__file__).with_name("korean.po")
DOCS = Path(__file__).parents[1] / "docs"
TABLES = [*metadata.tables.values(), *views.tables.values()]
LAYERS = {
    "bronze": "What the exchange sent, unchanged, and when it was collected. Append-only: the pipeline's role may not "
    "update, delete or truncate these tables.",
    "silver": "Typed, validated and de-duplicated rows of bronze, and whether they are complete.",
    "gold": "Figures by window or day, computed from silver.",
    "live": "The newest data of the stream. The tables are unlogged: a crash of the database server empties them, and "
    "the stream fills them again within seconds.",
}
# the phrase in a description, and the unit
UNITS = {
    "in the quote currency": "quote currency",
    "in units of the coin": "coin",
    "in krw": "KRW",
    "in basis points": "basis points",
    "a fraction in percent": "percent",
    "a fraction": "fraction",
}
IDENTIFIERS = {"id", "bronze_id", "trade_id", "batch", "written_in"}
# the first of these beginnings decides
BANDS = {
    "Tickers and the market list": (
        *("bronze.ticker", "bronze.market", "bronze.newest_ticker", "silver.ticker", "silver.market"),
        *("gold.market_stats", "gold.turnover"),
    ),
    "Order books": ("bronze.orderbook", "silver.orderbook", "gold.orderbook"),
    "Trades of the stream": (
        *(
            "bronze.newest_trade",
            "bronze.trade_stream",
            "silver.trade_stream",
            "silver.trade_coverage",
            "silver.all_trades",
        ),
        "gold.trade_stats",
    ),
    "Candles and trades by day": (
        "bronze.candle",
        "bronze.trade",
        "silver.candle",
        "silver.trade",
        "gold.market_daily",
    ),
    "This moment": ("live.",),
    "Operation": ("",),
}


class Texts:
    """Translates texts into Korean, or leaves them in English, and collects them.

    Args:
        korean: None for English.
    """

    def __init__(self, korean: Catalog | None = None) -> None:
        self.korean, self.used = korean, Catalog()

    def __call__(self, text: str, where: str = "") -> str:
        self.used.add(text, auto_comments=[where] if where else [])
        if self.korean is None:
            return text
        message = self.korean.get(text)
        return str(message.string) if message and message.string and not message.fuzzy else text

    @property
    def suffix(self) -> str:
        return "" if self.korean is None else ".ko"


def documents(korean: Catalog) -> dict[Path, str]:
    """The contents of the generated files."""
    found = {}
    for texts in (Texts(), Texts(korean)):
        found[DOCS / f"dictionary{texts.suffix}.md"] = page(texts)
        found[DOCS / "images" / f"tables{texts.suffix}.svg"] = diagram(texts)
    return found


def page(texts: Texts) -> str:
    lines = [
        f"# {texts('Data dictionary')}",
        "",
        texts("[한국어](dictionary.ko.md)"),
        "",
        texts(
            "All tables and views of the market database. The database has the same descriptions "
            "(`\\d+ gold.market_stats` in psql), and so has the Dagster UI. `make dictionary` writes this page from "
            "the code."
        ),
        "",
        *(f"* {texts(line)}" for line in CONVENTIONS),
        "",
        f"![{texts('The tables, and where their rows come from')}](images/tables{texts.suffix}.svg)",
        "",
    ]
    used_by = defaultdict(list)
    for table in TABLES:
        for source in sources(table):
            used_by[source].append(table.fullname)
    for layer, description in LAYERS.items():
        lines += [f"## {layer}", "", texts(description), ""]
        for table in TABLES:
            if table.schema == layer:
                lines += section(table, used_by[table.fullname], texts)
    return "\n".join(lines)


CONVENTIONS = (
    "Figures are exact decimals (`numeric`), never floats. The unit *fraction* means that 0.01 is 1 %. "
    "The *quote currency* of `KRW-BTC` is KRW, its *coin* is BTC.",
    "Times are `timestamptz`; the database's time zone is Asia/Seoul. Windows and days are half-open, `[start, end)`. "
    "A day begins at 09:00 KST: `WHERE day = '2026-01-29 09:00'`.",
    "A column can be NULL only if its type says so; the description says when.",
    "*Origin* is a column of the source tables, a field of the exchange's JSON (`raw_data.…`), or the column's "
    "default.",
)


def section(table: sa.Table, used_by: Sequence[str], texts: Texts) -> Iterator[str]:
    view = f" ({texts('view')})" if table.metadata is views else ""
    facts = [
        (texts("Key"), code(key_of(table))),
        (texts("Partition in Dagster"), dagster_partition(table, texts)),
        (texts("Partitions in PostgreSQL"), stored_partitions(table, texts)),
        (texts("Origin"), links(sources(table))),
        (texts("Used by"), links(used_by)),
    ]
    yield from (f"### {table.fullname}", "", f"{texts(table.comment or '', table.fullname)}{view}", "")
    yield from (f"* **{name}**: {value}" for name, value in facts if value)
    yield from ("", row(map(texts, ("Column", "Unit", "Description", "Origin"))), "|---" * 4 + "|")
    for column in table.columns:
        where = f"{table.fullname}.{column.name}"
        unit = unit_of(column)
        yield row(
            (
                f"`{column.name}`<br>{type_of(column)}{', NULL' if column.nullable else ''}",
                texts(unit) if unit else "",
                texts(column.comment or "", where).replace("|", "\\|"),
                links(origin(column).split(", ")),
            )
        )
    yield ""


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def key_of(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key]


def dagster_partition(table: sa.Table, texts: Texts) -> str:
    """The window or day of a row; empty if no asset has the table."""
    if table.fullname not in AXES:
        return ""
    text = "ten-minute window of `{}`" if AXES[table.fullname] is windows else "exchange's day of `{}`"
    return texts(text).format(table.info["window"])


def stored_partitions(table: sa.Table, texts: Texts) -> str:
    if unit := partition_unit(table):
        return texts({"day": "a day of `{}` each", "month": "a month of `{}` each"}[unit]).format(table.info["window"])
    return ""


def partition_unit(table: sa.Table) -> str | None:
    """As `bronze.make_partitions` creates them; None for a table that is not partitioned. A test compares."""
    key = key_of(table)
    one_table = table.metadata is views or table.schema == "live" or table.name.endswith("_page")
    if one_table or "market" not in key or table.info["window"] not in key or table.name == "candle_coverage":
        return None
    return "month" if table.schema == "gold" or table.name.startswith("candle") else "day"


def type_of(column: sa.Column[object]) -> str:
    if isinstance(column.type, Moment.__class__):
        return "timestamptz"
    return column.type.compile(postgresql.dialect()).lower()


def unit_of(column: sa.Column[object]) -> str:
    """The unit of a figure; empty for what isn't one."""
    kind = column.type.item_type if isinstance(column.type, sa.ARRAY) else column.type
    if isinstance(kind, sa.Integer) and column.name not in IDENTIFIERS:
        return next((unit for unit in ("rank", "minutes", "bytes") if column.name.startswith(unit)), "count")
    description = (column.comment or "").lower()
    in_words = (unit for phrase, unit in UNITS.items() if phrase in description)
    return next(in_words, "") if isinstance(kind, sa.Numeric) else ""


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def links(names: Iterable[str]) -> str:
    """Names of tables as links, others as code."""
    tables = {table.fullname for table in TABLES}
    return ", ".join(f"[{name}](#{name.replace('.', '')})" if name in tables else f"`{name}`" for name in names)


def diagram(texts: Texts) -> str:
    """Tables for a table's own upkeep (`_build`, `_rejected`, `_page`) are lines in its box."""
    beside: dict[str, list[str]] = {table.fullname: [] for table in TABLES}
    box_of = {name: name for name in beside}
    for name in list(beside):
        main = name.rpartition("_")[0]
        for owner in (main, f"{main}_raw"):
            if name.endswith(("_build", "_rejected", "_page")) and owner in beside:
                beside[owner].append(name.partition(".")[2])
                box_of[name] = owner
                del beside[name]
                break
    boxes: dict[str, Box] = {}
    for table in TABLES:
        name = table.fullname
        if name in beside:
            above = dict.fromkeys(box_of[source] for source in sources(table) if source in box_of)
            boxes[name] = Box(name, column_of(table, boxes), key_of(table), beside[name], above)
    bands: dict[str, list[Box]] = {texts(title): [] for title in BANDS}
    for name, box in boxes.items():
        title = next(title for title, words in BANDS.items() if name.startswith(words))
        bands[texts(title)].append(box)
    return svg(bands, texts("The tables, and where their rows come from"))


def column_of(table: sa.Table, boxes: dict[str, Box]) -> int:
    """The layer; within live, one column to the right of the sources."""
    if table.schema != "live":
        return list(LAYERS).index(table.schema or "")
    return max((boxes[source].column + 1 for source in sources(table) if source in boxes), default=0)


def read_korean() -> Catalog:
    with KOREAN.open("rb") as file:
        return read_po(file, locale="ko")


def updated_korean() -> Catalog:
    """The translations of today's texts: those of changed texts are fuzzy, those of new ones empty."""
    texts = Texts(Catalog())
    page(texts)
    diagram(texts)
    korean = read_korean()
    korean.update(texts.used, update_header_comment=False)
    korean.obsolete.clear()
    return korean


def missing_korean(korean: Catalog) -> list[str]:
    return [str(message.id) for message in korean if message.id and (not message.string or message.fuzzy)]


def po_file(korean: Catalog) -> bytes:
    file = io.BytesIO()
    write_po(file, korean, width=110, omit_header=True, sort_output=False)
    return file.getvalue()
