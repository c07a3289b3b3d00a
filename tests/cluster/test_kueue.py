"""Kueue's own manager, given the flavours, queues and quotas that our infrastructure declares.

Two teams, `models` and `search`, own four CPUs and one GPU each; both may borrow what the other leaves idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infra.components import names
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.jobs import describe_job
from tests.cluster.lab.processes import LabError, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "kueue_manager")]

Object = dict[str, Any]


@pytest.fixture(autouse=True)
def no_jobs_left(control_plane: ControlPlane) -> Iterator[None]:
    yield
    control_plane.kubectl("-n", names.TRAINING, "delete", "jobs", "--all", "--timeout=60s")
    wait_until("no workload is left", lambda: not control_plane.list("workloads", names.TRAINING), 60)


def test_a_job_within_its_teams_quota_is_admitted(control_plane: ControlPlane) -> None:
    _submit(control_plane, "within", "models", cpu="3")
    _wait_for(control_plane, "within", admitted=True)


def test_a_job_above_all_quotas_waits(control_plane: ControlPlane) -> None:
    _submit(control_plane, "huge", "models", cpu="9")
    _wait_for(control_plane, "huge", admitted=False)


def test_a_job_starts_when_another_ends(control_plane: ControlPlane) -> None:
    _submit(control_plane, "first", "models", cpu="6")
    _wait_for(control_plane, "first", admitted=True)
    _submit(control_plane, "second", "models", cpu="6")
    _wait_for(control_plane, "second", admitted=False)
    control_plane.delete("job", "first", names.TRAINING)
    _wait_for(control_plane, "second", admitted=True)


def test_a_team_takes_back_what_the_other_borrowed(control_plane: ControlPlane) -> None:
    _submit(control_plane, "borrower", "models", cpu="7")
    _wait_for(control_plane, "borrower", admitted=True)
    _submit(control_plane, "owner", "search", cpu="4")
    _wait_for(control_plane, "owner", admitted=True)
    _wait_for(control_plane, "borrower", admitted=False)


def test_a_gpu_job_gets_the_gpu_flavour_and_node(control_plane: ControlPlane) -> None:
    _submit(control_plane, "accelerated", "models", cpu="1", gpus=1)
    _wait_for(control_plane, "accelerated", admitted=True)
    assert _node(control_plane, "accelerated") == "gpu-0"


def test_a_cpu_job_never_takes_a_gpu_node(control_plane: ControlPlane) -> None:
    _submit(control_plane, "plain", "models", cpu="1")
    _wait_for(control_plane, "plain", admitted=True)
    assert _node(control_plane, "plain") in ("cpu-0", "cpu-1")


def test_gpus_have_a_quota_of_their_own(control_plane: ControlPlane) -> None:
    _submit(control_plane, "two", "models", cpu="1", gpus=2)
    _wait_for(control_plane, "two", admitted=True)
    _submit(control_plane, "third", "models", cpu="1", gpus=1)
    _wait_for(control_plane, "third", admitted=False)
    _submit(control_plane, "cpus", "models", cpu="1")
    _wait_for(control_plane, "cpus", admitted=True)


def test_a_queue_that_is_not_there_admits_nothing(control_plane: ControlPlane) -> None:
    _submit(control_plane, "lost", "nobody", cpu="1")
    with pytest.raises(LabError, match="not within"):
        wait_until("it is admitted", lambda: _is_admitted(control_plane, "lost"), 2)
    assert _job(control_plane, "lost")["spec"]["suspend"] is True


def _submit(control_plane: ControlPlane, name: str, queue: str, *, cpu: str, gpus: int = 0) -> None:
    control_plane.apply([describe_job(name, queue, cpu=cpu, gpus=gpus)])


def _wait_for(control_plane: ControlPlane, name: str, *, admitted: bool) -> None:
    """Until Kueue has looked at it, and the Job runs or is held back accordingly."""

    def decided() -> bool:
        suspended = _job(control_plane, name)["spec"]["suspend"]
        if admitted:
            return _is_admitted(control_plane, name) and not suspended
        return _is_refused(control_plane, name) and bool(suspended)

    wait_until(f"{name} is {'admitted' if admitted else 'held back'}", decided, 30)


def _is_admitted(control_plane: ControlPlane, name: str) -> bool:
    return _condition(control_plane, name, "Admitted") == "True"


def _is_refused(control_plane: ControlPlane, name: str) -> bool:
    return _condition(control_plane, name, "QuotaReserved") == "False"


def _condition(control_plane: ControlPlane, name: str, kind: str) -> str | None:
    for workload in control_plane.list("workloads", names.TRAINING):
        if name in [owner["name"] for owner in workload["metadata"].get("ownerReferences", [])]:
            for condition in workload.get("status", {}).get("conditions", []):
                if condition["type"] == kind:
                    return str(condition["status"])
    return None


def _job(control_plane: ControlPlane, name: str) -> Object:
    found = control_plane.get("job", name, names.TRAINING)
    assert found is not None
    return found


def _node(control_plane: ControlPlane, name: str) -> str:
    def bound() -> str | None:
        pods = control_plane.list("pods", names.TRAINING, f"batch.kubernetes.io/job-name={name}")
        return next((pod["spec"].get("nodeName") for pod in pods), None)

    return wait_until(f"the pod of {name} is bound", bound)
