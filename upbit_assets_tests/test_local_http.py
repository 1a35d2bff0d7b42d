"""A proxy set in the environment is used for other machines only."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from upbit_assets import health
from upbit_assets.local_http import is_local
from upbit_assets.metabase.client import Metabase
from upbit_assets.sandbox.server import Handle
from upbit_assets.stack import Process, wait_for
from upbit_assets.upbit import TransportError, UpbitClient
from upbit_assets_tests.metabase.fake import FakeMetabase, app, serving

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True, params=[None, "localhost", "localhost,127.0.0.1"], ids="no_proxy={}".format)
def _unreachable_proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)
        monkeypatch.setenv(name.upper(), NOWHERE)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    if request.param:
        monkeypatch.setenv("no_proxy", request.param)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8766",
        "http://user:password@LOCALHOST/x",
        "http://[::1]:80",
        "http://127.9.9.9",
        "http://exchange:8766",
    ],
)
def test_what_is_on_this_machine_or_a_service_of_compose_is_local(url: str):
    assert is_local(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.upbit.com",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "http://[2001:db8::1]/",
        "http://[",
        "",
    ],
)
def test_other_addresses_are_not_local(url: str):
    assert not is_local(url)


def test_the_offline_exchange_is_called_directly(exchange: Handle):
    with UpbitClient(exchange.url, attempts=1) as client:
        assert len(client.markets().rows) == 30


def test_the_real_exchange_is_called_through_the_proxy():
    with (
        UpbitClient("http://api.upbit.example", attempts=1) as client,
        pytest.raises(TransportError, match="the proxy set in the environment failed"),
    ):
        client.markets()


def test_a_stack_sees_that_its_parts_answer(exchange: Handle, tmp_path: Path):
    waiting = Process("Something", ["python", "-c", "input()"], tmp_path / "log")
    try:
        wait_for(waiting, exchange.url)
    finally:
        waiting.stop()


def test_health_checks_bypass_the_proxy(exchange: Handle):
    assert health.page(exchange.url + "/_sandbox/health") is None


def test_the_code_locations_check_bypasses_the_proxy():
    answer = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b'{"ListRepositoriesResponse": 1}')
    location = grpc.server(ThreadPoolExecutor(1))
    location.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("api.DagsterApi", {"ListRepositories": answer})]
    )
    port = location.add_insecure_port("127.0.0.1:0")
    location.start()
    try:
        assert health.location(f"127.0.0.1:{port}") is None
    finally:
        location.stop(None)


def test_metabase_is_called_directly():
    served = app()
    with serving(served) as url:
        served.state.metabase = FakeMetabase(url)
        Metabase(url).wait(print, deadline=0, pause=0)
