"""The API described: for machines as OpenAPI, for people as a page. All of it follows from the endpoints."""

from html import escape
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from upbit_assets.dashboard.endpoints import ENDPOINTS, Endpoint
from upbit_assets.dashboard.live import CHANNEL
from upbit_assets.dashboard.parameters import Parameter

ABOUT = (
    "Read-only. Decimals are strings, digit for digit as the database has them; times carry their zone. An answer is "
    "kept until something is written, at the most for five seconds, and carries an ETag. An error says in its message "
    "what to do. The figures are the windows' and days' of the tables gold.* and silver.*."
)
EVENTS = (
    'Server-sent events. `database` says whether the database is there ({"up": true}), at first and when it changes; '
    f"`{CHANNEL}` says, right after a commit, which table of silver or gold was written and for what time "
    '({"table": "gold.market_stats", "start": "…", "end": "…"}).'
)
Json = dict[str, Any]


def document() -> Json:
    paths = {endpoint.path: {"get": operation(endpoint)} for endpoint in ENDPOINTS}
    stream = {"200": {"description": "A stream", "content": {"text/event-stream": {"schema": {"type": "string"}}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "upbit_assets market board", "version": version("upbit-assets"), "description": ABOUT},
        "paths": paths | {"/api/events": {"get": {"summary": EVENTS, "responses": stream}}},
        "components": {"schemas": {"Error": ERROR}},
    }


def operation(endpoint: Endpoint) -> Json:
    failures = {
        "400": "A parameter is not what it must be",
        **({"404": "There is no such thing"} if endpoint.parameters else {}),
        "503": "The database does not answer",
    }
    return {
        "summary": endpoint.about,
        "parameters": [described(parameter) for parameter in endpoint.parameters],
        "responses": {
            "200": {"description": "The answer", "content": json_of(answer_schema(endpoint))},
            "304": {"description": "Still the one whose ETag was sent in If-None-Match"},
            **{
                status: {"description": text, "content": json_of({"$ref": "#/components/schemas/Error"})}
                for status, text in failures.items()
            },
        },
    }


def described(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.in_path,
        "description": parameter.about,
        "schema": dict(parameter.schema),
    }


def json_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def an_object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def answer_schema(endpoint: Endpoint) -> Json:
    row = an_object({column.name: schema_of(column) for column in endpoint.fields})
    following = {"type": ["string", "null"], "description": "Where the rows that follow are"}
    return an_object({"rows": {"type": "array", "items": row}, "next": following}) if endpoint.has_rows else row


def schema_of(column: sa.Column[Any]) -> Json:
    kind: Json
    match column.type:
        case sa.Boolean():
            kind = {"type": ["boolean", "null"]}
        case sa.Integer():
            kind = {"type": ["integer", "null"]}
        case sa.DateTime():
            kind = {"type": ["string", "null"], "format": "date-time"}
        case sa.ARRAY():
            kind = {"type": "array", "items": {"type": "string", "format": "decimal"}}
        case sa.Numeric():
            kind = {"type": ["string", "null"], "format": "decimal"}
        case _:
            kind = {"type": ["string", "null"]}
    return kind | {"description": column.comment or ""}


ERROR = an_object({"error": an_object({"status": {"type": "integer"}, "message": {"type": "string"}})})


def as_html(described: Json) -> str:
    sections = "".join(section(path, one["get"]) for path, one in described["paths"].items())
    info = described["info"]
    return PAGE.format(title=escape(info["title"]), about=escape(info["description"]), sections=sections)


def section(path: str, operation: Json) -> str:
    parameters = "".join(
        line(one["name"], choices(one["schema"]), one["description"]) for one in operation.get("parameters", ())
    )
    content = operation["responses"]["200"]["content"].get("application/json")
    fields = ""
    if content:
        schema = content["schema"]["properties"]
        for name, one in schema.get("rows", {}).get("items", {"properties": schema})["properties"].items():
            fields += line(name, one.get("format") or kind_of(one), one["description"])
    example = path.replace("{market}", "KRW-BTC")
    return (
        f'<section><h2><a href="{escape(example)}"><code>GET {escape(path)}</code></a></h2>'
        f"<p>{escape(operation['summary'])}</p>{table('Parameters', parameters)}{table('Fields', fields)}</section>"
    )


def table(caption: str, lines: str) -> str:
    return f"<details><summary>{caption}</summary><table>{lines}</table></details>" if lines else ""


def line(name: str, kind: str, about: str) -> str:
    return f"<tr><th scope=row><code>{escape(name)}</code></th><td>{escape(kind)}</td><td>{escape(about)}</td></tr>"


def choices(schema: Json) -> str:
    if "enum" in schema:
        return " · ".join(schema["enum"])
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']:,}, else {schema['default']:,}"
    return schema.get("format") or schema["type"]


def kind_of(schema: Json) -> str:
    kind = schema["type"]
    return kind if isinstance(kind, str) else kind[0]


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: API</title>
<link rel="stylesheet" href="/static/board.css">
<link rel="icon" href="/static/icon.svg">
</head>
<body class="document">
<main>
<h1>{title}: API</h1>
<p>{about}</p>
<p><a href="/">The board</a> · <a href="/openapi.json">OpenAPI</a></p>
{sections}
</main>
</body>
</html>
"""
