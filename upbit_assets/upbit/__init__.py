"""The exchange's public REST API: client, rate limits, errors, and replies with their exact text."""

from upbit_assets.upbit.client import UpbitClient
from upbit_assets.upbit.errors import (
    BlockedError,
    CachedReplyError,
    ClockError,
    StatusError,
    TransportError,
    UnexpectedBodyError,
    UpbitError,
)
from upbit_assets.upbit.limits import Limits
from upbit_assets.upbit.replies import Reply, Row

__all__ = [
    "BlockedError",
    "CachedReplyError",
    "ClockError",
    "Limits",
    "Reply",
    "Row",
    "StatusError",
    "TransportError",
    "UnexpectedBodyError",
    "UpbitClient",
    "UpbitError",
]
