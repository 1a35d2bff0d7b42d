"""The offline exchange over HTTP: paths, headers, limits and errors of Upbit's REST Quotation API."""

import asyncio
import socket
import struct
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

from upbit_assets.sandbox.endpoints import Endpoints, RequestError
from upbit_assets.sandbox.faults import Fault, Faults
from upbit_assets.sandbox.limits import Admission, RateLimits
from upbit_assets.sandbox.market import Market
from upbit_assets.sandbox.reply import NO_STORE, Reply, error

Clock = Callable[[], datetime]
LABEL = "X-Upbit-Simulated"
ABOUT = "An offline simulation of Upbit's public REST API. The market is invented: no price here is real."


def real_time() -> datetime:
    return datetime.now(UTC)


class Rest:
    """Takes each request through faults, limits and endpoints."""

    def __init__(self, endpoints: Endpoints, limits: RateLimits, faults: Faults) -> None:
        self.endpoints, self.limits, self.faults = endpoints, limits, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        hit = self.faults.take(unquote(f"{request.url.path}?{request.url.query}".removesuffix("?")))
        await asyncio.sleep(sum(fault.seconds for fault in hit if fault.kind == "slow"))
        if any(fault.kind == "reset" for fault in hit):
            await reset(request)
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
        return reply

    async def answer(self, request: Request) -> Reply:
        endpoint = self.endpoints.find(request.url.path)
        if endpoint is None or request.method not in ("GET", "HEAD"):
            return error(404, "no Route matched with those values", name="not_found")
        group, handler = endpoint
        verdict, remaining = self.admit(request, group)
        if verdict.status == 200:
            try:
                reply = Reply(rows=await run_in_threadpool(handler, request.query_params))
            except RequestError as refused:
                reply = refused.reply
        else:
            reply = over_quota(verdict)
        reply.headers |= NO_STORE | {"Remaining-Req": remaining}
        return reply

    def admit(self, request: Request, group: str) -> tuple[Admission, str]:
        client = request.client.host if request.client else ""
        if "origin" in request.headers:
            verdict = self.limits.call(client, "origin", quota=1, seconds=10)
            return verdict, f"group=origin; min=6; sec={verdict.remaining}"
        verdict = self.limits.call(client, group, quota=10, seconds=1)
        return verdict, f"group={group}; min=600; sec={verdict.remaining}"


def over_quota(verdict: Admission) -> Reply:
    if verdict.status == 429:
        return error(429, "Too many API requests.")
    until = datetime.fromtimestamp(verdict.until, UTC)
    return error(418, f"Blocked for continuing to call after 429, until {until:%Y-%m-%dT%H:%M:%SZ}.")


async def hang_up(request: Request, response: Response, send: Send) -> None:
    """Send half of what Content-Length promises, then close."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    half = bytes(response.body)[: len(response.body) // 2]
    await send({"type": "http.response.body", "body": half, "more_body": True})
    transport_of(request).close()
    await disconnected(request)


async def reset(request: Request) -> None:
    transport = transport_of(request)
    # Lingering for no time makes the kernel send RST where close() alone would send FIN
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
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
                headers["Date"] = format_datetime(self.clock().astimezone(UTC), usegmt=True)
            await send(message)

        await self.app(scope, receive, labelled)


def create_app(
    market: Market,
    clock: Clock = real_time,
    *,
    seconds: Callable[[], float] = time.time,
    regional: bool = False,
) -> Starlette:
    """The exchange as an ASGI app; its `state.faults` is what `/_sandbox/faults` reads and writes.

    `clock` (aware datetimes) is the time of the market and of the Date header; `seconds` (Unix) that of the
    rate limits, so that they end also where the market's time stands still. `regional`: it speaks as the exchange's
    hosts in Singapore, Indonesia and Thailand do.
    Source: Upbit REST, Quotation API and Rate Limits.
    """
    faults, endpoints = Faults(), Endpoints(market, clock, regional=regional)

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

    app = Starlette(
        routes=[
            Route("/", about),
            Route("/_sandbox/health", health),
            Route("/_sandbox/faults", switch, methods=["GET", "PUT", "DELETE"]),
            Route("/{path:path}", Rest(endpoints, RateLimits(seconds), faults)),
        ],
        exception_handlers={Exception: broken},
        middleware=[Middleware(Labelled, clock=clock)],
    )
    app.state.faults = faults
    return app
