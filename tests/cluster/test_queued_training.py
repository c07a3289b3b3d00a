"""Kueue and KubeRay together: our Ray job and our standing Ray cluster go through the queues of their team.

The job asks for 4.5 CPUs and a GPU: more than its team's own 4 CPUs, so that it borrows, and only one fits at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.components import names
from infra.components.training import QUEUE, TEMPLATE
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.jobs import describe_job
from tests.cluster.lab.kuberay import pods_of
from tests.cluster.lab.processes import wait_until
from tests.cluster.lab.stack import Stack

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.usefixtures("cluster_nodes", "kuberay_operator", "kueue_manager", "token", "nothing_left"),
]

Object = dict[str, Any]
Submit = Callable[[str, str], None]


@pytest.fixture(scope="module")
def token(control_plane: ControlPlane, stack: Stack) -> None:
    control_plane.apply([stack.find(f"Secret/{names.TRAINING}/ray-token")])


@pytest.fixture
def nothing_left(control_plane: ControlPlane) -> Iterator[None]:
    yield
    control_plane.kubectl("-n", names.TRAINING, "delete", "rayjobs,rayclusters,jobs", "--all", "--timeout=60s")
    wait_until("no workload is left", lambda: not control_plane.list("workloads", names.TRAINING), 60)
    wait_until("no pod is left", lambda: not control_plane.list("pods", names.TRAINING), 60)


@pytest.fixture
def submit(control_plane: ControlPlane, stack: Stack) -> Submit:
    """A Ray job of this name to the queue of this team, as the runner makes it of the template."""
    template = stack.find(f"ConfigMap/{names.TRAINING}/{TEMPLATE}")["data"]["rayjob.json"]

    def make(name: str, team: str) -> None:
        job = json.loads(template)
        job["metadata"]["name"] = name
        job["metadata"]["labels"][QUEUE] = team
        job["spec"]["entrypoint"] = "python -c 'print(1)'"
        control_plane.apply([job])

    return make


def test_a_run_is_admitted_and_gets_its_pods(control_plane: ControlPlane, submit: Submit) -> None:
    submit("first", "models")
    _wait_for(control_plane, "first", pods=4)


def test_a_second_run_starts_when_the_first_has_ended(control_plane: ControlPlane, submit: Submit) -> None:
    submit("first", "models")
    _wait_for(control_plane, "first", pods=4)
    submit("second", "models")
    _wait_for(control_plane, "second", pods=0)
    control_plane.delete("rayjob", "first", names.TRAINING)
    _wait_for(control_plane, "second", pods=4)


def test_a_run_that_borrows_makes_room_for_the_owner(control_plane: ControlPlane, submit: Submit) -> None:
    submit("borrower", "models")
    _wait_for(control_plane, "borrower", pods=4)
    # Its own four CPUs, of which the other has borrowed.
    control_plane.apply([describe_job("owner", "search", cpu="4")])
    wait_until("the owner's job runs", lambda: _is_running(control_plane, "owner"), 60)
    _wait_for(control_plane, "borrower", pods=0)
    control_plane.delete("job", "owner", names.TRAINING)
    _wait_for(control_plane, "borrower", pods=4)


def test_a_standing_cluster_is_admitted_and_pays_for_the_workers_it_adds(
    control_plane: ControlPlane, stack: Stack
) -> None:
    (cluster,) = stack.objects("RayCluster")
    name = cluster["metadata"]["name"]
    control_plane.apply([cluster])
    wait_until("its head is bound", lambda: len(_bound(control_plane, name)) == 1, 60)
    before = _used(control_plane, "models")

    control_plane.kubectl(
        "patch", "raycluster", name, "-n", names.TRAINING, "--type=json",
        '--patch=[{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 2}]',
    )  # fmt: skip
    wait_until("its workers are bound", lambda: len(_bound(control_plane, name)) == 3, 60)
    wait_until("their CPUs are counted", lambda: _used(control_plane, "models") == before + 2, 30)


def _wait_for(control_plane: ControlPlane, name: str, *, pods: int) -> None:
    """Until Kueue has decided, and the job has this many pods on nodes; none: it is held back."""

    def decided() -> bool:
        job = control_plane.get("rayjob", name, names.TRAINING)
        assert job is not None
        if not pods:
            return (
                bool(job["spec"].get("suspend"))
                and _is_waiting(control_plane, name)
                and not pods_of(control_plane, name)
            )
        return not job["spec"].get("suspend") and len(_bound(control_plane, name)) == pods

    wait_until(f"{name} has {pods} pods", decided, 90)


def _bound(control_plane: ControlPlane, name: str) -> list[Object]:
    return [pod for pod in pods_of(control_plane, name) if pod["spec"].get("nodeName")]


def _is_waiting(control_plane: ControlPlane, name: str) -> bool:
    for workload in control_plane.list("workloads", names.TRAINING):
        if name in [owner["name"] for owner in workload["metadata"].get("ownerReferences", [])]:
            conditions = {each["type"]: each["status"] for each in workload.get("status", {}).get("conditions", [])}
            return conditions.get("QuotaReserved") == "False"
    return False


def _is_running(control_plane: ControlPlane, name: str) -> bool:
    return any(
        pod["spec"].get("nodeName")
        for pod in control_plane.list("pods", names.TRAINING, f"batch.kubernetes.io/job-name={name}")
    )


def _used(control_plane: ControlPlane, team: str) -> float:
    """CPUs that the team's queue counts as taken."""
    queue = control_plane.get("clusterqueue", team) or {}
    for flavor in queue.get("status", {}).get("flavorsUsage", []):
        for resource in flavor["resources"]:
            if resource["name"] == "cpu":
                total = str(resource.get("total", "0"))
                return float(total[:-1]) / 1000 if total.endswith("m") else float(total)
    return 0.0
