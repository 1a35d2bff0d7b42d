"""A connection of the exchange's WebSocket: handshake, messages, subscriptions, and the frames sent to it.

Runs in the server's event loop.
"""

import asyncio
import json
import socket
import struct
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from upbit_assets.sandbox.faults import Fault
from upbit_assets.sandbox.frames import Frame, joined
from upbit_assets.sandbox.hub import Hub
from upbit_assets.sandbox.limits import RateLimits
from upbit_assets.sandbox.market import moment
from upbit_assets.sandbox.reply import JSON, LABEL, Reply, error, over_quota
from upbit_assets.sandbox.subscription import MessageError, Subscription, listing, parse

PATH = "/websocket/v1"
BURSTS = (0.18, 0.34)  # seconds after a request at which its snapshots are sent
IDLE = 60.5  # seconds
UP_FIRST, UP_EVERY = 6.5, 10.0  # seconds
UP = b'{"status":"UP"}'
MESSAGE_LIMITS = ((5, 1), (100, 60))  # messages, seconds
UNREAD = 64 * 2**20  # unread bytes after which a slow client is disconnected


class Connection(asyncio.Protocol):
    """One client. Outgoing data is collected in `out` and written at the next tick."""

    def __init__(self, hub: Hub, *, server_state: ServerState, **_: Any) -> None:
        self.hub, self.peers, self.number = hub, server_state.connections, next(hub.numbers)
        deflate = ServerPerMessageDeflateFactory(server_max_window_bits=12, compress_settings={"memLevel": 5})
        self.conn = ServerProtocol(extensions=[deflate])
        self.messages = RateLimits(hub.seconds)
        self.subscriptions: list[Subscription] = []
        self.form, self.ticket = "DEFAULT", ""
        self.bursts: list[tuple[float, list[tuple[Subscription, str]]]] = []
        self.out: list[bytes] = []
        self.holding, self.stalled_until = False, 0.0
        self.snapshot_lock = asyncio.Lock()
        self.last_active = hub.seconds()
        self.up_at: float | None = None
        self.parts: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self.peers.add(self)  # type: ignore[arg-type]

    def connection_lost(self, _: Exception | None) -> None:
        self.peers.discard(self)
        self.hub.leave(self)

    def shutdown(self) -> None:
        """Called by the server on shutdown."""
        self.close(1012)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        for event in self.conn.events_received():
            if isinstance(event, Request):
                self.shake_hands(event)
            elif isinstance(event, WireFrame):
                self.receive(event)
        self.write_control()

    def write_control(self) -> None:
        """Send the protocol's own data: handshake, pongs, close."""
        parts = self.conn.data_to_send()
        if not self.transport.is_closing():
            self.transport.write(b"".join(parts))
        # An empty part signals end of file
        if b"" in parts:
            self.transport.close()

    def shake_hands(self, request: Request) -> None:
        faults = self.hub.faults.take(unquote(request.path))
        if any(fault.kind == "reset" for fault in faults):
            reset(self.transport)
        elif delay := sum(fault.seconds for fault in faults if fault.kind == "slow"):
            asyncio.get_running_loop().call_later(delay, self.answer, request, faults)
        else:
            self.answer(request, faults)

    def answer(self, request: Request, faults: list[Fault]) -> None:
        """Answer the upgrade."""
        refusal, headers = self.refusal(request, faults)
        if refusal is None:
            response = self.conn.accept(request)
        else:
            body = refusal.text.encode("utf-8", "surrogatepass")
            head = Headers(refusal.headers | {"Content-Length": str(len(body)), "Connection": "close"})
            head.setdefault("Content-Type", JSON)
            response = Response(refusal.status, HTTPStatus(refusal.status).phrase, head, body)
        response.headers.pop("Date", None)
        response.headers.update(headers | {LABEL: "true", "Date": format_datetime(self.hub.clock(), usegmt=True)})
        self.conn.send_response(response)
        self.write_control()
        if self.conn.state is State.OPEN:
            self.hub.enter(self)

    def refusal(self, request: Request, faults: list[Fault]) -> tuple[Reply | None, dict[str, str]]:
        """The reply that refuses the connection, or None, and further headers."""
        if override := next((reply for fault in faults if (reply := fault.reply())), None):
            return override, {}
        if request.path.partition("?")[0] != PATH:
            return error(404, "no Route matched with those values", name="not_found"), {}
        client = self.transport.get_extra_info("peername")[0]
        admission, remaining = self.hub.limits.admit(client, "websocket", origin="Origin" in request.headers)
        headers = {"Remaining-Req": remaining, "Limit-By-Ip": "Yes"}
        return (None if admission.status == 200 else over_quota(admission)), headers

    def receive(self, frame: WireFrame) -> None:
        self.last_active = self.hub.seconds()
        if frame.opcode is Opcode.PING and self.dropped("pong"):
            self.conn.data_to_send()
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self.parts.append(bytes(frame.data))
        if frame.fin:
            message, self.parts = b"".join(self.parts), []
            try:
                self.handle(message)
            except MessageError as exc:
                self.out.append(json.dumps(exc.frame, ensure_ascii=False, separators=(",", ":")).encode())
                self.flush()
                self.close(1000)

    def handle(self, message: bytes) -> None:
        """Process a message. Raises MessageError."""
        for quota, seconds in MESSAGE_LIMITS:
            if self.messages.call("", str(seconds), quota, seconds).status != 200:
                raise MessageError("TOO_MANY_REQUEST")
        if message == b"PING":
            self.up_at = self.up_at or self.last_active + UP_FIRST
            return
        parsed = parse(message)
        self.ticket, self.form = parsed.ticket, parsed.form or self.form
        if parsed.subscriptions is None:
            self.out.append(listing(self.ticket, self.subscriptions, self.form))
        else:
            self.subscribe(parsed.subscriptions)

    def subscribe(self, subscriptions: list[Subscription]) -> None:
        self.subscriptions = subscriptions
        now, requested = moment(self.hub.position), []
        for subscription in subscriptions:
            if subscription.snapshot:
                requested += [(subscription, code) for code in subscription.depths]
            else:
                subscription.live.update(code for code in subscription.depths if self.hub.market.listed(code, now))
        half = -(-len(requested) // 2)
        parts = zip(BURSTS, (requested[:half], requested[half:]), strict=True)
        self.bursts = [(self.last_active + delay, part) for delay, part in parts if part]
        self.hub.resubscribe()

    def tick(self, now: float) -> None:
        """Send everything due by `now`."""
        while self.bursts and now >= self.bursts[0][0]:
            self.hub.start(self.hub.send_snapshots(self, self.bursts[0][1]))
            self.bursts.pop(0)
        if self.up_at is not None and now >= self.up_at:
            self.up_at += UP_EVERY
            if not self.dropped("status"):
                self.out.append(UP)
        self.flush()
        if now - self.last_active >= IDLE:
            self.transport.close()

    def deliver(self, frame: Frame) -> None:
        """Send a frame, applying faults."""
        if not self.hub.faults.active:
            self.out += frame.encoded(self.form)
            return
        for rows in [frame.rows] if self.form.endswith("LIST") else [[row] for row in frame.rows]:
            part = Frame(frame.kind, frame.code, rows)
            self.deliver_with(self.matching_faults(frame.kind, frame.code), part)

    def deliver_with(self, faults: list[Fault], frame: Frame) -> None:
        kinds = {fault.kind: fault for fault in faults}
        if "drop" in kinds:
            return
        payloads = [] if "close" in kinds and kinds["close"].body is None else self.altered(frame, faults)
        if "slow" in kinds:
            self.stalled_until = asyncio.get_running_loop().time() + kinds["slow"].seconds
        if "late" in kinds:
            asyncio.get_running_loop().call_later(kinds["late"].seconds, self.put, payloads)
        elif "cut" in kinds and kinds["cut"].closes:
            self.break_off(payloads)
        else:
            self.put(payloads)
        if "reset" in kinds:
            reset(self.transport)
        if "close" in kinds:
            self.flush()
            self.close(kinds["close"].code)

    def put(self, payloads: list[bytes]) -> None:
        self.out += payloads

    def deliver_first(self, frames: list[Frame]) -> None:
        """Send frames ahead of those waiting in `out`."""
        waiting, self.out = self.out, []
        for frame in frames:
            self.deliver(frame)
        self.out += waiting

    def matching_faults(self, kind: str, code: str = "") -> list[Fault]:
        if not self.hub.faults.active:
            return []
        return self.hub.faults.take(f"{PATH}?type={kind}&code={code}&connection={self.number}")

    def dropped(self, kind: str) -> bool:
        return any(fault.kind == "drop" for fault in self.matching_faults(kind))

    def altered(self, frame: Frame, faults: list[Fault]) -> list[bytes]:
        """The payloads with faults applied."""
        rows = [frame.raw(row, self.form) for row in frame.rows]
        for fault in faults:
            rows = fault.alter(rows, self.hub.clock()) if fault.kind == "rows" else rows
        payloads = joined(rows, self.form)
        for fault in faults:
            if fault.kind in ("body", "empty", "close") and (reply := fault.reply()):
                payloads = [reply.text.encode("utf-8", "surrogatepass")]
            elif fault.kind == "cut" and not fault.closes:
                payloads = [payload[: len(payload) // 2] for payload in payloads]
        return payloads

    def break_off(self, payloads: list[bytes]) -> None:
        """Send the payloads without the last half of the last one, then drop the connection without a close frame."""
        self.flush()
        data = b"".join(map(self.framed, payloads))
        self.transport.write(data[: len(data) - len(payloads[-1]) // 2])
        self.transport.close()

    def flush(self) -> None:
        if not self.out or self.holding or asyncio.get_running_loop().time() < self.stalled_until:
            return
        waiting, self.out = self.out, []
        if self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(b"".join(map(self.framed, waiting)))
            self.last_active = self.hub.seconds()
        if self.transport.get_write_buffer_size() > UNREAD:
            self.transport.abort()

    def framed(self, payload: bytes) -> bytes:
        """A payload as a binary frame. Built by hand without compression, which is faster."""
        if self.conn.extensions:
            self.conn.send_binary(payload)
            return b"".join(self.conn.data_to_send())
        size = len(payload)
        if size < 126:
            return struct.pack("!BB", 0x82, size) + payload
        return (
            struct.pack("!BBH", 0x82, 126, size) if size < 1 << 16 else struct.pack("!BBQ", 0x82, 127, size)
        ) + payload

    def close(self, code: int) -> None:
        if self.conn.state is State.OPEN:
            self.conn.send_close(code)
            self.write_control()
            # Don't wait longer for a client that doesn't answer the close
            asyncio.get_running_loop().call_later(1, self.transport.close)


def reset(transport: asyncio.Transport) -> None:
    """Abort a connection with a TCP reset."""
    # With a linger time of 0 the kernel sends RST instead of FIN
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
