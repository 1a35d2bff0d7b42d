"""The offline exchange over HTTP: the paths, headers, rate limits and errors of Upbit's REST Quotation API."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upbit_assets.sandbox.clock import Clock, real_time
from upbit_assets.sandbox.endpoints import Endpoints, RequestError
from upbit_assets.sandbox.faults import Fault, Faults
from upbit_assets.sandbox.hub import Hub
from upbit_assets.sandbox.limits import RateLimits
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.reply import LABEL, NO_STORE, Reply, error, over_quota
from upbit_assets.sandbox.websocket import reset

ABOUT = "An offline simulation of Upbit's public REST API and WebSocket. The market is invented: no price here is real."


class Rest:
    """Applies faults and rate limits to each request, then calls its endpoint."""

    def __init__(self, endpoints: Endpoints, limits: RateLimits, faults: Faults) -> None:
        self.endpoints, self.limits, self.faults = endpoints, limits, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        faults = self.faults.take(unquote(f"{request.url.path}?{request.url.query}".removesuffix("?")))
        await asyncio.sleep(sum(fault.seconds for fault in faults if fault.kind == "slow"))
        if any(fault.kind == "reset" for fault in faults):
            await reset_connection(request)
            return
        reply = await self.reply_with(request, faults)
        cut = next((fault for fault in faults if fault.kind == "cut"), None)
        if cut and cut.closes:
            await truncate_response(request, reply.encoded(request), send)
            return
        if cut:
            reply = Reply(reply.status, reply.text[: len(reply.text) // 2], headers=reply.headers)
        await reply.encoded(request)(scope, receive, send)

    async def reply_with(self, request: Request, faults: list[Fault]) -> Reply:
        override = next((reply for fault in faults if (reply := fault.reply())), None)
        reply = override or await self.answer(request)
        if reply.rows is not None:
            reply.rows = self.faults.alter(faults, request.url.path, reply.rows, self.endpoints.clock())
        for fault in faults:
            reply.headers |= fault.headers_at(self.endpoints.clock())
        return reply

    async def answer(self, request: Request) -> Reply:
        endpoint = self.endpoints.find(request.url.path)
        if endpoint is None or request.method not in ("GET", "HEAD"):
            return error(404, "no Route matched with those values", name="not_found")
        group, handler = endpoint
        client = request.client.host if request.client else ""
        admission, remaining = self.limits.admit(client, group, origin="origin" in request.headers)
        if admission.status == 200:
            try:
                reply = Reply(rows=await run_in_threadpool(handler, request.query_params))
            except RequestError as exc:
                reply = exc.reply
        else:
            reply = over_quota(admission)
        reply.headers |= NO_STORE | {"Remaining-Req": remaining}
        return reply


async def truncate_response(request: Request, response: Response, send: Send) -> None:
    """Send half of the body announced by Content-Length, then close."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    half = bytes(response.body)[: len(response.body) // 2]
    await send({"type": "http.response.body", "body": half, "more_body": True})
    transport_of(request).close()
    await wait_for_disconnect(request)


async def reset_connection(request: Request) -> None:
    reset(transport_of(request))
    await wait_for_disconnect(request)


def transport_of(request: Request) -> asyncio.Transport:
    transport = request.scope.get("state", {}).get("transport")
    if not isinstance(transport, asyncio.Transport):
        raise ClientDisconnect("connection reset by a fault")
    return transport


async def wait_for_disconnect(request: Request) -> None:
    # The server treats an endpoint that returns without responding as an error
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def internal_error(_: Request, exc: Exception) -> Response:
    return JSONResponse({"error": {"name": 500, "message": repr(exc)}}, 500, {LABEL: "true"})


class SimulationHeaders:
    """Marks every response, errors included, as simulated, and sets Date to the simulated time."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self.app, self.clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[LABEL] = "true"
                headers.setdefault("Date", format_datetime(self.clock().astimezone(UTC), usegmt=True))
            await send(message)

        await self.app(scope, receive, send_labelled)


def create_app(
    market: Market,
    clock: Clock = real_time,
    *,
    seconds: Callable[[], float] = time.time,
    regional: bool = False,
    date: Clock | None = None,
) -> Starlette:
    """The exchange as an ASGI app.

    `state.faults` holds the faults that `/_sandbox/faults` reads and writes. `state.hub` serves the WebSocket: the
    server passes it connections directly, bypassing the app.

    `clock` (aware datetimes) drives the market, and the Date header unless `date` does. `seconds` (Unix) drives the
    rate limits, so that they expire even when the market's clock is stopped. `regional` imitates the hosts in
    Singapore, Indonesia and Thailand.
    Source: Upbit REST, Quotation API and Rate Limits.
    """
    endpoints = Endpoints(market, clock, regional=regional)
    faults, limits = Faults(), RateLimits(seconds)

    async def about(_: Request) -> Response:
        paths = endpoints.paths()
        return JSONResponse({"simulated": True, "about": ABOUT, "seed": market.seed, "paths": paths})

    async def health(_: Request) -> Response:
        return JSONResponse({"simulated": True, "status": "up", "markets": len(market.markets())})

    async def switch(request: Request) -> Response:
        if request.method == "PUT":
            try:
                faults.replace(await request.json())
            except (ValueError, TypeError, AttributeError) as exc:
                return JSONResponse({"error": {"name": 400, "message": str(exc)}}, 400)
        elif request.method == "DELETE":
            faults.clear()
        return JSONResponse(faults.show())

    async def listings(request: Request) -> Response:
        try:
            body = await request.json()
            at = datetime.fromisoformat(body["at"]) if "at" in body else clock()
            if request.method == "POST":
                market_code = market.open_market(body["quote"], at)
            else:
                market.close_market(market_code := body["market"], at)
        except (ValueError, TypeError, KeyError) as exc:
            return JSONResponse({"error": {"name": 400, "message": repr(exc)}}, 400)
        return JSONResponse({"market": market_code, "at": at.isoformat()})

    app = Starlette(
        routes=[
            Route("/", about),
            Route("/_sandbox/health", health),
            Route("/_sandbox/faults", switch, methods=["GET", "PUT", "DELETE"]),
            Route("/_sandbox/listings", listings, methods=["POST", "DELETE"]),
            Route("/{path:path}", Rest(endpoints, limits, faults)),
        ],
        exception_handlers={Exception: internal_error},
        middleware=[Middleware(SimulationHeaders, clock=date or clock)],
    )
    app.state.faults, app.state.hub = faults, Hub(market, clock, seconds, limits, faults)
    return app
