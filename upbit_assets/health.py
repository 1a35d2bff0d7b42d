"""What a container's health check asks: python -m upbit_assets.health location | webserver | daemon | URL.

Where the answer is bad it says why, and ends with 1. Dagster's own checks import Dagster, which takes seconds of CPU
each time, and the one of the code location passes even where its code failed to load.
"""

import json
import sys
from collections.abc import Callable
from urllib.request import ProxyHandler, Request, build_opener

SECONDS = 5
OPENER = build_opener(ProxyHandler({}))  # what is asked is in this container, where no proxy can reach it
STALE_SECONDS = 180  # every part of the daemon says twice a minute that it is alive
DAEMON = {"BACKFILL", "MONITORING", "QUEUED_RUN_COORDINATOR", "SCHEDULER", "SENSOR"}
LOCATIONS = "{workspaceOrError{... on Workspace{locationEntries{name locationOrLoadError{__typename}}}}}"
ALIVE = "SELECT daemon_type FROM daemon_heartbeats WHERE timestamp > timezone('UTC', now()) - make_interval(secs => %s)"


def location(address: str = "127.0.0.1:4000") -> str | None:
    """What is wrong with the code location in this container: its code failed to load."""
    import grpc

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        reply: bytes = channel.unary_unary("/api.DagsterApi/ListRepositories")(b"", timeout=SECONDS)
    return None if b'"ListRepositoriesResponse"' in reply else reply.decode(errors="replace")


def webserver() -> str | None:
    """What is wrong with the UI in this container: it hasn't got the code location."""
    query, kind = json.dumps({"query": LOCATIONS}).encode(), {"Content-Type": "application/json"}
    with OPENER.open(Request("http://127.0.0.1:3000/graphql", query, kind), timeout=SECONDS) as reply:
        answer = json.load(reply)
    entries = answer["data"]["workspaceOrError"].get("locationEntries") or []
    loaded = [(entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation" for entry in entries]
    return None if loaded and all(loaded) else json.dumps(answer)


def daemon() -> str | None:
    """What is wrong with the daemon: parts of it that have not said lately that they are alive."""
    import psycopg

    from upbit_assets.settings import settings

    with psycopg.connect(settings.DAGSTER_POSTGRES_URL or "", connect_timeout=SECONDS) as connection:
        alive = {name for (name,) in connection.execute(ALIVE, [STALE_SECONDS])}
    return f"not alive: {', '.join(sorted(DAEMON - alive))}" if DAEMON - alive else None


def page(url: str) -> str | None:
    """What is wrong with the page: not its being there."""
    with OPENER.open(url, timeout=SECONDS):
        return None


CHECKS: dict[str, Callable[[], str | None]] = {"location": location, "webserver": webserver, "daemon": daemon}

if __name__ == "__main__":
    what = sys.argv[1]
    sys.exit(CHECKS[what]() if what in CHECKS else page(what))
