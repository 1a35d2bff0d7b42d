"""A fake Metabase over real HTTP, as strict as the real one is documented to be.

Its rules are those of metabase.setup-rest.api, session.api, warehouses-rest.api, collections-rest.api, queries-rest.
api.card and dashboards-rest.api: bodies are closed (an unknown key is a 400), everything but health, properties, setup
and login needs the session's header (401), setup works once (403), a left-out card of a dashboard is deleted, and a
query comes back in another shape (MBQL 5) than it was sent.
"""

import contextlib
import re
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Body = dict[str, Any]
HIDDEN = "**MetabasePass**"
OPEN = {("GET", "/api/health"), ("GET", "/api/session/properties"), ("POST", "/api/setup"), ("POST", "/api/session")}

# key -> (types, required)
TEXT, NUMBER, MAP, LIST = (str, type(None)), (int, type(None)), (dict, type(None)), (list, type(None))
USER = {"email": (str, True), "password": (str, True), "first_name": (TEXT, False), "last_name": (TEXT, False)}
PREFS = {"site_name": (str, True), "site_locale": (TEXT, False), "allow_tracking": (object, False)}
SETUP = {"token": (str, True), "user": (dict, True), "prefs": (dict, True), "database": (MAP, False)}
LOGIN = {"username": (str, True), "password": (str, True)}
DATABASE = {
    **{"name": (str, True), "engine": (str, True), "details": (dict, True), "is_full_sync": (bool, False)},
    **{"is_on_demand": (bool, False), "schedules": (MAP, False), "auto_run_queries": (bool, False)},
}
COLLECTION = {"name": (str, True), "description": (TEXT, False), "parent_id": (NUMBER, False)}
CARD = {
    **{"name": (str, True), "type": (TEXT, False), "dataset_query": (dict, True), "parameters": (LIST, False)},
    **{"parameter_mappings": (LIST, False), "description": (TEXT, False), "display": (str, True)},
    **{"visualization_settings": (dict, True), "collection_id": (NUMBER, False), "cache_ttl": (NUMBER, False)},
    **{"collection_position": (NUMBER, False), "result_metadata": (LIST, False), "dashboard_id": (NUMBER, False)},
}
NEW_DASHBOARD = {
    **{"name": (str, True), "description": (TEXT, False), "parameters": (LIST, False), "cache_ttl": (NUMBER, False)},
    **{"collection_id": (NUMBER, False), "collection_position": (NUMBER, False)},
}
DASHBOARD = NEW_DASHBOARD | {
    **{"archived": (bool, False), "dashcards": (LIST, False), "tabs": (LIST, False), "width": (str, False)},
    **{"auto_apply_filters": (bool, False), "position": (NUMBER, False)},
}
DASHCARD = {
    **{"id": (int, True), "size_x": (int, True), "size_y": (int, True), "row": (int, True), "col": (int, True)},
    **{"card_id": (NUMBER, False), "action_id": (NUMBER, False), "dashboard_tab_id": (NUMBER, False)},
    **{"parameter_mappings": (LIST, False), "visualization_settings": (MAP, False), "series": (LIST, False)},
    **{"inline_parameters": (LIST, False)},
}
TAB = {"id": (int, True), "name": (str, True), "position": (int, False)}


class RefusedError(Exception):
    """An HTTP error and its body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


def check(body: Any, schema: dict[str, tuple[Any, bool]], *, partial: bool = False) -> Body:
    """A body that matches its closed schema. The error for one that doesn't quotes the value, as Metabase does."""
    if not isinstance(body, dict):
        raise RefusedError(400, {"errors": {"_error": "value must be a map"}})
    errors = {key: f"disallowed key, received: {value!r}" for key, value in body.items() if key not in schema}
    for key, (kind, required) in schema.items():
        if key not in body:
            if required and not partial:
                errors[key] = "missing required key"
        elif not isinstance(body[key], kind):
            errors[key] = f"invalid type, received: {body[key]!r}"
    if errors:
        raise RefusedError(400, {"errors": errors, "specific-errors": errors})
    return body


@dataclass
class FakeMetabase:
    """`sent`: the accepted writes, without sessions; `fail_at`: the n-th write from now fails."""

    url: str = ""
    starting: list[float] = field(default_factory=list)
    admin: tuple[str, str] | None = None
    superuser: bool = True
    logins: set[tuple[str, str]] = field(default_factory=lambda: {("reader", "reads")})
    databases: dict[int, Body] = field(default_factory=dict)
    collections: dict[int, Body] = field(default_factory=dict)
    cards: dict[int, Body] = field(default_factory=dict)
    dashboards: dict[int, Body] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)
    sent: list[tuple[str, str]] = field(default_factory=list)
    fail_at: int | None = None
    _token: str = field(default_factory=lambda: str(uuid.uuid4()))
    _last_id: int = 0

    def id(self) -> int:
        self._last_id += 1
        return self._last_id

    def health(self) -> Body:
        if self.starting:
            raise RefusedError(503, {"status": "initializing", "progress": self.starting.pop(0)})
        return {"status": "ok"}

    def properties(self) -> Body:
        return {"has-user-setup": self.admin is not None, "setup-token": None if self.admin else self._token}

    def set_up(self, body: Any) -> Body:
        check(body, SETUP)
        user = check(body["user"], USER)
        check(body["prefs"], PREFS)
        if self.admin:
            raise RefusedError(403, "The /api/setup route can only be used to create the first user, …")
        if body["token"] != self._token:
            raise RefusedError(400, {"errors": {"token": "Token does not match the setup token."}})
        if len(user["password"]) < 6:
            error = f"password is too common, received: {user['password']!r}"
            raise RefusedError(400, {"errors": {"user": {"password": error}}})
        self.admin = user["email"], user["password"]
        return {"id": self.session()}  # body["database"] is ignored

    def session(self) -> str:
        self.sessions.add(session := str(uuid.uuid4()))
        return session

    def log_in(self, body: Any) -> Body:
        check(body, LOGIN)
        if (body["username"], body["password"]) != self.admin:
            raise RefusedError(401, {"errors": {"password": "did not match stored password"}})
        return {"id": self.session()}

    def connect(self, details: Body) -> None:
        if (details.get("user"), details.get("password")) not in self.logins:
            raise RefusedError(400, {"message": f"FATAL: no entry for {details}", "errors": {"password": "check it"}})

    def add_database(self, body: Any) -> Body:
        check(body, DATABASE)
        self.needs_admin()
        self.connect(body["details"])
        # encrypted if possible, whatever was requested: test-connection-details
        return self.add(self.databases, body | {"details": body["details"] | {"ssl": True}})

    def change_database(self, id: int, body: Any) -> Body:
        check(body, DATABASE, partial=True)
        self.needs_admin()
        details = self.databases[id]["details"] | body.get("details", {})
        self.connect(details)
        self.databases[id] |= body | {"details": details}
        return self.database(id)

    def database(self, id: int) -> Body:
        there = self.databases[id]
        return there | {"details": there["details"] | {"password": HIDDEN, "destination-database": False}}

    def database_health(self, id: int) -> Body:
        try:
            self.connect(self.databases[id]["details"])
        except RefusedError as refused:
            return refused.body | {"status": "error"}
        return {"status": "ok"}

    def needs_admin(self) -> None:
        if not self.superuser:
            raise RefusedError(403, "You don't have permissions to do that.")

    def add(self, where: dict[int, Body], body: Body) -> Body:
        id = self.id()
        where[id] = {"description": None, "archived": False, **body, "id": id}
        return where[id]

    def collection_list(self) -> list[Body]:
        root: Body = {"id": "root", "name": "Our analytics"}
        own = {"id": 10_000, "name": "업비트 Upbit", "description": None, "personal_owner_id": 1}
        return [root, own, *(each for each in self.collections.values() if not each["archived"])]

    def items(self, id: int, models: list[str]) -> Body:
        data = [
            {**{key: each[key] for key in ("id", "name", "description")}, "model": model, "collection_id": id}
            for model, where in (("card", self.cards), ("dashboard", self.dashboards))
            if model in models
            for each in reversed(where.values())
            if each["collection_id"] == id and not each["archived"]
        ]
        return {"total": len(data), "data": data, "models": models}

    def check_query(self, body: Body) -> None:
        if (query := body.get("dataset_query")) is None:
            return
        check(query, {"database": (int, True), "type": (str, True), "native": (dict, True)})
        native = check(query["native"], {"query": (str, True), "template-tags": (MAP, False)})
        assert query["database"] in self.databases
        tags = native.get("template-tags") or {}
        for name, tag in tags.items():
            check(
                tag,
                dict.fromkeys(("name", "display-name", "type", "id"), (str, True))
                | {"required": (bool, False), "default": (object, False)},
            )
            assert (tag["name"], tag["type"] in {"text", "date", "number"}) == (name, True)
        assert set(re.findall(r"\{\{(\w+)\}\}", native["query"])) == set(tags)
        for each in body["parameters"]:
            check_parameter(each, {"target"})
            assert each["id"] in {tag["id"] for tag in tags.values()}

    def add_card(self, body: Any) -> Body:
        check(body, CARD)
        self.check_query(body)
        assert body["collection_id"] in self.collections
        return self.shown_card(self.add(self.cards, body)["id"])

    def change_card(self, id: int, body: Any) -> Body:
        check(body, CARD | {"archived": (bool, False)}, partial=True)
        self.check_query(body)
        self.cards[id] |= body
        return self.shown_card(id)

    def shown_card(self, id: int) -> Body:
        card = self.cards[id]
        native = card["dataset_query"]["native"]
        stage = {"lib/type": "mbql.stage/native", "native": native["query"], "template-tags": native["template-tags"]}
        query = {"lib/type": "mbql/query", "database": card["dataset_query"]["database"], "stages": [stage]}
        return card | {"dataset_query": query, "result_metadata": None}

    def add_dashboard(self, body: Any) -> Body:
        check(body, NEW_DASHBOARD)
        return self.add(self.dashboards, {"parameters": [], **body, "dashcards": {}, "tabs": []})

    def shown_dashboard(self, id: int) -> Body:
        there = self.dashboards[id]
        dashcards = [
            {"action_id": None, "dashboard_tab_id": None, "series": [], "inline_parameters": None, **each}
            | {"card": self.shown_card(each["card_id"]) if each.get("card_id") else None, "created_at": "2026-01-29"}
            for each in there["dashcards"].values()
        ]
        return there | {"dashcards": dashcards}

    def change_dashboard(self, id: int, body: Any) -> Body:
        check(body, DASHBOARD, partial=True)
        there = self.dashboards[id]
        for each in body.get("parameters") or []:
            check_parameter(each, {"values_query_type", "values_source_type", "values_source_config"})
            if "values_source_config" in each:
                assert not self.cards[each["values_source_config"]["card_id"]]["archived"]
        if "dashcards" in body:
            tabs = {tab["id"]: check(tab, TAB) for tab in body.get("tabs") or []}
            changed: dict[int, Body] = {}
            for each in body["dashcards"]:
                changed |= self.placed(check(each, DASHCARD), there["dashcards"], tabs)
            there |= {"dashcards": changed, "tabs": list(tabs.values())}
        there |= {key: value for key, value in body.items() if key not in {"dashcards", "tabs"}}
        return self.shown_dashboard(id)

    def placed(self, dashcard: Body, there: dict[int, Body], tabs: Body) -> dict[int, Body]:
        if dashcard["col"] < 0 or dashcard["row"] < 0 or dashcard["col"] + dashcard["size_x"] > 24:
            raise RefusedError(400, {"errors": {"dashcards": "a dashboard has 24 columns"}})
        if (dashcard.get("dashboard_tab_id") is None) != (not tabs):
            raise RefusedError(400, "This dashboard has tab, makes sure every card has a tab")
        if card := dashcard.get("card_id"):
            if card not in self.cards or self.cards[card]["archived"]:
                raise RefusedError(404, "The object has been archived.")
            tags = self.cards[card]["dataset_query"]["native"]["template-tags"]
            for mapping in dashcard.get("parameter_mappings", []):
                check(mapping, {"parameter_id": (str, True), "target": (list, True), "card_id": (int, False)})
                assert mapping["target"][1][1] in tags
        if dashcard["id"] < 0:
            dashcard = dashcard | {"id": self.id()}
        elif dashcard["id"] not in there:
            raise RefusedError(404, "Not found.")
        return {dashcard["id"]: there.get(dashcard["id"], {}) | dashcard}


def check_parameter(each: Any, more: set[str]) -> None:
    schema = dict.fromkeys(("id", "type"), (str, True)) | dict.fromkeys(("name", "slug", "sectionId"), (str, False))
    check(each, schema | dict.fromkeys({"default", *more}, (object, False)))
    assert each["type"] in {"string/=", "date/single"}


def app() -> Starlette:
    """Serves the FakeMetabase that is its `state.metabase`."""

    async def answer(request: Request) -> Response:
        body = await request.json() if request.method in {"POST", "PUT"} else None
        fake: FakeMetabase = request.app.state.metabase
        try:
            admit(fake, request)
            return reply(fake, request.method, request.url.path, request, body)
        except RefusedError as refused:
            kind = PlainTextResponse if isinstance(refused.body, str) else JSONResponse
            return kind(refused.body, refused.status)

    handler: Callable[[Request], Awaitable[Response]] = answer
    return Starlette(routes=[Route("/{rest:path}", handler, methods=["GET", "POST", "PUT", "DELETE"])])


def admit(fake: FakeMetabase, request: Request) -> None:
    method, path = request.method, request.url.path
    if (method, path) not in OPEN and request.headers.get("X-Metabase-Session") not in fake.sessions:
        raise RefusedError(401, "Unauthenticated")
    if method != "GET" and path != "/api/session":
        if fake.fail_at is not None and len(fake.sent) >= fake.fail_at:
            raise RefusedError(500, "An outage")
        fake.sent.append((method, path))


def reply(fake: FakeMetabase, method: str, path: str, request: Request, body: Any) -> Response:
    match method, path.removeprefix("/api/").split("/"):
        case "GET", ["health"]:
            said: Any = fake.health()
        case "GET", ["session", "properties"]:
            said = fake.properties()
        case "POST", ["setup"]:
            said = fake.set_up(body)
        case "POST", ["session"]:
            said = fake.log_in(body)
        case "DELETE", ["session"]:
            fake.sessions.remove(request.headers["X-Metabase-Session"])
            return Response(status_code=204)
        case "GET", ["user", "current"]:
            said = {"id": 1, "is_superuser": fake.superuser}
        case "GET", ["database"]:
            said = {"data": [fake.database(id) for id in fake.databases], "total": len(fake.databases)}
        case "POST", ["database"]:
            said = fake.add_database(body)
        case "GET", ["database", id]:
            said = fake.database(int(id))
        case "GET", ["database", id, "healthcheck"]:
            said = fake.database_health(int(id))
        case "PUT", ["database", id]:
            said = fake.change_database(int(id), body)
        case "GET", ["collection"]:
            said = fake.collection_list()
        case "POST", ["collection"]:
            said = fake.add(fake.collections, check(body, COLLECTION))
        case "PUT", ["collection", id]:
            fake.collections[int(id)] |= check(body, COLLECTION | {"archived": (bool, False)}, partial=True)
            said = fake.collections[int(id)]
        case "GET", ["collection", id, "items"]:
            said = fake.items(int(id), request.query_params.getlist("models"))
        case "POST", ["card"]:
            said = fake.add_card(body)
        case "PUT", ["card", id]:
            said = fake.change_card(int(id), body)
        case "POST", ["dashboard"]:
            said = fake.add_dashboard(body) | {"dashcards": []}
        case "GET", ["dashboard", id]:
            said = fake.shown_dashboard(int(id))
        case "PUT", ["dashboard", id]:
            said = fake.change_dashboard(int(id), body)
        case _:
            raise RefusedError(404, "API endpoint does not exist.")
    return JSONResponse(said)


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """The app over HTTP on a free loopback port, for the duration of the context."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
