"""KubeRay's own operator, given the Ray job that our infrastructure declares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from infra.components import names
from infra.components.training import GPU_NODE, GPU_TAINT, QUEUE, TEMPLATE
from tests.cluster.lab import nodes
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.processes import wait_until
from tests.cluster.lab.stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "kuberay_operator")]

Object = dict[str, Any]

GROUP = "ray.io/group"
KIND = "ray.io/node-type"


@pytest.fixture(scope="module")
def job(stack: Stack) -> Object:
    """As the runner submits it, but for the queue: who admits jobs is another test's matter."""
    (template,) = (item for item in stack.objects("ConfigMap") if item["metadata"]["name"] == TEMPLATE)
    found: Object = json.loads(template["data"]["rayjob.json"])
    found["metadata"]["name"] = "training"
    del found["metadata"]["labels"][QUEUE]
    found["spec"] |= {"entrypoint": "python -c 'print(1)'", "suspend": False}
    return found


@pytest.fixture(scope="module")
def pods(control_plane: ControlPlane, stack: Stack, job: Object) -> Iterator[list[Object]]:
    """Of the job's cluster, when all are bound to nodes."""
    tokens = [item for item in stack.objects("Secret") if item["metadata"]["name"] == "ray-token"]
    control_plane.apply([*tokens, job])

    def bound() -> list[Object] | None:
        found = control_plane.list("pods", names.TRAINING, "ray.io/cluster")
        complete = len(found) == 4 and all(pod["spec"].get("nodeName") for pod in found)
        return found if complete else None

    yield wait_until("head, two CPU workers and a GPU worker are bound", bound, 90)
    control_plane.delete("rayjob", "training", names.TRAINING)


def test_a_job_gets_a_head_and_both_worker_groups(pods: list[Object]) -> None:
    groups = sorted((pod["metadata"]["labels"][KIND], pod["metadata"]["labels"][GROUP]) for pod in pods)
    assert groups == [("head", "headgroup"), ("worker", "cpu"), ("worker", "cpu"), ("worker", "gpu")]


def test_gpu_workers_land_on_gpu_nodes_and_all_others_elsewhere(pods: list[Object]) -> None:
    by_group = {
        group: {pod["spec"]["nodeName"] for pod in pods if pod["metadata"]["labels"][GROUP] == group}
        for group in ("headgroup", "cpu", "gpu")
    }
    assert by_group["gpu"] == {"gpu-0"}
    assert by_group["headgroup"] | by_group["cpu"] <= {"cpu-0", "cpu-1"}


def test_a_gpu_worker_asks_for_device_label_and_taint(pods: list[Object]) -> None:
    (worker,) = (pod for pod in pods if pod["metadata"]["labels"][GROUP] == "gpu")
    assert worker["spec"]["nodeSelector"] == GPU_NODE
    assert GPU_TAINT in worker["spec"]["tolerations"]
    assert any(container["resources"]["limits"].get(nodes.GPU) == "1" for container in worker["spec"]["containers"])


def test_every_container_that_kuberay_makes_is_restricted(pods: list[Object]) -> None:
    unsafe = [
        f"{pod['metadata']['labels'][GROUP]}/{container['name']}"
        for pod in pods
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem")
        or container["securityContext"].get("capabilities") != {"drop": ["ALL"]}
    ]
    assert unsafe == []
    assert not any(pod["spec"].get("automountServiceAccountToken", True) for pod in pods)


def test_every_ray_container_asks_for_the_token(pods: list[Object]) -> None:
    for pod in pods:
        variables = {item["name"]: item for item in pod["spec"]["containers"][0]["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "ray-token"
