"""GET /metrics, and the measurement of the other responses."""

import asyncio
import time

import anyio
from prometheus_client import CONTENT_TYPE_LATEST, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upbit_assets.monitoring.exporter import Exporter


def metrics_route(exporter: Exporter) -> Route:
    one_at_a_time = asyncio.Lock()

    async def metrics(_: Request) -> Response:
        async with one_at_a_time:
            text = await anyio.to_thread.run_sync(exporter.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route("/metrics", metrics)


class RequestSeconds:
    """Observes how long each response takes, but of the path `unmeasured`."""

    def __init__(self, app: ASGIApp, seconds: Histogram, unmeasured: str) -> None:
        self.app, self.seconds, self.unmeasured = app, seconds, unmeasured

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noting_status)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            if scope["type"] == "http" and route != self.unmeasured:
                self.seconds.labels(route, f"{status // 100}xx").observe(time.perf_counter() - started)
