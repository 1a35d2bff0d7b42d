"""The part of Metabase's REST API that the provisioner needs."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import requests

from upbit_assets.local_http import session_for


class MetabaseError(RuntimeError):
    """Metabase is unreachable or rejects a request; the message says what to do and contains no secrets.

    `status` is the response's, None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Metabase:
    """A Metabase at `url`. `secrets` are masked in its error messages, which quote the rejected request.

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
        """Wait until it is up, for at most `deadline` seconds, polling every `pause` seconds.

        While it starts, GET /api/health responds with 503 and the progress (0 to 1).
        """
        end, reported = time.monotonic() + deadline, ""
        while state := self._not_up():
            if time.monotonic() >= end:
                raise MetabaseError(
                    f"Metabase at {self.url} did not start within {deadline:.0f} s: {state}. "
                    "Is METABASE_URL right? See Metabase's log for details."
                )
            if state != reported:
                say(f"Waiting for Metabase at {self.url}: {state}")
            reported = state
            time.sleep(pause)

    def _not_up(self) -> str:
        """Why it is not up yet; empty if it is."""
        try:
            reply = self._session.get(f"{self.url}/api/health", timeout=(3, 10), allow_redirects=False)
        except requests.RequestException:
            return "no connection"
        if reply.status_code == 503:
            return f"starting, {float(_json(reply).get('progress') or 0):.0%}"
        return "" if _json(reply).get("status") == "ok" else f"it responds with {reply.status_code}"

    def _call(self, method: str, path: str, **request: Any) -> Any:
        try:
            # a long timeout, because adding a database makes Metabase connect to it first
            reply = self._session.request(method, self.url + path, timeout=(3, 120), allow_redirects=False, **request)
        except requests.RequestException as error:
            message = f"Lost the connection to {self.url} at {method} {path} ({type(error).__name__}). Run this again."
            raise MetabaseError(message) from None
        if reply.status_code >= 300:
            reason = self._masked(_error_message(reply))
            raise MetabaseError(f"Metabase rejects {method} {path} ({reply.status_code}): {reason}", reply.status_code)
        try:
            return reply.json() if reply.content else None
        except ValueError:
            raise MetabaseError(f"The server at {self.url}{path} is not Metabase. Is METABASE_URL right?") from None

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _json(reply: requests.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error_message(reply: requests.Response) -> str:
    """The error message of a response that is plain text or has `message` and `errors`."""
    body = _json(reply)
    messages = [body.get("message"), *_leaves(body.get("errors"))]
    return "; ".join(dict.fromkeys(str(text) for text in messages if text)) or reply.text[:300].strip() or reply.reason


def _leaves(errors: Any) -> list[str]:
    """Flatten `errors`, which nests like the request: {"user": {"password": "…"}}."""
    if not isinstance(errors, dict):
        return [errors] if errors else []
    return [f"{name}: {leaf}" for name, inner in errors.items() for leaf in _leaves(inner)]
