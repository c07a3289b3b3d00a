"""CloudNativePG's operator as a process of this machine, with the manifest that our component brings.

Its instances run nowhere: what they would say on their status port nobody says.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.components.hardening import Hardening
from infra.components.names import DATABASE_OPERATOR as NAMESPACE
from slipway.mirror.versions import Versions
from tests.cluster.lab import charts
from tests.cluster.lab.certificates import Authority
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.probes import accepts
from tests.cluster.lab.processes import LabError, Process, free_ports, wait_until
from tests.cluster.provider import rendering
from tests.cluster.tools.build import find_program, module_folder

Object = dict[str, Any]

READY_WITHIN = 60.0
_MODULE = "github.com/cloudnative-pg/cloudnative-pg"
_ACCOUNT = "cnpg-manager"
_DEPLOYMENT = "cnpg-controller-manager"


@contextmanager
def cloudnative_pg(control_plane: ControlPlane, versions: Versions) -> Iterator[Process]:
    """Ready when entered, webhooks included. Ends with the block."""
    objects = _read_manifest(versions)
    control_plane.apply(charts.of_kinds(objects, "CustomResourceDefinition"))
    control_plane.create_namespace(NAMESPACE)
    control_plane.apply(charts.of_kinds(objects, "ConfigMap", *charts.PERMISSIONS))
    folder = control_plane.folder / "cloudnative-pg"
    authority = Authority(folder, "authority")
    pair = authority.sign("apiserver", hosts=[control_plane.webhook_host, "localhost"])
    assert (pair.certificate.name, pair.key.name) == ("apiserver.crt", "apiserver.key"), "the names that it looks for"
    _lay_out_programs(folder)
    webhooks, metrics = free_ports(2)
    process = Process(
        "cnpg-manager",
        # Without a lease: who loses one on a busy machine ends, and no kubelet is here to start it again.
        [
            find_program("cnpg-manager"),
            "controller",
            f"--webhook-port={webhooks}",
            f"--metrics-bind-address=127.0.0.1:{metrics}",
        ],
        control_plane.folder,
        _variables(objects)
        | {
            "KUBECONFIG": str(control_plane.kubeconfig_of(_ACCOUNT, NAMESPACE)),
            "OPERATOR_NAMESPACE": NAMESPACE,
            "WEBHOOK_CERT_DIR": str(folder),
        },
        started_in=folder,
    )
    hooks = charts.of_kinds(objects, *charts.WEBHOOKS)
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    try:
        wait_until("CloudNativePG's operator is ready", lambda: accepts(webhooks), READY_WITHIN, [process])
        control_plane.apply(
            charts.call_by_address(hook, control_plane.webhook_host, webhooks, bundle) for hook in hooks
        )
        yield process
    finally:
        process.stop()
        # They fail closed: other tests' databases could not be made any more.
        for hook in hooks:
            control_plane.delete(hook["kind"], hook["metadata"]["name"])


def _lay_out_programs(folder: Path) -> None:
    """As in its image: one for each processor that a node may have, which its instances are given."""
    programs = folder / "operator"
    programs.mkdir()
    for architecture in ("amd64", "arm64"):
        (programs / f"manager_{architecture}").symlink_to(find_program("cnpg-manager"))


def _read_manifest(versions: Versions) -> list[Object]:
    """As the program applies it: images by digest, definitions without prose."""
    pin = versions.manifest("cloudnative_pg")
    module = module_folder("cloudnative-pg", _MODULE)
    if not module.name.endswith(f"@v{pin.version}"):
        raise LabError(f"the program brings CloudNativePG {pin.version}, and the tests have {module.name}")
    text = (module / "releases" / pin.source.rpartition("/")[2]).read_text()
    hardening = Hardening({}, image=versions.pinned, text=versions.pinned_in)
    return [hardening.apply(item) for item in rendering.read_objects(text)]


def _variables(objects: list[Object]) -> dict[str, str]:
    """What the manifest tells the operator: which image starts its instances, and which queries they answer."""
    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    assert deployment["metadata"]["name"] == _DEPLOYMENT
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}
