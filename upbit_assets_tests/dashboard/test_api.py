"""The API: exact, read-only, with clear errors."""

import hashlib
import string
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import conninfo

from upbit_assets.dashboard.app import STATIC
from upbit_assets.dashboard.endpoints import ENDPOINTS, TRADES_BY_STATE, UNITS
from upbit_assets.dashboard.parameters import at_or_after
from upbit_assets.dashboard.server import running
from upbit_assets.local_http import session_for
from upbit_assets.partitions import SEOUL, WINDOW, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres.resource import READER_ROLE, engine_for
from upbit_assets.sandbox.market import Market
from upbit_assets_tests.conftest import empty
from upbit_assets_tests.dashboard.market_data import DAY, MINUTE, fill, put
from upbit_assets_tests.pipeline import ask

AT = windows.at(datetime.now(UTC)).start - WINDOW + timedelta(minutes=9, seconds=58)
MISSING = windows.at(AT).start - 7 * WINDOW
session = session_for("http://127.0.0.1")


@pytest.fixture(scope="module")
def url(market_database: str) -> str:
    empty(market_database)
    fill(market_database, Market(count=24), AT, ["KRW-BTC", "KRW-XRP"], [MISSING])
    day = at_or_after(AT - 2 * DAY, DAY)
    daily: dict[str, Any] = dict.fromkeys(
        ("opening_price", "high_price", "low_price", "closing_price", "volume", "turnover", "vwap"), Decimal("1.50")
    )
    daily |= {"rank_turnover": 1, "rank_volatility": 1, "realized_volatility": Decimal("1e-10"), "day": day}
    daily |= {"market": "KRW-BTC", "quote_currency": "KRW", "vwap_source": "candles"}
    daily |= {"minutes_traded": 1440, "minutes_silent": 0, "minutes_missing": 0}
    put(market_database, {tables.gold_market_daily: [daily]})
    return market_database


@pytest.fixture(scope="module")
def board(url: str) -> Iterator[str]:
    with running(url) as address:
        yield address


def get(board: str, path: str, **query: Any) -> Any:
    reply = session.get(board + path, params=query, timeout=10)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refusal(board: str, path: str, status: int = 400) -> str:
    reply = session.get(board + path, timeout=10)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["status"] == status
    return error["message"]


def everything(board: str, path: str, **query: Any) -> list[Any]:
    """All rows, page after page."""
    answer = get(board, path, **query)
    rows = answer["rows"]
    while answer["next"]:
        answer = get(board, answer["next"])
        rows += answer["rows"]
    return rows


def test_figures_equal_the_databases_to_the_last_digit(board: str, url: str):
    columns = [column.name for column in tables.gold_market_stats.columns if column.name != "id"]
    stored = ask(url, f"SELECT {', '.join(columns)} FROM gold.market_stats WHERE ingested_at = %s", AT)
    wanted = {row[columns.index("market")]: dict(zip(columns, row, strict=True)) for row in stored}
    rows = get(board, "/api/markets")["rows"]
    assert len(rows) == len(wanted) == 24
    for row in rows:
        for name, value in wanted[row["market"]].items():
            if isinstance(value, Decimal):
                assert isinstance(row[name], str)
                assert "E" not in row[name].upper()
                assert Decimal(row[name]).as_tuple() == value.as_tuple()
            elif isinstance(value, datetime):
                assert datetime.fromisoformat(row[name]) == value
            else:
                assert row[name] == value


def test_tiny_and_huge_figures_are_written_out(board: str, url: str):
    (day,) = get(board, "/api/markets/KRW-BTC/days")["rows"]
    assert day["realized_volatility"] == "0.0000000001"
    assert day["vwap"] == "1.50"


def test_the_top_10_equals_the_view(board: str, url: str):
    rows = get(board, "/api/markets", limit=10)["rows"]
    view = ask(url, "SELECT market, turnover_krw::text FROM gold.turnover_top10 ORDER BY rank_volume")
    assert [(row["market"], row["turnover_krw"]) for row in rows] == view


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/markets", 7),
        ("/api/coverage", 31),
        ("/api/markets/KRW-BTC/candles", 500),
        ("/api/markets/KRW-XRP/windows", 50),
    ],
)
def test_pages_add_up_to_all_rows(board: str, path: str, limit: int):
    span = {} if path == "/api/markets" else {"from": (AT - DAY).isoformat(), "to": AT.isoformat()}
    by_page, at_once = everything(board, path, limit=limit, **span), everything(board, path, **span)
    assert by_page == at_once
    assert len(by_page) > limit


@pytest.mark.parametrize("unit", ["3", "60", "1440"])
def test_a_longer_candle_is_made_of_its_minutes(board: str, url: str, unit: str):
    minutes = ask(
        url,
        "SELECT started_at, opening_price, high_price, low_price, closing_price, volume, turnover FROM silver.candle "
        "WHERE market = 'KRW-XRP' ORDER BY started_at",
    )
    since = minutes[0][0]
    span = {"from": since - DAY, "to": AT + DAY}
    candles = get(board, "/api/markets/KRW-XRP/candles", unit=unit, **span)["rows"]
    made: dict[datetime, list[Any]] = {}
    for minute in minutes:
        start = at_or_after(minute[0] - UNITS[unit] + timedelta(microseconds=1), UNITS[unit])
        made.setdefault(start, []).append(minute)
    assert [datetime.fromisoformat(candle["started_at"]) for candle in candles] == list(made)
    for candle, parts in zip(candles, made.values(), strict=True):
        opening, high, low, closing, volume, turnover = (column for column in list(zip(*parts, strict=True))[1:])
        assert Decimal(candle["opening_price"]) == opening[0]
        assert Decimal(candle["high_price"]) == max(high)
        assert Decimal(candle["low_price"]) == min(low)
        assert Decimal(candle["closing_price"]) == closing[-1]
        assert Decimal(candle["volume"]) == sum(volume)
        assert Decimal(candle["turnover"]) == sum(turnover)


def test_a_minute_without_trades_has_no_candle(board: str, url: str):
    first, second = MISSING + MINUTE, MISSING + 2 * MINUTE
    ask(url, "DELETE FROM silver.candle WHERE market = 'KRW-BTC' AND started_at = %s", first)
    span = {"from": first.isoformat(), "to": (second + MINUTE).isoformat()}
    rows = get(board, "/api/markets/KRW-BTC/candles", **span)["rows"]
    assert [datetime.fromisoformat(row["started_at"]) for row in rows] == [second]


def test_the_order_book_comes_with_its_spread(board: str, url: str):
    (answer,) = get(board, "/api/markets/KRW-BTC/orderbook")["rows"]
    ((asks, bids, spread),) = ask(
        url,
        "SELECT b.ask_prices, b.bid_sizes, s.spread_bps::text FROM silver.orderbook b "
        "JOIN gold.orderbook_stats s USING (market, ingested_at) WHERE market = 'KRW-BTC'",
    )
    assert list(map(Decimal, answer["ask_prices"])) == asks
    assert list(map(Decimal, answer["bid_sizes"])) == bids
    assert answer["spread_bps"] == spread


def test_coverage_has_every_window_and_marks_empty_ones(board: str):
    rows = get(board, "/api/coverage", **{"from": (AT - DAY).isoformat(), "to": AT.isoformat()})["rows"]
    assert len(rows) == 144
    assert [row["window"] for row in rows if row["gold_rows"] is None] == [windows.key_of(MISSING)]
    assert {row["bronze_rows"] for row in rows} == {240, None}
    assert not any(row["before_first"] for row in rows)
    span = {"from": (AT - DAY - WINDOW).isoformat(), "to": (AT - DAY + WINDOW).isoformat()}
    assert [row["before_first"] for row in get(board, "/api/coverage", **span)["rows"]] == [True, False]


def test_coverage_counts_the_markets_whose_trades_are_proved_collected_and_missing(board: str, url: str):
    states = {windows.at(AT).start: ["proved", "proved", "missing"], MISSING: ["collected"]}
    rows = [
        {"window_start": start, "market": f"KRW-{nth}", "state": state}
        for start, each in states.items()
        for nth, state in enumerate(each)
    ]
    put(url, {tables.silver_trade_coverage: rows})
    try:
        span = {"from": (AT - DAY / 2).isoformat(), "to": AT.isoformat()}  # not cached yet
        found = get(board, "/api/coverage", **span)["rows"]
    finally:
        ask(url, "DELETE FROM silver.trade_coverage")
    counts = {row["window"]: tuple(row[each.name] for each in TRADES_BY_STATE.values()) for row in found}
    assert counts.pop(windows.key_of(windows.at(AT).start)) == (2, 0, 1)
    assert counts.pop(windows.key_of(MISSING)) == (0, 1, 0)
    assert set(counts.values()) == {(None, None, None)}


def test_status_has_the_datas_age_and_origin(board: str):
    status = get(board, "/api/status")
    assert status["simulated"] is True
    assert datetime.fromisoformat(status["collected_at"]) == AT.replace(microsecond=0)
    assert datetime.fromisoformat(status["window_start"]) == windows.at(AT).start
    assert status["stale_after"] == 180


def test_streamed_figures_are_not_stale_before_the_next_window(url: str):
    ask(url, "INSERT INTO live.snapshot VALUES (now())")
    with running(url) as board:
        assert get(board, "/api/status")["stale_after"] == 780
    ask(url, "DELETE FROM live.snapshot")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/markets?limit=0", "limit must be a whole number from 1 to 1,000, not '0'."),
        ("/api/markets?limit=1&limit=2", "limit must not be repeated."),
        (
            "/api/markets?colour=red",
            "Unknown parameter 'colour'; the parameters are: window, quote, sort, limit",
        ),
        ("/api/markets?sort=id;DROP", "sort must be one of turnover, volatility, change, market, not 'id;DROP'."),
        ("/api/markets?window=2026-01-29-14:05", "window must be a window's key like 2026-01-29-14:00"),
        ("/api/markets/KRW-BTC/candles?unit=7", "unit must be one of 1, 3, 5"),
        ("/api/markets/KRW-BTC/windows?from=yesterday", "from must be a date or time like 2026-01-29"),
        ("/api/markets/KRW-BTC/windows?from=2026-01-29T14:00:00+09:00", "encode a + as %2B"),
        ("/api/markets/KRW-BTC/windows?from=2026-02-30", "from must be a date or time"),
        ("/api/markets/KRW-BTC/windows?from=2026-02-02&to=2026-02-01", "from must be before to."),
        ("/api/markets/krw-btc/windows", "market must be a market code like KRW-BTC, not 'krw-btc'."),
        ("/api/markets/KRW-BTC'--/orderbook", "market must be a market code like KRW-BTC"),
        (f"/api/markets/{'A' * 500}/days", "market must be a market code like KRW-BTC"),
        ("/api/markets?offset=99999999999999999999", "offset must be a whole number from 0 to 1,000,000"),
    ],
)
def test_an_invalid_request_is_rejected_with_the_reason(board: str, path: str, said: str):
    assert said in refusal(board, path)


def test_a_market_that_has_candles_and_no_ticker_is_known_where_a_page_is_empty_too(board: str, url: str):
    columns = (
        "started_at, opening_price, high_price, low_price, closing_price, volume, turnover, last_traded_at, ingested_at"
    )
    with psycopg.connect(url, autocommit=True) as owner:
        newest = f"SELECT 'KRW-GONE', {columns} FROM silver.candle ORDER BY started_at DESC LIMIT 1"
        insert = f"INSERT INTO silver.candle (market, {columns}) {newest} RETURNING started_at"
        ((start,),) = owner.execute(insert.encode()).fetchall()
        try:
            span = {"from": start.isoformat(), "to": (start + MINUTE).isoformat()}
            assert len(get(board, "/api/markets/KRW-GONE/candles", **span)["rows"]) == 1
            for path in ("candles", "windows", "days"):
                page = get(board, f"/api/markets/KRW-GONE/{path}?from=2018-01-01&to=2018-01-02")
                assert page["rows"] == []
        finally:
            owner.execute("DELETE FROM silver.candle WHERE market = 'KRW-GONE'")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/markets/KRW-NOSUCH/candles", "There is no data for the market KRW-NOSUCH."),
        ("/api/markets/KRW-NOSUCH/windows", "There is no data for the market KRW-NOSUCH."),
        ("/api/markets/KRW-NOSUCH/orderbook", "There is no data for the market KRW-NOSUCH."),
        ("/api/markets?window=2019-01-29-14:00", "There are no such figures for 2019-01-29-14:00"),
        ("/api/nothing", "the API is described at /api"),
        ("/static/../app.py", "Not Found"),
    ],
)
def test_unknown_paths_are_404(board: str, path: str, said: str):
    assert said in refusal(board, path, 404)


@pytest.mark.parametrize("what", ["candles", "orderbook", "days"])
def test_a_market_without_data_has_an_empty_response(board: str, what: str):
    assert get(board, f"/api/markets/KRW-ETH/{what}")["rows"] == []


texts = st.text(max_size=40) | st.text(string.printable, max_size=40) | st.datetimes().map(str)
spans = st.datetimes(datetime(2016, 1, 1), datetime(2101, 1, 1)).map(datetime.isoformat)  # noqa: DTZ001
values = texts | st.integers().map(str) | spans | st.sampled_from(["KRW", "1", "60", "turnover", "2026-01-29-14:00"])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_causes_a_server_error(board: str, data: st.DataObject):
    endpoint = data.draw(st.sampled_from(ENDPOINTS))
    code = data.draw(st.sampled_from(["KRW-BTC", "KRW-NOSUCH"]) | st.text(min_size=1, max_size=20))
    names = st.sampled_from([each.name for each in endpoint.parameters if not each.in_path] or ["x"]) | texts
    query = data.draw(st.lists(st.tuples(names, values), max_size=3))
    path = endpoint.path.replace("{market}", quote(code, safe=""))
    reply = session.get(board + path, params=query, timeout=10)
    assert reply.status_code in (200, 400, 404), reply.text
    assert reply.json().get("error", {}).get("message", "") != "" or reply.status_code == 200


def test_every_response_matches_openapi(board: str):
    described = get(board, "/openapi.json")
    for path, operation in described["paths"].items():
        content = operation["get"]["responses"]["200"]["content"]
        if schema := content.get("application/json", {}).get("schema"):
            answer = get(board, path.replace("{market}", "KRW-BTC"))
            jsonschema.validate(answer, schema)
            row = answer["rows"][0] if "rows" in answer else answer
            named = schema["properties"].get("rows", {}).get("items", schema)["properties"]
            assert set(row) == set(named)
            assert all(field["description"] for field in named.values()), path
    page = session.get(board + "/api", timeout=10)
    assert all(path in page.text for path in described["paths"])


def test_it_can_only_read(url: str):
    engine = engine_for(url, READER_ROLE)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_user")) == "upbit_reader"
        for statement in (
            "DELETE FROM gold.market_stats",
            "INSERT INTO gold.market_stats_build (window_start, gold_rows) VALUES (now(), 1)",
            "CREATE TABLE gold.mine (id int)",
        ):
            with pytest.raises(sa.exc.DBAPIError, match=r"permission denied|read-only transaction"):
                connection.execute(sa.text(statement))
            connection.rollback()
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.execute(sa.text("SELECT * FROM bronze.ticker_raw"))
        connection.rollback()
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "5s"
    engine.dispose()


def test_a_login_without_the_readers_role_gets_an_error(url: str):
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE stranger LOGIN")
        try:
            theirs = conninfo.make_conninfo(url, user="stranger")
            with running(theirs) as address:
                assert "must be a member of upbit_reader" in refusal(address, "/api/status", 503)
        finally:
            engine_for(theirs, READER_ROLE).dispose()
            owner.execute("DROP ROLE stranger")


def test_a_database_without_tables_is_an_error_with_advice(url: str):
    bare = conninfo.make_conninfo(url, dbname="template1")
    with running(bare) as address:
        assert "Run: upbit-assets migrate" in refusal(address, "/api/markets", 503)
    engine_for(bare, READER_ROLE).dispose()


def test_an_unchanged_response_is_not_sent_again(board: str):
    first = session.get(board + "/api/markets", timeout=10)
    assert first.headers["Cache-Control"] == "no-cache"
    assert first.headers["Content-Encoding"] == "gzip"
    again = session.get(board + "/api/markets", headers={"If-None-Match": first.headers["ETag"]}, timeout=10)
    assert (again.status_code, again.content) == (304, b"")
    plain = session.get(board + "/api/markets", headers={"Accept-Encoding": "identity"}, timeout=10)
    assert plain.json() == first.json()


def test_each_response_has_security_headers(board: str):
    for path in ("/", "/api/status", "/api/nothing", "/static/board.js", "/openapi.json"):
        headers = session.get(board + path, timeout=10).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["script-src"] == "'self'"
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.rebound.example", "", "localhost@rebound.example:80"])
def test_an_unknown_host_is_rejected(board: str, host: str):
    reply = session.get(board + "/api/status", headers={"Host": host}, timeout=10)
    assert reply.status_code == 421
    assert "simulated" not in reply.text


@pytest.mark.parametrize("host", ["localhost:8501", "127.0.0.1", "[::1]:8501", "LOCALHOST"])
def test_known_hosts_are_accepted(board: str, host: str):
    assert session.get(board + "/api/status", headers={"Host": host}, timeout=10).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_methods_that_write_are_rejected(board: str, method: str):
    assert session.request(method, board + "/api/markets", timeout=10).status_code == 405


def test_vendored_libraries_have_their_recorded_hashes(board: str):
    vendor = STATIC / "vendor"
    sums = {name: digest for digest, name in map(str.split, (vendor / "SHA256SUMS").read_text().splitlines())}
    files = {str(file.relative_to(vendor)): file for file in vendor.glob("*/*")}
    assert set(sums) == set(files)
    for name, file in files.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sums[name]
    library = session.get(f"{board}/static/vendor/{next(name for name in files if name.endswith('.mjs'))}", timeout=10)
    assert "immutable" in library.headers["Cache-Control"]


def test_the_package_includes_the_page():
    project = tomllib.loads(Path("pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["upbit_assets.dashboard"] == ["static/**"]


def test_a_time_without_a_zone_is_seouls(board: str):
    start = windows.at(AT).start.astimezone(SEOUL)
    rows = get(board, "/api/markets/KRW-BTC/windows", **{"from": start.strftime("%Y-%m-%dT%H:%M")})["rows"]
    assert [row["window_start"] for row in rows] == [start.isoformat()]
