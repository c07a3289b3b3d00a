"""Simulated nodes: kwok says that they and their pods are ready; the scheduler takes them for real."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.lab.control_plane import NODE_ANNOTATION, ControlPlane
from tests.cluster.lab.processes import wait_until

Object = dict[str, Any]

GPU = "nvidia.com/gpu"


def add_cpu_node(control_plane: ControlPlane, name: str, *, cpu: str = "8", memory: str = "32Gi") -> None:
    """An ordinary node."""
    _add(control_plane, name, {"cpu": cpu, "memory": memory}, {}, [])


def add_gpu_node(
    control_plane: ControlPlane, name: str, labels: dict[str, str], taint: dict[str, str], *, gpus: int = 1
) -> None:
    """A node of a GPU pool: its label and taint are the pool's, its devices those that a device plugin would report."""
    _add(control_plane, name, {"cpu": "8", "memory": "32Gi", GPU: str(gpus)}, labels, [taint])


def node_of(control_plane: ControlPlane, pod: Object) -> Object:
    """The node that a pod was bound to."""
    found = control_plane.get("node", pod["spec"]["nodeName"])
    assert found is not None
    return found


def _add(
    control_plane: ControlPlane,
    name: str,
    resources: dict[str, str],
    labels: dict[str, str],
    taints: list[dict[str, str]],
) -> None:
    size = resources | {"pods": "110", "ephemeral-storage": "100Gi"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {NODE_ANNOTATION: "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
            | labels,
        },
        "spec": {"taints": [{key: value for key, value in taint.items() if key != "operator"} for taint in taints]},
    }
    control_plane.apply([node])
    control_plane.kubectl(
        "patch", "node", name, "--subresource=status", "--type=merge", f"--patch={_status(size)}"
    )  # an apply sets no status

    def ready() -> bool:
        live = control_plane.get("node", name) or {}
        conditions = live.get("status", {}).get("conditions", [])
        blocked = any(
            taint["key"].startswith("node.kubernetes.io/") for taint in live.get("spec", {}).get("taints", [])
        )
        return not blocked and any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    wait_until(f"node {name} is ready", ready, 60)


def _status(size: dict[str, str]) -> str:
    return json.dumps({"status": {"allocatable": size, "capacity": size}})
