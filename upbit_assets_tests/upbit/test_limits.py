import heapq
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from math import floor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from upbit_assets.upbit import BlockedError, Limits, shared
from upbit_assets.upbit.limits import Calls

TOLD = "group=candles; min=600; sec={}"


class Clock:
    """A clock that `sleep` advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def url(request) -> str:
    """The URL of an exchange that no other test uses."""
    return f"http://{request.node.nodeid}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(url, clock) -> Limits:
    return Limits(url, clock=clock, sleep=clock.sleep)


def waited(limits: Limits, clock: Clock, group: str = "ticker") -> float:
    before = clock.now
    return limits.acquire(group) - before


def test_used_up_means_waiting_for_the_next_second(limits, clock):
    limits.record_response("ticker", limits.acquire("ticker"), TOLD.format(0))
    assert waited(limits, clock, "market") == 0
    assert 1 <= waited(limits, clock) < 1.01


def test_a_429_means_waiting_for_the_next_second_whatever_the_header_says(limits, clock):
    limits.record_response("ticker", limits.acquire("ticker"), TOLD.format(9), exceeded=True)
    assert 1 <= waited(limits, clock) < 1.01


def test_calls_of_others_at_the_same_address_count(limits, clock):
    limits.record_response("ticker", limits.acquire("ticker"), TOLD.format(2))
    assert [waited(limits, clock) > 0 for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("header", [None, "", "sec=", "sec=-1", "sec=many", "group=ticker", "min=600", "sec=99999999"])
def test_without_a_readable_header_it_is_ten_a_second(limits, clock, header):
    waits = []
    for _ in range(21):
        waits.append(waited(limits, clock))
        limits.record_response("ticker", clock.now, header)
    assert [number for number, wait in enumerate(waits) if wait] == [10, 20]
    assert all(1 <= waits[number] < 1.01 for number in (10, 20))


def test_machines_behind_one_address_share_the_quota(url, clock, monkeypatch):
    monkeypatch.setenv("UPBIT_CALLS_PER_SECOND", "3")
    limits = Limits(url, clock=clock, sleep=clock.sleep)
    waits = []
    for _ in range(4):
        waits.append(waited(limits, clock))
        limits.record_response("ticker", clock.now)
    assert [wait > 0 for wait in waits] == [False, False, False, True]


@dataclass
class World:
    """Simulates callers in several processes and an exchange with its own seconds."""

    phase: float
    drift: float
    latency: float
    seed: int
    lost: float = 0  # the part of the calls whose caller is killed
    calls: Calls = field(default_factory=Calls)
    counted: Counter[int] = field(default_factory=Counter)
    granted: list[tuple[float, bool, float]] = field(default_factory=list)  # time, background, waiting since

    def run(self, background: int, live_every: float, seconds: float) -> None:
        dice, order, told = random.Random(self.seed), count(), {}
        events = [(1000 + dice.random() / 10, next(order), "ask", True, 0.0) for _ in range(background)]
        if live_every:
            events += [
                (1000 + at * live_every, next(order), "ask", False, 0.0) for at in range(int(seconds / live_every))
            ]
        heapq.heapify(events)
        while events and events[0][0] < 1000 + seconds:
            now, key, what, is_background, at = heapq.heappop(events)
            self.calls = Calls.loads(self.calls.dumps())
            if what == "ask":
                since = at or now
                if wait := self.calls.acquire(now, 10, since, background=is_background):
                    late = dice.random() / 1000
                    heapq.heappush(events, (now + wait + late, next(order), "ask", is_background, since))
                    continue
                self.granted.append((now, is_background, since))
                there = now + dice.random() * self.latency
                heapq.heappush(events, (there, key, "count", is_background, now))
            elif what == "count":
                second = floor(now * (1 + self.drift) + self.phase)
                self.counted[second] += 1
                told[key] = 10 - self.counted[second]
                if dice.random() >= self.lost:
                    heapq.heappush(events, (now + dice.random() * self.latency, key, "answer", is_background, at))
            else:
                self.calls.record_response(now, 10, at, max(0, told[key]))
                if is_background:
                    heapq.heappush(events, (now, next(order), "ask", True, 0.0))


phases = st.floats(0, 1, exclude_max=True)
drifts = st.floats(-4e-4, 4e-4)
seeds = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(
    phases, drifts, st.floats(0, 3), seeds, st.integers(1, 20), st.sampled_from([0, 0.3, 7]), st.sampled_from([0, 0.1])
)
def test_whatever_the_interleaving_no_second_of_the_exchange_sees_more_than_ten_calls(
    phase, drift, latency, seed, background, live_every, lost
):
    world = World(phase, drift, latency, seed, lost)
    world.run(background, live_every, 10)
    assert max(world.counted.values()) <= 10


@settings(max_examples=8, deadline=None)
@given(phases, drifts, st.floats(0.001, 0.06), seeds)
def test_background_calls_reach_95_percent_of_the_quota_at_round_trips_up_to_60_ms(phase, drift, latency, seed):
    world = World(phase, drift, latency, seed)
    world.run(8, live_every=0, seconds=100)
    assert max(world.counted.values()) <= 10
    assert sum(world.counted.values()) >= 0.95 * 1000


@settings(max_examples=8, deadline=None)
@given(phases, seeds, st.integers(1, 50), st.sampled_from([0.25, 0.9]))
def test_a_foreground_call_precedes_all_background_calls(phase, seed, background, live_every):
    world = World(phase, 0, 0.05, seed)
    world.run(background, live_every, 5)
    lives = [(since, at) for at, is_background, since in world.granted if not is_background]
    background_moments = [at for at, is_background, _ in world.granted if is_background]
    assert not [at for since, until in lives for at in background_moments if since < at < until]
    assert max(at - since for since, at in lives) < 1.2
    assert len(background_moments) > 5 * (9 - 1 / live_every), "and they don't starve"


states = st.builds(
    lambda in_flight, answered, waiting: json.dumps({"in_flight": in_flight, "answered": answered, "waiting": waiting}),
    *(st.lists(st.floats()), st.lists(st.floats()), st.lists(st.tuples(st.floats(), st.floats()))),
)


@settings(max_examples=60, deadline=None)
@given(st.floats(1000, 2000), st.text() | states)
@example(1000.0, "[" * 5000)
@example(1000.0, '{"answered": [-1e308, 1e308], "waiting": [[1000, 1000]]}')
def test_an_invalid_state_file_blocks_nobody(now, text):
    calls = Calls.loads(text)
    calls.acquire(now, 10, now, background=False)
    calls.record_response(now, 10, now, 9)
    calls.record_response(now, 10, now, 9)
    for later in range(20):
        calls = Calls.loads(calls.dumps())
        calls.acquire(now + later, 10, now + later, background=False)
    assert calls.in_flight[-1] == now + 19


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    program = f"import sys, time\nfrom upbit_assets.upbit import *\nurl = sys.argv[1]\n{code}"
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def test_processes_and_threads_share_the_quota(url):
    code = """
from concurrent.futures import ThreadPoolExecutor
limits = Limits(url)
def call(_):
    at = limits.acquire("candle")
    limits.record_response("candle", at)
    print(f"{at}\\n", end="")
list(ThreadPoolExecutor(4).map(call, range(8)))
"""
    processes = [run(code, url) for _ in range(2)]
    moments = sorted(float(line) for process in processes for line in process.communicate()[0].split())
    assert len(moments) == 16
    assert all(later - earlier >= 1 for earlier, later in zip(moments, moments[10:], strict=False))


def test_a_killed_process_does_not_consume_the_limit_forever(url):
    with run(
        "limits = Limits(url)\nfor _ in range(3): limits.acquire('candle')\nprint()\ntime.sleep(60)", url
    ) as calls:
        assert calls.stdout
        calls.stdout.readline()
        calls.kill()
    limits = Limits(url)
    moments = [limits.acquire("candle") for _ in range(7)]
    for at in moments:
        limits.record_response("candle", at)
    assert moments[-1] - moments[0] < 1
    assert limits.acquire("candle") - moments[-1] >= 1


def test_a_process_killed_while_writing_leaves_a_readable_state(url):
    code = """
limits = Limits(url, 10**6)
print(flush=True)
while True: limits.record_response("candle", limits.acquire("candle"), "sec=999999")
"""
    with run(code, url) as counting:
        assert counting.stdout
        counting.stdout.readline()
        time.sleep(0.05)
        counting.kill()
    file = Path(os.environ["UPBIT_LIMITS_DIR"], Limits(url)._name("calls of candle"))
    assert set(json.loads(file.read_text().partition("\n")[0])) == {"in_flight", "answered", "waiting"}


def test_a_block_stops_all_processes(url):
    until = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    code = f"""
from datetime import datetime, UTC
Limits(url).block(BlockedError(datetime.fromisoformat("{until.isoformat()}"), "stop it"), datetime.now(UTC))
"""
    with run(code, url) as blocked:
        assert blocked.wait() == 0
    with pytest.raises(BlockedError, match="'stop it'") as caught:
        Limits(url).acquire("candle")
    assert caught.value.until == until


def test_a_block_is_not_shortened_by_one_without_a_stated_end(limits):
    now = datetime.now(UTC)
    limits.block(BlockedError(now + timedelta(hours=1), "an hour"), now)
    limits.block(BlockedError(None, ""), now)
    with pytest.raises(BlockedError, match="an hour"):
        limits.acquire("candle")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UPBIT_LIMITS_DIR", str(tmp_path / "a" / "limits"))
    shared._warn.cache_clear()
    return tmp_path / "a" / "limits"


def shared_between_two(url: str) -> bool:
    """Whether a second Limits waits for a call of the first, at one call a second."""
    clock = Clock()
    first, second = (Limits(url, 1, clock=clock, sleep=clock.sleep) for _ in range(2))
    return waited(first, clock, "candle") == 0 and waited(second, clock, "candle") > 0


def test_the_folder_is_made_for_this_user_alone(folder, url):
    Limits(url).acquire("candle")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_without_that_variable_it_is_a_folder_among_the_temporary_files(tmp_path, url, monkeypatch):
    monkeypatch.delenv("UPBIT_LIMITS_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert shared_between_two(url)
    assert [folder.name for folder in tmp_path.iterdir()] == [f"upbit-limits-{os.geteuid()}"]


def test_a_symlink_is_replaced_and_its_target_unchanged(folder, url, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder.mkdir(parents=True)
    (folder / Limits(url)._name("calls of candle")).symlink_to(precious)
    assert shared_between_two(url)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("trap", ["link", "open to all", "file"])
def test_a_folder_writable_by_others_is_not_used(tmp_path, url, monkeypatch, caplog, trap):
    monkeypatch.delenv("UPBIT_LIMITS_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared._warn.cache_clear()
    folder, elsewhere = tmp_path / f"upbit-limits-{os.geteuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if trap == "link":
        folder.symlink_to(elsewhere)
    elif trap == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert shared_between_two(url)
    assert not list(elsewhere.iterdir())
    assert trap == "file" or not list(folder.iterdir())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Calls to the exchange are counted for this process only: " in caplog.text
