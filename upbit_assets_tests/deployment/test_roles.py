"""The privileges of each login of the deployment."""

import base64
import hashlib
import hmac
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from upbit_assets.postgres import tables
from upbit_assets.postgres.embedded import EmbeddedPostgres
from upbit_assets.postgres.migrate import migrate
from upbit_assets.settings import PROJECT
from upbit_assets_tests.deployment.conftest import PASSWORDS, run_script, url_as

MEASURES = {"owner": {"dagster"}}
REFUSED = psycopg.errors.InsufficientPrivilege
BRONZE = [table.fullname for table in tables.metadata.sorted_tables if table.schema == "bronze"]
COMPUTED = [table.fullname for table in tables.metadata.sorted_tables if table.schema != "bronze"]
OWN = {"owner": "upbit", "pipeline": "upbit", "reader": "upbit", "dagster": "dagster", "metabase": "metabase"}
PUT = "INSERT INTO bronze.ticker_raw (market, raw_data, ingested_at) VALUES ('KRW-BTC', '{}', now())"


def attempt(server: EmbeddedPostgres, login: str, statement: str, database: str | None = None) -> list[Any]:
    """Run a statement as a login, in its own database unless another is named, and roll it back; returns its rows."""
    with psycopg.connect(url_as(server, login, database or OWN[login])) as connection:
        cursor = connection.execute(sql.SQL(statement))
        rows = cursor.fetchall() if cursor.description else []
        connection.rollback()
        return rows


def proves(password: str, verifier: str) -> bool:
    """Whether a SCRAM-SHA-256 verifier is that of the password (RFC 5803)."""
    _, parameters, keys = verifier.split("$")
    iterations, salt = parameters.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return base64.b64encode(stored).decode() == keys.partition(":")[0]


@pytest.mark.parametrize("login", OWN)
class TestEveryLogin:
    def test_is_not_a_superuser(self, deployed: EmbeddedPostgres, login: str):
        rights = "rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        found = attempt(deployed, login, f"SELECT {rights} FROM pg_roles WHERE rolname = current_user")
        assert found == [(True, False, False, False, False, False)]

    def test_has_the_password_of_its_file(self, deployed: EmbeddedPostgres, login: str):
        with psycopg.connect(deployed.url("postgres")) as connection:
            query = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
            [(verifier,)] = connection.execute(query, [login]).fetchall()
        assert proves(PASSWORDS[login], verifier)
        assert not proves("", verifier)

    def test_reaches_no_database_but_its_own(self, deployed: EmbeddedPostgres, login: str):
        assert attempt(deployed, login, "SELECT current_database()") == [(OWN[login],)]
        for other in set(OWN.values()) - {OWN[login]} - MEASURES.get(login, set()):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                attempt(deployed, login, "SELECT 1", other)

    def test_cannot_assume_another_role(self, deployed: EmbeddedPostgres, login: str):
        for role in {"postgres", *OWN} - {login}:
            with pytest.raises(REFUSED):
                attempt(deployed, login, f"SET ROLE {role}")


class TestPipeline:
    def test_adds_to_bronze_and_reads_it(self, deployed: EmbeddedPostgres):
        assert attempt(deployed, "pipeline", f"{PUT} RETURNING market") == [("KRW-BTC",)]

    @pytest.mark.parametrize("table", BRONZE)
    def test_does_not_change_bronze(self, deployed: EmbeddedPostgres, table: str):
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"DROP TABLE {table}"):
            with pytest.raises(REFUSED):
                attempt(deployed, "pipeline", statement)

    def test_does_not_say_what_retention_has_dropped(self, deployed: EmbeddedPostgres):
        with pytest.raises(REFUSED):
            attempt(deployed, "pipeline", "INSERT INTO bronze.retention VALUES ('silver.ticker', 'infinity')")

    @pytest.mark.parametrize("table", COMPUTED)
    def test_replaces_what_it_computed_but_does_not_alter_it(self, deployed: EmbeddedPostgres, table: str):
        attempt(deployed, "pipeline", f"DELETE FROM {table}")
        for statement in (f"TRUNCATE {table}", f"DROP TABLE {table}", f"ALTER TABLE {table} ADD COLUMN more text"):
            with pytest.raises(REFUSED):
                attempt(deployed, "pipeline", statement)

    def test_stages_rows_in_temporary_tables(self, deployed: EmbeddedPostgres):
        attempt(deployed, "pipeline", "CREATE TEMPORARY TABLE staged (a int)")

    @pytest.mark.parametrize("statement", ["CREATE TABLE public.more (a int)", "CREATE SCHEMA more"])
    def test_creates_no_permanent_objects(self, deployed: EmbeddedPostgres, statement: str):
        with pytest.raises(REFUSED):
            attempt(deployed, "pipeline", statement)


class TestReader:
    @pytest.mark.parametrize("table", [*COMPUTED, "gold.turnover_top10"])
    def test_reads_silver_and_gold(self, deployed: EmbeddedPostgres, table: str):
        attempt(deployed, "reader", f"SELECT * FROM {table}")

    @pytest.mark.parametrize("table", COMPUTED)
    def test_changes_nothing(self, deployed: EmbeddedPostgres, table: str):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            attempt(deployed, "reader", f"DELETE FROM {table}")
        with pytest.raises(REFUSED):  # even without the default of read-only transactions
            attempt(deployed, "reader", f"SET transaction_read_only = off; DELETE FROM {table}")

    @pytest.mark.parametrize("table", [name for name in BRONZE if name != "bronze.origin"])
    def test_does_not_read_bronze(self, deployed: EmbeddedPostgres, table: str):
        with pytest.raises(REFUSED):
            attempt(deployed, "reader", f"SELECT FROM {table}")

    @pytest.mark.parametrize(
        "function", ["make_partitions(now(), now())", "drop_partitions('bronze.ticker_raw', '2020-01-01')"]
    )
    def test_calls_no_security_definer_functions(self, deployed: EmbeddedPostgres, function: str):
        with pytest.raises(REFUSED):
            attempt(deployed, "reader", f"SELECT bronze.{function}")

    def test_learns_the_size_of_dagsters_database_and_no_more(self, deployed: EmbeddedPostgres):
        [(size,)] = attempt(deployed, "reader", "SELECT live.dagster_bytes()")
        assert [(size,)] == attempt(deployed, "dagster", "SELECT pg_database_size('dagster')")
        with pytest.raises(REFUSED):
            attempt(deployed, "reader", "SELECT pg_database_size('dagster')")

    def test_a_query_ends_after_a_minute(self, deployed: EmbeddedPostgres):
        assert attempt(deployed, "reader", "SHOW statement_timeout") == [("1min",)]


class TestOwner:
    def test_migrates_again_without_more_rights(self, deployed: EmbeddedPostgres):
        migrate(url_as(deployed, "owner"))

    def test_owns_every_table(self, deployed: EmbeddedPostgres):
        others = "SELECT oid::regclass FROM pg_class WHERE relowner <> 'owner'::regrole AND relnamespace IN "
        assert attempt(deployed, "owner", others + "('bronze'::regnamespace, 'silver'::regnamespace)") == []

    def test_reads_and_writes_nothing_in_dagsters_database(self, deployed: EmbeddedPostgres):
        with psycopg.connect(url_as(deployed, "dagster", "dagster")) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS secret (a int)")
        for statement in ("SELECT FROM secret", "CREATE TABLE more (a int)", "CREATE TEMPORARY TABLE more (a int)"):
            with pytest.raises(REFUSED):
                attempt(deployed, "owner", statement, "dagster")

    @pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET market = ''"])
    def test_does_not_change_bronze_by_accident(self, deployed: EmbeddedPostgres, statement: str):
        with pytest.raises(REFUSED):
            attempt(deployed, "owner", statement.format("bronze.ticker_raw"))


def test_making_the_roles_again_changes_a_password(deployed: EmbeddedPostgres, secrets: Path, tmp_path: Path):
    for login, password in PASSWORDS.items():
        (tmp_path / login).write_text(password)
    (tmp_path / "reader").write_text("another")
    run_script(deployed, "roles.sh", SECRETS=str(tmp_path))
    with psycopg.connect(deployed.url("postgres")) as connection:
        [(verifier,)] = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'reader'").fetchall()
    run_script(deployed, "roles.sh", SECRETS=str(secrets))
    assert proves("another", verifier)


def test_a_missing_password_stops_it_and_is_named(deployed: EmbeddedPostgres, tmp_path: Path):
    (tmp_path / "owner").write_text("one")
    (tmp_path / "pipeline").write_text("")
    with pytest.raises(AssertionError, match="pipeline is missing or empty: write a password into it"):
        run_script(deployed, "roles.sh", SECRETS=str(tmp_path))


def test_a_password_that_can_not_be_read_changes_none(deployed: EmbeddedPostgres, tmp_path: Path):
    verifiers = "SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin ORDER BY rolname"
    with psycopg.connect(deployed.url("postgres")) as connection:
        before = connection.execute(verifiers).fetchall()
        for login in PASSWORDS:
            (tmp_path / login).write_text("another")
        (tmp_path / "reader").unlink()
        (tmp_path / "reader").mkdir()  # unreadable even for root
        with pytest.raises(AssertionError, match="reader can't be read"):
            run_script(deployed, "roles.sh", SECRETS=str(tmp_path))
        assert connection.execute(verifiers).fetchall() == before


def test_containers_can_read_the_passwords_whatever_the_umask(tmp_path: Path):
    folder = tmp_path / "secrets"
    subprocess.run(["sh", PROJECT / "deploy" / "secrets.sh", folder], umask=0o077, check=True)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert made.keys() > PASSWORDS.keys()
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "reader").chmod(0o600)
    subprocess.run(["sh", PROJECT / "deploy" / "secrets.sh", folder], umask=0o077, check=True)
    assert (folder / "reader").stat().st_mode & 0o777 == 0o644
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
