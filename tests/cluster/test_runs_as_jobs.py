"""The runner's Jobs on a real API server: made with its own rights, held by Kueue, run, read and taken away.

The pods' program is the real one, run on this machine; it finds no data, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.components import names, pipelines
from infra.components.training import QUEUE
from pipelines import jobs
from pipelines.groups import Line
from pipelines.task import Run
from slipway import pod
from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import Refused, SlipwayError
from slipway.settings import Settings
from slipway.targets.kubernetes.cluster_api import ClusterApi
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.processes import wait_until
from tests.cluster.lab.running_pods import RunningPods
from tests.cluster.lab.stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "kueue_manager")]

Object = dict[str, Any]

MODEL = "flight_delay"
RUN = Run(1, f"{MODEL}/first", MODEL, datetime(2013, 3, 2, tzinfo=UTC), None, {})


@pytest.fixture(scope="module")
def environment(settings: Settings, control_plane: ControlPlane, stack: Stack, namespaces: None) -> Environment:
    """What the runner works in: the cluster, with its own rights, and the template of runs."""
    control_plane.apply([stack.find(f"CronJob/{names.TRAINING}/{pipelines.TEMPLATE}")])
    own = control_plane.kubeconfig_of("runner", names.TRAINING)
    assert settings.kubernetes is not None
    cluster = settings.kubernetes.model_copy(update={"kubeconfig": own, "context": ""})
    return Environment(own, settings.model_copy(update={"kubernetes": cluster}))


@pytest.fixture(scope="module")
def running_pods(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPods]:
    made = RunningPods(control_plane, tmp_path_factory.mktemp("nodes") / "pods")
    for node in ("cpu-0", "cpu-1"):
        made.serve_logs_of(node)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def no_jobs_left(control_plane: ControlPlane) -> Iterator[None]:
    yield
    control_plane.kubectl("-n", names.TRAINING, "delete", "jobs", "--all", "--timeout=60s")
    wait_until("no workload is left", lambda: not control_plane.list("workloads", names.TRAINING), 60)


class Following(threading.Thread):
    """A runner that works on one run."""

    def __init__(self, environment: Environment, run: Run, attempt: int = 1) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.heard: list[Line] = []
        self.lines: list[Line] | None = None
        self.error: SlipwayError | None = None
        self._run, self._attempt = run, attempt

        def wait(seconds: float) -> None:
            self.stop.wait(seconds)

        self._engine = jobs.JobEngine(environment, stopping=self.stop.is_set, wait=wait, poll=0.2)
        self.start()

    def run(self) -> None:
        try:
            self.lines = self._engine.run(self._run, self._attempt, self.heard.append)
        except SlipwayError as error:
            self.error = error

    def ended(self, within: float = 60) -> Following:
        self.join(timeout=within)
        assert not self.is_alive(), "the runner did not end"
        return self


def _pod(control_plane: ControlPlane, run: Run) -> Object:
    def found() -> Object | None:
        pods = control_plane.list("pods", names.TRAINING, f"{jobs.RUN_LABEL}={run.id}")
        started = [each for each in pods if each.get("status", {}).get("phase") == "Running"]
        return started[-1] if started else None

    return wait_until(f"a pod of run {run.id} runs", found, 60)


def _jobs(control_plane: ControlPlane, run: Run) -> list[Object]:
    return control_plane.list("jobs", names.TRAINING, f"{jobs.RUN_LABEL}={run.id}")


def test_a_run_goes_through_one_job_and_its_progress_is_read_from_its_log(
    environment: Environment, control_plane: ControlPlane, running_pods: RunningPods, tmp_path: Path
) -> None:
    following = Following(environment, RUN)
    # Kueue has let it go, within the team's quota.
    made = _pod(control_plane, RUN)
    (job,) = _jobs(control_plane, RUN)
    assert (job["metadata"]["name"], job["metadata"]["labels"][QUEUE]) == ("run-1-1", "models")
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    instead = {"SLIPWAY_ENVIRONMENT": str(file), pod.SECRETS: "", "HOME": str(tmp_path)}
    assert running_pods.run(made, instead, within=240) == 1
    lines = following.ended().lines
    assert lines is not None
    assert [(line["step"], line["state"]) for line in lines[:2]] == [("snapshot", "begun"), ("snapshot", "ended")]
    assert following.heard == lines
    # What the step itself said, in the pod: nobody has published features there.
    assert lines[-1]["step"] == "validate"
    assert lines[-1]["error"]["outcome"] == "refused", lines[-1]


def test_a_runner_that_starts_anew_takes_up_the_job_that_another_left(
    environment: Environment, control_plane: ControlPlane, running_pods: RunningPods
) -> None:
    run = replace(RUN, id=2)
    first = Following(environment, run)
    made = _pod(control_plane, run)
    first.stop.set()
    assert first.ended().lines is None
    second = Following(environment, run, attempt=2)
    running_pods.end(made, 0)
    lines = second.ended().lines
    assert [job["metadata"]["name"] for job in _jobs(control_plane, run)] == ["run-2-1"], "one Job for both"
    assert lines is not None
    assert "left no log" in lines[-1]["error"]["message"], "it says nothing that was not printed"


def test_a_job_that_failed_is_worth_another_attempt_under_another_name(
    environment: Environment, control_plane: ControlPlane, running_pods: RunningPods
) -> None:
    run = replace(RUN, id=3)
    first = Following(environment, run)
    running_pods.end(_pod(control_plane, run), 137)
    lines = first.ended().lines
    assert lines is not None
    assert lines[-1]["error"]["outcome"] == "again"
    assert "failed" in lines[-1]["error"]["message"]
    second = Following(environment, run, attempt=2)
    wait_until("a second Job", lambda: len(_jobs(control_plane, run)) == 2, 30)
    assert {job["metadata"]["name"] for job in _jobs(control_plane, run)} == {"run-3-1", "run-3-2"}
    second.stop.set()
    second.ended()


def test_a_run_past_its_deadline_is_taken_away(
    environment: Environment, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_contract(MODEL).training.deadline.total_seconds() > 0
    run = replace(RUN, id=4)
    monkeypatch.setattr(jobs, "longest", lambda _: 1.0)
    error = Following(environment, run).ended().error
    assert error is not None
    assert "did not end in time" in error.message or "failed" in error.message
    wait_until("its Job is gone", lambda: not _jobs(control_plane, run), 60)


def test_the_runner_may_do_nothing_else(environment: Environment) -> None:
    assert environment.settings.kubernetes is not None
    api = ClusterApi(environment.settings.kubernetes)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": names.TRAINING}}
    with pytest.raises(Refused, match="forbidden"):
        api.create(config, "configmaps")
    with pytest.raises(Refused, match="forbidden"):
        api.find("v1", names.TRAINING, "secrets", {})
