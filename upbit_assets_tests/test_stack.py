"""What `make demo` and `make up` do while they start, however slow the machine is."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from upbit_assets import stack
from upbit_assets.stack import Process, StackError, chosen_port, free_port, lock_home, running, wait_for

SERVE = "from http.server import *; HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler).serve_forever()"
BUSY = "import time\nwhile time.process_time() < 3: pass\n"
TALKING = "import time\nfor _ in range(6): print('still here', flush=True); time.sleep(0.5)\n"
IN_A_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])\n"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "IDLE_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(stack, "CPU_STEP_SECONDS", 0.1)
    monkeypatch.setattr(stack, "STATUS_EVERY_SECONDS", 1)


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """A process of the stack that runs the given code."""
    started: list[Process] = []

    def start(code: str) -> Process:
        started.append(Process("Something", ["python", "-c", code], tmp_path / "its.log"))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.mark.parametrize("start", [BUSY, TALKING, IN_A_CHILD.format(code=BUSY)], ids=["busy", "talking", "in a child"])
def test_a_process_that_makes_progress_is_waited_for(starting: Callable[[str], Process], start: str, capsys):
    port = free_port(18700)
    process = starting(start + SERVE.format(port=port))
    wait_for(process, f"http://127.0.0.1:{port}")
    assert f"Something is still starting after 1 s; its log: {process.log}" in capsys.readouterr().out


def test_an_idle_process_is_given_up(starting: Callable[[str], Process]):
    process = starting("import time; print('I begin', flush=True); time.sleep(60)")
    said = "(?s)Something does not respond at http://127.0.0.1:1 and has been idle for 2 s.*I begin"
    with pytest.raises(StackError, match=said):
        wait_for(process, "http://127.0.0.1:1")


def test_an_ended_process_is_given_up(starting: Callable[[str], Process]):
    with pytest.raises(StackError, match=r"(?s)ended unexpectedly.*no such luck"):
        wait_for(starting("raise SystemExit('no such luck')"), "http://127.0.0.1:1")


class TestASecondOne:
    def test_a_second_start_reports_that_the_first_is_starting(self, tmp_path: Path):
        said = f"already starting.*its logs are in {tmp_path}.*kill {os.getpid()}$"
        with lock_home(tmp_path), pytest.raises(StackError, match=said), lock_home(tmp_path):
            pass

    def test_a_second_start_reports_the_addresses_of_the_first(self, tmp_path: Path):
        said = f"already running: http://a:1, the board at http://b:2. .*kill {os.getpid()}$"
        with lock_home(tmp_path) as note:
            note({"ui": "http://a:1", "board": "http://b:2"})
            with pytest.raises(StackError, match=said), lock_home(tmp_path):
                pass

    def test_starts_if_the_first_has_ended(self, tmp_path: Path):
        with lock_home(tmp_path) as note:
            note({"ui": "http://a:1", "board": "http://b:2"})
        assert running(tmp_path) == {}
        with lock_home(tmp_path):
            assert running(tmp_path) == {"pid": str(os.getpid())}


def test_a_port_other_than_the_default_is_reported(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        port = chosen_port("the board", wanted)
    assert port != wanted
    assert capsys.readouterr().out == f"Port {wanted} is in use: the board uses {port} instead.\n"


def test_a_process_keeps_logging_after_rotation(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stack, "MAX_LOG_BYTES", 5)
    wait = f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"
    says = f"import os, time; os.write(1, b'the first line'); exec({wait!r}); os.write(1, b'the second')"
    process = stack.Process("A process", ["python", "-c", says], tmp_path / "its.log")
    while not process.log.read_text():
        time.sleep(0.01)
    process.shorten_log()
    (tmp_path / "go").touch()
    assert process.child.wait() == 0
    assert process.log.read_text() == "the second"
    assert (tmp_path / "its.log.before").read_text() == "the first line"
