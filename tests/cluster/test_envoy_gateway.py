"""Envoy Gateway itself and an Envoy that it feeds: our Gateway, our policies, our routes, and real requests.

Revisions are KServe's, their addresses the cluster's own; what answers there is the lab's and says who was asked.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.components import names as infrastructure
from infra.components.registry import PORT as MLFLOW
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady
from slipway.targets import Traffic
from slipway.targets.kubernetes import names, routes
from slipway.targets.kubernetes.target import KubernetesTarget
from tests.cluster.lab import pod_server, rules
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.envoy_gateway import OWNED, POLICIES, Envoy, find_envoys
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.probes import ask_socket
from tests.cluster.lab.processes import Process, wait_until
from tests.cluster.lab.stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "kserve_manager", "gateway_controller")]

Object = dict[str, Any]

MODEL = "flight_delay"
PREDICT = f"/v2/models/{MODEL}/infer"
VERSIONS = (1, 2, 3)
REQUESTS = 400
LIKELY = 5
"""Standard deviations: a share that is farther from its weight is none that chance made."""


@pytest.fixture(scope="module")
def target(environment: Environment, gateway_controller: PrivateNetwork) -> Iterator[KubernetesTarget]:
    """With a revision of each version; the cluster's network, by which it asks Envoy, is the private one."""

    def ask(address: str, path: str) -> str:
        text = ask_socket(gateway_controller.socket("envoy-metrics"), path)
        if text is None:
            raise NotReady(f"{address} does not answer {path}")
        return text

    made = KubernetesTarget(environment, ask=ask)
    for version in VERSIONS:
        made.apply_revision(MODEL, version)
    yield made
    for version in VERSIONS:
        made.remove_revision(MODEL, version)


@pytest.fixture(scope="module")
def asked(gateway_controller: PrivateNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What pods were asked, a line of JSON for each request."""
    log: Path = tmp_path_factory.mktemp("pods") / "asked.jsonl"
    log.touch()
    process = gateway_controller.start("pods", [sys.executable, "-I", pod_server.__file__, str(names.PORT), log])
    file = gateway_controller.socket("pods")
    wait_until("pods answer", lambda: ask_socket(file, "/") is not None, 20, [process])
    yield log
    process.stop()


@pytest.fixture(scope="module")
def client(
    envoy: Envoy, asked: Path, gateway_controller: PrivateNetwork, authority: Path, domain: str
) -> Iterator[httpx.Client]:
    """Somebody with a token, outside of the cluster, who trusts the platform's own authority and no other."""
    transport = httpx.HTTPTransport(
        uds=str(gateway_controller.socket("https")), verify=ssl.create_default_context(cafile=authority)
    )
    token = {"authorization": f"Bearer {pod_server.TOKEN}"}
    with httpx.Client(transport=transport, base_url=f"https://{names.DOOR}.{domain}", headers=token) as made:
        yield made


@pytest.fixture(scope="module")
def domain(environment: Environment) -> str:
    assert environment.settings.kubernetes is not None
    return environment.settings.kubernetes.domain


# --- what the controller makes of our objects -------------------------------------------------------------------------


def test_the_gateway_stands_with_both_listeners(control_plane: ControlPlane) -> None:
    def programmed() -> Object | None:
        gateway = control_plane.get("gateway", infrastructure.GATEWAY_NAME, infrastructure.GATEWAY) or {}
        return gateway if _conditions(gateway.get("status", {})).get("Programmed") == "True" else None

    gateway = wait_until("the Gateway is programmed", programmed, 60)
    listeners = {each["name"]: _conditions(each) for each in gateway["status"]["listeners"]}
    assert set(listeners) == {"https", "http"}
    for conditions in listeners.values():
        assert (conditions["Accepted"], conditions["ResolvedRefs"], conditions["Programmed"]) == ("True",) * 3


def test_every_route_of_the_parts_is_taken(control_plane: ControlPlane, stack: Stack) -> None:
    ours = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in stack.objects("HTTPRoute")}
    assert (infrastructure.SYSTEM, "portal") in ours

    def refused() -> list[str]:
        found = []
        for namespace, name in sorted(ours):
            route = control_plane.get("httproute", name, namespace) or {}
            for parent in route.get("status", {}).get("parents", [{}]):
                conditions = _conditions(parent)
                if (conditions.get("Accepted"), conditions.get("ResolvedRefs")) != ("True", "True"):
                    found.append(f"{namespace}/{name}: {parent.get('conditions')}")
        return found

    wait_until("every route is taken", lambda: not refused(), 30)


@pytest.mark.parametrize("kind", POLICIES)
def test_every_policy_is_taken(target: KubernetesTarget, control_plane: ControlPlane, stack: Stack, kind: str) -> None:
    # Some are about routes of models.
    target.set_traffic(MODEL, Traffic(champion=1))
    ours = list(stack.objects(kind))
    assert ours

    def taken(policy: Object) -> bool:
        live = control_plane.get(kind.lower(), policy["metadata"]["name"], policy["metadata"]["namespace"]) or {}
        ancestors = live.get("status", {}).get("ancestors", [])
        return bool(ancestors) and all(_conditions(each).get("Accepted") == "True" for each in ancestors)

    for policy in ours:
        wait_until(f"{kind} {policy['metadata']['name']} is accepted", partial(taken, policy), 30)


def test_the_envoys_that_it_makes_are_admitted_and_keep_to_every_rule(
    control_plane: ControlPlane, stack: Stack
) -> None:
    def pods() -> list[Object]:
        found = control_plane.list("pods", infrastructure.GATEWAY, OWNED)
        return [each for each in found if each["spec"].get("nodeName")]

    # Their namespace enforces `restricted`: the API server would have refused them.
    made = [find_envoys(control_plane), *wait_until("an Envoy is bound to a node", pods, 60)]
    assert rules.findings(made, stack.objects(*rules.NEEDED)) == []
    (manager,) = [
        each for each in made[0]["spec"]["template"]["spec"]["containers"] if each["name"] == "shutdown-manager"
    ]
    # Its root is read-only, and here it writes that an Envoy may go.
    assert manager["securityContext"]["runAsUser"] == 65532
    assert [mount["mountPath"] for mount in manager["volumeMounts"] if not mount.get("readOnly")] == ["/tmp"]


# --- whom requests reach ----------------------------------------------------------------------------------------------


def test_a_champion_alone_gets_everything(
    target: KubernetesTarget, envoy: Envoy, client: httpx.Client, asked: Path, control_plane: ControlPlane
) -> None:
    target.set_traffic(MODEL, Traffic(champion=1))
    assert target.read_traffic(MODEL) == Traffic(champion=1)
    _expect(envoy, {1: 100}, copies=0)
    assert _ask(client, control_plane, 50) == {1: 50}


@pytest.mark.parametrize("percent", [10, 50])
def test_a_challenger_gets_its_share_and_both_get_copies(
    target: KubernetesTarget,
    envoy: Envoy,
    client: httpx.Client,
    asked: Path,
    control_plane: ControlPlane,
    percent: int,
) -> None:
    wanted = Traffic(champion=1, challenger=2, percent=percent, previous=3)
    target.set_traffic(MODEL, wanted)
    assert target.read_traffic(MODEL) == wanted
    _expect(envoy, {1: 100 - percent, 2: percent}, copies=2)

    seen, counted = len(_read(asked)), _count(target)
    answered = _ask(client, control_plane, REQUESTS)
    assert set(answered) == {1, 2}
    assert _count(target) - counted == answered, "Envoy's own counters say the same"
    expected = REQUESTS * percent / 100
    deviation = (REQUESTS * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(answered[2] - expected) < LIKELY * deviation

    # Both are shown every request once more as a copy, whoever answers.
    versions = _versions(control_plane)

    def shown() -> Counter[int]:
        predictions = [each for each in _read(asked)[seen:] if each["path"] == PREDICT]
        return Counter(versions[each["address"]] for each in predictions)

    wait_until("all copies have come", lambda: shown() == {v: REQUESTS + answered[v] for v in (1, 2)}, 30)


def test_a_challenger_without_a_share_gets_copies_alone(
    target: KubernetesTarget, envoy: Envoy, client: httpx.Client, asked: Path, control_plane: ControlPlane
) -> None:
    wanted = Traffic(champion=1, challenger=2)
    target.set_traffic(MODEL, wanted)
    assert target.read_traffic(MODEL) == wanted
    _expect(envoy, {1: 100}, copies=1)
    assert _ask(client, control_plane, 50) == {1: 50}


def test_promotion_moves_everything(
    target: KubernetesTarget, envoy: Envoy, client: httpx.Client, asked: Path, control_plane: ControlPlane
) -> None:
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    _expect(envoy, {2: 100}, copies=0)
    assert _ask(client, control_plane, 50) == {2: 50}


def test_the_same_traffic_again_changes_nothing(target: KubernetesTarget, control_plane: ControlPlane) -> None:
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    before = control_plane.get("httproute", names.route_name(MODEL), names.NAMESPACE) or {}
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    after = control_plane.get("httproute", names.route_name(MODEL), names.NAMESPACE) or {}
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_request_says_who_answers_and_cannot_say_that_it_is_a_copy(
    target: KubernetesTarget, envoy: Envoy, client: httpx.Client
) -> None:
    target.set_traffic(MODEL, Traffic(champion=2))
    _expect(envoy, {2: 100}, copies=0)
    forged = {"x-slipway-mirrored": "1", "x-slipway-role": "operate", routes.ANSWERED_BY: "1"}
    headers = client.post(PREDICT, headers=forged).json()["headers"]
    assert headers[routes.ANSWERED_BY] == "2"
    assert not {"x-slipway-mirrored", "x-slipway-role"} & set(headers)


# --- what is asked by TLS ---------------------------------------------------------------------------------------------


def test_mlflow_is_asked_by_tls_and_only_with_its_own_certificate(
    envoy: Envoy,
    client: httpx.Client,
    asked: Path,
    control_plane: ControlPlane,
    gateway_controller: PrivateNetwork,
    domain: str,
    tmp_path: Path,
) -> None:
    page = f"https://mlflow.{domain}/api/2.0/mlflow/experiments/search"

    def serve(name: str, data: Mapping[str, str]) -> tuple[Path, Process]:
        folder = tmp_path / name
        folder.mkdir()
        log = folder / "asked.jsonl"
        log.touch()
        for key in ("tls.crt", "tls.key"):
            (folder / key).write_bytes(base64.b64decode(data[key]))
        told = (str(MLFLOW), log, folder / "tls.crt", folder / "tls.key")
        return log, gateway_controller.start(name, [sys.executable, "-I", pod_server.__file__, *map(str, told)])

    own = control_plane.get("secret", "registry-tls", infrastructure.SYSTEM) or {}
    log, process = serve("mlflow", own["data"])
    wait_until("MLflow's page is answered", lambda: client.get(page).status_code == 200, 60, [process])
    assert {each["path"] for each in _read(log)} == {"/api/2.0/mlflow/experiments/search"}
    process.stop()
    # Of the same authority, but not MLflow's.
    other = control_plane.get("secret", "cache-tls", infrastructure.DATA) or {}
    log, process = serve("impostor", other["data"])
    for _ in range(20):
        assert client.get(page).status_code == 503
        time.sleep(0.1)
    assert _read(log) == []
    process.stop()


# --- who may pass -----------------------------------------------------------------------------------------------------


def test_nobody_passes_without_a_token(
    target: KubernetesTarget, client: httpx.Client, asked: Path, domain: str
) -> None:
    target.set_traffic(MODEL, Traffic(champion=2))
    seen = len(_read(asked))
    for address in (PREDICT, f"https://mlflow.{domain}/", f"https://reports.{domain}/", f"https://portal.{domain}/"):
        assert client.post(address, headers={"authorization": "Bearer wrong"}).status_code == 401
    paths = {each["path"] for each in _read(asked)[seen:]}
    assert paths
    assert all(path.startswith("/authorize/") for path in paths), "the portal is asked, and nobody else"


def test_while_the_portal_is_away_nobody_passes(
    target: KubernetesTarget, client: httpx.Client, control_plane: ControlPlane
) -> None:
    target.set_traffic(MODEL, Traffic(champion=2))
    portal = ("deployment", "portal", "-n", infrastructure.SYSTEM)
    control_plane.kubectl("scale", *portal, "--replicas=0")
    try:
        wait_until("predictions are refused", lambda: client.post(PREDICT).status_code in (403, 500, 503), 30)
    finally:
        control_plane.kubectl("scale", *portal, "--replicas=1")
    wait_until("predictions are answered", lambda: client.post(PREDICT).status_code == 200, 30)


def test_plain_http_leads_to_https_alone(
    envoy: Envoy, asked: Path, gateway_controller: PrivateNetwork, domain: str
) -> None:
    transport = httpx.HTTPTransport(uds=str(gateway_controller.socket("http")))
    with httpx.Client(transport=transport, base_url=f"http://portal.{domain}") as plain:
        answer = plain.get("/models/flight_delay")
    assert answer.status_code == 301
    assert answer.headers["location"] == f"https://portal.{domain}/models/flight_delay"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_version_without_a_server_is_refused_by_the_gateway(target: KubernetesTarget) -> None:
    with pytest.raises(NotReady, match=r"does not take the route.*ResolvedRefs"):
        target.set_traffic(MODEL, Traffic(champion=99))


def test_traffic_that_makes_no_sense_reaches_no_cluster(target: KubernetesTarget) -> None:
    with pytest.raises(InvalidInput, match="no challenger"):
        target.set_traffic(MODEL, Traffic(champion=1, percent=10))
    assert target.read_traffic("never_routed") is None


def _conditions(status: Object) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status.get("conditions", [])}


def _versions(control_plane: ControlPlane) -> dict[str, int]:
    """Address -> version."""
    pods = control_plane.list("pods", names.NAMESPACE, f"{names.MODEL_LABEL}={MODEL}")
    return {pod["status"]["podIP"]: int(pod["metadata"]["labels"][names.VERSION_LABEL]) for pod in pods}


def _ask(client: httpx.Client, control_plane: ControlPlane, count: int) -> Counter[int]:
    """Real requests: how many each version answered."""
    versions = _versions(control_plane)
    answers = [client.post(PREDICT, json={"inputs": []}) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(versions[answer.json()["address"]] for answer in answers)


def _count(target: KubernetesTarget) -> Counter[int]:
    """Answers by version since champion or challenger last changed; nothing while nobody was asked."""
    try:
        return Counter({version: answers.total for version, answers in target.count_answers(MODEL).items()})
    except NotReady:
        return Counter()


def _read(asked: Path) -> list[Object]:
    return [json.loads(line) for line in asked.read_text().splitlines()]


def _expect(envoy: Envoy, shares: dict[int, int], *, copies: int) -> None:
    """Envoy's own configuration: who answers predictions, in per cent, and how many copies are made."""

    def taken() -> bool:
        route = next((item for item in envoy.routes() if item["match"].get("path") == PREDICT), None)
        return route is not None and _shares(route) == shares and _copies(route) == copies

    wait_until(f"Envoy has taken {shares} with {copies} copies", taken, 30, [envoy.process])


def _shares(route: Object) -> dict[int, int]:
    """By the version that each weighted cluster writes on its requests."""
    found = {}
    for cluster in route["route"].get("weighted_clusters", {}).get("clusters", []):
        headers = {item["header"]["key"]: item["header"]["value"] for item in cluster.get("request_headers_to_add", [])}
        if cluster.get("weight"):
            found[int(headers[routes.ANSWERED_BY])] = int(cluster["weight"])
    return found


def _copies(route: Object) -> int:
    return len(route["route"].get("request_mirror_policies", []))
