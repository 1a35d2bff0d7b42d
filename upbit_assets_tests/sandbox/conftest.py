from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import pytest

from upbit_assets.sandbox.server import Handle, running

AT = datetime(2026, 7, 30, 7, 41, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared() -> Iterator[Handle]:
    # Every call falls into a second of its own, so that the limits are never in the way
    with running(30, lambda: AT, seconds=count().__next__) as handle:
        yield handle


@pytest.fixture
def exchange(shared: Handle) -> Handle:
    shared.faults.clear()
    return shared
