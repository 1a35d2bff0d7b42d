"""The offline exchange over HTTP: paths, headers, limits and errors of Upbit's REST Quotation API."""

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
from upbit_assets.sandbox.limits import RateLimits
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.reply import LABEL, NO_STORE, Reply, error, over_quota
from upbit_assets.sandbox.websocket import Hub, reset

ABOUT = "An offline simulation of Upbit's public REST API and WebSocket. The market is invented: no price here is real."


class Rest:
    """Takes each request through faults, limits and endpoints."""

    def __init__(self, endpoints: Endpoints, limits: RateLimits, faults: Faults) -> None:
        self.endpoints, self.limits, self.faults = endpoints, limits, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        hit = self.faults.take(unquote(f"{request.url.path}?{request.url.query}".removesuffix("?")))
        await asyncio.sleep(sum(fault.seconds for fault in hit if fault.kind == "slow"))
        if any(fault.kind == "reset" for fault in hit):
            await break_off(request)
            return
        reply = await self.reply_with(request, hit)
        cut = next((fault for fault in hit if fault.kind == "cut"), None)
        if cut and cut.closes:
            await hang_up(request, reply.encoded(request), send)
            return
        if cut:
            reply = Reply(reply.status, reply.text[: len(reply.text) // 2], headers=reply.headers)
        await reply.encoded(request)(scope, receive, send)

    async def reply_with(self, request: Request, hit: list[Fault]) -> Reply:
        instead = next((reply for fault in hit if (reply := fault.reply())), None)
        reply = instead or await self.answer(request)
        if reply.rows is not None:
            reply.rows = self.faults.alter(hit, request.url.path, reply.rows, self.endpoints.clock())
        for fault in hit:
            reply.headers |= fault.headers_at(self.endpoints.clock())
        return reply

    async def answer(self, request: Request) -> Reply:
        endpoint = self.endpoints.find(request.url.path)
        if endpoint is None or request.method not in ("GET", "HEAD"):
            return error(404, "no Route matched with those values", name="not_found")
        group, handler = endpoint
        client = request.client.host if request.client else ""
        verdict, remaining = self.limits.admit(client, group, origin="origin" in request.headers)
        if verdict.status == 200:
            try:
                reply = Reply(rows=await run_in_threadpool(handler, request.query_params))
            except RequestError as refused:
                reply = refused.reply
        else:
            reply = over_quota(verdict)
        reply.headers |= NO_STORE | {"Remaining-Req": remaining}
        return reply


async def hang_up(request: Request, response: Response, send: Send) -> None:
    """Send half of what Content-Length promises, then close."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    half = bytes(response.body)[: len(response.body) // 2]
    await send({"type": "http.response.body", "body": half, "more_body": True})
    transport_of(request).close()
    await disconnected(request)


async def break_off(request: Request) -> None:
    reset(transport_of(request))
    await disconnected(request)


def transport_of(request: Request) -> asyncio.Transport:
    transport = request.scope.get("state", {}).get("transport")
    if not isinstance(transport, asyncio.Transport):
        raise ClientDisconnect("connection broken off by a fault")
    return transport


async def disconnected(request: Request) -> None:
    # The server takes an endpoint that returns earlier for one that forgot to reply
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def broken(_: Request, problem: Exception) -> Response:
    return JSONResponse({"error": {"name": 500, "message": repr(problem)}}, 500, {LABEL: "true"})


class Labelled:
    """Says on every reply, errors included, that all of this is simulated, and at what time."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self.app, self.clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[LABEL] = "true"
                headers.setdefault("Date", format_datetime(self.clock().astimezone(UTC), usegmt=True))
            await send(message)

        await self.app(scope, receive, labelled)


def create_app(
    market: Market,
    clock: Clock = real_time,
    *,
    seconds: Callable[[], float] = time.time,
    regional: bool = False,
    date: Clock | None = None,
) -> Starlette:
    """The exchange as an ASGI app; its `state.faults` is what `/_sandbox/faults` reads and writes.

    `state.hub` is its WebSocket side, which is no part of the app: the server hands it its connections.

    `clock` (aware datetimes) is the time of the market, and of the Date header unless `date` is; `seconds` (Unix) that
    of the rate limits, so that they end also where the market's time stands still. `regional`: it speaks as the
    exchange's hosts in Singapore, Indonesia and Thailand do.
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
            except (ValueError, TypeError, AttributeError) as problem:
                return JSONResponse({"error": {"name": 400, "message": str(problem)}}, 400)
        elif request.method == "DELETE":
            faults.clear()
        return JSONResponse(faults.show())

    async def listings(request: Request) -> Response:
        try:
            asked = await request.json()
            at = datetime.fromisoformat(asked["at"]) if "at" in asked else clock()
            if request.method == "POST":
                market_code = market.open_market(asked["quote"], at)
            else:
                market.close_market(market_code := asked["market"], at)
        except (ValueError, TypeError, KeyError) as problem:
            return JSONResponse({"error": {"name": 400, "message": repr(problem)}}, 400)
        return JSONResponse({"market": market_code, "at": at.isoformat()})

    app = Starlette(
        routes=[
            Route("/", about),
            Route("/_sandbox/health", health),
            Route("/_sandbox/faults", switch, methods=["GET", "PUT", "DELETE"]),
            Route("/_sandbox/listings", listings, methods=["POST", "DELETE"]),
            Route("/{path:path}", Rest(endpoints, limits, faults)),
        ],
        exception_handlers={Exception: broken},
        middleware=[Middleware(Labelled, clock=date or clock)],
    )
    app.state.faults, app.state.hub = faults, Hub(market, clock, seconds, limits, faults)
    return app
