"""Brings a Metabase to what `cards/` declares. Run again it changes what differs, and nothing else.

What is ours is known by a mark in its description (upbit-assets/<card>@<hash of what we sent>), else by its name in our
collection; nothing is kept outside Metabase. Queries that come back are not looked into, as Metabase asks since 0.57:
the hash tells that ours has changed. So a query edited in Metabase stays until its file changes.
On the dashboard our cards go where they are declared; cards, filters and tabs that people added stay, below ours where
they would lie over them. A card that is no longer declared is archived.

Relied on, in Metabase's source and API docs: metabase.setup-rest.api, session.api, warehouses-rest.api, collections-
rest.api, queries-rest.api.card and dashboards-rest.api, whose bodies refuse unknown keys; the API changelog.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from upbit_assets.metabase.client import Metabase, MetabaseError
from upbit_assets.metabase.declared import Card, Declared, Filter, declared, mark_of, marked

Say = Callable[[str], None]
Item = dict[str, Any]

# what a card on a dashboard may be sent with: dashboards-rest.api, UpdatedDashboardCard
DASHCARD_KEYS = [
    *("id", "col", "row", "size_x", "size_y", "card_id", "action_id", "dashboard_tab_id", "parameter_mappings"),
    *("visualization_settings", "inline_parameters", "series"),
]


def provision(
    url: str,
    email: str,
    password: str,
    database_url: str,
    say: Say,
    wanted: Declared | None = None,
    *,
    deadline: float = 600,
    pause: float = 2,
) -> str:
    """Set Metabase up, connect the database, make the cards and the dashboard; returns the dashboard's address.

    Waits for Metabase until `deadline`, asking every `pause`, both in seconds. Raises MetabaseError.
    """
    wanted = wanted or declared()
    details = connection_details(database_url, wanted.database["schemas"])
    if not re.fullmatch(r"https?://[^@\s]+", url):
        raise MetabaseError("METABASE_URL must be http://host:port or https://…, and has no login in it.")
    metabase = Metabase(url, secrets=[password, database_url, details["password"]])
    metabase.wait(say, deadline, pause)
    try:
        log_in(metabase, email, password, wanted.collection["name"], say)
        database = put_database(metabase, wanted.database["name"], details, say)
        collection = put_collection(metabase, wanted.collection, say)
        items = metabase.get(f"/api/collection/{collection}/items", models=["card", "dashboard"])["data"]
        there = [item for item in items if item["model"] == "card"]
        cards = {}
        for card in wanted.cards:
            body = card.body(wanted.filters, database=database, collection=collection)
            cards[card.key] = put(metabase, "card", ours(there, card.key, card.name), body, say)
        old = [item for item in there if mark_of(item) not in {None, *cards}]
        dashboard = the_dashboard(metabase, wanted.dashboard, items, collection)
        lay_out(metabase, dashboard, wanted, cards, {item["id"] for item in old}, say)
        for item in old:
            metabase.put(f"/api/card/{item['id']}", {"archived": True})
            say(f"Archived the card {item['name']}, which is no longer declared")
    finally:
        with suppress(MetabaseError):
            metabase.delete("/api/session")
    return f"{metabase.url}/dashboard/{dashboard['id']}"


def log_in(metabase: Metabase, email: str, password: str, site_name: str, say: Say) -> None:
    """As the first admin, who is made where there is none yet, else as the one there is."""
    properties = metabase.get("/api/session/properties")
    if not properties["has-user-setup"]:
        admin = {"email": email, "password": password, "first_name": "Admin", "last_name": "Upbit"}
        try:
            reply = metabase.post(
                "/api/setup",
                {"token": properties["setup-token"], "user": admin, "prefs": {"site_name": site_name}},
            )
        except MetabaseError as error:
            raise MetabaseError(
                f"Metabase can't be set up with METABASE_ADMIN_EMAIL and METABASE_ADMIN_PASSWORD. {error}", error.status
            ) from None
        say("Set Metabase up, with its first admin")
    else:
        try:
            reply = metabase.post("/api/session", {"username": email, "password": password})
        except MetabaseError as error:
            if error.status not in (400, 401):
                raise
            raise MetabaseError(
                "Metabase is set up already and refuses this login: METABASE_ADMIN_PASSWORD is wrong, or it was set up "
                f"by another admin than METABASE_ADMIN_EMAIL. Give the login of one of its admins. {error}",
                error.status,
            ) from None
    metabase.use_session(reply["id"])
    if not metabase.get("/api/user/current")["is_superuser"]:
        raise MetabaseError("METABASE_ADMIN_EMAIL is a user of this Metabase but no admin of it.", 403)


def connection_details(url: str, schemas: str) -> Item:
    """Metabase's `details` of a postgresql:// URL. Source: Metabase docs, PostgreSQL."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # whose messages may quote the URL, password and all
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql" or not (parsed.host and parsed.database):
        raise MetabaseError(
            "METABASE_DATABASE_URL must be postgresql://reader:password@host:port/database, as Metabase reaches it."
        )
    sslmode = parsed.query.get("sslmode", "disable")
    if set(parsed.query) - {"sslmode"}:
        raise MetabaseError("METABASE_DATABASE_URL takes no option but ?sslmode=…")
    details: Item = {
        "host": parsed.host,
        "port": parsed.port or 5432,
        "dbname": parsed.database,
        "user": parsed.username,
        "password": parsed.password,
        "ssl": sslmode != "disable",
        "schema-filters-type": "inclusion",
        "schema-filters-patterns": schemas,
    }
    return details | ({"ssl-mode": sslmode} if details["ssl"] else {})


def put_database(metabase: Metabase, name: str, details: Item, say: Say) -> int:
    """The password comes back hidden: that it differs shows where Metabase can no longer connect."""
    body = {"name": name, "engine": "postgres", "details": details}
    there = first(metabase.get("/api/database")["data"], lambda item: item["name"] == name)
    try:
        if there is None:
            id = metabase.post("/api/database", body)["id"]
            say(f"Connected the database {name}")
            return int(id)
        path = f"/api/database/{there['id']}"
        has = metabase.get(path)["details"]
        # without encryption asked for, Metabase takes it where it can get it
        plain = {key: value for key, value in details.items() if key != "password" and value is not False}
        same = all(has.get(key) == value for key, value in plain.items())
        if not same or metabase.get(f"{path}/healthcheck")["status"] != "ok":
            metabase.put(path, body)
            say(f"Connected the database {name} anew")
    except MetabaseError as error:
        if error.status != 400:
            raise
        raise MetabaseError(
            f"Metabase can't connect to METABASE_DATABASE_URL, which must be right as seen from Metabase. {error}", 400
        ) from None
    return int(there["id"])


def put_collection(metabase: Metabase, facts: Mapping[str, str], say: Say) -> int:
    body = {"name": facts["name"], "description": marked(facts["description"], "collection", facts["name"])}
    # a person's own collections and the root one, which is not a row, can't be ours
    items = [
        item for item in metabase.get("/api/collection") if item["id"] != "root" and not item.get("personal_owner_id")
    ]
    return put(metabase, "collection", ours(items, "collection", facts["name"]), body, say)


def put(metabase: Metabase, kind: str, there: Item | None, body: Item, say: Say) -> int:
    """Make a collection or card, or change the one that is there if it differs; returns its id."""
    if there is None:
        there = metabase.post(f"/api/{kind}", body)
        say(f"Made the {kind} {body['name']}")
    elif differs(there, body):
        metabase.put(f"/api/{kind}/{there['id']}", body)
        say(f"Changed the {kind} {body['name']}")
    return int(there["id"])


def the_dashboard(metabase: Metabase, facts: Mapping[str, str], items: Sequence[Item], collection: int) -> Item:
    """The whole dashboard; an empty one where there is none, without our mark as long as it is not laid out."""
    there = ours((item for item in items if item["model"] == "dashboard"), "dashboard", facts["name"])
    there = there or metabase.post("/api/dashboard", {"name": facts["name"], "collection_id": collection})
    return dict(metabase.get(f"/api/dashboard/{there['id']}"))


def lay_out(
    metabase: Metabase, dashboard: Item, wanted: Declared, cards: Mapping[str, int], old: Container[int], say: Say
) -> None:
    """PUT takes all of its cards, tabs and filters, in one transaction: what is left out is deleted."""
    name = wanted.dashboard["name"]
    parameters = [parameter(each, cards) for each in wanted.filters.values()]
    own = [dashcard(card, wanted.filters, cards) for card in wanted.cards if card.at]
    body: Item = {"name": name, "description": marked(wanted.dashboard["description"], "dashboard", [parameters, own])}
    if not differs(dashboard, body) and places(own) <= places(dashboard["dashcards"]):
        return
    tabs = [{"id": tab["id"], "name": tab["name"]} for tab in dashboard.get("tabs") or []]
    theirs = [each for each in dashboard.get("parameters") or [] if not is_own(each["id"])]
    dashcards = laid_out(own, dashboard["dashcards"], old, tabs[0]["id"] if tabs else None)
    body |= {"parameters": parameters + theirs, "dashcards": dashcards, "tabs": tabs}
    metabase.put(f"/api/dashboard/{dashboard['id']}", body)
    say(f"Laid out the dashboard {name}")


def parameter(each: Filter, cards: Mapping[str, int]) -> Item:
    """A filter as the dashboard declares it, its choices those of a card's column of the filter's name."""
    if not each.values:
        return each.parameter()
    return each.parameter() | {
        "values_query_type": "list",
        "values_source_type": "card",
        "values_source_config": {
            "card_id": cards[each.values],
            "value_field": ["field", each.tag, {"base-type": "type/Text"}],
        },
    }


def is_own(parameter: str) -> bool:
    return parameter.startswith("upbit-")


def dashcard(card: Card, filters: Mapping[str, Filter], cards: Mapping[str, int]) -> Item:
    assert card.at  # noqa: S101
    column, row, width, height = card.at
    id = cards[card.key]
    mappings = [
        {"parameter_id": each.parameter()["id"], "card_id": id, "target": each.target()}
        for each in card.filters(filters)
    ]
    return {"card_id": id, "col": column, "row": row, "size_x": width, "size_y": height, "parameter_mappings": mappings}


def laid_out(own: Sequence[Item], there: Sequence[Item], old: Container[int], tab: int | None) -> list[Item]:
    """Our cards where they belong, each on the tab it was on, a negative id for a new one; and those of others."""
    kept: dict[int, Item] = {}
    others = []
    for each in (sendable(each) for each in there if each["card_id"] not in old):
        if each.get("card_id") in {card["card_id"] for card in own} - kept.keys():
            kept[each["card_id"]] = each
        else:
            others.append(each)
    placed = []
    for number, card in enumerate(own, 1):
        new: Item = {"id": -number} | ({} if tab is None else {"dashboard_tab_id": tab})
        has = kept.get(card["card_id"], new)
        mappings = [each for each in has.get("parameter_mappings", []) if not is_own(each["parameter_id"])]
        placed.append(has | card | {"parameter_mappings": card["parameter_mappings"] + mappings})
    return placed + moved_below(others, placed)


def sendable(dashcard: Item) -> Item:
    """A card of a dashboard as PUT takes it back."""
    series = [{"id": each["id"]} for each in dashcard.get("series") or []]
    return {key: dashcard[key] for key in DASHCARD_KEYS if dashcard.get(key) is not None} | {"series": series}


def moved_below(others: list[Item], placed: Sequence[Item]) -> list[Item]:
    """`others` as they are, or all of them further down where one would lie over one of `placed`."""
    if not any(overlap(one, another) for one in others for another in placed):
        return others
    down = max(each["row"] + each["size_y"] for each in placed) - min(each["row"] for each in others)
    return [each | {"row": each["row"] + down} for each in others]


def overlap(one: Item, another: Item) -> bool:
    def across(at: str, size: str) -> bool:
        return bool(one[at] < another[at] + another[size] and another[at] < one[at] + one[size])

    same_tab = one.get("dashboard_tab_id") == another.get("dashboard_tab_id")
    return same_tab and across("col", "size_x") and across("row", "size_y")


def places(dashcards: Iterable[Item]) -> set[tuple[Any, ...]]:
    return {tuple(each[key] for key in ("card_id", "col", "row", "size_x", "size_y")) for each in dashcards}


def ours(items: Iterable[Item], key: str, name: str) -> Item | None:
    """The item with our mark, the oldest of them as copies carry it too; else, its mark lost, the one of our name."""
    items = list(items)
    return first(items, lambda item: mark_of(item) == key) or first(
        items, lambda item: item["name"] == name and mark_of(item) is None
    )


def first(items: Iterable[Item], fits: Callable[[Item], bool]) -> Item | None:
    return min(filter(fits, items), key=lambda item: int(item["id"]), default=None)


def differs(there: Item, body: Item) -> bool:
    return any(there.get(key) != body[key] for key in ("name", "description"))
