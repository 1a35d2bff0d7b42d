"""The declaration of the dashboard, read from `cards/`: dashboard.toml and the cards' SQL."""

import hashlib
import json
import re
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "cards"
TAG = re.compile(r"\{\{\s*(\w+)\s*\}\}")
OPTIONAL = re.compile(r"\[\[.*?\]\]", re.DOTALL)
TAG_TYPES = {"string/=": "text", "date/single": "date"}  # filter type: type of its SQL variable


@dataclass(frozen=True)
class Filter:
    """A dashboard filter, which sets the SQL variable {{tag}}."""

    tag: str
    name: str
    type: str
    default: str | None = None
    values: str | None = None

    def parameter(self) -> dict[str, Any]:
        """The parameter of dashboards and cards; `string/=` takes lists. Source: metabase.parameters.schema."""
        default = [self.default] if self.type == "string/=" else self.default
        return {
            "id": f"upbit-{self.tag}",
            "slug": self.tag,
            "name": self.name,
            "type": self.type,
            "sectionId": self.type.partition("/")[0],
        } | ({"default": default} if self.default else {})

    def target(self) -> list[Any]:
        return ["variable", ["template-tag", self.tag]]

    def template_tag(self, *, required: bool) -> dict[str, Any]:
        """The template tag of a native query. Source: metabase.lib.schema.template-tag."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"upbit-assets/{self.tag}")),
            "name": self.tag,
            "display-name": self.name,
            "type": TAG_TYPES[self.type],
        } | ({"required": True, "default": self.default} if required else {})


@dataclass(frozen=True)
class Card:
    """A question: its SQL and display. `at` is [column, row, width, height], None if it isn't on the dashboard."""

    key: str
    sql: str
    name: str
    description: str
    display: str
    at: list[int] | None = None
    dimensions: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    stacked: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def filters(self, filters: Mapping[str, Filter]) -> list[Filter]:
        return [filters[tag] for tag in dict.fromkeys(TAG.findall(self.sql))]

    def visualization(self) -> dict[str, Any]:
        columns = {json.dumps(["name", column], ensure_ascii=False): dict(how) for column, how in self.settings.items()}
        graph = {"graph.dimensions": self.dimensions, "graph.metrics": self.metrics} if self.dimensions else {}
        stack = {"stackable.stack_type": "stacked"} if self.stacked else {}
        return graph | stack | ({"column_settings": columns} if columns else {})

    def body(self, filters: Mapping[str, Filter], *, database: int, collection: int) -> dict[str, Any]:
        """The body of POST and PUT /api/card; `description` ends with a marker that hashes the rest."""
        required = TAG.findall(OPTIONAL.sub("", self.sql))
        used = self.filters(filters)
        tags = {item.tag: item.template_tag(required=item.tag in required) for item in used}
        body = {
            "name": self.name,
            "type": "question",
            "display": self.display,
            "visualization_settings": self.visualization(),
            "collection_id": collection,
            "dataset_query": {
                "database": database,
                "type": "native",
                "native": {"query": self.sql, "template-tags": tags},
            },
            "parameters": [item.parameter() | {"id": tags[item.tag]["id"], "target": item.target()} for item in used],
        }
        return body | {"description": marked(self.description, self.key, body)}


@dataclass(frozen=True)
class Declared:
    database: Mapping[str, str]
    collection: Mapping[str, str]
    dashboard: Mapping[str, str]
    filters: Mapping[str, Filter]
    cards: list[Card]


def declared(folder: Path = FOLDER) -> Declared:
    toml = tomllib.loads((folder / "dashboard.toml").read_text(encoding="utf-8"))
    return Declared(
        toml["database"],
        toml["collection"],
        toml["dashboard"],
        {tag: Filter(tag, **facts) for tag, facts in toml["filters"].items()},
        [
            Card(key, (folder / f"{key}.sql").read_text(encoding="utf-8"), **facts)
            for key, facts in toml["cards"].items()
        ],
    )


MARK = re.compile(r"\bupbit-assets/(\w+)@\w+")


def marked(description: str, key: str, content: Any) -> str:
    """`description` with a marker as its last line: the item's key, and a hash to detect changes of `content`."""
    text = json.dumps([description, content], sort_keys=True)
    return f"{description}\n\nupbit-assets/{key}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def mark_of(item: Mapping[str, Any]) -> str | None:
    """The key in the marker of a Metabase item's description; None if it has none."""
    match = MARK.search(item.get("description") or "")
    return match and match[1]
