"""HTTP between this project's own processes: without proxies, and on listening sockets opened here."""

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests


def is_local(url: str) -> bool:
    """Whether the URL is on this machine or a docker compose service (a host name without a dot).

    No proxy can reach these, and people who set http_proxy often forget no_proxy.
    """
    try:
        host = urlsplit(url).hostname or "."
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def session_for(url: str) -> requests.Session:
    """A session for the server at `url`. The proxy variables of the environment apply unless it is local."""
    session = requests.Session()
    session.trust_env = not is_local(url)
    return session


@contextmanager
def proxies_bypassed(hosts: Iterable[str]) -> Iterator[None]:
    """No proxy for these hosts within the context, for libraries that open sessions of their own."""
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = ",".join([before or os.environ.get("NO_PROXY", ""), *hosts])
    try:
        yield
    finally:
        os.environ.pop("no_proxy")
        if before is not None:
            os.environ["no_proxy"] = before


def listening(what: str, host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: it can't listen; the message names `what`, the address and the reason.
    """
    # asyncio disables Nagle's algorithm (40 ms per reply) only on sockets with an explicit protocol
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(f"{what} can't listen on {host}:{port}: {error.strerror}") from None
    return listener
