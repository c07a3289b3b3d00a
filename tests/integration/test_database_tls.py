"""Logins as the program hands them out, on a real PostgreSQL behind a certificate: who is believed, and who is not.

The server of these tests speaks no TLS; a relay does it for it.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from infra.components import names
from infra.components.cert_manager import AUTHORITY_FILE
from infra.components.database import LEDGER, PORT
from slipway import pod as pods
from slipway.environment import Environment
from slipway.ledger import open_ledger, releases
from slipway.pod import Pod
from slipway.settings import Settings
from tests.cluster.lab.certificates import Authority
from tests.cluster.lab.probes import accepts
from tests.cluster.lab.processes import Process, free_ports, wait_until
from tests.infra.recorded_stack import recorded
from tests.integration import tls_relay
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "slipway")


@pytest.fixture(scope="module")
def login() -> dict[str, str]:
    """The Secret of the ledger's pods."""
    data = recorded().find(f"Secret/{names.SYSTEM}/{LEDGER.secret}").inputs["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.fixture(scope="module")
def port(authority: Authority, login: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server with the certificate of our Cluster, and the login in it."""
    hosts = recorded().find(f"Certificate/{names.DATA}/{names.DATABASE}").inputs["spec"]["dnsNames"]
    pair = authority.sign("server", hosts=hosts)
    (chosen,) = free_ports(1)
    with PostgresServer() as server:
        with server.administer() as connection:
            user, password = sql.Identifier(login["username"]), login["password"]
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(user, password))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(user, user))
        socket = server.folder / f".s.PGSQL.{PORT}"
        command = [sys.executable, tls_relay.__file__, chosen, socket, pair.certificate, pair.key]
        relay = Process("tls-relay", [str(word) for word in command], tmp_path_factory.mktemp("relay"))
        try:
            wait_until("the relay listens", lambda: accepts(chosen), 30, [relay])
            yield chosen
        finally:
            relay.stop()


def reach(url: str, port: int, authority: Path) -> str:
    """The same URL: the authority's file is elsewhere here, and nobody knows the Service's name."""
    assert url.count(AUTHORITY_FILE) == 1
    return url.replace(f":{PORT}/", f":{port}/").replace(AUTHORITY_FILE, str(authority)) + "&hostaddr=127.0.0.1"


def test_the_ledger_is_opened_by_tls_that_is_checked(
    tmp_path: Path, port: int, authority: Authority, login: dict[str, str]
) -> None:
    mounted = tmp_path / "secrets" / pods.DATABASE
    mounted.mkdir(parents=True)
    (mounted / "url").write_text(reach(login["url"], port, authority.certificate))
    settings = Settings(name="test", state_dir=tmp_path / "state")
    ledger = open_ledger(Environment(tmp_path / "test.toml", settings, Pod(mounted.parent)))
    with ledger.read() as session:
        assert releases.list_all(session) == []
    ledger.close()


def test_a_server_that_another_authority_has_signed_is_told_no_password(
    tmp_path: Path, port: int, login: dict[str, str]
) -> None:
    other = Authority(tmp_path, "other")
    assert "certificate verify failed" in refusal(reach(login["url"], port, other.certificate))


def test_a_server_of_another_name_is_told_no_password(port: int, authority: Authority, login: dict[str, str]) -> None:
    url = reach(login["url"], port, authority.certificate).replace(login["host"], "cache.slipway-data")
    assert 'does not match host name "cache.slipway-data"' in refusal(url)


def refusal(url: str) -> str:
    """What is said instead of asking further. Our driver is psycopg, whatever the Secret names."""
    engine = create_engine(f"postgresql+psycopg://{url.partition('://')[2]}")
    with pytest.raises(OperationalError) as caught, engine.connect():
        pass
    engine.dispose()
    return str(caught.value)
