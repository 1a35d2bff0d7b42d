"""The exchange's public REST interface: its addresses, limits, errors and the exact text of its replies."""

from upbit_assets.upbit.client import UpbitClient
from upbit_assets.upbit.errors import (
    Blocked,
    CachedReplyError,
    ClockError,
    Refused,
    UnexpectedBody,
    Unreachable,
    UpbitError,
)
from upbit_assets.upbit.limits import Limits
from upbit_assets.upbit.replies import Reply, Row

__all__ = [
    "Blocked",
    "CachedReplyError",
    "ClockError",
    "Limits",
    "Refused",
    "Reply",
    "Row",
    "UnexpectedBody",
    "Unreachable",
    "UpbitClient",
    "UpbitError",
]
