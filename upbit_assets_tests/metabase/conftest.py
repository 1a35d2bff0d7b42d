from collections.abc import Iterator

import pytest
from starlette.applications import Starlette

from upbit_assets_tests.metabase.fake import FakeMetabase, app, serving


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Starlette, str]]:
    served = app()
    with serving(served) as url:
        yield served, url


@pytest.fixture
def metabase(served: tuple[Starlette, str]) -> FakeMetabase:
    """A Metabase over real HTTP that is not set up yet."""
    served[0].state.metabase = FakeMetabase(served[1])
    return served[0].state.metabase
