"""Where tables are: what holds of them holds in a file and on a server, so that their tests run on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway import pod as pods
from slipway.pod import Pod
from tests.postgres_server import PostgresServer, find_programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    try:
        find_programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with PostgresServer() as server:
        yield server


@pytest.fixture
def pod(postgres: PostgresServer, tmp_path: Path) -> Iterator[Pod]:
    """What a pod is told whose tables are in a new database of a real PostgreSQL."""
    secrets = tmp_path / "pod"
    for folder in (pods.DATABASE, pods.IDENTITY, pods.SIGNING):
        (secrets / folder).mkdir(parents=True, mode=0o700)
    url = postgres.make_database()
    (secrets / pods.DATABASE / "url").write_text(url)
    yield Pod(secrets)
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def place(request: pytest.FixtureRequest) -> Pod | None:
    """Where the ledger is: in a file on this machine, or in a pod's database."""
    return request.getfixturevalue("pod") if request.param == "postgresql" else None
