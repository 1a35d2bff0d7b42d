"""The API's documentation, as OpenAPI and as a page, generated from the endpoints."""

from html import escape
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from upbit_assets.dashboard.endpoints import ENDPOINTS, Endpoint
from upbit_assets.dashboard.live import WRITTEN
from upbit_assets.dashboard.parameters import Parameter

ABOUT = (
    "Read-only. Decimals are strings with all the digits in the database; times have a UTC offset. Responses are "
    "cached until the next write, for at most five seconds, and have an ETag. Error messages say what to do. The "
    "figures are those of the tables gold.* and silver.*, by window or day."
)
EVENTS = (
    'Server-sent events. `database` is the state of the database ({"up": true}), sent first and whenever it changes; '
    f"`{WRITTEN}` is sent after each commit, with the silver or gold table written and the period "
    '({"table": "gold.market_stats", "start": "…", "end": "…"}). While the stream runs, at most four times a second: '
    '`tickers` has the markets that changed ({"sent_at": …, "read_at": …, "rows": …}, times in ms, a row is [market, '
    "price, change rate, volume, turnover, turnover in KRW], the last three of 24 hours); `market` has the order book, "
    "last trades, forming candle and buy/sell ratio of the market given by the parameter `market`."
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
        "400": "A parameter is invalid",
        **({"404": "Not found"} if endpoint.parameters else {}),
        "503": "The database is not reachable",
    }
    return {
        "summary": endpoint.about,
        "parameters": [described(parameter) for parameter in endpoint.parameters],
        "responses": {
            "200": {"description": "Success", "content": json_of(response_schema(endpoint))},
            "304": {"description": "Not modified since the ETag sent in If-None-Match"},
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


def object_schema(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def response_schema(endpoint: Endpoint) -> Json:
    row = object_schema({column.name: schema_of(column) for column in endpoint.fields})
    following = {"type": ["string", "null"], "description": "The path of the next page of rows; null on the last page"}
    return object_schema({"rows": {"type": "array", "items": row}, "next": following}) if endpoint.has_rows else row


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


ERROR = object_schema({"error": object_schema({"status": {"type": "integer"}, "message": {"type": "string"}})})


def as_html(document: Json) -> str:
    sections = "".join(section(path, operations["get"]) for path, operations in document["paths"].items())
    info = document["info"]
    return PAGE.format(title=escape(info["title"]), about=escape(info["description"]), sections=sections)


def section(path: str, operation: Json) -> str:
    parameters = "".join(
        line(item["name"], choices(item["schema"]), item["description"]) for item in operation.get("parameters", ())
    )
    content = operation["responses"]["200"]["content"].get("application/json")
    fields = ""
    if content:
        schema = content["schema"]["properties"]
        for name, item in schema.get("rows", {}).get("items", {"properties": schema})["properties"].items():
            fields += line(name, item.get("format") or kind_of(item), item["description"])
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
