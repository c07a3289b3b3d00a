"""Envoy Gateway itself and an Envoy that it feeds, given the routes that the Kubernetes target makes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.components import names as infrastructure
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady
from slipway.targets import Traffic
from slipway.targets.kubernetes import names, routes
from slipway.targets.kubernetes.target import KubernetesTarget
from tests.cluster.lab.certificates import Authority
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.envoy_gateway import Envoy
from tests.cluster.lab.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("gateway_controller")]

Object = dict[str, Any]

MODEL = "flight_delay"
PREDICT = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def envoy(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """Fed by the controller, as one of the Gateway's pods would be."""
    folder: Path = tmp_path_factory.mktemp("tls")
    pair = Authority(folder, "gateway").sign("tls", hosts=["portal.slipway.localhost", "*.slipway.localhost"])
    data = {"tls.crt": pair.certificate, "tls.key": pair.key}
    control_plane.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/tls",
                "metadata": {"name": "gateway-tls", "namespace": infrastructure.GATEWAY},
                "data": {key: base64.b64encode(file.read_bytes()).decode() for key, file in data.items()},
            }
        ]
    )

    def deployment() -> Object | None:
        selector = f"gateway.envoyproxy.io/owning-gateway-name={infrastructure.GATEWAY_NAME}"
        found = control_plane.list("deployments", infrastructure.GATEWAY, selector)
        return found[0] if found else None

    started = Envoy(control_plane, wait_until("the Gateway has a Deployment", deployment, 60))
    yield started
    started.process.stop()


@pytest.fixture(scope="module")
def target(environment: Environment, control_plane: ControlPlane) -> KubernetesTarget:
    """With a Service and an endpoint for each version, as KServe and the kubelets would leave them."""
    for version in (1, 2, 3):
        name = names.service_name(MODEL, version)
        where = {"name": name, "namespace": names.NAMESPACE}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": where,
            "spec": {"ports": [{"name": "http", "port": names.SERVICE_PORT, "targetPort": names.PORT}]},
        }
        endpoint = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": where | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": names.PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [f"10.244.9.{version}"], "conditions": {"ready": True}}],
        }
        control_plane.apply([service, endpoint])
    return KubernetesTarget(environment)


def test_a_champion_alone_gets_everything(target: KubernetesTarget, envoy: Envoy) -> None:
    target.set_traffic(MODEL, Traffic(champion=1))
    assert target.read_traffic(MODEL) == Traffic(champion=1)
    _expect(envoy, {1: 100}, copies=0)


@pytest.mark.parametrize("percent", [10, 50])
def test_a_challenger_gets_its_share_and_both_get_copies(target: KubernetesTarget, envoy: Envoy, percent: int) -> None:
    wanted = Traffic(champion=1, challenger=2, percent=percent, previous=3)
    target.set_traffic(MODEL, wanted)
    assert target.read_traffic(MODEL) == wanted
    _expect(envoy, {1: 100 - percent, 2: percent}, copies=2)


def test_a_challenger_without_a_share_gets_copies_alone(target: KubernetesTarget, envoy: Envoy) -> None:
    wanted = Traffic(champion=1, challenger=2)
    target.set_traffic(MODEL, wanted)
    assert target.read_traffic(MODEL) == wanted
    _expect(envoy, {1: 100}, copies=1)


def test_promotion_moves_everything(target: KubernetesTarget, envoy: Envoy) -> None:
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    _expect(envoy, {2: 100}, copies=0)


def test_the_same_traffic_again_changes_nothing(target: KubernetesTarget, control_plane: ControlPlane) -> None:
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    before = control_plane.get("httproute", names.route_name(MODEL), names.NAMESPACE) or {}
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    after = control_plane.get("httproute", names.route_name(MODEL), names.NAMESPACE) or {}
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_version_without_a_server_is_refused_by_the_gateway(target: KubernetesTarget) -> None:
    with pytest.raises(NotReady, match=r"does not take the route.*ResolvedRefs"):
        target.set_traffic(MODEL, Traffic(champion=99))


def test_traffic_that_makes_no_sense_reaches_no_cluster(target: KubernetesTarget) -> None:
    with pytest.raises(InvalidInput, match="no challenger"):
        target.set_traffic(MODEL, Traffic(champion=1, percent=10))
    assert target.read_traffic("never_routed") is None


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
