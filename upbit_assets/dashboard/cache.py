"""Responses cached until the next write."""

import asyncio
import gzip
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

MAX_RESPONSES = 256
MAX_AGE_SECONDS = 5.0  # limits how long a write without a notification goes unnoticed


class Body:
    """A response's bytes and their ETag."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.content, 4, mtime=0)


@dataclass
class ResponseCache:
    """Concurrent requests share one response: a thousand open pages cost one database query."""

    responses: OrderedDict[Hashable, tuple[float, asyncio.Future[Body]]] = field(default_factory=OrderedDict)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Body]]) -> Body:
        """The response cached under `key`, or a new one. A failure is raised to all waiting requests and not cached."""
        expires, response = self.responses.get(key, (0.0, None))
        if response is None or time.monotonic() >= expires:
            response = asyncio.ensure_future(make())
            self.responses[key] = time.monotonic() + MAX_AGE_SECONDS, response
            self.responses.move_to_end(key)
            if len(self.responses) > MAX_RESPONSES:
                self.responses.popitem(last=False)
        try:
            return await asyncio.shield(response)
        except Exception:
            if self.responses.get(key, (0.0, None))[1] is response:
                del self.responses[key]
            raise

    def clear(self) -> None:
        """Forget all responses. One in progress still goes to the requests waiting for it, but to no later ones."""
        self.responses.clear()
