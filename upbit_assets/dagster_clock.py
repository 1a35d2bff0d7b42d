"""A clock that was wrong for a while must not stop Dagster.

Dagster goes on from its newest tick, and the parts of its daemon from when they last did something, which they
remember. After a clock that was ahead for a minute, or is set back, no schedule and no sensor ticks and no run leaves
the queue until that moment comes, and every heartbeat is from the future, which passes for health. So the daemon looks
a few times a minute whether anything is dated later than now; where it is, all of that is dated back by as much, and
the daemon starts anew. It looks when it starts, too: the clock may have been wrong before.
"""

import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterInstance, QueuedRunCoordinator

from upbit_assets.dagster_internals import SCHEDULED_EXECUTION_TIME_TAG, InstigatorState, InstigatorTick, instance_of

LOOK_SECONDS = 20
TOLERANCE = 5  # seconds that hold nothing up for long
log = logging.getLogger("dagster.daemon.clock")


class RunCoordinator(QueuedRunCoordinator):
    """Dagster's own, in whose process the clock is watched if it is the daemon's."""

    _watching = False

    @property
    def dequeue_interval_seconds(self) -> int:
        """Only the daemon asks for it, before any of its parts begins; there is no public way into its process."""
        if not self._watching:
            self._watching = True
            watch(instance_of(self))
        return super().dequeue_interval_seconds


def watch(instance: DagsterInstance) -> None:
    """Date back what is dated later than now, and go on looking in a thread."""
    date_back(instance)
    threading.Thread(target=keep_watching, args=(instance,), name="clock", daemon=True).start()


def keep_watching(instance: DagsterInstance) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            ahead = date_back(instance)
        except Exception:  # the database may be away; the daemon's own parts survive that too
            log.exception("It could not be seen whether the clock was ahead")
            continue
        if ahead:
            log.warning("The daemon starts anew, as its parts wait for that time too.")
            logging.shutdown()
            # the same process for whoever started it
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def date_back(instance: DagsterInstance) -> timedelta | None:
    """By how much the newest of Dagster's ticks and heartbeats was later than now, and all of them are dated back.

    These are Dagster's own calls, which its daemon uses for the same; none of them is documented.
    """
    now = time.time()
    latest = now + TOLERANCE
    states = [state for state in instance.all_instigator_state() if state.instigator_data]
    ticks = [
        tick
        for state in states
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=latest)
    ]
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    noted = [moment for state in states for moment in moments(state).values()]
    ahead = max([tick.timestamp for tick in ticks] + beats + noted, default=now) - now
    if ahead < TOLERANCE:
        return None
    for tick in ticks:
        date_tick_back(instance, tick, ahead)
    for state in states:
        if late := {name: now for name, moment in moments(state).items() if moment > latest}:
            data: Any = state.instigator_data
            instance.update_instigator_state(state.with_data(data._replace(**late)))
    if max(beats, default=now) > latest:
        instance.wipe_daemon_heartbeats()  # the next ones come within half a minute
    found = timedelta(seconds=round(ahead))
    log.warning(
        f"Dagster's newest tick or heartbeat is {found} later than this machine's clock: the clock was ahead, or has "
        f"been set back. Whatever is dated later than now, {len(ticks)} ticks among it, is dated back by as much, so "
        "that schedules and sensors go on at once. Have the clock kept by NTP."
    )
    return found


def moments(state: InstigatorState) -> dict[str, float]:
    """The times that a schedule or sensor goes on from."""
    fields: dict[str, Any] = state.instigator_data._asdict()  # type: ignore[union-attr]
    return {name: value for name, value in fields.items() if name.endswith("timestamp") and value}


def date_tick_back(instance: DagsterInstance, tick: InstigatorTick, ahead: float) -> None:
    """With its runs: one that is known to be of a time would pass for what is to be run when that time comes."""
    data, at = tick.tick_data, tick.timestamp - ahead
    end = data.end_timestamp and data.end_timestamp - ahead
    instance.update_tick(tick._replace(tick_data=data._replace(timestamp=at, end_timestamp=end)))
    for run_id in data.run_ids:
        if (run := instance.get_run_by_id(run_id)) and SCHEDULED_EXECUTION_TIME_TAG in run.tags:
            instance.add_run_tags(run_id, {SCHEDULED_EXECUTION_TIME_TAG: datetime.fromtimestamp(at, UTC).isoformat()})
