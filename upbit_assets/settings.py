"""Settings from the environment, secrets also from files."""

import os
from pathlib import Path
from urllib.parse import quote, urlsplit


def setting(name: str) -> str | None:
    """The environment variable, else what is in the file that its twin `name`_FILE names; None where neither is set."""
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return None


def database_setting(name: str) -> str | None:
    """A database's URL, whose password may come apart: UPBIT_POSTGRES_PASSWORD is that of UPBIT_POSTGRES_URL."""
    url, password = setting(name), setting(f"{name.removesuffix('_URL')}_PASSWORD")
    if url and password:
        parts = urlsplit(url)
        login, _, address = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}:{quote(password, safe='')}@{address}").geturl()
    return url
