"""The manual: the data dictionary is current, complete and true; the site needs no other host."""

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import markdown
import psycopg
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser

from manual import dictionary
from manual.hooks import external_resources, indented
from manual.lineage import SOURCES, origin
from upbit_assets.postgres import tables
from upbit_assets.postgres.url import sqlalchemy_url
from upbit_assets_tests.dashboard.conftest import browser

__all__ = ["browser"]  # a fixture

PROJECT = Path(__file__).parents[1]
COLUMNS = [column for table in dictionary.TABLES for column in table.columns]
# a Korean term may precede the colon or stand in parentheses
ENGLISH = re.compile(r"(?:[가-힣0-9A-Za-z/() ]+: )?(?:[^가-힣]|\([가-힣]+\))+")


# what the columns of the three tables that all began with are called
TERMS = {
    "bronze.ticker_raw": {
        "id": "고유 식별자",
        "market": "원본 행의 종목 코드",
        "raw_data": "API 응답 원본",
        "ingested_at": "데이터 적재 시각",
    },
    "silver.ticker": {
        "id": "고유 식별자",
        "market": "종목 코드",
        "trade_date": "거래 일자(KST)",
        "trade_time": "거래 시각(KST)",
        "trade_price": "거래 가격",
        "acc_trade_volume": "누적 거래량(24h)",
        "ingested_at": "데이터 적재 시각",
    },
    "gold.market_stats": {
        "id": "고유 식별자",
        "ingested_at": "지표 집계 시각",
        "market": "종목 코드",
        "trade_price": "현재가",
        "daily_volume": "24시간 누적 거래량",
        "rank_volume": "거래대금 순위",
    },
}


class TestDictionary:
    def test_the_pages_are_current(self):
        for path, text in dictionary.documents(dictionary.read_korean()).items():
            assert path.read_text(encoding="utf-8") == text, "run: make dictionary"

    def test_every_description_is_in_english_and_korean(self):
        assert dictionary.missing_korean(dictionary.updated_korean()) == []
        korean = dictionary.Texts(dictionary.read_korean())
        for comment in [item.comment or "" for items in (dictionary.TABLES, COLUMNS) for item in items]:
            assert ENGLISH.fullmatch(comment), comment
            assert re.search("[가-힣]", korean(comment)), comment

    def test_columns_are_called_by_the_terms_of_the_trade(self):
        korean = dictionary.Texts(dictionary.read_korean())
        for name, terms in TERMS.items():
            columns = tables.metadata.tables[name].c
            assert {
                column: korean(columns[column].comment or "")[: len(term)] for column, term in terms.items()
            } == terms

    def test_a_changed_description_has_no_korean_until_somebody_looks_at_it(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(tables.silver_ticker.c.change_rate, "comment", "전일 대비: today's close / previous close")
        assert dictionary.missing_korean(dictionary.updated_korean()) == ["전일 대비: today's close / previous close"]

    def test_every_figure_has_a_unit(self):
        numbers = [column for column in COLUMNS if isinstance(column.type, sa.Numeric | sa.Integer)]
        without = {column.name for column in numbers if not dictionary.unit_of(column)}
        assert without == dictionary.IDENTIFIERS

    def test_every_column_has_an_origin(self):
        assert [str(column) for column in COLUMNS if not origin(column)] == []

    def test_silver_is_traced_to_the_exchanges_fields_and_gold_to_silvers_columns(self):
        assert origin(tables.silver_ticker.c.acc_trade_volume) == "raw_data.acc_trade_volume_24h"
        assert origin(tables.silver_orderbook.c.bid_sizes) == "raw_data.orderbook_units"
        assert origin(tables.silver_trade_stream.c.source) == "connection"
        assert origin(tables.gold_market_stats.c.daily_volume) == "acc_trade_volume"

    def test_the_views_are_those_of_the_database(self, market_url: str):
        engine = sa.create_engine(sqlalchemy_url(market_url), poolclass=sa.NullPool)
        inspector = sa.inspect(engine)
        declared = tables.views.tables.values()
        assert {
            f"{schema}.{name}": [
                (column["name"], column["type"].compile(engine.dialect))
                for column in inspector.get_columns(name, schema)
            ]
            for schema in dictionary.LAYERS
            for name in inspector.get_view_names(schema)
        } == {
            view.fullname: [(column.name, column.type.compile(engine.dialect)) for column in view.columns]
            for view in declared
        }
        with engine.connect() as connection:
            used = connection.execute(
                sa.text(
                    "SELECT view_schema || '.' || view_name, array_agg(table_schema || '.' || table_name) "
                    "FROM information_schema.view_table_usage WHERE view_schema = ANY(:schemas) GROUP BY 1"
                ),
                {"schemas": list(dictionary.LAYERS)},
            )
            assert {view: sorted(names) for view, names in used} == {
                view.fullname: sorted(SOURCES[view.fullname]) for view in declared
            }
            comments = connection.execute(
                sa.text(
                    "SELECT oid::regclass::text, obj_description(oid) FROM pg_class "
                    "WHERE relkind = 'v' AND relnamespace::regnamespace::text = ANY(:schemas)"
                ),
                {"schemas": list(dictionary.LAYERS)},
            )
            assert dict(map(tuple, comments)) == {view.fullname: view.comment for view in declared}

    def test_the_partitions_are_those_of_the_database(self, market_url: str):
        with psycopg.connect(market_url) as connection:
            found = connection.execute(
                "SELECT inhparent::regclass::text, max(length(regexp_replace(relname, '.*_', ''))) "
                "FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
                "WHERE relkind = 'r' AND relname !~ '_default$' GROUP BY 1"
            )
            stored = {name: {8: "day", 6: "month"}[digits] for name, digits in found}
        units = {table.fullname: dictionary.partition_unit(table) for table in dictionary.TABLES}
        assert stored == {name: unit for name, unit in units.items() if unit}


class TestSite:
    @pytest.mark.parametrize(
        "loaded",
        [
            '<script src="https://unpkg.com/mermaid"></script>',
            '<link rel="stylesheet" href="//fonts.example.com/css">',
            '<img srcset="a.png 1x, http://example.com/b.png 2x">',
            "<style>@import url(https://example.com/a.css)</style>",
            '<p style="background: url(https://example.com/a.png)">',
            '<pre class="mermaid">graph</pre>',
        ],
    )
    def test_what_a_page_loads_from_another_host_is_found(self, tmp_path: Path, loaded: str):
        (tmp_path / "page.html").write_text(f'<a href="https://dagster.io">a link</a><img src="a.png">{loaded}')
        (found,) = external_resources(tmp_path)
        assert found.startswith("page.html: ")

    def test_so_is_what_a_style_loads(self, tmp_path: Path):
        (tmp_path / "style.css").write_text("@font-face { src: url('https://example.com/font.woff2') }")
        assert external_resources(tmp_path) == ["style.css: https://example.com/font.woff2"]

    def test_code_in_a_list_stays_in_its_item(self):
        text = "* one\n\n  ```sh\n  two\n  ```\n\n  three\n\nfour"
        html = markdown.markdown(indented(text), extensions=["pymdownx.superfences"])
        assert html.index("two") < html.index("three") < html.index("</li>") < html.index("four")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).with_name("mkdocs")), "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=PROJECT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.long
class TestBuiltSite:
    def test_pages_load_nothing_from_elsewhere(self, site: str, browser: Browser):
        page, asked = browser.new_page(), set[str]()
        page.on("request", lambda request: asked.add(request.url.rpartition(f"{site}/")[0]))
        for name in ("index.html", "dictionary.html", "dictionary.ko.html", "design.html"):
            page.goto(f"{site}/{name}", wait_until="networkidle")
        assert asked == {""}

    @pytest.mark.parametrize("words", ["체결강도", "거래대금 순위", "trade_stats", "garman"])
    def test_search_finds_names_and_hangul(self, site: str, browser: Browser, words: str):
        page = browser.new_page()
        page.goto(f"{site}/index.html?q={quote(words)}")  # searches once the index is loaded
        page.wait_for_selector(".md-search-result__item a")
