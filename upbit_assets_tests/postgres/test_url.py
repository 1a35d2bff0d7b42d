"""A database's URL means the same to libpq, to SQLAlchemy's drivers and to PostgreSQL's programs."""

from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from psycopg import conninfo
from sqlalchemy.dialects.postgresql import psycopg2

from upbit_assets.postgres.url import sqlalchemy_url, without_password

TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
# SQLAlchemy writes a question mark in a database's name as it is, and reads what follows as parameters
NAMES = TEXTS.filter(lambda name: "?" not in name)
# libpq and SQLAlchemy read a comma as the end of one host in a list
FOLDERS = TEXTS.filter(lambda folder: "," not in folder)
URLS = {
    "postgresql://me:top%20secret@db.example:5433/upbit?sslmode=verify-full",
    "postgresql://db/upbit",
    "postgresql://me@[::1]:5433/upbit",
    "postgresql:///upbit?host=/a+b",
}


def arguments(url: str) -> dict[str, str]:
    """The parameters that Dagster's driver gets from a URL passed as text."""
    text = sqlalchemy_url(url, "psycopg2").render_as_string(hide_password=False)
    _, found = psycopg2.dialect().create_connect_args(sa.make_url(text))
    return {name: str(value) for name, value in found.items()}


@given(password=TEXTS, folder=FOLDERS, database=NAMES)
def test_any_text_in_passwords_folders_and_names(password: str, folder: str, database: str):
    socket, quoted = quote(f"/{folder}", safe=""), quote(password, safe="")
    url = f"postgresql://me:{quoted}@/{quote(database, safe='')}?host={socket}&port=5432"
    meant = {"user": "me", "password": password, "dbname": database, "host": f"/{folder}", "port": "5432"}
    assert conninfo.conninfo_to_dict(url) == meant
    assert arguments(url) == meant
    address, apart = without_password(url)
    assert apart == meant.pop("password")
    assert conninfo.conninfo_to_dict(address) == meant


@pytest.mark.parametrize("url", sorted(URLS))
def test_urls_of_local_and_remote_servers(url: str):
    assert arguments(url) == {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
