"""The page while its data changes, stops, or becomes unavailable."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from upbit_assets.partitions import WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.sandbox.market import Market
from upbit_assets_tests.conftest import empty
from upbit_assets_tests.dashboard.conftest import TOP10, Visitor, assert_accessible, ready
from upbit_assets_tests.dashboard.market_data import figures, fill, notify, put
from upbit_assets_tests.pipeline import ask

pytestmark = pytest.mark.long


def tell(url: str) -> None:
    """Notify that gold was written."""
    with psycopg.connect(url) as connection:
        notify(connection, "gold.market_stats", windows.at(datetime.now(UTC)).start)


@pytest.fixture(autouse=True)
def nothing(board_url: str, board: str) -> None:
    empty(board_url)
    tell(board_url)


def shade(page: Page, part: str) -> str:
    return page.evaluate("(part) => getComputedStyle(document.querySelector(part)).filter", part)


def filled(url: str, market: Market, at: datetime, missing: tuple[datetime, ...] = ()) -> None:
    fill(url, market, at, [], missing)
    tell(url)


def test_a_new_window_is_there_once_it_is_committed(visitor: Visitor, board_url: str, market: Market):
    at = datetime.now(UTC)
    filled(board_url, market, at)
    page = ready(visitor.open())
    page.evaluate("window.untouched = true")
    with psycopg.connect(board_url) as connection:
        digits = "0.12345678901234567"
        connection.execute(f"UPDATE gold.market_stats SET trade_price = trade_price + {digits}")
        ((price,),) = connection.execute("SELECT trade_price FROM gold.market_stats WHERE market = 'KRW-BTC'")
        notify(connection, "gold.market_stats", windows.at(at).start)
    expect(page.locator("#market-price data")).to_have_attribute("value", str(price))
    expect(page.locator("#market-price")).to_contain_text(f"{price:,}")
    assert page.evaluate("window.untouched"), "the page was reloaded"


def test_nothing_is_ranked_by_volatility_before_a_price_has_moved(visitor: Visitor, board_url: str, market: Market):
    now = datetime.now(UTC)
    put(
        board_url,
        {
            tables.gold_market_stats: [
                row | {"volatility": 0, "rank_volatility": 1} for row in figures(market, ["KRW-BTC", "KRW-ETH"], now)
            ],
            tables.gold_market_stats_build: [{"window_start": windows.at(now).start, "gold_rows": 2}],
        },
    )
    tell(board_url)
    page = ready(visitor.open())
    expect(page.locator("#unmoved")).to_contain_text("아직 움직인 가격이 없습니다")
    expect(page.locator("#volatility tbody tr")).to_have_count(0)
    ask(board_url, "UPDATE gold.market_stats SET volatility = 1e-10 WHERE market = 'KRW-ETH'")
    tell(board_url)
    expect(page.locator("#volatility tbody tr")).to_have_count(1)
    expect(page.locator("#unmoved")).to_be_hidden()


@pytest.mark.long
def test_windows_not_collected_are_marked_and_linked(visitor: Visitor, board_url: str, market: Market):
    at = datetime.now(UTC)
    start = windows.at(at).start
    missing, short = start - 3 * WINDOW, start - 9 * WINDOW
    filled(board_url, market, at, (missing,))
    ask(board_url, "UPDATE silver.ticker_build SET bronze_rows = 96, rejected_rows = 2 WHERE window_start = %s", short)
    lacking = start - 5 * WINDOW
    states = [{"window_start": lacking, "market": f"KRW-{n}", "state": ("proved", "missing")[n == 2]} for n in range(3)]
    put(board_url, {tables.silver_trade_coverage: states})
    tell(board_url)
    page = ready(visitor.open())

    def cell(window: datetime) -> Any:
        return page.locator(f".windows a[data-window='{windows.key_of(window)}']")

    expect(cell(missing)).to_have_class("none")
    key = windows.key_of(missing).replace(":", "%3A")
    address = f"http://127.0.0.1:3000/assets/gold_market_stats?view=partitions&partition={key}"
    expect(cell(missing)).to_have_attribute("href", address)
    expect(cell(short)).to_have_class("part rejected")
    expect(cell(short)).to_have_accessible_name(re.compile("일부, 4회 수집, 2건 거부"))
    expect(cell(lacking)).to_have_class("whole lacking")
    expect(cell(lacking)).to_have_accessible_name(re.compile("수집, 10회 수집, 2개 종목 체결 검증, 1개 종목 체결 누락"))
    expect(cell(start)).to_have_class("open")
    expect(page.locator("#coverage-key")).to_have_text(re.compile(r"수집 141\s*일부 1\s*없음 1\s*수집 중 1"))


def test_windows_before_the_first_one_collected_are_not_called_missing(
    visitor: Visitor, board_url: str, market: Market
):
    at = datetime.now(UTC)
    start = windows.at(at).start
    filled(board_url, market, at, tuple(start - back * WINDOW for back in (2, *range(4, 144))))
    page = ready(visitor.open())
    # another window may have begun since
    expect(page.locator("#coverage-key")).to_have_text(re.compile(r"없음 1\s*수집 중 1\s*수집 시작 전 1(40|39)"))


def test_a_market_is_found_by_its_code_its_names_and_their_initial_consonants(
    visitor: Visitor, board_url: str, market: Market
):
    filled(board_url, market, datetime.now(UTC))
    ask(
        board_url, "UPDATE silver.market SET warning = true, cautions = '{PRICE_FLUCTUATIONS}' WHERE market = 'KRW-ETH'"
    )
    tell(board_url)
    page = ready(visitor.open())
    for text, code in {"이더리움": "KRW-ETH", "ㅂㅌㅋㅇ": "KRW-BTC", "xrp": "KRW-XRP", "Ethereum": "KRW-ETH"}.items():
        page.locator("#code").fill(text)
        page.locator("#code").press("Enter")
        expect(page.locator("#market-code")).to_have_text(code)
    expect(page.locator("#market-name")).to_have_text("이더리움")
    expect(page.locator("#market-warnings")).to_have_text("유의 종목 · 주의: 가격 급등락")
    page.locator("#code").fill("없는종목")
    page.locator("#code").press("Enter")
    expect(page.locator("#code")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#market-code")).to_have_text("KRW-ETH")


@pytest.mark.parametrize("simulated", [True, pytest.param(False, marks=pytest.mark.long)])
def test_simulated_data_is_marked(visitor: Visitor, board_url: str, market: Market, simulated: bool):
    filled(board_url, market, datetime.now(UTC))
    ask(board_url, "UPDATE bronze.origin SET simulated = %s", simulated)
    tell(board_url)
    page = ready(visitor.open())
    expect(page.locator("#simulated")).to_be_visible(visible=simulated)


def test_an_empty_database_is_shown_and_updated_live(visitor: Visitor, board_url: str, market: Market):
    page = visitor.open()
    expect(page.locator("#empty-title")).to_have_text("아직 수집된 데이터가 없습니다")
    expect(page.locator("#figures")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    assert_accessible(page)
    filled(board_url, market, datetime.now(UTC))
    expect(page.locator(TOP10)).to_have_count(10)
    expect(page.locator("#empty")).to_be_hidden()


def test_it_is_shown_as_stale_when_collection_stops(visitor: Visitor, board_url: str, market: Market):
    at = datetime.now(UTC) - timedelta(minutes=47)
    filled(board_url, market, at)
    page = ready(visitor.open())
    expect(page.locator("body")).to_have_attribute("data-state", "stale")
    expect(page.locator("#notice")).to_contain_text("수집이 멈췄습니다. 보이는 값은 47분 전")
    expect(page.locator("#age")).to_have_text("47분 전")
    assert shade(page, "#top10") == "grayscale(1)"
    assert shade(page, "#coverage") == "none", "its colours show what is missing"
    assert_accessible(page)
    now = datetime.now(UTC)
    build = {"window_start": windows.at(now).start, "gold_rows": 2}
    put(
        board_url,
        {
            tables.gold_market_stats: figures(market, ["KRW-BTC", "KRW-ETH"], now),
            tables.gold_market_stats_build: [build],
        },
    )
    tell(board_url)
    expect(page.locator("body")).to_have_attribute("data-state", "live")
    expect(page.locator("#notice")).to_be_hidden()


def test_late_figures_are_distinguished_from_stopped_collection(visitor: Visitor, board_url: str, market: Market):
    filled(board_url, market, datetime.now(UTC) - timedelta(minutes=47))
    page = ready(visitor.open())
    expect(page.locator("body")).to_have_attribute("data-state", "stale")
    raw: list[dict[str, Any]] = [{"market": "KRW-BTC", "raw_data": {}, "ingested_at": datetime.now(UTC)}]
    put(board_url, {tables.bronze_ticker_raw: raw})
    with psycopg.connect(board_url) as connection:
        notify(connection, "bronze.ticker_raw", windows.at(datetime.now(UTC)).start)
    expect(page.locator("body")).to_have_attribute("data-state", "behind")
    expect(page.locator("#notice")).to_contain_text("수집은 계속되고 있으나")
    assert shade(page, "#top10") == "none"


def test_depths_beyond_the_levels_shown_are_one_row(visitor: Visitor, board_url: str, market: Market):
    fill(board_url, market, datetime.now(UTC), ["KRW-BTC"])
    ask(board_url, "UPDATE gold.orderbook_stats SET bid_reach = 0.0002, ask_reach = 0.002")
    tell(board_url)
    page = ready(visitor.open())
    rows = page.locator("#depths tr")
    expect(rows).to_have_text([re.compile(r"±0.1%\s*≥ [\d.,]+[억만]?\s*[\d.,]+[억만]?$"), re.compile("±0.5%.*≥.*≥")])


@pytest.mark.long
def test_a_stopped_database_is_reported_and_recovers(
    troubled_visitor: Visitor, own_server: EmbeddedPostgres, board_url: str, market: Market
):
    filled(board_url, market, datetime.now(UTC))
    page = ready(troubled_visitor.open())
    before = page.locator("#top10").inner_text()
    own_server.stop()
    try:
        expect(page.locator("body")).to_have_attribute("data-state", "down")
        expect(page.locator("#notice")).to_contain_text("데이터베이스가 응답하지 않습니다")
        assert page.locator("#top10").inner_text() == before, "the last figures stay"
        newcomer = troubled_visitor.open(language="en-US")
        expect(newcomer.locator("#empty-title")).to_have_text("The database is not reachable")
        expect(newcomer.locator("#figures")).to_be_hidden()
        assert_accessible(newcomer)
    finally:
        own_server.start()
    for each in (page, newcomer):
        expect(each.locator("body")).to_have_attribute("data-state", "live", timeout=15_000)
        expect(each.locator(TOP10)).to_have_count(10)
