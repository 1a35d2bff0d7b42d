"""Sends an alert when a problem begins and another one when it is over: `upbit-assets alerts`.

A process apart from Dagster, so that it also notices that Dagster or a database has stopped.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from dagster import DagsterInstance

from upbit_assets.monitoring.notify import Channel
from upbit_assets.monitoring.problems import Problem, find_problems
from upbit_assets.postgres.resource import Database, DatabaseError
from upbit_assets.postgres.tables import silver_alert
from upbit_assets.settings import ALERTS_HEARTBEAT, settings

log = logging.getLogger(__name__)

EVERY_SECONDS = 30
SETTLED = timedelta(minutes=5)  # a problem that comes back before is still the same
DATABASE_UNREACHABLE = Problem(
    "database",
    "데이터베이스를 사용할 수 없습니다. PostgreSQL이 실행 중인지 확인하세요.",
    "A database can't be used. Check that PostgreSQL runs.",
)


@dataclass
class Alerts:
    """The problems that were reported; kept in the database, so that a restart doesn't repeat them.

    An unreachable database is only kept in memory.

    Args:
        suspected: problems that were found once and not reported yet, with the time when they were found.
    """

    channel: Channel
    database: Database = field(default_factory=Database)
    open_instance: Callable[[], DagsterInstance] = DagsterInstance.get
    suspected: dict[str, datetime] = field(default_factory=dict)
    unreachable_since: datetime | None = None
    unreachable_reported: bool = False

    def check(self, now: datetime) -> None:
        """Find the problems, and report which are new and which are over."""
        try:
            with self.open_instance() as instance, self.database.connect() as connection:
                self.report(connection, find_problems(connection, instance, now), now)
        except (DatabaseError, sa.exc.OperationalError) as error:
            log.warning("%s", error)
            self.report_unreachable(now)
        else:
            self.report_reachable(now)

    def report(self, connection: sa.Connection, found: Iterable[Problem], now: datetime) -> None:
        """Report each problem that was also found the previous time, and each that is over."""
        problems = {problem.key: problem for problem in found}
        reported = {row.key: row for row in connection.execute(sa.select(silver_alert))}
        key = silver_alert.c.key
        connection.execute(
            sa.update(silver_alert).where(key.in_(problems.keys() & reported.keys())).values(seen_at=now)
        )
        suspected = {new: self.suspected.get(new, now) for new in problems.keys() - reported.keys()}
        for new in suspected.keys() & self.suspected.keys():
            text = self.text_of(problems[new])
            if self.channel.begun(text):
                row = {"key": new, "began_at": suspected.pop(new), "seen_at": now, "text": text}
                connection.execute(sa.insert(silver_alert).values(row))
        self.suspected = suspected
        for over in reported.keys() - problems.keys():
            last = reported[over]
            if now - last.seen_at >= SETTLED and self.channel.over(last.text, last.seen_at - last.began_at):
                connection.execute(sa.delete(silver_alert).where(key == over))

    def text_of(self, problem: Problem) -> str:
        text = problem.korean if self.channel.language == "ko" else problem.english
        return f"{text}\n{settings.UPBIT_DAGSTER_URL}{problem.path}"

    def report_unreachable(self, now: datetime) -> None:
        if self.unreachable_since is None:
            self.unreachable_since = now
        elif not self.unreachable_reported:
            self.unreachable_reported = self.channel.begun(self.text_of(DATABASE_UNREACHABLE))

    def report_reachable(self, now: datetime) -> None:
        if self.unreachable_since and self.unreachable_reported:
            self.unreachable_reported = not self.channel.over(
                self.text_of(DATABASE_UNREACHABLE), now - self.unreachable_since
            )
        if not self.unreachable_reported:
            self.unreachable_since = None


def serve() -> None:
    """Check every half minute until the process ends."""
    alerts = Alerts(Channel())
    while True:
        ALERTS_HEARTBEAT.touch()
        try:
            alerts.check(datetime.now(UTC))
        except Exception:  # the next attempt may succeed, and nothing would report the end of this process
            log.exception("Looking for problems failed.")
        time.sleep(EVERY_SECONDS)
