"""KubeRay's own operator, given the Ray job and the standing Ray cluster that our infrastructure declares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from infra.components import names
from infra.components.training import ELASTIC, GPU_NODE, GPU_TAINT, QUEUE, TEMPLATE
from tests.cluster.lab import nodes, rules
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.kuberay import pods_of
from tests.cluster.lab.processes import wait_until
from tests.cluster.lab.stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "kuberay_operator")]

Object = dict[str, Any]

JOB = "run"
"""Not the name of the standing cluster: both would want one Service for their heads."""
GROUP = "ray.io/group"
KIND = "ray.io/node-type"


@pytest.fixture(scope="module")
def job(stack: Stack) -> Object:
    """As the runner submits it, but for the queue: who admits jobs is another test's matter."""
    template = stack.find(f"ConfigMap/{names.TRAINING}/{TEMPLATE}")
    found: Object = json.loads(template["data"]["rayjob.json"])
    found["metadata"]["name"] = JOB
    del found["metadata"]["labels"][QUEUE]
    found["spec"] |= {"entrypoint": "python -c 'print(1)'", "suspend": False}
    return found


@pytest.fixture(scope="module")
def token(control_plane: ControlPlane, stack: Stack) -> None:
    """What every Ray process asks of every other."""
    control_plane.apply([stack.find(f"Secret/{names.TRAINING}/ray-token")])


@pytest.fixture(scope="module")
def pods(control_plane: ControlPlane, token: None, job: Object) -> Iterator[list[Object]]:
    """Of the job's cluster, when all are bound to nodes."""
    control_plane.apply([job])
    yield _wait_for_pods(control_plane, JOB, {"headgroup": 1, "cpu": 2, "gpu": 1})
    control_plane.delete("rayjob", JOB, names.TRAINING)
    wait_until("its pods are gone", lambda: not pods_of(control_plane, JOB), 60)


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
    _assert_asks_for_gpu(worker)


def test_every_pod_of_a_job_keeps_to_every_rule(pods: list[Object], stack: Stack) -> None:
    assert rules.findings(pods, stack.objects(*rules.NEEDED)) == []
    assert not any(pod["spec"].get("automountServiceAccountToken", True) for pod in pods)


def test_every_ray_container_asks_for_the_token(pods: list[Object]) -> None:
    for pod in pods:
        variables = {item["name"]: item for item in pod["spec"]["containers"][0]["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "ray-token"


def test_a_standing_cluster_begins_without_workers_and_grows_as_its_autoscaler_says(
    control_plane: ControlPlane, stack: Stack, token: None
) -> None:
    cluster = _standing_cluster(stack)
    name = cluster["metadata"]["name"]
    control_plane.apply([cluster])
    try:
        (head,) = _wait_for_pods(control_plane, name, {"headgroup": 1})
        assert sorted(container["name"] for container in head["spec"]["containers"]) == ["autoscaler", "ray"]
        assert rules.findings([head], [*stack.objects(*rules.NEEDED), *_account_of(control_plane, head)]) == []

        # What the autoscaler, which has no container to run in here, would write; with the head's own rights.
        autoscaler = control_plane.kubeconfig_of(head["spec"]["serviceAccountName"], names.TRAINING)
        for position, group in enumerate(cluster["spec"]["workerGroupSpecs"]):
            change = [{"op": "replace", "path": f"/spec/workerGroupSpecs/{position}/replicas", "value": 1}]
            patch = ("patch", "raycluster", name, "-n", names.TRAINING, "--type=json", f"--patch={json.dumps(change)}")
            control_plane.kubectl(*patch, "--kubeconfig", autoscaler)
            assert group["minReplicas"] == 0
        grown = _wait_for_pods(control_plane, name, {"headgroup": 1, "cpu": 1, "gpu": 1})
        (worker,) = (pod for pod in grown if pod["metadata"]["labels"][GROUP] == "gpu")
        assert worker["spec"]["nodeName"] == "gpu-0"
        _assert_asks_for_gpu(worker)
        workers = [pod for pod in grown if pod["metadata"]["labels"][KIND] == "worker"]
        assert rules.findings(workers, stack.objects(*rules.NEEDED)) == []
    finally:
        control_plane.delete("raycluster", name, names.TRAINING)
    wait_until("its pods are gone", lambda: not pods_of(control_plane, name), 60)


def test_a_job_that_is_called_like_the_standing_cluster_leaves_its_head_service_alone(
    control_plane: ControlPlane, stack: Stack, token: None, job: Object
) -> None:
    cluster = _standing_cluster(stack)
    name = cluster["metadata"]["name"]
    namesake = json.loads(json.dumps(job))
    namesake["metadata"]["name"] = name

    def heads() -> dict[str, str]:
        """Service -> the Ray cluster whose head it leads to."""
        services = control_plane.list("services", names.TRAINING)
        return {each["metadata"]["name"]: each["spec"]["selector"]["ray.io/cluster"] for each in services}

    control_plane.apply([cluster])
    try:
        wait_until("the cluster has its Service", lambda: name in heads().values(), 60)
        (before,) = (service for service, leads_to in heads().items() if leads_to == name)
        control_plane.apply([namesake])
        wait_until(
            "the job's cluster has one, too", lambda: any(each.startswith(f"{name}-") for each in heads().values()), 60
        )
        assert heads()[before] == name
        assert not before.endswith("-head-svc"), "what KubeRay ends a job's in, however it is called"
        (service,) = (
            each for each in control_plane.list("services", names.TRAINING) if each["metadata"]["name"] == before
        )
        assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    finally:
        control_plane.delete("rayjob", name, names.TRAINING)
        control_plane.delete("raycluster", name, names.TRAINING)
    wait_until("their pods are gone", lambda: not pods_of(control_plane, name), 60)


def _standing_cluster(stack: Stack) -> Object:
    """Nobody's business but KubeRay's: where Kueue runs as well, what has no queue would wait for ever."""
    (declared,) = stack.objects("RayCluster")
    cluster: Object = json.loads(json.dumps(declared))
    del cluster["metadata"]["labels"][QUEUE], cluster["metadata"]["annotations"][ELASTIC]
    return cluster


def _wait_for_pods(control_plane: ControlPlane, name: str, groups: dict[str, int]) -> list[Object]:
    """Exactly these, all bound to nodes."""

    def bound() -> list[Object] | None:
        found = pods_of(control_plane, name)
        made = Counter(pod["metadata"]["labels"][GROUP] for pod in found)
        return found if made == groups and all(pod["spec"].get("nodeName") for pod in found) else None

    return wait_until(f"pods of {groups} are bound", bound, 90)


def _assert_asks_for_gpu(worker: Object) -> None:
    """What an autoscaler reads off a waiting pod to start a node of a pool from zero."""
    assert worker["spec"]["nodeSelector"] == GPU_NODE
    assert GPU_TAINT in worker["spec"]["tolerations"]
    assert any(container["resources"]["limits"].get(nodes.GPU) == "1" for container in worker["spec"]["containers"])


def _account_of(control_plane: ControlPlane, pod: Object) -> list[Object]:
    """The account, role and binding that KubeRay made for it."""
    return [
        each
        for each in control_plane.list("serviceaccounts,roles,rolebindings", names.TRAINING)
        if each["metadata"].get("ownerReferences")
    ]
