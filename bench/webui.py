"""Dagster's pages as a browser requests them, with the GraphQL queries of the installed webserver's page."""

import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster_webserver
from graphql import parse, print_ast

from bench.project import ROOT
from upbit_assets.local_http import session_for
from upbit_assets.stack import free_port

# a GraphQL document in the page's compiled JavaScript
DOCUMENT = re.compile(r'"(\\n\s*(?:query|fragment) (?:[^"\\]|\\.)*)"')
SPREAD = re.compile(r"\.\.\.\s*(?!on\b)(\w+)")


@functools.cache
def definitions() -> dict[str, str]:
    """{name: text} of the page's queries and fragments."""
    found = {}
    for file in Path(dagster_webserver.__file__).parent.rglob("webapp/build/_next/static/chunks/**/*.js"):
        for text in DOCUMENT.findall(file.read_text(encoding="utf-8")):
            for each in parse(text.encode().decode("unicode_escape")).definitions:
                found[each.name.value] = print_ast(each)  # type: ignore[attr-defined]
    return found


def query(name: str) -> str:
    """The query with all the fragments that it needs."""
    wanted, parts = [name], dict[str, str]()
    while wanted:
        if (part := wanted.pop()) not in parts:
            parts[part] = definitions()[part]
            wanted += SPREAD.findall(parts[part])
    return "\n".join(parts.values())


@dataclass(frozen=True)
class Page:
    """The pages of one instance's webserver."""

    address: str

    def query(self, name: str, **variables: Any) -> int:
        """Send a query as the page does; returns the size of the response in bytes."""
        body = {"operationName": name, "query": query(name), "variables": variables}
        with session_for(self.address) as session:
            reply = session.post(f"{self.address}/graphql", json=body, timeout=900)
        if reply.status_code != 200 or "errors" in reply.json():
            raise RuntimeError(f"{name}: {reply.status_code} {reply.text[:2000]}")
        return len(reply.content)


@contextmanager
def webserver(home: Path, **environment: str) -> Iterator[Page]:
    """A `dagster-webserver` of the project; the folder is its DAGSTER_HOME."""
    port = free_port(3900)
    command = [sys.executable, "-m", "dagster_webserver", "-m", "upbit_assets.definitions", "-p", str(port)]
    with (home / "webserver.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"DAGSTER_HOME": str(home)} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    page = Page(f"http://127.0.0.1:{port}")
    try:
        while True:
            try:
                with session_for(page.address) as session:
                    session.get(f"{page.address}/server_info", timeout=10).raise_for_status()
                break
            except OSError:
                if child.poll() is not None:
                    raise RuntimeError((home / "webserver.log").read_text()[-4000:]) from None
                time.sleep(0.5)
        yield page
    finally:
        child.terminate()
        child.wait(60)
