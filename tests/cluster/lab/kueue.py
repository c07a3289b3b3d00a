"""Kueue's manager as a process of this machine, configured by the values of our own component."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.lab import charts
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.probes import is_healthy
from tests.cluster.lab.processes import Process, free_ports, wait_until
from tests.cluster.tools.build import find_program, module_folder

NAMESPACE = "kueue-system"
READY_WITHIN = 120.0
_SECRET = "kueue-webhook-server-cert"
_SERVICE = "kueue-webhook-service"
_ACCOUNT = "kueue-controller-manager"

Object = dict[str, Any]


@contextmanager
def kueue(control_plane: ControlPlane, values: Mapping[str, Any]) -> Iterator[Process]:
    """Ready when entered, webhooks included; the kinds that it queues must be there. Ends with the block."""
    chart = module_folder("kueue", "sigs.k8s.io/kueue") / "charts" / "kueue"
    rendered = charts.render(chart, "kueue", NAMESPACE, values)
    webhooks, probes, metrics = free_ports(3)
    folder = control_plane.folder / "kueue"
    certificates = folder / "certificates"
    certificates.mkdir(parents=True, mode=0o700)
    host = control_plane.webhook_host
    objects = [_lead_to(host, item, webhooks) for item in rendered if not _runs_in_the_cluster(item)]
    control_plane.create_namespace(NAMESPACE)
    control_plane.apply(item for item in objects if item["kind"] not in charts.WEBHOOKS)
    # It writes its own authority into these, so they are there before it starts.
    control_plane.apply(charts.of_kinds(objects, *charts.WEBHOOKS))
    configuration = folder / "configuration.yaml"
    configuration.write_text(_configure(rendered, certificates, (host, webhooks), probes, metrics))
    process = Process(
        "kueue-manager",
        [find_program("kueue-manager"), f"--config={configuration}"],
        control_plane.folder,
        {
            "KUBECONFIG": str(control_plane.kubeconfig_of(_ACCOUNT, NAMESPACE)),
            "POD_NAMESPACE": NAMESPACE,
        },
    )
    try:
        wait_until(
            "Kueue has made its certificate", lambda: _mount(control_plane, certificates), READY_WITHIN, [process]
        )
        wait_until("Kueue's manager is ready", lambda: is_healthy(probes, "/readyz"), READY_WITHIN, [process])
        yield process
    finally:
        process.stop()
        # Its webhooks fail closed: nobody could make a Job any more.
        for kind in charts.WEBHOOKS:
            control_plane.kubectl("delete", kind, "-l", "app.kubernetes.io/name=kueue", "--ignore-not-found")


def _runs_in_the_cluster(item: Object) -> bool:
    if item["kind"] == "Service":
        return bool(item["metadata"]["name"] != _SERVICE)
    return item["kind"] in ("Deployment", "APIService", "PodDisruptionBudget", "ServiceMonitor")


def _lead_to(host: str, item: Object, port: int) -> Object:
    """Every call of the API server to the manager leads to this machine, under the name in its certificate."""
    if item["kind"] == "Service":
        item["spec"] = {"type": "ExternalName", "externalName": host}
    calls = [webhook["clientConfig"] for webhook in item.get("webhooks", [])]
    if item["kind"] == "CustomResourceDefinition":
        calls.append(item["spec"].get("conversion", {}).get("webhook", {}).get("clientConfig", {}))
    for call in calls:
        if "service" in call:
            call["service"]["port"] = port
    return item


def _configure(rendered: list[Object], certificates: Path, webhooks: tuple[str, int], probes: int, metrics: int) -> str:
    (config_map,) = (
        item for item in charts.of_kinds(rendered, "ConfigMap") if "manager-config" in item["metadata"]["name"]
    )
    configuration: Object = yaml.safe_load(config_map["data"]["controller_manager_config.yaml"])
    configuration |= {
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probes}"},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics}"},
        "webhook": {"host": webhooks[0], "port": webhooks[1], "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        # An aggregated API, which is reached by a Service only.
        "featureGates": {**configuration.get("featureGates", {}), "VisibilityOnDemand": False},
    }
    return yaml.safe_dump(configuration)


def _mount(control_plane: ControlPlane, folder: Path) -> bool:
    """What a kubelet would do with the Secret, once it is filled."""
    secret = control_plane.get("secret", _SECRET, NAMESPACE) or {}
    data = secret.get("data") or {}
    for name, value in data.items():
        (folder / name).write_bytes(base64.b64decode(value))
        (folder / name).chmod(0o600)
    return "tls.crt" in data
