"""Answers kept for those who ask the same before anything new was written."""

import asyncio
import gzip
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

MOST = 256
SECONDS = 5.0  # how long a write of which nobody told may go unseen


class Body:
    """An answer's bytes, with what tells them from others."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.content, 4, mtime=0)


@dataclass
class Kept:
    """Made once for all who ask meanwhile: a thousand pages that hear of a new window read the database once."""

    answers: OrderedDict[Hashable, tuple[float, asyncio.Future[Body]]] = field(default_factory=OrderedDict)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Body]]) -> Body:
        """The answer that is kept under `key`, else a new one; a failure is told to all who wait, and not kept."""
        until, answer = self.answers.get(key, (0.0, None))
        if answer is None or time.monotonic() >= until:
            answer = asyncio.ensure_future(make())
            self.answers[key] = time.monotonic() + SECONDS, answer
            self.answers.move_to_end(key)
            if len(self.answers) > MOST:
                self.answers.popitem(last=False)
        try:
            return await asyncio.shield(answer)
        except Exception:
            if self.answers.get(key, (0.0, None))[1] is answer:
                del self.answers[key]
            raise

    def forget(self) -> None:
        """Whatever is being made is given to those who wait for it, and to nobody who asks from now on."""
        self.answers.clear()
