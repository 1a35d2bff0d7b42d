"""Conversions of database URLs for SQLAlchemy and for PostgreSQL's programs.

Everywhere else URLs are in libpq's form; SQLAlchemy encodes spaces and plus signs differently.
"""

from typing import Any

import sqlalchemy as sa
from psycopg import conninfo


def sqlalchemy_url(url: str, driver: str = "psycopg") -> sa.URL:
    """The URL for SQLAlchemy."""
    parts = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    names = {"user": "username", "password": "password", "dbname": "database"}
    if not parts.get("host", "/").startswith("/"):  # a socket directory can only be a query parameter
        names |= {"host": "host", "port": "port"}
    known: dict[str, Any] = {ours: parts.pop(theirs) for theirs, ours in names.items() if theirs in parts}
    if "port" in known:
        known["port"] = int(known["port"])
    return sa.URL.create(f"postgresql+{driver}", **known, query=parts)


def without_password(url: str) -> tuple[str, str | None]:
    """The URL for a program's arguments, which everyone can see, and the password for its environment."""
    parts = conninfo.conninfo_to_dict(url)
    password = parts.pop("password", None)
    return conninfo.make_conninfo("", **parts), None if password is None else str(password)
