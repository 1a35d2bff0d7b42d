"""A database's URL on its way to SQLAlchemy and to PostgreSQL's own programs.

URLs are libpq's everywhere else: SQLAlchemy reads and writes a blank and a plus in them differently.
"""

from typing import Any

import sqlalchemy as sa
from psycopg import conninfo


def sqlalchemy_url(url: str, driver: str = "psycopg") -> sa.URL:
    """The same database for SQLAlchemy."""
    parts = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    names = {"user": "username", "password": "password", "dbname": "database"}
    if not parts.get("host", "/").startswith("/"):  # a socket's folder can't stand before the database
        names |= {"host": "host", "port": "port"}
    known: dict[str, Any] = {ours: parts.pop(theirs) for theirs, ours in names.items() if theirs in parts}
    if "port" in known:
        known["port"] = int(known["port"])
    return sa.URL.create(f"postgresql+{driver}", **known, query=parts)


def without_password(url: str) -> tuple[str, str | None]:
    """The same database for a program whose arguments everyone may see, and the password for its environment."""
    parts = conninfo.conninfo_to_dict(url)
    password = parts.pop("password", None)
    return conninfo.make_conninfo("", **parts), None if password is None else str(password)
