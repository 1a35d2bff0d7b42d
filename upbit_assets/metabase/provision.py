"""Applies the declaration in `cards/` to a Metabase. Idempotent: running it again changes only what differs.

Our items are recognized by a marker in their description (upbit-assets/<card>@<hash of what we sent>), or else by their
name in our collection; no state is kept outside Metabase. Changes are detected by the hash, without comparing queries,
which Metabase discourages since 0.57. A query edited in Metabase is therefore kept until its file changes.
On the dashboard, our cards are placed as declared. Cards, filters and tabs added by people are kept; their cards are
moved below ours if they would overlap. Cards that are no longer declared are archived.

Source: Metabase's source and API docs: metabase.setup-rest.api, session.api, warehouses-rest.api, collections-rest.api,
queries-rest.api.card and dashboards-rest.api (whose bodies reject unknown keys); the API changelog.
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

# the keys accepted for a dashboard card: dashboards-rest.api, UpdatedDashboardCard
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
    declaration: Declared | None = None,
    *,
    deadline: float = 600,
    pause: float = 2,
) -> str:
    """Set Metabase up, connect the database, create the cards and the dashboard; returns the dashboard's URL.

    Waits for Metabase for up to `deadline` seconds, polling every `pause` seconds. Raises MetabaseError.
    """
    declaration = declaration or declared()
    details = connection_details(database_url, declaration.database["schemas"])
    if not re.fullmatch(r"https?://[^@\s]+", url):
        raise MetabaseError("METABASE_URL must be http://host:port or https://…, without a login.")
    metabase = Metabase(url, secrets=[password, database_url, details["password"]])
    metabase.wait(say, deadline, pause)
    try:
        log_in(metabase, email, password, declaration.collection["name"], say)
        database = put_database(metabase, declaration.database["name"], details, say)
        collection = put_collection(metabase, declaration.collection, say)
        items = metabase.get(f"/api/collection/{collection}/items", models=["card", "dashboard"])["data"]
        existing = [item for item in items if item["model"] == "card"]
        cards = {}
        for card in declaration.cards:
            body = card.body(declaration.filters, database=database, collection=collection)
            cards[card.key] = put(metabase, "card", find_own(existing, card.key, card.name), body, say)
        obsolete = [item for item in existing if mark_of(item) not in {None, *cards}]
        dashboard = get_or_create_dashboard(metabase, declaration.dashboard, items, collection)
        update_dashboard(metabase, dashboard, declaration, cards, {item["id"] for item in obsolete}, say)
        for item in obsolete:
            metabase.put(f"/api/card/{item['id']}", {"archived": True})
            say(f"Archived the card {item['name']}, which is not declared any more")
    finally:
        with suppress(MetabaseError):
            metabase.delete("/api/session")
    return f"{metabase.url}/dashboard/{dashboard['id']}"


def log_in(metabase: Metabase, email: str, password: str, site_name: str, say: Say) -> None:
    """Log in as the admin, who is created if Metabase isn't set up yet."""
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
                f"Setting up Metabase with METABASE_ADMIN_EMAIL and METABASE_ADMIN_PASSWORD failed. {error}",
                error.status,
            ) from None
        say("Set up Metabase and its admin")
    else:
        try:
            reply = metabase.post("/api/session", {"username": email, "password": password})
        except MetabaseError as error:
            if error.status not in (400, 401):
                raise
            raise MetabaseError(
                "Metabase is already set up and rejects this login: METABASE_ADMIN_PASSWORD is wrong, or "
                f"METABASE_ADMIN_EMAIL is not one of its users. Use the login of an admin. {error}",
                error.status,
            ) from None
    metabase.use_session(reply["id"])
    if not metabase.get("/api/user/current")["is_superuser"]:
        raise MetabaseError("METABASE_ADMIN_EMAIL is a user of this Metabase but not an admin.", 403)


def connection_details(url: str, schemas: str) -> Item:
    """Metabase's `details` for a postgresql:// URL. Source: Metabase docs, PostgreSQL."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # not re-raised: their messages may quote the URL with its password
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql" or not (parsed.host and parsed.database):
        raise MetabaseError(
            "METABASE_DATABASE_URL must be postgresql://reader:password@host:port/database, as Metabase reaches it."
        )
    sslmode = parsed.query.get("sslmode", "disable")
    if set(parsed.query) - {"sslmode"}:
        raise MetabaseError("The only option that METABASE_DATABASE_URL may have is ?sslmode=…")
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
    """Connect the database, or update it. As passwords are hidden, a wrong one shows only as a failed health check."""
    body = {"name": name, "engine": "postgres", "details": details}
    existing = first(metabase.get("/api/database")["data"], lambda item: item["name"] == name)
    try:
        if existing is None:
            id = metabase.post("/api/database", body)["id"]
            say(f"Connected the database {name}")
            return int(id)
        path = f"/api/database/{existing['id']}"
        current = metabase.get(path)["details"]
        # if we don't ask for encryption, Metabase may enable it itself
        comparable = {key: value for key, value in details.items() if key != "password" and value is not False}
        same = all(current.get(key) == value for key, value in comparable.items())
        if not same or metabase.get(f"{path}/healthcheck")["status"] != "ok":
            metabase.put(path, body)
            say(f"Reconnected the database {name}")
    except MetabaseError as error:
        if error.status != 400:
            raise
        raise MetabaseError(
            f"Metabase can't connect to METABASE_DATABASE_URL, which must be reachable from Metabase. {error}", 400
        ) from None
    return int(existing["id"])


def put_collection(metabase: Metabase, facts: Mapping[str, str], say: Say) -> int:
    body = {"name": facts["name"], "description": marked(facts["description"], "collection", facts["name"])}
    # personal collections and the root collection (not a row) can't be ours
    items = [
        item for item in metabase.get("/api/collection") if item["id"] != "root" and not item.get("personal_owner_id")
    ]
    return put(metabase, "collection", find_own(items, "collection", facts["name"]), body, say)


def put(metabase: Metabase, kind: str, existing: Item | None, body: Item, say: Say) -> int:
    """Create a collection or card, or update the existing one if it differs; returns its id."""
    if existing is None:
        existing = metabase.post(f"/api/{kind}", body)
        say(f"Created the {kind} {body['name']}")
    elif differs(existing, body):
        metabase.put(f"/api/{kind}/{existing['id']}", body)
        say(f"Updated the {kind} {body['name']}")
    return int(existing["id"])


def get_or_create_dashboard(
    metabase: Metabase, facts: Mapping[str, str], items: Sequence[Item], collection: int
) -> Item:
    """The full dashboard; a new one stays without our marker until it is updated."""
    existing = find_own((item for item in items if item["model"] == "dashboard"), "dashboard", facts["name"])
    existing = existing or metabase.post("/api/dashboard", {"name": facts["name"], "collection_id": collection})
    return dict(metabase.get(f"/api/dashboard/{existing['id']}"))


def update_dashboard(
    metabase: Metabase,
    dashboard: Item,
    declaration: Declared,
    cards: Mapping[str, int],
    obsolete: Container[int],
    say: Say,
) -> None:
    """Update the dashboard. PUT replaces all of its cards, tabs and filters in one transaction."""
    name = declaration.dashboard["name"]
    parameters = [parameter(filter_, cards) for filter_ in declaration.filters.values()]
    own = [dashcard(card, declaration.filters, cards) for card in declaration.cards if card.at]
    body: Item = {
        "name": name,
        "description": marked(declaration.dashboard["description"], "dashboard", [parameters, own]),
    }
    if not differs(dashboard, body) and places(own) <= places(dashboard["dashcards"]):
        return
    tabs = [{"id": tab["id"], "name": tab["name"]} for tab in dashboard.get("tabs") or []]
    other_parameters = [item for item in dashboard.get("parameters") or [] if not is_own(item["id"])]
    dashcards = merged_dashcards(own, dashboard["dashcards"], obsolete, tabs[0]["id"] if tabs else None)
    body |= {"parameters": parameters + other_parameters, "dashcards": dashcards, "tabs": tabs}
    metabase.put(f"/api/dashboard/{dashboard['id']}", body)
    say(f"Updated the dashboard {name}")


def parameter(filter_: Filter, cards: Mapping[str, int]) -> Item:
    """The dashboard's declaration of a filter; its choices come from the card's column of the same name."""
    if not filter_.values:
        return filter_.parameter()
    return filter_.parameter() | {
        "values_query_type": "list",
        "values_source_type": "card",
        "values_source_config": {
            "card_id": cards[filter_.values],
            "value_field": ["field", filter_.tag, {"base-type": "type/Text"}],
        },
    }


def is_own(parameter: str) -> bool:
    return parameter.startswith("upbit-")


def dashcard(card: Card, filters: Mapping[str, Filter], cards: Mapping[str, int]) -> Item:
    assert card.at  # noqa: S101
    column, row, width, height = card.at
    id = cards[card.key]
    mappings = [
        {"parameter_id": filter_.parameter()["id"], "card_id": id, "target": filter_.target()}
        for filter_ in card.filters(filters)
    ]
    return {"card_id": id, "col": column, "row": row, "size_x": width, "size_y": height, "parameter_mappings": mappings}


def merged_dashcards(
    own: Sequence[Item], existing: Sequence[Item], obsolete: Container[int], tab: int | None
) -> list[Item]:
    """Our cards as declared, on the tabs they were on, with negative ids for new ones; then the other cards."""
    own_existing: dict[int, Item] = {}
    others = []
    for item in (sendable(item) for item in existing if item["card_id"] not in obsolete):
        if item.get("card_id") in {card["card_id"] for card in own} - own_existing.keys():
            own_existing[item["card_id"]] = item
        else:
            others.append(item)
    placed = []
    for number, card in enumerate(own, 1):
        new: Item = {"id": -number} | ({} if tab is None else {"dashboard_tab_id": tab})
        current = own_existing.get(card["card_id"], new)
        mappings = [item for item in current.get("parameter_mappings", []) if not is_own(item["parameter_id"])]
        placed.append(current | card | {"parameter_mappings": card["parameter_mappings"] + mappings})
    return placed + moved_below(others, placed)


def sendable(dashcard: Item) -> Item:
    """A dashboard card, reduced to what PUT accepts."""
    series = [{"id": item["id"]} for item in dashcard.get("series") or []]
    return {key: dashcard[key] for key in DASHCARD_KEYS if dashcard.get(key) is not None} | {"series": series}


def moved_below(others: list[Item], placed: Sequence[Item]) -> list[Item]:
    """`others`, all moved down if one of them would overlap one of `placed`."""
    if not any(overlap(other, own) for other in others for own in placed):
        return others
    down = max(item["row"] + item["size_y"] for item in placed) - min(item["row"] for item in others)
    return [item | {"row": item["row"] + down} for item in others]


def overlap(a: Item, b: Item) -> bool:
    def across(at: str, size: str) -> bool:
        return bool(a[at] < b[at] + b[size] and b[at] < a[at] + a[size])

    same_tab = a.get("dashboard_tab_id") == b.get("dashboard_tab_id")
    return same_tab and across("col", "size_x") and across("row", "size_y")


def places(dashcards: Iterable[Item]) -> set[tuple[Any, ...]]:
    return {tuple(item[key] for key in ("card_id", "col", "row", "size_x", "size_y")) for item in dashcards}


def find_own(items: Iterable[Item], key: str, name: str) -> Item | None:
    """The item with our marker (the oldest, as copies have it too), or else an unmarked one with our name."""
    items = list(items)
    return first(items, lambda item: mark_of(item) == key) or first(
        items, lambda item: item["name"] == name and mark_of(item) is None
    )


def first(items: Iterable[Item], fits: Callable[[Item], bool]) -> Item | None:
    return min(filter(fits, items), key=lambda item: int(item["id"]), default=None)


def differs(existing: Item, body: Item) -> bool:
    return any(existing.get(key) != body[key] for key in ("name", "description"))
