"""KubeRay's operator as a process of this machine, with the rights that our component asks its chart for.

The chart is in no module; its role is the one that the operator's own module carries, bound in the watched namespaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra.components.names import TRAINING
from infra.components.names import TRAINING_OPERATOR as NAMESPACE
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.probes import is_healthy
from tests.cluster.lab.processes import LabError, Process, free_ports, wait_until
from tests.cluster.tools.build import find_program, module_folder

Object = dict[str, Any]

READY_WITHIN = 60.0
_MODULE = "github.com/ray-project/kuberay/ray-operator"
_ACCOUNT = "kuberay-operator"
_CLUSTER = "ray.io/cluster"


def apply_definitions(control_plane: ControlPlane) -> None:
    """Ray's kinds, which Kueue wants to see as well."""
    control_plane.apply_files(sorted((_source() / "crd/bases").glob("ray.io_*.yaml")))


@contextmanager
def kuberay(control_plane: ControlPlane, values: Mapping[str, Any]) -> Iterator[Process]:
    """Ready when entered; its definitions and namespaces must be there. Ends with the block."""
    # As the chart decides it; otherwise its role is bound in the whole cluster.
    if not (values["singleNamespaceInstall"] and values["crNamespacedRbacEnable"]):
        raise LabError("these values give KubeRay rights in all namespaces: singleNamespaceInstall is not set")
    watched = values["watchNamespace"]
    control_plane.apply(_permissions(watched))
    kubeconfig = control_plane.kubeconfig_of(_ACCOUNT, NAMESPACE)
    probes, metrics = free_ports(2)
    process = Process(
        "kuberay-operator",
        [
            find_program("kuberay-operator"),
            f"-kubeconfig={kubeconfig}",
            f"-watch-namespace={','.join(watched)}",
            # Who loses a lease on a busy machine ends, and no kubelet is here to start it again.
            "-enable-leader-election=false",
            f"-health-probe-bind-address=127.0.0.1:{probes}",
            f"-metrics-addr=127.0.0.1:{metrics}",
        ],
        control_plane.folder,
        {"KUBECONFIG": str(kubeconfig)},
    )
    try:
        wait_until("KubeRay's operator is ready", lambda: is_healthy(probes, "/readyz"), READY_WITHIN, [process])
        yield process
    finally:
        process.stop()


def pods_of(control_plane: ControlPlane, name: str) -> list[Object]:
    """Pods of a RayCluster, or of the cluster of a RayJob: that is called after its job, with a random ending."""

    def belongs(pod: Object) -> bool:
        cluster = pod["metadata"]["labels"][_CLUSTER]
        return bool(cluster == name or cluster.rpartition("-")[0] == name)

    return [pod for pod in control_plane.list("pods", TRAINING, _CLUSTER) if belongs(pod)]


def _permissions(watched: list[str]) -> Iterator[Object]:
    account = {"kind": "ServiceAccount", "name": _ACCOUNT, "namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _ACCOUNT, "namespace": NAMESPACE}}
    for role in yaml.safe_load_all((_source() / "rbac" / "role.yaml").read_text()):
        for namespace in watched:
            metadata = {"name": role["metadata"]["name"], "namespace": namespace}
            yield role | {"kind": "Role", "metadata": metadata}
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]}
            yield {
                "apiVersion": role["apiVersion"],
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": reference,
                "subjects": [account],
            }


def _source() -> Path:
    return module_folder("kuberay", _MODULE) / "config"
