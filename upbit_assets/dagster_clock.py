"""Recovers Dagster from timestamps in the future, left by a clock that was ahead.

Dagster continues from its newest tick, and its daemon's threads from when they were last active, which they keep in
memory. If the clock was ahead for a minute, or is set back, no schedule or sensor ticks and no run is dequeued until
that time, while heartbeats from the future pass as healthy. So when the daemon starts, and a few times a minute, it
searches for timestamps later than now. If there are any, they are shifted back and the daemon restarts.
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

CHECK_SECONDS = 20
TOLERANCE = 5  # seconds; a shorter delay doesn't matter
log = logging.getLogger("dagster.daemon.clock")


class RunCoordinator(QueuedRunCoordinator):
    """Dagster's queue, which also watches the clock in the daemon's process."""

    _watching = False

    @property
    def dequeue_interval_seconds(self) -> int:
        """Read only by the daemon, before its threads start; there is no public hook into its process."""
        if not self._watching:
            self._watching = True
            watch(instance_of(self))
        return super().dequeue_interval_seconds


def watch(instance: DagsterInstance) -> None:
    """Shift back timestamps later than now, now and periodically in a thread."""
    date_back(instance)
    threading.Thread(target=check_periodically, args=(instance,), name="clock", daemon=True).start()


def check_periodically(instance: DagsterInstance) -> None:
    while True:
        time.sleep(CHECK_SECONDS)
        try:
            ahead = date_back(instance)
        except Exception:  # the database may be unreachable, which the daemon's own threads survive too
            log.exception("Checking for timestamps in the future failed")
            continue
        if ahead:
            log.warning("Restarting the daemon, because its threads wait for that time too.")
            logging.shutdown()
            # keeps the pid, for its supervisor
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def date_back(instance: DagsterInstance) -> timedelta | None:
    """Shift back Dagster's ticks and heartbeats that are later than now. Returns by how much the newest was ahead.

    These calls of the instance are used by Dagster's daemon too, but not documented.
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
    stored = [moment for state in states for moment in moments(state).values()]
    ahead = max([tick.timestamp for tick in ticks] + beats + stored, default=now) - now
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
        f"been set back. All timestamps later than now, including {len(ticks)} ticks, were shifted back by as much, so "
        "that schedules and sensors continue at once. Synchronize the clock by NTP."
    )
    return found


def moments(state: InstigatorState) -> dict[str, float]:
    """The times that a schedule or sensor continues from."""
    fields: dict[str, Any] = state.instigator_data._asdict()  # type: ignore[union-attr]
    return {name: value for name, value in fields.items() if name.endswith("timestamp") and value}


def date_tick_back(instance: DagsterInstance, tick: InstigatorTick, ahead: float) -> None:
    """Shift back a tick and its runs: a run tagged with a future time would count as that time's run."""
    data, at = tick.tick_data, tick.timestamp - ahead
    end = data.end_timestamp and data.end_timestamp - ahead
    instance.update_tick(tick._replace(tick_data=data._replace(timestamp=at, end_timestamp=end)))
    for run_id in data.run_ids:
        if (run := instance.get_run_by_id(run_id)) and SCHEDULED_EXECUTION_TIME_TAG in run.tags:
            instance.add_run_tags(run_id, {SCHEDULED_EXECUTION_TIME_TAG: datetime.fromtimestamp(at, UTC).isoformat()})
