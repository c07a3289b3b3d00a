"""The platform's own pods, each started as the program declares it: same command, same variables, same files.

Tables are in a real PostgreSQL, the log in an S3 server, and who asks the API server has the rights of its own account.
What a pod has and this machine has not is put in another place, and named here: the addresses of the database and the
object store, and the kubeconfig (a pod finds its account's token by itself).
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from infra.components import names, platform_pod
from infra.components.cert_manager import AUTHORITY_FILE
from slipway.controller import leadership
from slipway.ledger.migration import HEAD
from slipway.settings import Settings
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.stack import Object, Stack
from tests.declared_pod import DeclaredPod
from tests.postgres_server import PostgresServer
from tests.s3_server import S3Server, credentials, s3_server

pytestmark = pytest.mark.cluster

READY_WITHIN = 120.0
ENDS_WITHIN = 60.0
Start = Callable[[Object], DeclaredPod]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> str:
    return postgres.make_database()


def secrets_of(stack: Stack, name: str) -> Mapping[str, str]:
    data: dict[str, str] = stack.find(f"Secret/{names.SYSTEM}/{name}")["data"]
    return data


@pytest.fixture(scope="module")
def objects() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def start(
    tmp_path: Path, stack: Stack, address: str, objects: S3Server, namespaces: None, control_plane: ControlPlane
) -> Start:
    count = itertools.count()

    def start(workload: Object) -> DeclaredPod:
        files = {f"{platform_pod.MOUNTS}/database/url": address}
        # Whom to trust is read where the program says that it is.
        own = {name: text for name, text in credentials(objects).items() if not name.endswith("/authority")}
        files |= {f"{platform_pod.MOUNTS}/{name}": text for name, text in own.items()}
        files[AUTHORITY_FILE] = objects.authority.read_text()
        # Only who is given a token by the program asks the API server.
        kubeconfig = control_plane.kubeconfig_of(workload["metadata"]["name"], names.SYSTEM)
        return DeclaredPod(
            tmp_path / f"pod-{next(count)}",
            workload,
            partial(secrets_of, stack),
            replaced={'"kubeconfig": null': f'"kubeconfig": "{kubeconfig}"'},
            files=files,
        )

    return start


def workload(stack: Stack, kind: str, name: str) -> Object:
    found = [each for each in stack.objects(kind, namespace=names.SYSTEM) if each["metadata"]["name"].startswith(name)]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


@pytest.fixture(scope="module")
def migrated(stack: Stack, address: str, objects: S3Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The ledger's tables, made by the Job that makes them."""
    job = workload(stack, "Job", "ledger-migration")
    files = {f"{platform_pod.MOUNTS}/database/url": address, AUTHORITY_FILE: objects.authority.read_text()}
    folder = tmp_path_factory.mktemp("migration")
    with DeclaredPod(folder, job, partial(secrets_of, stack), replaced={}, files=files) as pod:
        pod.wait_done(READY_WITHIN)


def test_the_database_is_where_the_program_says(stack: Stack) -> None:
    data = secrets_of(stack, "database-ledger")
    url = base64.b64decode(data["url"]).decode()
    assert f"@{names.DATABASE}-rw.{names.DATA}.svc.cluster.local:5432/ledger" in url


def test_the_migration_makes_the_ledgers_tables(migrated: None, address: str) -> None:
    with psycopg.connect(f"postgresql://{address.partition('://')[2]}") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
        assert connection.execute("SELECT count(*) FROM event").fetchall() == [(0,)]


def test_the_controller_leads_and_ends_cleanly(
    start: Start, stack: Stack, migrated: None, control_plane: ControlPlane
) -> None:
    control_plane.delete("lease", leadership.NAME, leadership.NAMESPACE)
    with start(workload(stack, "Deployment", "controller")) as pod:
        pod.wait_ready(READY_WITHIN)
        assert pod.asked(pod.liveness)
        deadline = time.monotonic() + READY_WITHIN
        while "leading" not in pod.said():
            assert time.monotonic() < deadline, pod.said()
            time.sleep(0.2)
        lease = control_plane.get("lease", leadership.NAME, leadership.NAMESPACE)
        assert lease is not None
        assert lease["spec"]["holderIdentity"]
        pod.stop(ENDS_WITHIN)


def send(port: int, host: str, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{port}{path}", headers={"host": host, **headers}, timeout=20)


def test_the_portal_lets_its_tokens_through_and_nobody_else(
    start: Start, stack: Stack, migrated: None, settings: Settings
) -> None:
    assert settings.kubernetes is not None
    host = f"portal.{settings.kubernetes.domain}"
    tokens = secrets_of(stack, platform_pod.TOKENS)

    def ask(port: int, path: str, token: str, method: str = "GET") -> int:
        return send(port, host, path, method, **({"authorization": f"Bearer {token}"} if token else {})).status_code

    predict, read = (base64.b64decode(tokens[role]).decode().strip() for role in ("predict", "read"))
    with start(workload(stack, "Deployment", "portal")) as pod:
        pod.wait_ready(READY_WITHIN)
        assert pod.asked(pod.liveness)
        question = "/authorize/v1/models/flight_delay:predict"
        assert ask(pod.port, question, predict, "POST") == 200
        assert ask(pod.port, question, read, "POST") == 403
        assert ask(pod.port, question, "wrong", "POST") == 401
        assert ask(pod.port, "/authorize/api/status", read) == 200
        assert ask(pod.port, "/api/status", read) == 200  # asks the ledger
        pod.stop(ENDS_WITHIN)


def test_every_portal_knows_a_login_that_one_has_made_and_it_outlives_them(
    start: Start, stack: Stack, migrated: None, settings: Settings, address: str
) -> None:
    assert settings.kubernetes is not None
    host = f"portal.{settings.kubernetes.domain}"
    token = base64.b64decode(secrets_of(stack, platform_pod.TOKENS)["operate"]).decode().strip()
    portal = workload(stack, "Deployment", "portal")
    with start(portal) as one, start(portal) as other:
        for pod in (one, other):
            pod.wait_ready(READY_WITHIN)

        def make_code() -> str:
            made = send(one.port, host, "/api/login", "POST", authorization=f"Bearer {token}").json()
            assert made["role"] == "operate"
            return str(made["code"])

        code = make_code()
        entered = send(other.port, host, f"/login?code={code}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"].partition(";")[0]
        for pod in (one, other):
            assert send(pod.port, host, "/authorize/", cookie=cookie).status_code == 200
            assert send(pod.port, host, f"/login?code={code}").status_code == 403, "spent"

        # Who comes first gets in, and nobody else.
        for _ in range(5):
            spend = partial(send, host=host, path=f"/login?code={make_code()}")
            with ThreadPoolExecutor(8) as pool:
                answers = [answer.status_code for answer in pool.map(spend, [one.port, other.port] * 4)]
            assert sorted(answers) == [303, *[403] * 7]

        for pod in (one, other):
            pod.stop(ENDS_WITHIN)
            for secret in (code, cookie.partition("=")[2], token):
                assert secret not in pod.log.read_text()
                assert secret not in stored_logins(address)
    with start(portal) as successor:
        successor.wait_ready(READY_WITHIN)
        assert send(successor.port, host, "/authorize/", cookie=cookie).status_code == 200
        assert send(successor.port, host, "/logout", "POST", cookie=cookie).status_code == 303
        assert send(successor.port, host, "/authorize/", cookie=cookie).status_code == 401


def stored_logins(address: str) -> str:
    """All that the database knows of codes and sessions."""
    with psycopg.connect(f"postgresql://{address.partition('://')[2]}") as connection:
        tables = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in ("login_code", "browser_session")]  # noqa: S608
    assert tables[1]
    return repr(tables)


def progress(address: str) -> list[str]:
    with psycopg.connect(f"postgresql://{address.partition('://')[2]}") as connection:
        return [row[0] for row in connection.execute("SELECT process FROM progress")]


def test_the_collector_beats_and_ends_cleanly(start: Start, stack: Stack, migrated: None, address: str) -> None:
    with start(workload(stack, "Deployment", "collector")) as pod:
        pod.wait_ready(READY_WITHIN)
        assert pod.asked(pod.liveness)
        deadline = time.monotonic() + READY_WITHIN
        while "collector" not in progress(address):  # the servers were asked, and the store read
            assert time.monotonic() < deadline, pod.said()
            time.sleep(0.2)
        pod.stop(ENDS_WITHIN)


def test_a_monitor_ends_well_when_there_is_nothing_to_examine(start: Start, stack: Stack, migrated: None) -> None:
    with start(workload(stack, "CronJob", "monitor-flight-delay")) as pod:
        pod.wait_done(READY_WITHIN)


def test_no_pod_of_ours_is_told_a_secret_by_a_variable(stack: Stack) -> None:
    pods = [
        workload(stack, kind, name)
        for kind, name in (
            ("Deployment", "controller"), ("Deployment", "collector"), ("Deployment", "portal"),
            ("Deployment", "reports"), ("Job", "ledger-migration"), ("CronJob", "monitor-"),
        )
    ]  # fmt: skip
    assert "secretKeyRef" not in json.dumps(pods)
