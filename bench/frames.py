"""Sends prepared WebSocket frames at a steady rate, as the offline exchange would be the bottleneck.

python -m bench.frames PORT FRAMES_A_SECOND SECONDS: sends every trade to both connections of the stream, starting once
both have subscribed; a fifth of all frames are tickers. At the end it prints the number of trades sent.
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import count
from typing import Any

import click
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from bench.stage import codes

TICK = 0.01  # seconds between two bursts
TICKERS = 0.2  # share of all frames
TRADE = (
    '{{"type":"trade","code":"{code}","timestamp":{now},"trade_date":"{at:%Y-%m-%d}","trade_time":"{at:%H:%M:%S}",'
    '"trade_timestamp":{now},"trade_price":100.5,"trade_volume":0.25,"ask_bid":"{taker}","prev_closing_price":99.0,'
    '"change":"RISE","change_price":1.5,"sequential_id":{id},"best_ask_price":101.0,"best_ask_size":12.5,'
    '"best_bid_price":100.0,"best_bid_size":3.75,"stream_type":"REALTIME"}}'
)
TICKER = (
    '{{"type":"ticker","code":"{code}","trade_price":100.5,"signed_change_rate":0.0123,"acc_trade_volume_24h":1000.5,'
    '"acc_trade_price_24h":100500.25,"trade_timestamp":{now},"timestamp":{now},"stream_type":"REALTIME"}}'
)


def frame_text(form: str, code: str, nth: int, at: datetime, trade_id: int) -> str:
    """A market's frame at a moment; its date and time are in UTC, as the exchange's."""
    now, taker = int(at.timestamp() * 1000), "BID" if nth % 3 else "ASK"
    return form.format(code=code, now=now, at=at.astimezone(UTC), id=trade_id, taker=taker)


class Source:
    """The parts of the exchange that the stream uses."""

    def __init__(self, a_second: float, seconds: float) -> None:
        self.a_second, self.seconds = a_second, seconds
        self.codes = codes()
        self.subscribed: dict[str, list[ServerConnection]] = {"trade": [], "ticker": []}
        self.started = asyncio.Event()

    async def rest(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path.startswith("/websocket"):
            return None
        listed = json.dumps([{"market": code} for code in self.codes]).encode()
        found = request.path.startswith("/v1/market/all")
        reply = connection.respond(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND, listed.decode() if found else "{}")
        reply.headers["X-Upbit-Simulated"] = "true"
        return reply

    def simulated(self, _connection: Any, _request: Request, reply: Response) -> Response:
        headers: Headers = reply.headers
        headers["X-Upbit-Simulated"] = "true"
        return reply

    async def accept(self, connection: ServerConnection) -> None:
        async for message in connection:
            for kind, of in self.subscribed.items():
                if f'"type": "{kind}"' in str(message) and connection not in of:
                    of.append(connection)
            if len(self.subscribed["trade"]) == 2:
                self.started.set()

    async def send(self) -> int:
        """Send until the end; returns the number of trades."""
        await self.started.wait()
        start, ids, sent = time.monotonic(), count(int(time.time() * 1000) << 16), {"trade": 0, "ticker": 0}
        rates = {"trade": self.a_second * (1 - TICKERS) / 2, "ticker": self.a_second * TICKERS}
        while (passed := time.monotonic() - start) < self.seconds:
            for kind, rate in rates.items():
                for nth in range(sent[kind], int(passed * rate)):
                    frame = self.frame(kind, nth, next(ids))
                    for connection in self.subscribed[kind]:
                        await connection.send(frame)
                sent[kind] = max(sent[kind], int(passed * rate))
            await asyncio.sleep(TICK)
        return sent["trade"]

    def frame(self, kind: str, nth: int, trade_id: int) -> bytes:
        form, code = TRADE if kind == "trade" else TICKER, self.codes[nth % len(self.codes)]
        return frame_text(form, code, nth, datetime.now(UTC), trade_id).encode()


async def main(port: int, a_second: float, seconds: float) -> None:
    source = Source(a_second, seconds)
    options: dict[str, Any] = {"process_request": source.rest, "process_response": source.simulated}
    async with serve(source.accept, "127.0.0.1", port, compression=None, **options):
        click.echo(await source.send())
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
