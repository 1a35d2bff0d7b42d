"""Settings from the environment, secrets also from files."""

import os
from pathlib import Path


def setting(name: str) -> str | None:
    """The environment variable, else what is in the file that its twin `name`_FILE names; None where neither is set."""
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return None
