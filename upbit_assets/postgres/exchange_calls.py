"""The record of the calls to the exchange, in which all processes add up theirs; metrics are computed from it."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import sqlalchemy as sa

from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.upbit.usage import Usage

log = logging.getLogger(__name__)

ADD = sa.text("""
INSERT INTO live.exchange_calls AS known
  (call_group, calls, too_many_requests, blocked, calls_left, blocked_until, reported_at)
VALUES (:call_group, :calls, :too_many_requests, :blocked, :calls_left, :blocked_until, now())
ON CONFLICT (call_group) DO UPDATE SET
  calls = known.calls + excluded.calls,
  too_many_requests = known.too_many_requests + excluded.too_many_requests,
  blocked = known.blocked + excluded.blocked,
  calls_left = coalesce(excluded.calls_left, known.calls_left),
  blocked_until = coalesce(excluded.blocked_until, known.blocked_until),
  reported_at = excluded.reported_at
""")


def add_calls(connection: sa.Connection, usage: Iterable[tuple[str, Usage]]) -> None:
    for group, calls in usage:
        connection.execute(ADD, {"call_group": group, **asdict(calls)})


def report_calls(usage: Mapping[str, Usage]) -> None:
    """Add calls to the record; without a database they are not counted, as calls must not fail for it."""
    try:
        with Database().connect() as connection:
            add_calls(connection, usage.items())
    except DatabaseError as error:
        log.debug("Calls to the exchange are not counted: %s", error)
