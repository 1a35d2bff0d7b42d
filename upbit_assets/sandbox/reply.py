"""Replies: built by the endpoints, altered by faults, encoded last."""

import gzip
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5

from starlette.requests import Request
from starlette.responses import Response

from upbit_assets.sandbox import wire
from upbit_assets.sandbox.limits import Admission

JSON = "application/json;charset=UTF-8"
LABEL = "X-Upbit-Simulated"
NO_STORE = {
    "Limit-By-Ip": "Yes",
    "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "Vary": "Origin, Accept-Encoding",
}


@dataclass(slots=True)
class Reply:
    """`rows` is separate from `body` so that a fault can still alter single fields."""

    status: int = 200
    body: str = ""
    rows: list[wire.RawRow] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body to send."""
        return self.body if self.rows is None else wire.array(self.rows)

    def encoded(self, request: Request) -> Response:
        """The HTTP response, compressed if the client accepts it."""
        # surrogatepass: a fault may send any text
        body = self.text.encode("utf-8", "surrogatepass")
        headers = {"Content-Type": JSON} | self.headers
        if "Limit-By-Ip" in headers:
            headers["ETag"] = f'W/"0{md5(body, usedforsecurity=False).hexdigest()}"'
        if "gzip" in request.headers.get("accept-encoding", "") and body:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 3)
        return Response(body, self.status, headers)


def error(status: int, message: str, name: int | str | None = None, headers: dict[str, str] | None = None) -> Reply:
    """`{"error":{"name":...,"message":...}}`; the quotation API uses the status as the name."""
    body = f'{{"error":{{"name":{wire.text(status if name is None else name)},"message":{wire.text(message)}}}}}'
    return Reply(status, body, headers=headers or {})


def over_quota(admission: Admission) -> Reply:
    """The response to a call over the rate limit."""
    if admission.status == 429:
        return error(429, "Too many API requests.")
    until = datetime.fromtimestamp(admission.until, UTC)
    return error(418, f"Blocked for continuing to call after 429, until {until:%Y-%m-%dT%H:%M:%SZ}.")
