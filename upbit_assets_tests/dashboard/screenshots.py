"""The board's screenshots for the README: python -m upbit_assets_tests.dashboard.screenshots."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from upbit_assets.dashboard.server import running
from upbit_assets.partitions import WINDOW, windows
from upbit_assets.sandbox.market import Market
from upbit_assets_tests.conftest import a_server
from upbit_assets_tests.dashboard.conftest import FLAGS, chromium, ready
from upbit_assets_tests.dashboard.market_data import fill

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST = 300_000  # bytes of a picture
SHOTS: dict[str, tuple[str, ViewportSize]] = {
    "board-dark": ("dark", {"width": 1440, "height": 1170}),
    "board-light": ("light", {"width": 1440, "height": 1170}),
    "board-phone": ("dark", {"width": 390, "height": 844}),
}


def main() -> None:
    with a_server() as server:
        url, now = server.url("upbit"), datetime.now(UTC)
        missing = [windows.at(now).start - back * WINDOW for back in (31, 32, 90)]
        fill(url, Market(), now - timedelta(seconds=2), ["KRW-BTC"], missing)
        with running(url) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            for name in SHOTS:
                shoot(browser, address, name)
            browser.close()


def shoot(browser: Browser, address: str, name: str) -> None:
    scheme, size = SHOTS[name]
    context = browser.new_context(viewport=size, locale="ko-KR", color_scheme="light" if scheme == "light" else "dark")
    page = context.new_page()
    page.goto(address)
    ready(page)
    page.wait_for_timeout(500)
    picture = page.screenshot(path=IMAGES / f"{name}.png")
    if len(picture) > MOST:
        raise click.ClickException(f"{name}.png has {len(picture):,} bytes, more than {MOST:,}")
    click.echo(f"docs/images/{name}.png: {len(picture):,} bytes")
    context.close()


if __name__ == "__main__":
    main()
