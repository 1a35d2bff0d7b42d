"""The page in a real browser: its figures equal the database's, and it is accessible."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, expect

from upbit_assets.sandbox.market import Market
from upbit_assets_tests.dashboard.conftest import TOP10, Visitor, assert_accessible, ready
from upbit_assets_tests.dashboard.market_data import fill
from upbit_assets_tests.pipeline import ask

pytestmark = pytest.mark.long

WHOLE = st.integers(-(10**4), 10**4) | st.integers(-(10**26), 10**26)
KOREAN, ENGLISH = [(12, "조"), (8, "억"), (4, "만")], [(12, "T"), (9, "B"), (6, "M"), (3, "K")]


@pytest.fixture(scope="module", autouse=True)
def filled(board_url: str, market: Market) -> datetime:
    """A day of the offline exchange's figures until now; returns that time."""
    at = datetime.now(UTC)
    fill(board_url, market, at, ["KRW-BTC", "KRW-XRP"])
    return at


def rows(page: Page, table: str) -> list[dict[str, Any]]:
    """A list of markets as shown: texts, and their exact figures."""
    return page.eval_on_selector_all(
        table,
        """rows => rows.map(row => ({
             texts: [...row.cells].map(cell => cell.innerText.trim()),
             exact: [...row.querySelectorAll("data")].map(figure => figure.value)}))""",
    )


def places(figure: Decimal, count: int) -> Decimal:
    """Rounded to `count` places, without negative zero."""
    return figure.quantize(Decimal(1).scaleb(-count), ROUND_HALF_UP) + Decimal(0)


def in_full(figure: Decimal) -> str:
    text = f"{figure:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(rate: Decimal) -> str:
    rounded = places(rate * 100, 2)
    return f"{rounded:+,}%".replace("-", "−") if rounded else "0.00%"


def amount(figure: Decimal, units: list[tuple[int, str]]) -> str:
    """In the largest unit that is at most the amount, with three digits or all before the point."""
    for power, name in units:
        scaled = figure.scaleb(-power)
        if places(scaled, 2) >= 1:
            whole = len(str(int(places(scaled, 2))))
            return f"{places(scaled, max(0, 3 - whole)):,}{name}"
    raise AssertionError(figure)


def top10(url: str, order: str = "rank_volume") -> list[tuple[Any, ...]]:
    return ask(
        url,
        f"SELECT {order}, market, trade_price, change_rate, turnover_krw, volatility FROM gold.market_stats "
        f"WHERE window_start = (SELECT max(window_start) FROM gold.market_stats) ORDER BY {order}, market LIMIT 10",
    )


def test_figures_equal_the_databases(visitor: Visitor, board_url: str):
    page = ready(visitor.open())
    for row, (rank, market, price, rate, turnover, _) in zip(rows(page, TOP10), top10(board_url), strict=True):
        assert list(map(Decimal, row["exact"])) == [price, rate, turnover]
        mark = {1: "▲", 0: "", -1: "▼"}[(rate > 0) - (rate < 0)]
        assert row["texts"] == [str(rank), market, in_full(price), mark + percent(rate), amount(turnover, KOREAN)]
    volatile = [row for row in top10(board_url, "rank_volatility") if row[-1]]  # a window's first minute has none
    for row, (rank, market, *_, volatility) in zip(rows(page, "#volatility tbody tr"), volatile, strict=True):
        assert row["texts"][:2] == [str(rank), market]
        assert Decimal(row["exact"][-1]) == volatility


def test_every_part_shows_the_clicked_market(visitor: Visitor, board_url: str, filled: datetime):
    page = ready(visitor.open())
    expect(page.locator("#market-code")).to_have_text("KRW-BTC")
    page.locator(TOP10, has_text="KRW-XRP").click()
    expect(page.locator("#market-code")).to_have_text("KRW-XRP")
    ((price,),) = ask(
        board_url, "SELECT trade_price FROM gold.market_stats WHERE market = 'KRW-XRP' AND ingested_at = %s", filled
    )
    expect(page.locator("#market-price data")).to_have_attribute("value", str(price))
    ((asks, bids),) = ask(board_url, "SELECT ask_prices, bid_prices FROM silver.orderbook WHERE market = 'KRW-XRP'")
    expect(page.locator("#asks tr").last.locator("th")).to_have_text(in_full(asks[0]))
    expect(page.locator("#bids tr").first.locator("th")).to_have_text(in_full(bids[0]))
    page.get_by_label("1시간").check(force=True)
    ((close, volume),) = ask(
        board_url,
        "SELECT closing_price, volume FROM silver.candle WHERE market = 'KRW-XRP' ORDER BY started_at DESC LIMIT 1",
    )
    expect(page.locator("#legend data").nth(3)).to_have_attribute("value", str(close))
    expect(page.locator("#legend data").nth(4)).to_have_attribute("value", str(volume))
    assert "market=KRW-XRP" in page.url
    page.reload()
    expect(page.locator("#market-code")).to_have_text("KRW-XRP")


LIVE = """
INSERT INTO live.ticker (
  market, trade_price, change_rate, acc_trade_volume, acc_trade_price, sent_at, received_at, batch)
VALUES ('KRW-XRP', 1234.5, 0.1, 7, 9e15, now(), now(), nextval('live.batch'));
INSERT INTO live.trade (market, trade_id, traded_at, price, volume, taker, received_at, batch)
SELECT 'KRW-XRP', id, now() - id * interval '1 millisecond', 1234.5 + id, 2, CASE id WHEN 1 THEN 'BID' ELSE 'ASK' END,
       now(), nextval('live.batch')
FROM generate_series(0, 1) AS id;
NOTIFY live_written
"""


def test_the_page_moves_with_the_stream_and_falls_back_to_the_window_without_it(visitor: Visitor, board_url: str):
    (window, *_) = (row for row in top10(board_url) if row[1] == "KRW-XRP")
    page = visitor.open("/#market=KRW-XRP")
    ready(page)
    expect(page.locator("#age")).to_contain_text("1분 스냅샷")
    expect(page.locator("#trades")).to_be_hidden()
    with psycopg.connect(board_url) as connection:
        connection.execute(LIVE)
    expect(page.locator("#market-price data")).to_have_attribute("value", "1234.5")
    expect(page.locator("#age")).to_contain_text("실시간")
    first = rows(page, TOP10)[0]
    assert first["texts"][:2] == ["1", "KRW-XRP"], "it has the largest turnover now"
    assert list(map(Decimal, first["exact"])) == [Decimal("1234.5"), Decimal("0.1"), Decimal("9e15")]
    assert [row["exact"] for row in rows(page, "#last-trades tr")] == [["1234.5", "2"], ["1235.5", "2"]]
    expect(page.locator("#strength data")).to_have_attribute("value", "100.00")
    expect(page.locator("#legend data").nth(3)).to_have_attribute("value", "1234.5")
    expect(page.locator("#age")).to_contain_text("1분 스냅샷", timeout=15_000)
    expect(page.locator("#market-price data")).to_have_attribute("value", str(window[2]))
    expect(page.locator("#trades")).to_be_hidden()
    with psycopg.connect(board_url) as connection:
        connection.execute("DELETE FROM live.ticker; DELETE FROM live.trade")


def test_the_keyboard_alone_is_enough(visitor: Visitor):
    page = ready(visitor.open())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(f"{TOP10} button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    second = page.locator(f"{TOP10} button").nth(1)
    expect(page.locator("#market-code")).to_have_text(second.inner_text())
    expect(second).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("xrp")
    page.keyboard.press("Enter")
    expect(page.locator("#market-code")).to_have_text("KRW-XRP")
    page.locator(".windows a[tabindex='0']").focus()
    last = page.evaluate("document.activeElement.dataset.window")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.window") < last


def test_it_supports_both_languages_and_remembers(visitor: Visitor, board_url: str):
    page = ready(visitor.open(language="en-GB"))
    expect(page.locator("#top10-title")).to_have_text("Turnover top 10")
    turnover = top10(board_url)[0][4]
    assert rows(page, TOP10)[0]["texts"][-1] == amount(turnover, ENGLISH)
    page.get_by_role("button", name="한국어").click()
    expect(page.locator("#top10-title")).to_have_text("거래대금 상위 10")
    assert page.evaluate("document.documentElement.lang") == "ko"
    assert rows(page, TOP10)[0]["texts"][-1] == amount(turnover, KOREAN)
    page.reload()
    expect(page.locator("#top10-title")).to_have_text("거래대금 상위 10")
    names = (
        "import('/static/translations.js')"
        ".then(({translations}) => ['ko', 'en'].map(one => Object.keys(translations(one)).sort()))"
    )
    korean, english = page.evaluate(names)
    assert korean == english


def test_red_is_up_by_default(visitor: Visitor):
    page = ready(visitor.open())

    def rgb(name: str) -> list[int]:
        colour = page.evaluate("(name) => import('/static/settings.js').then(({colour}) => colour(name))", name)
        return [int(part) for part in re.findall(r"\d+", colour)]

    assert rgb("up")[0] > rgb("up")[2]
    assert rgb("down")[2] > rgb("down")[0]
    page.locator("#colours").click()
    assert rgb("up")[1] > rgb("up")[0]
    assert rgb("down")[0] > rgb("down")[1]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_theme_is_the_systems_by_default(visitor: Visitor, scheme: str):
    page = visitor.open(scheme=scheme)

    def dark() -> bool:
        return page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])") < 60

    assert dark() is (scheme == "dark")
    for wanted in (True, False):
        page.locator("#theme").click()
        assert dark() is wanted


CUT_OFF = """
[...document.querySelectorAll(".panel td, .panel th, .panel dd, .panel h2, .panel p, body > .bar > *")]
  .filter((one) => one.offsetParent && !one.closest(".windows, .unseen") && !one.matches(".unseen")
                   && (one.getBoundingClientRect().right > innerWidth + 0.5 || one.scrollWidth > one.clientWidth + 1))
  .map((one) => one.outerHTML)
"""


def test_nothing_scrolls_sideways_from_phone_to_wide_screen(visitor: Visitor):
    page = ready(visitor.open(size={"width": 320, "height": 844}))
    for width in (320, 390, 768, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == [], width


@pytest.mark.parametrize(("language", "scheme"), [("ko-KR", "dark"), ("en-US", "light")])
def test_axe_finds_no_serious_problem(visitor: Visitor, language: str, scheme: str):
    page = ready(visitor.open(language=language, scheme=scheme))
    page.locator("#as-table").click()
    expect(page.locator("#all tbody tr")).to_have_count(24)
    assert_accessible(page)
    page.goto(visitor.address + "/api")
    assert_accessible(page)


def test_a_market_without_candles_shows_a_notice_and_its_prices(visitor: Visitor):
    page = ready(visitor.open("/#market=KRW-ETH"))
    expect(page.locator("#market-code")).to_have_text("KRW-ETH")
    expect(page.locator("#chart-note")).to_contain_text("분봉이 없어")
    expect(page.locator("#book-none")).to_be_visible()
    expect(page.locator("#book-there")).to_be_hidden()


def test_a_malicious_url_selects_nothing(visitor: Visitor):
    page = ready(visitor.open("/#market=<img src=x onerror=alert(1)>&span=__proto__"))
    expect(page.locator("#market-code")).to_have_text("KRW-BTC")
    expect(page.locator("[name=span]:checked")).to_have_value("1d")


def test_a_minute_without_trades_is_left_blank(visitor: Visitor):
    page = visitor.open()
    spaced = page.evaluate(
        "import('/static/chart.js').then(({spaced}) => spaced([{time: 0, open: 1}, {time: 180, open: 2}], 60))"
    )
    assert spaced == [{"time": 0, "open": 1}, {"time": 60}, {"time": 120}, {"time": 180, "open": 2}]


SPELLED = """(texts) => import("/static/figures.js").then((figures) => ({
  full: texts.map(figures.full),
  rounded: texts.map((text) => figures.rounded(text, 2)),
  percent: texts.map((text) => figures.percent(text)),
  sum: texts.map((text) => figures.sum([text, "0.1", text])),
  amount: texts.map((text) => figures.amount(text, "ko")),
}))"""


@pytest.fixture(scope="module")
def in_browser(browser: Any, board: str) -> Callable[[list[str]], dict[str, list[str]]]:
    """The results of the page's own functions for each text."""
    page = browser.new_page()
    page.goto(board + "/api")
    return lambda texts: page.evaluate(SPELLED, texts)


decimals = st.builds(lambda digits, scale: f"{Decimal(digits).scaleb(-scale):f}", WHOLE, st.integers(0, 20))


# without shrinking, as the browser is slow
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(texts=st.lists(decimals, min_size=20, max_size=60))
def test_figures_are_formatted_without_floats(
    in_browser: Callable[[list[str]], dict[str, list[str]]], texts: list[str]
):
    made = in_browser(texts)
    with localcontext(prec=80):
        for place, exact in enumerate(map(Decimal, texts)):
            assert made["full"][place] == in_full(exact)
            assert made["rounded"][place] == f"{places(exact, 2)}"
            assert made["percent"][place] == percent(exact)
            assert Decimal(made["sum"][place]) == exact + exact + Decimal("0.1")
            assert exact < 10_000 or made["amount"][place] == amount(exact, KOREAN)
