"""The board over a real PostgreSQL that can be stopped, and a real browser: one of each per module."""

import json
import os
import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, TimeoutError, ViewportSize, sync_playwright

from upbit_assets.dashboard.server import running
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.sandbox.market import Market
from upbit_assets_tests.conftest import a_server, required

TOP10 = "#top10 tbody tr"
NOT_SERIOUS = ("minor", "moderate")
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Chromium aborts requests when a network interface appears or disappears, as those of containers do
NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
WIDE: ViewportSize = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    with a_server() as server:
        yield server


@pytest.fixture(scope="module")
def board_url(own_server: EmbeddedPostgres) -> str:
    return own_server.url("upbit")


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(count=24)


@pytest.fixture(scope="module")
def board(board_url: str) -> Iterator[str]:
    """The address of the board over `board_url`."""
    with running(board_url) as address:
        yield address


def chromium() -> str | None:
    """A Chromium of this machine: UPBIT_TEST_CHROMIUM, else one on the path."""
    return os.environ.get("UPBIT_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    advice = "The board's tests need a Chromium: apt-get install chromium, or name one in UPBIT_TEST_CHROMIUM."
    found = required(chromium(), advice)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A user of the board: pages of one browser, whose console errors are recorded."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address
        self.complaints: list[str] = []

    def open(
        self, path: str = "/", *, language: str = "ko-KR", scheme: str = "dark", size: ViewportSize = WIDE
    ) -> Page:
        context = self.browser.new_context(
            viewport=size, color_scheme="light" if scheme == "light" else "dark", locale=language
        )
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", self.hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.address + path)
        begun = page.locator("body:not([data-state=loading])")
        try:
            begun.wait_for(timeout=4000)
        except TimeoutError:
            page.reload()
            begun.wait_for()
        return page

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and NETWORK_CHANGED not in message.text:
            self.complaints.append(message.text)

    def close(self) -> None:
        for context in self.browser.contexts:
            context.close()


def ready(page: Page) -> Page:
    """The page after it was drawn completely."""
    for part in (TOP10, "#map canvas", "#legend:not(:empty), #chart-note:not([hidden])", ".windows a"):
        page.wait_for_selector(part, state="attached")
    return page


def assert_accessible(page: Page) -> None:
    found = [each for each in Axe().run(page).response["violations"] if each["impact"] not in NOT_SERIOUS]
    assert found == [], json.dumps(found, indent=1, ensure_ascii=False)[:3000]


@pytest.fixture
def troubled_visitor(browser: Browser, board: str) -> Iterator[Visitor]:
    """A visitor whose browser may report errors of an unreachable server."""
    visitor = Visitor(browser, board)
    yield visitor
    visitor.close()


@pytest.fixture
def visitor(troubled_visitor: Visitor) -> Iterator[Visitor]:
    yield troubled_visitor
    assert troubled_visitor.complaints == []
