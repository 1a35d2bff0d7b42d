"""The market board as an ASGI app."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import psycopg
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upbit_assets.dashboard.cache import Body, ResponseCache
from upbit_assets.dashboard.endpoints import ENDPOINTS, Endpoint, next_page
from upbit_assets.dashboard.live import Announcer
from upbit_assets.dashboard.openapi import as_html, document
from upbit_assets.dashboard.parameters import RequestError, parse
from upbit_assets.postgres.resource import READER_ROLE, engine_for
from upbit_assets.settings import settings

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MAX_QUERIES = 4  # concurrent; further ones wait
EVENTS = "/api/events"
# the inline style that lightweight-charts adds for TradingView's logo
LOGO_STYLE = "sha256-3pRED1tOXas1FXFoPb9TGCjmYe9XQsmO9OV23khV2nY="
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        f"style-src 'self' '{LOGO_STYLE}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
log = logging.getLogger(__name__)


class TrustedHosts:
    """Accepts only requests to one of the board's host names, and adds security headers to each response.

    Checking the Host header prevents DNS rebinding: the attacker's page sends its own host name.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_security_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", cache_control(scope["path"]))
            await send(message)

        app = self.app if host_of(scope) in self.hosts else unknown_host
        await app(scope, receive, with_security_headers)


def host_of(scope: Scope) -> str:
    """The Host header without the port."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host


def cache_control(path: str) -> str:
    """Libraries have their version in the path; everything else is revalidated by its ETag."""
    return "public, max-age=31536000, immutable" if path.startswith("/static/vendor/") else "no-cache"


async def unknown_host(scope: Scope, receive: Receive, send: Send) -> None:
    advice = "The board doesn't accept this host name. Use the address it printed, or start it with --allow-host."
    await error_response(421, advice)(scope, receive, send)


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"status": status, "message": message}}, status, headers)


async def request_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)  # noqa: S101 - Starlette's types can't express this
    return error_response(exc.status, exc.message)


async def http_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    return error_response(exc.status_code, f"{exc.detail}; the API is described at /api", dict(exc.headers or {}))


async def database_error(_: Request, exc: Exception) -> Response:
    cause = getattr(exc, "orig", exc)
    log.warning("%s: %s", type(cause).__name__, str(cause).strip())
    return error_response(503, advice_on(cause), {"Retry-After": "5"})


def advice_on(cause: BaseException | None) -> str:
    match cause:
        case psycopg.errors.QueryCanceled():
            return "The query took too long. Request a shorter period."
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.InvalidSchemaName():
            return "The schema is missing or out of date. Run: upbit-assets migrate"
        case psycopg.errors.InsufficientPrivilege() | psycopg.errors.InvalidParameterValue():
            return f"The board's login lacks the privilege to read. It must be a member of {READER_ROLE}."
        case psycopg.OperationalError():
            return "The database is not reachable."
    return "The database rejected the query."


def json_default(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not supported in the API")


class Board:
    """State shared by the routes: the database, the cached responses, and the open event streams."""

    def __init__(self, url: str) -> None:
        self.engine = engine_for(url, READER_ROLE)
        self.cache = ResponseCache()
        self.announcer = Announcer(url, self.cache.clear)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.queries = anyio.CapacityLimiter(MAX_QUERIES)
        listening = asyncio.create_task(self.announcer.run())
        yield
        listening.cancel()
        self.engine.dispose()

    def route(self, endpoint: Endpoint) -> Route:
        async def reply(request: Request) -> Response:
            values = parse(endpoint.parameters, request.path_params, request.query_params)
            query = dict(request.query_params)

            async def make() -> Body:
                return await anyio.to_thread.run_sync(
                    self.run_query, endpoint, request.url.path, values, query, limiter=self.queries
                )

            key = (request.url.path, frozenset(query.items()))
            return cacheable(request, await self.cache.get(key, make))

        return Route(endpoint.path, reply)

    def run_query(self, endpoint: Endpoint, path: str, values: dict[str, Any], query: dict[str, str]) -> Body:
        with self.engine.connect() as connection:
            content = endpoint.answer(connection.execution_options(isolation_level="AUTOCOMMIT"), values)
        if endpoint.has_rows:
            content["next"] = next_page(path, query, content["next"])
        body = Body(json.dumps(content, default=json_default, ensure_ascii=False).encode())
        _ = body.compressed  # compress in this thread instead of the event loop
        return body

    async def events(self, request: Request) -> Response:
        """`market`: the market whose order book and trades are sent too."""
        stream = self.announcer.stream(request.query_params.get("market"))
        return StreamingResponse(stream, media_type="text/event-stream")


def cacheable(request: Request, body: Body) -> Response:
    headers = {"ETag": body.etag, "Vary": "Accept-Encoding"}
    if body.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(body.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type="application/json")
    return Response(body.content, headers=headers, media_type="application/json")


def create_app(url: str, hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The board over the market database at `url`, accepting the host names in `hosts`."""
    board, api_document = Board(url), document()

    def static_route(make: Callable[[], Response]) -> Callable[[Request], Response]:
        return lambda _: make()

    page = HTMLResponse(as_html(api_document))
    routes: list[BaseRoute] = [
        Route("/", static_route(lambda: FileResponse(STATIC / "index.html"))),
        Route("/api", static_route(lambda: page)),
        Route("/openapi.json", static_route(lambda: JSONResponse(api_document))),
        Route(EVENTS, board.events),
        *map(board.route, ENDPOINTS),
        Mount("/static", GZipMiddleware(StaticFiles(directory=STATIC), compresslevel=6)),
    ]
    middleware = [Middleware(TrustedHosts, hosts=hosts)]
    if settings.UPBIT_METRICS:
        from upbit_assets.dashboard.metrics import RequestSeconds, metrics_route
        from upbit_assets.monitoring.exporter import Exporter  # takes a while, and memory

        exporter = Exporter(board.engine, lambda: len(board.announcer.pages))
        routes.append(metrics_route(exporter))
        middleware.append(Middleware(RequestSeconds, seconds=exporter.request_seconds, unmeasured=EVENTS))
    return Starlette(
        routes=routes,
        exception_handlers={
            RequestError: request_error,
            HTTPException: http_error,
            sa.exc.DBAPIError: database_error,
            psycopg.Error: database_error,
            sa.exc.TimeoutError: database_error,
        },
        middleware=middleware,
        lifespan=board.lifespan,
    )
