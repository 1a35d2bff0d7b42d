"""Metabase's REST API as far as the provisioner needs it."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import requests

from upbit_assets.local_http import session_for


class MetabaseError(RuntimeError):
    """Metabase is not there, or refuses; the message says what happened and what to do, and has no secret in it.

    `status` is the reply's, None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Metabase:
    """A Metabase at `url`. What it says is cleared of `secrets` before anyone reads it: it quotes what it refuses.

    Every call raises MetabaseError.
    """

    def __init__(self, url: str, secrets: Iterable[str | None] = ()) -> None:
        self.url = url.rstrip("/")
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._session = session_for(self.url)

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, json=body)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def use_session(self, session: str) -> None:
        self._session.headers["X-Metabase-Session"] = session

    def wait(self, say: Callable[[str], None], deadline: float, pause: float) -> None:
        """Wait until it is up, at most `deadline` seconds, asking every `pause` seconds.

        GET /api/health answers 503 with its progress (0 to 1) while it starts.
        """
        until, said = time.monotonic() + deadline, ""
        while state := self._not_up():
            if time.monotonic() >= until:
                raise MetabaseError(
                    f"Metabase at {self.url} did not come up within {deadline:.0f} s: {state}. "
                    "Is METABASE_URL right? Metabase's log says more."
                )
            if state != said:
                say(f"Waiting for Metabase at {self.url}: {state}")
            said = state
            time.sleep(pause)

    def _not_up(self) -> str:
        """Why it is not up yet; empty when it is."""
        try:
            reply = self._session.get(f"{self.url}/api/health", timeout=(3, 10), allow_redirects=False)
        except requests.RequestException:
            return "no connection"
        if reply.status_code == 503:
            return f"starting, {float(_json(reply).get('progress') or 0):.0%}"
        return "" if _json(reply).get("status") == "ok" else f"it answers {reply.status_code}"

    def _call(self, method: str, path: str, **request: Any) -> Any:
        try:
            # adding a database makes Metabase connect to it first
            reply = self._session.request(method, self.url + path, timeout=(3, 120), allow_redirects=False, **request)
        except requests.RequestException as error:
            said = f"Metabase at {self.url} went away at {method} {path} ({type(error).__name__}). Run this again."
            raise MetabaseError(said) from None
        if reply.status_code >= 300:
            why = self._clear(_complaint(reply))
            raise MetabaseError(f"Metabase refuses {method} {path} ({reply.status_code}): {why}", reply.status_code)
        try:
            return reply.json() if reply.content else None
        except ValueError:
            raise MetabaseError(f"What answers at {self.url}{path} is no Metabase. Is METABASE_URL right?") from None

    def _clear(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _json(reply: requests.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _complaint(reply: requests.Response) -> str:
    """What is wrong, from a reply of plain text or of `message` and `errors`."""
    body = _json(reply)
    said = [body.get("message"), *_leaves(body.get("errors"))]
    return "; ".join(dict.fromkeys(str(each) for each in said if each)) or reply.text[:300].strip() or reply.reason


def _leaves(errors: Any) -> list[str]:
    """`errors` nests as the request does: {"user": {"password": "…"}}."""
    if not isinstance(errors, dict):
        return [errors] if errors else []
    return [f"{name}: {leaf}" for name, inner in errors.items() for leaf in _leaves(inner)]
