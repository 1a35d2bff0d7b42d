"""Alerts people, once when a problem begins and once when it is over: `upbit-assets alerts`.

A process beside Dagster, so that it also notices that Dagster or a database has stopped.
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
DATABASE_AWAY = Problem(
    "database",
    "데이터베이스를 사용할 수 없습니다. PostgreSQL이 실행 중인지 확인하세요.",
    "A database can't be used. Check that PostgreSQL runs.",
)


@dataclass
class Alerts:
    """What people were told; in the database, so that a restart repeats nothing.

    That a database is away is only kept here.

    Args:
        suspected: problems found the last time of which people were not told, with the time of the first sight.
    """

    channel: Channel
    database: Database = field(default_factory=Database)
    open_instance: Callable[[], DagsterInstance] = DagsterInstance.get
    suspected: dict[str, datetime] = field(default_factory=dict)
    away_since: datetime | None = None
    told_of_away: bool = False

    def look(self, now: datetime) -> None:
        """Find the problems, and tell which are new and which are over."""
        try:
            with self.open_instance() as instance, self.database.connect() as connection:
                self.tell(connection, find_problems(connection, instance, now), now)
        except (DatabaseError, sa.exc.OperationalError) as error:
            log.warning("%s", error)
            self.tell_away(now)
        else:
            self.tell_back(now)

    def tell(self, connection: sa.Connection, found: Iterable[Problem], now: datetime) -> None:
        """Tell of each problem that was also found the time before, and of each that is over."""
        problems = {problem.key: problem for problem in found}
        told = {row.key: row for row in connection.execute(sa.select(silver_alert))}
        key = silver_alert.c.key
        connection.execute(sa.update(silver_alert).where(key.in_(problems.keys() & told.keys())).values(seen_at=now))
        suspected = {new: self.suspected.get(new, now) for new in problems.keys() - told.keys()}
        for new in suspected.keys() & self.suspected.keys():
            text = self.text_of(problems[new])
            if self.channel.begun(text):
                row = {"key": new, "began_at": suspected.pop(new), "seen_at": now, "text": text}
                connection.execute(sa.insert(silver_alert).values(row))
        self.suspected = suspected
        for gone in told.keys() - problems.keys():
            last = told[gone]
            if now - last.seen_at >= SETTLED and self.channel.over(last.text, last.seen_at - last.began_at):
                connection.execute(sa.delete(silver_alert).where(key == gone))

    def text_of(self, problem: Problem) -> str:
        text = problem.korean if self.channel.language == "ko" else problem.english
        return f"{text}\n{settings.UPBIT_DAGSTER_URL}{problem.path}"

    def tell_away(self, now: datetime) -> None:
        if self.away_since is None:
            self.away_since = now
        elif not self.told_of_away:
            self.told_of_away = self.channel.begun(self.text_of(DATABASE_AWAY))

    def tell_back(self, now: datetime) -> None:
        if self.away_since and self.told_of_away:
            self.told_of_away = not self.channel.over(self.text_of(DATABASE_AWAY), now - self.away_since)
        if not self.told_of_away:
            self.away_since = None


def serve() -> None:
    """Look every half minute until the process ends."""
    alerts = Alerts(Channel())
    while True:
        ALERTS_HEARTBEAT.touch()
        try:
            alerts.look(datetime.now(UTC))
        except Exception:  # the next time may go well, and nobody would be told of this process' end
            log.exception("Looking for problems failed.")
        time.sleep(EVERY_SECONDS)
