import pickle
from datetime import UTC, datetime, timedelta

import pytest
import requests

from upbit_assets.upbit.errors import (
    BlockedError,
    StatusError,
    TransportError,
    UnexpectedBodyError,
    block_end,
    parse_error_body,
)

NOW = datetime(2026, 1, 29, 5, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("You are blocked for 60 seconds.", 60),
        ('{"error":{"name":418,"message":"Blocked, try again in 5 minutes"}}', 300),
        ('{"error":{"name":"blocked","message":"over 10 requests per second: blocked for 1h"}}', 3600),
        ("10 calls per 1 second are allowed, blocked for 30s", 30),
        ("요청이 60초간 차단되었습니다", 60),
        ("blocked until 2026-01-29T05:10:00Z", 600),
        ("blocked until 2026-01-29 14:10:00 KST (10 minutes)", 600),
        ("blocked until 2026-01-29T14:10:00.000+09:00", 600),
        ("blocked until 2026-01-29 05:10 UTC", 600),
    ],
)
def test_an_unambiguous_end_of_a_block_is_read(text, seconds):
    assert block_end(text, NOW) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Too many API requests.",
        '{"error":{"name":418,"message":"blocked"}}',
        "blocked until 2026-01-29 14:10:00",
        "blocked until 2026-01-29T04:00:00Z",
        "blocked until 2026-99-99T99:00:00Z",
        "600 calls in 1 minute are allowed, blocked for 30 seconds",
        "blocked for 99999999999 seconds",
        "300 markets",
    ],
)
def test_an_ambiguous_end_is_not_guessed(text):
    assert block_end(text, NOW) is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":{"name":404,"message":"Code not found"}}', (404, "Code not found")),
        (b'{"error":{"name":"not_found","message":"no Route"}}', ("not_found", "no Route")),
        (b'{"error":{"name":null,"message":5}}', ("", "5")),
        (b'{"error":"no"}', ("", '{"error":"no"}')),
        (b"<html>\xff", ("", "<html>\ufffd")),
        (b"", ("", "")),
    ],
)
def test_any_error_body_is_read(body, told):
    assert parse_error_body(body) == told


@pytest.mark.parametrize(
    "error",
    [
        BlockedError(NOW, "no"),
        StatusError("http://x", 404, 404, "no"),
        UnexpectedBodyError("http://x", "is empty", b""),
        TransportError("http://x", requests.ConnectTimeout("late")),
    ],
)
def test_errors_can_be_pickled(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
