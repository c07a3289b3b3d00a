"""The script that makes logins and databases on a cloud's own PostgreSQL, run by psql on a real server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.components.database import LEDGER, REGISTRY, roles_script
from tests.postgres_server import PostgresServer, find_programs

pytestmark = pytest.mark.integration

USERS = (LEDGER, REGISTRY)
ADMINISTRATOR = "administrator"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running, running.administer() as connection:
        connection.execute("DROP ROLE ledger")
        # As a cloud gives it: whoever may make roles and databases, and is no superuser.
        connection.execute(f"CREATE ROLE {ADMINISTRATOR} LOGIN CREATEROLE CREATEDB PASSWORD 'given'")
        yield running


def run_script(server: PostgresServer, folder: Path, passwords: dict[str, str]) -> None:
    script = roles_script(USERS).replace("/etc/logins", str(folder))
    for user, password in passwords.items():
        (folder / user).write_text(password)
    command = [find_programs() / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet"]
    surroundings = {
        "PGHOST": str(server.folder),
        "PGUSER": ADMINISTRATOR,
        "PGPASSWORD": "given",
        "PGDATABASE": "postgres",
    }
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=60, check=False, env=os.environ | surroundings
    )
    assert done.returncode == 0, done.stderr


def enter(server: PostgresServer, user: str, password: str, database: str) -> None:
    with psycopg.connect(host=str(server.folder), user=user, password=password, dbname=database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS mine (id int)")


def test_each_login_enters_its_own_database_alone_by_the_newest_password(
    server: PostgresServer, tmp_path: Path
) -> None:
    first = {"ledger": 'it\'s \\ "quoted" $name', "registry": "second"}
    run_script(server, tmp_path, first)
    for user, password in first.items():
        enter(server, user, password, user)
    for user, other in (("ledger", "registry"), ("registry", "ledger")):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            enter(server, user, first[user], other)

    run_script(server, tmp_path, first | {"ledger": "rotated"})
    enter(server, "ledger", "rotated", "ledger")
    enter(server, "registry", "second", "registry")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        enter(server, "ledger", first["ledger"], "ledger")
