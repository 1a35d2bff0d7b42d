"""A run provisions a Metabase in any state."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.applications import Starlette

from upbit_assets.cli import main
from upbit_assets.metabase import MetabaseError, provision
from upbit_assets.metabase.declared import FOLDER, Declared, declared
from upbit_assets.metabase.provision import connection_details, overlap
from upbit_assets_tests.metabase.fake import FakeMetabase, serving

EMAIL, PASSWORD = "admin@example.com", "correct horse 7"
DATABASE_URL = "postgresql://reader:reads@db:5433/upbit"


def run(metabase: FakeMetabase, wanted: Declared | None = None, url: str = DATABASE_URL) -> list[str]:
    """Provision; returns the output. `sent` then has this run's writes."""
    metabase.sent.clear()
    said: list[str] = []
    provision(metabase.url, EMAIL, PASSWORD, url, said.append, wanted, deadline=5, pause=0.01)
    return said


@pytest.fixture
def made(metabase: FakeMetabase) -> FakeMetabase:
    run(metabase)
    return metabase


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the declarations, to be changed."""
    return Path(shutil.copytree(FOLDER, tmp_path / "cards"))


def card_named(metabase: FakeMetabase, name: str) -> int:
    (id,) = [id for id, card in metabase.cards.items() if card["name"] == name and not card["archived"]]
    return id


def the_dashboard(metabase: FakeMetabase) -> dict[str, Any]:
    ((id, _),) = metabase.dashboards.items()
    return metabase.shown_dashboard(id)


def test_the_first_run_sets_up_connects_and_creates_everything_declared(metabase: FakeMetabase):
    run(metabase)
    assert metabase.admin == (EMAIL, PASSWORD)
    ((_, database),) = metabase.databases.items()
    assert database["details"] == {
        **{"host": "db", "port": 5433, "dbname": "upbit", "user": "reader", "password": "reads", "ssl": True},
        **{"schema-filters-type": "inclusion", "schema-filters-patterns": "gold"},
    }
    assert [card["name"] for card in metabase.cards.values()] == [card.name for card in declared().cards]
    shown = [each["card"]["name"] for each in the_dashboard(metabase)["dashcards"]]
    assert shown == [card.name for card in declared().cards if card.at]
    assert len(metabase.collections) == 1


def test_a_second_run_writes_nothing(made: FakeMetabase):
    assert run(made) == []
    assert made.sent == []


def test_a_run_leaves_no_session_behind(made: FakeMetabase):
    made.cards.clear()
    made.fail_at = 0
    with pytest.raises(MetabaseError):
        run(made)
    assert made.sessions == set()


def test_every_filter_reaches_every_card_whose_sql_has_its_tag(made: FakeMetabase):
    reached = {
        each["card"]["name"]: {mapping["parameter_id"] for mapping in each["parameter_mappings"]}
        for each in the_dashboard(made)["dashcards"]
    }
    assert reached == {
        card.name: {f"upbit-{tag}" for tag in re.findall(r"\{\{(\w+)\}\}", card.sql)}
        for card in declared().cards
        if card.at
    }
    assert reached["현재가와 VWAP"] == {"upbit-market", "upbit-from", "upbit-to"}


def test_only_a_variable_outside_of_optional_clauses_is_required(made: FakeMetabase):
    def tags(name: str) -> dict[str, bool]:
        native = made.cards[card_named(made, name)]["dataset_query"]["native"]
        return {tag: facts.get("required", False) for tag, facts in native["template-tags"].items()}

    assert tags("현재가와 VWAP") == {"market": True, "from": False, "to": False}
    assert tags("일별 지표") == {"from": False, "to": False, "market": False}


def test_the_declared_cards_lie_side_by_side_on_24_columns():
    places = [
        {"col": card.at[0], "row": card.at[1], "size_x": card.at[2], "size_y": card.at[3]}
        for card in declared().cards
        if card.at
    ]
    assert all(each["col"] + each["size_x"] <= 24 for each in places)
    assert not any(overlap(one, another) for one in places for another in places if one is not another)


def test_what_a_card_draws_are_columns_of_its_sql():
    for card in declared().cards:
        for column in [*card.dimensions, *card.metrics, *card.settings]:
            assert f'AS "{column}"' in card.sql


def test_a_changed_sql_file_changes_exactly_that_card(made: FakeMetabase, folder: Path):
    before = {id: dict(card) for id, card in made.cards.items()}
    file = folder / "depth.sql"
    file.write_text(file.read_text().replace("LIMIT 1000", "LIMIT 10"))
    said = run(made, declared(folder))
    id = card_named(made, "호가 잔량")
    assert (said, made.sent) == (["Updated the card 호가 잔량"], [("PUT", f"/api/card/{id}")])
    assert "LIMIT 10\n" in made.cards[id]["dataset_query"]["native"]["query"]
    assert {other: card for other, card in made.cards.items() if other != id} == {
        other: card for other, card in before.items() if other != id
    }
    assert run(made, declared(folder)) == []


def test_a_renamed_card_stays_the_same_card(made: FakeMetabase, folder: Path):
    id = card_named(made, "변동성 순위")
    file = folder / "dashboard.toml"
    file.write_text(file.read_text().replace('name = "변동성 순위"', 'name = "변동성"'))
    run(made, declared(folder))
    assert made.sent == [("PUT", f"/api/card/{id}")]
    assert card_named(made, "변동성") == id


def test_a_renamed_card_gets_its_name_back(made: FakeMetabase):
    id = card_named(made, "변동성 순위")
    made.cards[id]["name"] = "mine now"
    run(made)
    assert made.sent == [("PUT", f"/api/card/{id}")]
    assert card_named(made, "변동성 순위") == id


def test_a_card_without_its_mark_is_found_by_its_name(made: FakeMetabase):
    id = card_named(made, "변동성 순위")
    made.cards[id]["description"] = None
    run(made)
    assert made.sent == [("PUT", f"/api/card/{id}")]


def test_a_copy_of_a_card_is_left_alone(made: FakeMetabase):
    id = card_named(made, "변동성 순위")
    copy = made.add(made.cards, made.cards[id] | {"name": "변동성 순위 - Duplicate"})
    assert run(made) == []
    assert not copy["archived"]


def test_a_deleted_card_is_recreated_in_its_place(made: FakeMetabase):
    old = card_named(made, "변동성 순위")
    made.cards[old]["archived"] = True
    made.dashboards[the_dashboard(made)["id"]]["dashcards"] = {
        id: each
        for id, each in made.dashboards[the_dashboard(made)["id"]]["dashcards"].items()
        if each["card_id"] != old
    }
    run(made)
    new = card_named(made, "변동성 순위")
    assert new != old
    assert [(each["col"], each["row"]) for each in the_dashboard(made)["dashcards"] if each["card_id"] == new] == [
        (14, 8)
    ]
    assert run(made) == []


def test_a_card_that_is_no_longer_declared_is_archived_and_leaves_the_dashboard(made: FakeMetabase):
    wanted = declared()
    less = replace(wanted, cards=[card for card in wanted.cards if card.key != "spread"])
    id = card_named(made, "호가 스프레드")
    run(made, less)
    assert made.cards[id]["archived"]
    assert id not in [each["card_id"] for each in the_dashboard(made)["dashcards"]]
    assert run(made, less) == []
    run(made)
    assert run(made) == []


def put_by_hand(metabase: FakeMetabase, row: int) -> dict[str, Any]:
    """A user's card with a user's filter, at the top of the dashboard or below."""
    dashboard = the_dashboard(metabase)
    theirs: dict[str, Any] = {
        **{"id": metabase.id(), "card_id": None, "col": 2, "row": row, "size_x": 6, "size_y": 3, "series": []},
        "visualization_settings": {"virtual_card": {"display": "text"}, "text": "안녕"},
    }
    there = metabase.dashboards[dashboard["id"]]
    there["dashcards"][theirs["id"]] = theirs
    there["parameters"].append({"id": "a1b2c3d4", "type": "date/single", "name": "theirs", "slug": "theirs"})
    return theirs


def test_a_card_and_a_filter_added_by_hand_stay_as_they_are(made: FakeMetabase, folder: Path):
    theirs = dict(put_by_hand(made, row=60))
    assert run(made) == []
    file = folder / "dashboard.toml"
    file.write_text(file.read_text().replace("at = [0, 23, 24, 8]", "at = [0, 23, 24, 7]"))
    assert run(made, declared(folder)) == ["Updated the dashboard 업비트 시장 현황"]
    assert made.dashboards[the_dashboard(made)["id"]]["dashcards"][theirs["id"]] == theirs
    assert "a1b2c3d4" in [each["id"] for each in the_dashboard(made)["parameters"]]
    assert run(made, declared(folder)) == []


def test_a_user_card_among_ours_is_moved_below(made: FakeMetabase):
    theirs = put_by_hand(made, row=0)
    there = made.dashboards[the_dashboard(made)["id"]]
    for each in there["dashcards"].values():
        each["row"] += 3 if each["card_id"] else 0
    run(made)
    assert [each["row"] for each in the_dashboard(made)["dashcards"] if each["id"] == theirs["id"]] == [38]
    assert {each["row"] for each in the_dashboard(made)["dashcards"]} == {0, 8, 16, 23, 31, 38}
    assert run(made) == []


def test_cards_that_people_sorted_into_tabs_stay_on_their_tabs(made: FakeMetabase, folder: Path):
    there = made.dashboards[the_dashboard(made)["id"]]
    there["tabs"] = [{"id": 71, "name": "one"}, {"id": 72, "name": "two"}]
    for number, each in enumerate(there["dashcards"].values()):
        each["dashboard_tab_id"] = 72 if number == 0 else 71
    assert run(made) == []
    gone = card_named(made, "호가 스프레드")
    there["dashcards"] = {id: each for id, each in there["dashcards"].items() if each["card_id"] != gone}
    run(made)
    assert [tab["name"] for tab in the_dashboard(made)["tabs"]] == ["one", "two"]
    tabs = {each["card"]["name"]: each["dashboard_tab_id"] for each in the_dashboard(made)["dashcards"]}
    assert (tabs.pop("거래대금 상위 10"), set(tabs.values())) == (72, {71})


@pytest.mark.parametrize("writes", range(15))
def test_an_interrupted_run_is_completed_by_the_next(metabase: FakeMetabase, writes: int):
    metabase.fail_at = writes
    with pytest.raises(MetabaseError, match="An outage"):
        run(metabase)
    metabase.fail_at = None
    run(metabase)
    assert len(metabase.databases) == len(metabase.collections) == len(metabase.dashboards) == 1
    assert len(metabase.cards) == len(declared().cards)
    assert len(the_dashboard(metabase)["dashcards"]) == len([card for card in declared().cards if card.at])
    assert run(metabase) == []


def test_it_waits_for_a_starting_metabase_and_reports_progress(metabase: FakeMetabase):
    metabase.starting = [0.1, 0.1, 0.65]
    said = run(metabase)
    assert said[:2] == [f"Waiting for Metabase at {metabase.url}: starting, {part}" for part in ("10%", "65%")]


def test_a_metabase_that_never_starts_is_given_up(metabase: FakeMetabase):
    metabase.starting = [0.5] * 1000
    with pytest.raises(MetabaseError, match=r"did not start within 0 s: starting, 50%\. Is METABASE_URL right"):
        provision(metabase.url, EMAIL, PASSWORD, DATABASE_URL, list[str]().append, deadline=0.05, pause=0.01)


def test_an_unreachable_metabase_is_reported():
    with pytest.raises(MetabaseError, match="no connection"):
        provision("http://127.0.0.1:9", EMAIL, PASSWORD, DATABASE_URL, list[str]().append, deadline=0, pause=0)


def test_another_server_is_not_mistaken_for_metabase():
    with (
        serving(Starlette()) as url,
        pytest.raises(MetabaseError, match=r"it responds with 404\. Is METABASE_URL right"),
    ):
        provision(url, EMAIL, PASSWORD, DATABASE_URL, list[str]().append, deadline=0, pause=0)


def test_a_wrong_password_or_another_admin_is_reported_as_such(metabase: FakeMetabase):
    metabase.admin = EMAIL, "another password"
    with pytest.raises(MetabaseError, match="METABASE_ADMIN_PASSWORD is wrong, or METABASE_ADMIN_EMAIL is not"):
        run(metabase)
    assert metabase.sent == []


def test_a_user_who_is_no_admin_gets_an_error(made: FakeMetabase):
    made.superuser = False
    with pytest.raises(MetabaseError, match="not an admin"):
        run(made)


def test_a_rotated_password_of_the_database_is_taken_over(made: FakeMetabase):
    made.logins = {("reader", "rotated")}
    assert run(made, url=DATABASE_URL.replace("reads", "rotated")) == ["Reconnected the database 업비트 Upbit"]
    assert run(made, url=DATABASE_URL.replace("reads", "rotated")) == []


def test_a_database_that_moved_is_reconnected_and_the_cards_stay(made: FakeMetabase):
    assert run(made, url=DATABASE_URL.replace("db:5433", "db2")) == ["Reconnected the database 업비트 Upbit"]
    ((_, database),) = made.databases.items()
    assert (database["details"]["host"], database["details"]["port"]) == ("db2", 5432)


def test_a_database_that_metabase_cannot_reach_is_reported_as_such(metabase: FakeMetabase):
    metabase.logins = set()
    with pytest.raises(MetabaseError, match="must be reachable from Metabase") as refused:
        run(metabase)
    assert "reads" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://reader:hush@db/upbit",
        "postgresql://reader:hush@db",
        "postgresql://reader:hush@db:x/upbit",
        "hush",
        "://",
    ],
)
def test_an_invalid_database_url_is_rejected_without_quoting_it(metabase: FakeMetabase, url: str):
    with pytest.raises(MetabaseError, match="must be postgresql://") as refused:
        run(metabase, url=url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", ["localhost:3001", "http://admin:hush@metabase:3000", "ftp://metabase", ""])
def test_an_invalid_metabase_url_or_one_with_a_login_is_rejected(url: str):
    with pytest.raises(MetabaseError, match="METABASE_URL must be") as refused:
        provision(url, EMAIL, PASSWORD, DATABASE_URL, list[str]().append)
    assert "hush" not in str(refused.value)


def test_metabase_uses_the_urls_encryption():
    details = connection_details("postgresql+psycopg://r%40:p%2Fw@db/upbit?sslmode=verify-full", "gold")
    assert (details["user"], details["password"]) == ("r@", "p/w")
    assert (details["ssl"], details["ssl-mode"]) == (True, "verify-full")


def command(metabase: FakeMetabase, **environment: str | None) -> Result:
    names = {"METABASE_URL": metabase.url, "METABASE_ADMIN_EMAIL": EMAIL, "METABASE_ADMIN_PASSWORD": PASSWORD}
    return CliRunner().invoke(main, ["metabase"], env=names | {"METABASE_DATABASE_URL": DATABASE_URL} | environment)


def test_the_command_takes_secrets_from_files_and_prints_none(metabase: FakeMetabase, tmp_path: Path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    result = command(metabase, METABASE_ADMIN_PASSWORD=None, METABASE_ADMIN_PASSWORD_FILE=str(tmp_path / "password"))
    assert result.exit_code == 0
    assert f"The dashboard is up to date: {metabase.url}/dashboard/" in result.output
    assert metabase.admin == (EMAIL, PASSWORD)
    assert PASSWORD not in result.output
    assert "reads" not in result.output


def test_the_command_names_what_is_not_set(metabase: FakeMetabase):
    result = command(metabase, METABASE_DATABASE_URL=None, METABASE_ADMIN_EMAIL="")
    assert (result.exit_code, result.output) == (
        1,
        "Error: Set METABASE_ADMIN_EMAIL, METABASE_DATABASE_URL, or NAME_FILE to the path of a file with the value.\n",
    )


def test_a_password_that_metabase_quotes_while_it_refuses_it_is_not_repeated(metabase: FakeMetabase):
    result = command(metabase, **{"METABASE_ADMIN_PASSWORD": "hush"})
    assert result.exit_code == 1
    assert "Setting up Metabase with METABASE_ADMIN_EMAIL" in result.output
    assert "user: password: password is too common, received: '***'" in result.output
    assert "hush" not in result.output
