"""Every door of a cluster, as browsers and programs meet it: a real portal, asked by a real Envoy about each request.

The portal runs as its pod would, on a real PostgreSQL. What answers behind the dashboards' doors is the lab's, and says
what it was sent. Profile full: with Grafana and Kubeflow Pipelines.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from infra.components import names, platform_pod
from infra.components.cert_manager import AUTHORITY_FILE
from slipway import tokens
from slipway.environment import Environment
from slipway.settings import Settings
from slipway.targets.local.routes import DASHBOARDS
from tests.cluster.lab import pod_server, relay
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.envoy_gateway import Envoy
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.processes import Process, wait_until
from tests.cluster.lab.stack import Stack
from tests.declared_pod import DeclaredPod
from tests.postgres_server import PostgresServer
from tests.s3_server import S3Server, credentials

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("envoy", "behind", "portal")]

Object = dict[str, Any]

READY_WITHIN = 120.0
PORTS = {"mlflow": 5000, "reports": 8000, "grafana": 3000, "pipelines": 3000}
"""Door -> port of the pods behind it."""
# What their charts and manifests make; no chart is rendered here.
SERVICES = {"grafana": (names.MONITORING, "monitoring-grafana"), "pipelines": (names.PIPELINES, "ml-pipeline-ui")}
PAGE = {"accept": "text/html,*/*", "sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.fixture(scope="module")
def full(settings: Settings) -> Settings:
    """The lab's cluster with every part, Kubeflow Pipelines among them."""
    document = settings.model_dump(mode="json")
    cluster = document["kubernetes"]
    made = {key: cluster[key] for key in ("provider", "kubeconfig", "mirror", "domain")}
    made |= {"profile": "full", "parts": {"gateway": {"exposure": "cluster"}}}
    return Settings.model_validate(document | {"kubernetes": made})


@pytest.fixture(scope="module")
def everything(full: Settings) -> Stack:
    return Stack(full)


@pytest.fixture(scope="module")
def domain(full: Settings) -> str:
    assert full.kubernetes is not None
    return full.kubernetes.domain


@pytest.fixture(scope="module")
def behind(
    everything: Stack, control_plane: ControlPlane, gateway_controller: PrivateNetwork, tmp_path_factory: Any
) -> Iterator[Path]:
    """A pod behind each dashboard's route; what they were sent, a line of JSON for each request."""
    kubeflow = everything.find(f"Namespace/{names.PIPELINES}")
    control_plane.create_namespace(names.PIPELINES, kubeflow["metadata"]["labels"])
    found = {"mlflow": everything.find(f"Service/{names.SYSTEM}/registry")}
    found |= {"reports": everything.find(f"Service/{names.SYSTEM}/reports")}
    found |= {door: _service(*place, PORTS[door]) for door, place in SERVICES.items()}
    control_plane.apply(found.values())
    control_plane.apply(_pod(door, service) for door, service in found.items())
    control_plane.apply(everything.objects("HTTPRoute"))
    log: Path = tmp_path_factory.mktemp("behind") / "asked.jsonl"
    log.touch()
    # MLflow alone speaks TLS.
    pair = [log.with_name(key) for key in ("tls.crt", "tls.key")]
    own = control_plane.get("secret", "registry-tls", names.SYSTEM) or {}
    for file in pair:
        file.write_bytes(base64.b64decode(own["data"][file.name]))
    told = {port: pair if port == PORTS["mlflow"] else [] for port in PORTS.values()}
    servers = [
        gateway_controller.start(f"pods-{port}", [sys.executable, "-I", pod_server.__file__, str(port), log, *files])
        for port, files in told.items()
    ]
    yield log
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def portal(
    everything: Stack,
    postgres: PostgresServer,
    gateway_controller: PrivateNetwork,
    control_plane: ControlPlane,
    authority: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DeclaredPod]:
    """The pod that the Service `portal` leads to, at its own port in the network of pods."""

    def read_secret(name: str) -> dict[str, str]:
        data: dict[str, str] = everything.find(f"Secret/{names.SYSTEM}/{name}")["data"]
        return data

    folder = tmp_path_factory.mktemp("portal")
    files = {f"{platform_pod.MOUNTS}/database/url": postgres.make_database()}
    # A store that does not answer: nobody here asks for its pages.
    nowhere = credentials(S3Server("https://127.0.0.1:1", authority))
    files |= {f"{platform_pod.MOUNTS}/{name}": text for name, text in nowhere.items()}
    files[AUTHORITY_FILE] = authority.read_text()
    deployment = everything.find(f"Deployment/{names.SYSTEM}/portal")
    with DeclaredPod(folder / "pod", deployment, read_secret, replaced={}, files=files) as pod:
        pod.wait_ready(READY_WITHIN)
        # The cluster's own address leads the same way: for a command line that works among the pods.
        api = urlsplit(control_plane.url).netloc
        lead = {f"unix:{folder}/portal": f"127.0.0.1:{pod.port}", f"unix:{folder}/api": api}
        inside = {
            "0.0.0.0:8080": f"unix:{folder}/portal",
            api: f"unix:{folder}/api",
            "127.0.0.1:443": "127.0.0.1:10443",
        }
        command = [sys.executable, "-I", relay.__file__]
        outer = Process("relay", [*command, *(f"{here}={there}" for here, there in lead.items())], folder)
        inner = gateway_controller.start("portal", [*command, *(f"{here}={there}" for here, there in inside.items())])
        wait_until("the relays listen", lambda: (folder / "portal").exists() and (folder / "api").exists(), 20, [outer])
        yield pod
        for process in (inner, outer):
            process.stop()


@pytest.fixture(scope="module")
def client(
    portal: DeclaredPod, gateway_controller: PrivateNetwork, authority: Path, domain: str, envoy: Envoy
) -> Iterator[httpx.Client]:
    """Somebody outside of the cluster, without a token, who trusts the platform's own authority and no other."""
    transport = httpx.HTTPTransport(
        uds=str(gateway_controller.socket("https")), verify=ssl.create_default_context(cafile=authority)
    )
    with httpx.Client(transport=transport, base_url=f"https://portal.{domain}") as made:
        for door in ("portal", *PORTS):
            address = f"https://{door}.{domain}/.slipway/static/slipway.svg"
            wait_until(f"{door} is routed", partial(_answers, made, address), 60, [envoy.process])
        yield made


@pytest.fixture
def bearer(everything: Stack) -> dict[str, dict[str, str]]:
    """Role -> header."""
    data = everything.find(f"Secret/{names.SYSTEM}/{platform_pod.TOKENS}")["data"]
    return {role: {"authorization": f"Bearer {base64.b64decode(text).decode().strip()}"} for role, text in data.items()}


def log_in(client: httpx.Client, bearer: dict[str, str]) -> dict[str, str]:
    """The portal's cookie, had in the way of `slipway token login`."""
    code = client.post("/api/login", headers=bearer).json()["code"]
    entered = client.get(f"/login?code={code}", headers=PAGE)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    client.cookies.clear()  # each request says what it holds
    held = entered.headers["set-cookie"]
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= {part.strip().lower() for part in held.split(";")}
    assert "domain" not in held.lower()
    return {"cookie": held.partition(";")[0]}


def open_door(client: httpx.Client, held: dict[str, str], door: str, domain: str) -> dict[str, str]:
    """The cookie of a dashboard, had by following the portal's link."""
    sent_on = client.get(f"/open/{door}", headers=held | PAGE).headers["location"]
    assert sent_on.startswith(f"https://{door}.{domain}/.slipway/login?code=")
    entered = client.get(sent_on, headers=PAGE)
    client.cookies.clear()
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert client.get(sent_on, headers=PAGE).status_code == 403, "spent"
    return {"cookie": entered.headers["set-cookie"].partition(";")[0]}


def test_every_dashboard_of_a_cluster_has_a_door_here() -> None:
    assert set(DASHBOARDS) - {"ray"} == set(PORTS)


@pytest.mark.parametrize("door", ["portal", *PORTS])
def test_without_a_session_a_person_gets_the_login_page_and_a_program_401(
    client: httpx.Client, behind: Path, domain: str, door: str
) -> None:
    seen = behind.read_text()
    person = client.get(f"https://{door}.{domain}/", headers=PAGE)
    assert person.status_code == 401
    assert "slipway --env lab token login" in person.text
    assert (f"https://portal.{domain}/open/{door}" in person.text) == (door != "portal")
    for shown in ({}, {"authorization": "Bearer wrong"}, {"cookie": "__Host-slipway-lab=wrong"}):
        program = client.get(f"https://{door}.{domain}/anything", headers=shown)
        assert program.status_code == 401
        assert program.headers["www-authenticate"].startswith("Bearer")
        assert set(program.json()) == {"error"}
    assert behind.read_text() == seen, "nobody behind the door was asked"


@pytest.mark.parametrize("door", PORTS)
def test_with_a_session_a_door_opens_to_read_and_the_server_sees_no_secret_of_ours(
    client: httpx.Client, behind: Path, bearer: dict[str, dict[str, str]], domain: str, door: str
) -> None:
    held = log_in(client, bearer["read"])
    address = f"https://{door}.{domain}"
    assert client.get(f"{address}/", headers=held).status_code == 401, "the portal's cookie opens nothing else"
    own = open_door(client, held, door, domain)
    answer = client.get(f"{address}/some/page?of=it", headers=own | PAGE)
    assert (answer.status_code, answer.json()["path"]) == (200, "/some/page?of=it")
    received = answer.json()["headers"]
    _expect_credentials(door, received)
    assert ("cookie" in received) == (door == "grafana")
    assert client.delete(f"{address}/some/page", headers=own).status_code == 403
    origin = {"origin": "https://elsewhere.example"}
    assert client.get(f"{address}/some/page", headers=own | origin).status_code == 403


@pytest.mark.parametrize("door", PORTS)
def test_a_program_passes_with_a_token_that_the_server_never_sees(
    client: httpx.Client, bearer: dict[str, dict[str, str]], domain: str, door: str
) -> None:
    address = f"https://{door}.{domain}/anything"
    answer = client.get(address, headers=bearer["read"])
    assert answer.status_code == 200
    _expect_credentials(door, answer.json()["headers"])
    assert client.post(address, headers=bearer["read"]).status_code == 403
    assert client.post(address, headers=bearer["operate"]).status_code == 200
    for role in ("predict", "labels", "internal"):
        assert client.get(address, headers=bearer[role]).status_code == 403


@pytest.mark.parametrize(
    ("door", "path"),
    [
        ("mlflow", "/ajax-api/2.0/mlflow/runs/search"),
        ("grafana", "/api/ds/query"),
        ("grafana", "/api/datasources/uid/prometheus/resources/api/v1/labels"),
        ("pipelines", "/ml_metadata.MetadataStoreService/GetContextByTypeAndName"),
    ],
)
def test_what_pages_ask_for_by_post_is_reading(
    client: httpx.Client, bearer: dict[str, dict[str, str]], domain: str, door: str, path: str
) -> None:
    assert client.post(f"https://{door}.{domain}{path}", headers=bearer["read"]).status_code == 200


def test_the_page_of_a_cluster_links_its_own_dashboards_and_logging_out_ends_them_all(
    client: httpx.Client, bearer: dict[str, dict[str, str]], domain: str
) -> None:
    held = log_in(client, bearer["operate"])
    page = client.get("/", headers=held | PAGE)
    assert page.status_code == 200
    assert [door for door in DASHBOARDS if f'href="/open/{door}"' in page.text] == list(PORTS)
    theirs = {door: open_door(client, held, door, domain) for door in PORTS}
    for door, own in theirs.items():
        assert client.get(f"https://{door}.{domain}/", headers=own).status_code == 200
    origin = {"origin": f"https://portal.{domain}"}
    assert client.post("/logout", headers=held | origin).status_code == 303
    for door, own in theirs.items():
        assert client.get(f"https://{door}.{domain}/", headers=own).status_code == 401


def type_login(network: PrivateNetwork, folder: Path, settings: Settings) -> tuple[int | None, str]:
    """`slipway token login` where the gateway listens at 127.0.0.1:443, as kind's does: exit code, and what it says."""
    file = folder / f"{settings.name}.json"
    file.write_text(settings.model_dump_json())
    program = [sys.executable, "-c", "import sys; sys.argv[0] = 'slipway'; from slipway.cli import main; main()"]
    process = network.start("login", [*program, "--env", file, "token", "login", "--role", "operate", "--json"])
    wait_until("it has ended", lambda: process.exit_code is not None, 60)
    return process.exit_code, process.read_log()


def test_the_command_line_prints_an_address_that_logs_in_once(
    client: httpx.Client, full: Settings, gateway_controller: PrivateNetwork, tmp_path: Path, domain: str
) -> None:
    code, said = type_login(gateway_controller, tmp_path, full)
    assert code == 0, said
    address = json.loads(said)["address"]
    assert address.startswith(f"https://portal.{domain}/login?code=")
    entered = client.get(address, headers=PAGE)
    client.cookies.clear()
    held = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
    assert "Log out (operate)" in client.get("/", headers=held | PAGE).text
    assert client.get(address, headers=PAGE).status_code == 403


def test_the_command_line_says_when_its_token_is_none_of_the_clusters(
    client: httpx.Client, full: Settings, gateway_controller: PrivateNetwork, tmp_path: Path
) -> None:
    elsewhere = full.model_copy(update={"state_dir": tmp_path / "state"})
    tokens.prepare(Environment(tmp_path / "lab.json", elsewhere))
    code, said = type_login(gateway_controller, tmp_path, elsewhere)
    assert code == 1
    assert f"the portal refused the token in {tmp_path / 'state' / 'secrets' / 'tokens' / 'operate'}\nhint:" in said


def _expect_credentials(door: str, received: dict[str, str]) -> None:
    """MLflow is shown its own login, whatever the client has shown; the others nothing."""
    shown = received.get("authorization", "")
    assert shown.startswith("Basic ") == (door == "mlflow")
    assert bool(shown) == (door == "mlflow")


def _answers(client: httpx.Client, address: str) -> bool:
    return client.get(address).status_code == 200


def _service(namespace: str, name: str, port: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app.kubernetes.io/name": name}, "ports": [{"port": 80, "targetPort": port}]},
    }


def _pod(door: str, service: Object) -> Object:
    """What the Service leads to; its namespace enforces `restricted`."""
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (target,) = [each["targetPort"] for each in service["spec"]["ports"]]
    port = {"containerPort": PORTS[door], "name": target if isinstance(target, str) else "http"}
    container = {"name": door, "image": "stand-in", "ports": [port], "securityContext": context}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"behind-{door}",
            "namespace": service["metadata"]["namespace"],
            "labels": service["spec"]["selector"],
        },
        "spec": {"containers": [container], "automountServiceAccountToken": False},
    }
