"""KServe's manager as a process of this machine, configured by the values of our own component."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.lab import charts
from tests.cluster.lab.certificates import Authority
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.probes import is_healthy
from tests.cluster.lab.processes import Process, free_ports, wait_until
from tests.cluster.tools.build import find_program, module_folder

NAMESPACE = "kserve"
READY_WITHIN = 60.0


@contextmanager
def kserve(control_plane: ControlPlane, values: Mapping[str, Any]) -> Iterator[Process]:
    """Ready when entered, webhooks included; the Gateway API's definitions must be there. Ends with the block."""
    source = module_folder("kserve", "github.com/kserve/kserve")
    folder = control_plane.folder / "kserve"
    definitions = source / "config" / "crd" / "minimal"
    # It looks once at what there is, and ends when a kind is missing.
    control_plane.apply_files(
        [*sorted(definitions.glob("serving*.yaml")), *sorted((definitions / "clusterstoragecontainer").glob("s*.yaml"))]
    )
    rendered = charts.render(source / "charts" / "kserve-resources", "kserve", NAMESPACE, values)
    control_plane.create_namespace(NAMESPACE)
    control_plane.apply(charts.of_kinds(rendered, "ConfigMap", *charts.PERMISSIONS))
    authority = _create_certificates(folder, control_plane.webhook_host)
    webhooks, probes, metrics = free_ports(3)
    process = Process(
        "kserve-manager",
        [
            find_program("kserve-manager"),
            f"--metrics-addr=127.0.0.1:{metrics}",
            f"--health-probe-addr=127.0.0.1:{probes}",
            f"--webhook-port={webhooks}",
        ],
        control_plane.folder,
        {
            "KUBECONFIG": str(control_plane.kubeconfig_of("kserve-controller-manager", NAMESPACE)),
            "POD_NAMESPACE": NAMESPACE,
            # The only way to tell it where its certificate is.
            "TMPDIR": str(folder),
        },
    )
    try:
        wait_until("KServe's manager is ready", lambda: is_healthy(probes, "/readyz"), READY_WITHIN, [process])
        hooks = charts.of_kinds(rendered, *charts.WEBHOOKS)
        control_plane.apply(
            [charts.call_by_address(hook, control_plane.webhook_host, webhooks, authority) for hook in hooks]
            + charts.of_kinds(rendered, "ClusterStorageContainer")
        )
        yield process
    finally:
        process.stop()


def _create_certificates(folder: Path, host: str) -> str:
    serving = folder / "k8s-webhook-server" / "serving-certs"
    authority = Authority(serving, "authority")
    pair = authority.sign("tls", hosts=[host, "localhost"])
    assert (pair.certificate.name, pair.key.name) == ("tls.crt", "tls.key"), "the names that it looks for"
    return base64.b64encode(authority.certificate.read_bytes()).decode()
