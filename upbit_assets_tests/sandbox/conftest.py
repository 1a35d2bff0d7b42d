import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import execnet
import pytest

from upbit_assets.sandbox.server import Handle, running
from upbit_assets.settings import PROJECT
from upbit_assets_tests.conftest import required

CLIENTS = PROJECT / ".venv-clients" / "bin" / "python"
AT = datetime(2026, 7, 30, 7, 41, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared() -> Iterator[Handle]:
    # Every call is in another second, so that the rate limits never apply
    with running(30, lambda: AT, seconds=count().__next__) as handle:
        yield handle


@pytest.fixture
def exchange(shared: Handle) -> Handle:
    shared.faults.clear()
    return shared


@pytest.fixture(scope="module")
def clients() -> Iterator[execnet.Gateway]:
    """A Python with the exchange's own SDK and ccxt, which need other versions of libraries than this project.

    `clients.remote_exec(function, **arguments)` runs there a function that imports what it needs and begins with a
    channel, has no comprehension and takes no globals; what it sends, simple types only, the call's `receive` gives.
    """
    required(CLIENTS.exists(), "The exchange's clients are not installed; run: make install-clients")
    # they call the exchange on this machine, and some would use a proxy
    gateway = execnet.makegateway(f"popen//python={shlex.quote(str(CLIENTS))}//env:no_proxy=*")
    yield gateway
    gateway.exit()
