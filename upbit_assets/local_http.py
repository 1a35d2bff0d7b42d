"""HTTP between processes of our own: without a proxy, whatever the environment says, and on ports that are ours."""

import ipaddress
import socket
from urllib.parse import urlsplit

import requests


def is_local(url: str) -> bool:
    """Whether it is on this machine, or beside us in docker compose, whose services' names have no dot.

    No proxy can reach these, and who sets http_proxy often sets no no_proxy.
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
    """A session for the server at `url`; http_proxy, https_proxy, all_proxy and no_proxy count unless it is local."""
    session = requests.Session()
    session.trust_env = not is_local(url)
    return session


def listening(what: str, host: str, port: int) -> socket.socket:
    """A socket that listens on the address.

    Raises:
        OSError: it can't; the message says so of `what`, and why.
    """
    # asyncio switches Nagle's delay off (40 ms a reply) only where the protocol is named
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
