"""Container health checks: python -m upbit_assets.health location | webserver | daemon | stream | alerts | URL.

On failure it prints the reason and exits with 1. Dagster's own checks import Dagster, which takes seconds of CPU each
time, and its check of a code location passes even if the code failed to load.
"""

import json
import sys
from collections.abc import Callable
from urllib.request import ProxyHandler, Request, build_opener

SECONDS = 5
OPENER = build_opener(ProxyHandler({}))  # no proxy: all checks stay inside this container
STALE_SECONDS = 180  # each of the daemon's threads writes a heartbeat twice a minute
DAEMON = {"BACKFILL", "MONITORING", "QUEUED_RUN_COORDINATOR", "SCHEDULER", "SENSOR"}
LOCATIONS = "{workspaceOrError{... on Workspace{locationEntries{name locationOrLoadError{__typename}}}}}"
ALIVE = "SELECT daemon_type FROM daemon_heartbeats WHERE timestamp > timezone('UTC', now()) - make_interval(secs => %s)"


def location(address: str = "127.0.0.1:4000") -> str | None:
    """The load error of the code location in this container, or None."""
    import grpc

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        reply: bytes = channel.unary_unary("/api.DagsterApi/ListRepositories")(b"", timeout=SECONDS)
    return None if b'"ListRepositoriesResponse"' in reply else reply.decode(errors="replace")


def webserver() -> str | None:
    """The webserver's reply if it hasn't loaded the code location, or None."""
    query, kind = json.dumps({"query": LOCATIONS}).encode(), {"Content-Type": "application/json"}
    with OPENER.open(Request("http://127.0.0.1:3000/graphql", query, kind), timeout=SECONDS) as reply:
        answer = json.load(reply)
    entries = answer["data"]["workspaceOrError"].get("locationEntries") or []
    loaded = [(entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation" for entry in entries]
    return None if loaded and all(loaded) else json.dumps(answer)


def daemon() -> str | None:
    """The daemon's threads without a recent heartbeat, or None."""
    import psycopg

    from upbit_assets.settings import settings

    with psycopg.connect(settings.DAGSTER_POSTGRES_URL or "", connect_timeout=SECONDS) as connection:
        alive = {name for (name,) in connection.execute(ALIVE, [STALE_SECONDS])}
    return f"no heartbeat: {', '.join(sorted(DAEMON - alive))}" if DAEMON - alive else None


def page(url: str) -> str | None:
    """None; raises URLError if the page can't be opened."""
    with OPENER.open(url, timeout=SECONDS):
        return None


def stream() -> str | None:
    """The problem of the stream in this container (it hangs, or receives no data), or None."""
    from upbit_assets.stream import status

    return status.problem()


def alerts() -> str | None:
    """None if the process of this container has lately looked for problems."""
    import time

    from upbit_assets.settings import ALERTS_HEARTBEAT

    alive = ALERTS_HEARTBEAT.exists() and time.time() - ALERTS_HEARTBEAT.stat().st_mtime < STALE_SECONDS
    return None if alive else f"nobody has looked for problems in the last {STALE_SECONDS} s"


CHECKS: dict[str, Callable[[], str | None]] = {
    "location": location,
    "webserver": webserver,
    "daemon": daemon,
    "stream": stream,
    "alerts": alerts,
}

if __name__ == "__main__":
    target = sys.argv[1]
    sys.exit(CHECKS[target]() if target in CHECKS else page(target))
