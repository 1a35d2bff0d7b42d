import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest
import requests

from upbit_assets.sandbox.server import running, serve
from upbit_assets_tests import http
from upbit_assets_tests.sandbox.conftest import AT

SERVE = "from upbit_assets.sandbox.server import serve; serve(port={}, seed=3, markets=5)"


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(port):
    process = subprocess.Popen([sys.executable, "-c", SERVE.format(port)], stderr=subprocess.PIPE, text=True)
    for _ in range(200):
        try:
            http.get(f"http://127.0.0.1:{port}/_sandbox/health", timeout=60)
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            break
    return process


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_and_quietly_on_a_signal(how):
    port = free_port()
    process = start(port)
    try:
        assert http.get(f"http://127.0.0.1:{port}/", timeout=60).json()["seed"] == 3
        assert len(http.get(f"http://127.0.0.1:{port}/v1/market/all", timeout=60).json()) == 5
        process.send_signal(how)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")


def test_a_taken_port_is_reported():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            serve(port=port)


def test_two_exchanges_run_side_by_side_with_faults_of_their_own():
    with running(3, lambda: AT) as one, running(3, lambda: AT) as other:
        one.faults.add("", "empty")
        assert http.get(one.url + "/v1/market/all", timeout=60).json() == []
        assert len(http.get(other.url + "/v1/market/all", timeout=60).json()) == 3


def test_it_stops_with_its_context():
    with running(3) as exchange:
        http.get(exchange.url, timeout=60)
    with pytest.raises(requests.ConnectionError):
        http.get(exchange.url, timeout=60)


def test_a_pending_slow_reply_does_not_delay_shutdown():
    start = time.monotonic()
    with running(3) as exchange:
        exchange.faults.add("", "slow", seconds=60)
        with pytest.raises(requests.ReadTimeout):
            http.get(exchange.url + "/v1/market/all", timeout=0.1)
    assert time.monotonic() - start < 5


def test_the_limits_are_on():
    with running(3) as exchange:
        replies = [http.get(exchange.url + "/v1/market/all", timeout=60).status_code for _ in range(40)]
    assert 429 in replies
