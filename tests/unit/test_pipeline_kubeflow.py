"""A run through Kubeflow Pipelines: submitted once, taken up, followed by what its steps say, and ended.

Its API is a small server of the tests' own; the steps' words are files, by the same paths as in the object store.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from pipelines import kubeflow, kubeflow_spec
from pipelines.execution import ATTEMPT
from pipelines.groups import Line
from pipelines.kubeflow import KubeflowEngine, name_of
from pipelines.runner import Runner
from pipelines.step_notes import folder_of, read_notes, write_note
from pipelines.steps import STEPS
from pipelines.task import Run
from slipway.environment import VARIABLE, Environment
from slipway.errors import NotReady, Refused, SlipwayError
from slipway.object_path import ObjectPath, ObjectStore
from slipway.pod import Pod
from slipway.settings import Settings
from slipway.step_pods import FILE, FOLDER, StepPods
from tests.unit.kubeflow_server import KubeflowServer

ON_DISK = ObjectStore(LocalFileSystem(), LocalFileSystem())
RUN = Run(7, "flight_delay/first", "flight_delay", datetime(2013, 3, 2, tzinfo=UTC), 3, {})
SNAPSHOT: list[Line] = [
    {"step": "snapshot", "state": "begun"},
    {"step": "snapshot", "state": "ended", "values": {"rows": 10}, "seconds": 1.0},
]
REGISTERED: Line = {"step": "register", "state": "ended", "values": {"version": 4}, "seconds": 1.0}


def _error(outcome: str) -> Line:
    return {"step": "validate", "state": "ended", "error": {"outcome": outcome, "message": "why"}}


class PodWithFiles(Pod):
    """A pod whose object store is a folder."""

    def objects(self, user: str) -> ObjectPath:
        return ObjectPath(ON_DISK, str(self.secrets / "objects"))


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    made = KubeflowServer()
    yield made
    made.stop()


@pytest.fixture
def pods(server: KubeflowServer) -> StepPods:
    return StepPods(
        server=server.url,
        image="registry.example.com/platform@sha256:" + "a" * 64,
        variables={"HOME": "/tmp", VARIABLE: "/etc/slipway/environment/environment.json"},
        labels={"slipway.dev/role": "pipeline-step", "slipway.dev/model": "shared"},
        folders={"/state": "4Gi"},
        resources={"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        secrets={step: {"environment": "/etc/slipway/environment"} for step in STEPS}
        | {"register": {"environment": "/etc/slipway/environment", "signing": "/etc/slipway/signing"}},
    )


@pytest.fixture
def pod(pods: StepPods, tmp_path: Path) -> Pod:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FILE).write_text(pods.to_json())
    for attempt in (1, 2, 3):
        (tmp_path / "objects" / "runs" / f"{RUN.id}-{attempt}").mkdir(parents=True)
    return PodWithFiles(tmp_path)


class Following(threading.Thread):
    """A runner that works on the run."""

    def __init__(self, pod: Pod, attempt: int = 1, *, submit_within: float = 20) -> None:
        super().__init__(daemon=True)
        self.heard: list[Line] = []
        self.lines: list[Line] | None = None
        self.error: SlipwayError | None = None
        self.stop = threading.Event()
        self._attempt = attempt
        settings = {"name": "test", "target": "kubernetes", "state_dir": pod.secrets, "kubernetes": {"profile": "full"}}
        self._engine = KubeflowEngine(
            Environment(pod.secrets / "x", Settings.model_validate(settings), pod),
            stopping=self.stop.is_set,
            wait=self._wait,
            poll=0.02,
            submit_within=submit_within,
        )
        self.start()

    def _wait(self, seconds: float) -> None:
        self.stop.wait(seconds)

    def run(self) -> None:
        try:
            self.lines = self._engine.run(RUN, self._attempt, self.heard.append)
        except SlipwayError as error:
            self.error = error

    def ended(self) -> Following:
        self.join(timeout=30)
        assert not self.is_alive(), "the runner did not end"
        return self


def _until(true: Callable[[], Any]) -> None:
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.01)


def _say(pod: Pod, *lines: Line, attempt: int = 1) -> None:
    drafts = pod.secrets / "drafts"
    drafts.mkdir(exist_ok=True)
    for line in lines:
        write_note(ObjectPath(ON_DISK, str(drafts)), line)
        # A file grows while it is written; an object is there whole or not at all.
        (written,) = drafts.iterdir()
        written.replace(f"{folder_of(pod, f'{RUN.id}-{attempt}')}/{written.name}")


# --- one run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_submitted_and_each_step_is_told_as_it_comes(server: KubeflowServer, pod: Pod) -> None:
    following = Following(pod)
    _until(lambda: server.runs)
    _say(pod, SNAPSHOT[0])
    _until(lambda: following.heard == SNAPSHOT[:1])
    _say(pod, SNAPSHOT[1], REGISTERED)
    server.runs[0]["state"] = "SUCCEEDED"
    assert following.ended().lines == [*SNAPSHOT, REGISTERED]
    assert following.heard == following.lines
    (run,) = server.runs
    assert run["display_name"] == "flight_delay/first, attempt 1"
    told = run["runtime_config"]["parameters"]
    assert told["environment"] == "/etc/slipway/environment/environment.json"
    assert Run.from_json(told["run"]) == RUN


def test_what_a_step_refused_is_the_end_of_the_run(server: KubeflowServer, pod: Pod) -> None:
    following = Following(pod)
    _until(lambda: server.runs)
    _say(pod, *SNAPSHOT, _error("refused"))
    server.runs[0]["state"] = "FAILED"
    assert following.ended().lines == [*SNAPSHOT, _error("refused")]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_that_failed_without_a_word_is_worth_another_attempt(
    server: KubeflowServer, pod: Pod, state: str
) -> None:
    following = Following(pod)
    _until(lambda: server.runs)
    _say(pod, *SNAPSHOT)
    server.runs[0]["state"] = state
    lines = following.ended().lines
    assert lines is not None
    assert lines[:-1] == SNAPSHOT
    assert (lines[-1]["step"], lines[-1]["error"]["outcome"]) == ("snapshot", "again")
    assert server.runs[0]["run_id"] in lines[-1]["error"]["message"], "it says whose pods to look at"


def test_a_success_of_which_no_step_tells_is_none(server: KubeflowServer, pod: Pod) -> None:
    following = Following(pod)
    _until(lambda: server.runs)
    server.runs[0]["state"] = "SUCCEEDED"
    lines = following.ended().lines
    assert lines is not None
    assert lines[-1]["error"]["outcome"] == "again"


def test_a_run_that_somebody_deleted_is_worth_another_attempt(server: KubeflowServer, pod: Pod) -> None:
    following = Following(pod)
    _until(lambda: server.runs)
    server.runs.clear()
    lines = following.ended().lines
    assert lines is not None
    assert "was deleted" in lines[-1]["error"]["message"]


def test_words_of_another_life_are_forgotten_before_a_run_begins(server: KubeflowServer, pod: Pod) -> None:
    _say(pod, REGISTERED)
    following = Following(pod)
    _until(lambda: server.runs)
    assert read_notes(folder_of(pod, f"{RUN.id}-1")) == []
    _say(pod, _error("failed"))
    server.runs[0]["state"] = "FAILED"
    assert following.ended().lines == [_error("failed")]


def test_what_the_server_does_not_accept_is_not_asked_for_again(server: KubeflowServer, pod: Pod) -> None:
    server.refuses = "the pipeline spec is invalid"
    error = Following(pod).ended().error
    assert isinstance(error, Refused)
    assert "the pipeline spec is invalid" in error.message


# --- another runner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_runner_that_starts_anew_takes_up_what_another_submitted(
    server: KubeflowServer, pod: Pod, attempt: int
) -> None:
    first = Following(pod)
    _until(lambda: server.runs)
    first.stop.set()
    assert first.ended().lines is None
    second = Following(pod, attempt)
    _say(pod, REGISTERED)
    server.runs[0]["state"] = "SUCCEEDED"
    assert second.ended().lines == [REGISTERED]
    assert server.names() == [name_of(RUN, 1)], "one run for both"
    assert server.stopped == []


@pytest.mark.parametrize(("state", "line"), [("SUCCEEDED", REGISTERED), ("FAILED", _error("refused"))])
def test_an_end_that_no_runner_saw_counts(server: KubeflowServer, pod: Pod, state: str, line: Line) -> None:
    server.add(name_of(RUN, 1), state=state)
    _say(pod, line)
    assert Following(pod, 2).ended().lines == [line]
    assert server.names() == [name_of(RUN, 1)]


@pytest.mark.parametrize("lines", [[], [_error("again")]])
def test_what_was_worth_another_attempt_gets_one_under_another_name(
    server: KubeflowServer, pod: Pod, lines: list[Line]
) -> None:
    server.add(name_of(RUN, 1), state="FAILED")
    _say(pod, *lines)
    following = Following(pod, 2)
    _until(lambda: len(server.runs) == 2)
    _say(pod, REGISTERED, attempt=2)
    server.runs[1]["state"] = "SUCCEEDED"
    assert following.ended().lines == [REGISTERED]
    assert server.names() == [name_of(RUN, 1), name_of(RUN, 2)]


def test_the_same_attempt_is_never_submitted_twice(server: KubeflowServer, pod: Pod) -> None:
    server.add(name_of(RUN, 1), state="FAILED")
    lines = Following(pod, 1).ended().lines
    assert lines is not None
    assert lines[-1]["error"]["outcome"] == "again"
    assert server.names() == [name_of(RUN, 1)]


def test_a_run_of_another_name_is_not_ours(server: KubeflowServer, pod: Pod) -> None:
    server.add("flight_delay/second, attempt 1")
    following = Following(pod)
    _until(lambda: len(server.runs) == 2)
    assert server.names()[1] == name_of(RUN, 1)
    following.stop.set()
    assert following.ended().lines is None


# --- the server is away -----------------------------------------------------------------------------------------------


def test_an_answer_that_was_lost_is_looked_for_and_not_asked_for_again(server: KubeflowServer, pod: Pod) -> None:
    server.loses_answers = 1
    following = Following(pod)
    _until(lambda: server.runs)
    _say(pod, REGISTERED)
    server.runs[0]["state"] = "SUCCEEDED"
    assert following.ended().lines == [REGISTERED]
    assert server.names() == [name_of(RUN, 1)]


def test_of_a_run_that_was_accepted_twice_the_first_counts_and_the_other_is_stopped(
    server: KubeflowServer, pod: Pod
) -> None:
    first, second = server.add(name_of(RUN, 1)), server.add(name_of(RUN, 1))
    following = Following(pod)
    _until(lambda: server.stopped == [second["run_id"]])
    _say(pod, REGISTERED)
    first["state"] = "SUCCEEDED"
    assert following.ended().lines == [REGISTERED]


def test_a_server_that_is_away_for_a_while_costs_the_run_nothing(server: KubeflowServer, pod: Pod) -> None:
    server.away = True
    following = Following(pod)
    _until(lambda: server.asked > 2)
    server.away = False
    _until(lambda: server.runs)
    server.away = True
    asked = server.asked
    _until(lambda: server.asked > asked + 2)
    _say(pod, REGISTERED)
    server.runs[0]["state"] = "SUCCEEDED"
    server.away = False
    assert following.ended().lines == [REGISTERED]
    assert server.names() == [name_of(RUN, 1)]


def test_a_server_that_stays_away_makes_it_another_attempt(server: KubeflowServer, pod: Pod) -> None:
    server.away = True
    lines = Following(pod, submit_within=0.1).ended().lines
    assert lines is not None
    assert lines[-1]["error"]["outcome"] == "again"
    assert "could not be submitted" in lines[-1]["error"]["message"]


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [False, True])
def test_a_run_past_its_deadline_is_stopped(
    server: KubeflowServer, pod: Pod, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    run = server.add(name_of(RUN, 1), age=0.0 if away else 120.0)
    _say(pod, SNAPSHOT[0])
    monkeypatch.setattr(kubeflow, "longest", lambda _: 1.0 if away else 60.0)
    following = Following(pod)
    if away:
        _until(lambda: following.heard)
        server.away = True
    error = following.ended().error
    assert error is not None
    assert "did not end in time and was stopped at step snapshot" in error.message
    assert server.stopped == ([] if away else [run["run_id"]]), "one that is away ends it by itself"


def test_the_settings_choose_the_engine_and_one_outside_the_cluster_says_that_it_is_told_nothing(
    tmp_path: Path,
) -> None:
    def open_runner(profile: str) -> Runner:
        document = {"name": "test", "target": "kubernetes", "state_dir": tmp_path, "kubernetes": {"profile": profile}}
        environment = Environment(tmp_path / "x", Settings.model_validate(document))
        environment.state.prepare()
        return Runner(environment, stopping=lambda: True, beat=lambda: None)

    open_runner("core").close()
    with pytest.raises(NotReady, match="runner's pod alone"):
        open_runner("full")


# --- what is submitted ------------------------------------------------------------------------------------------------


@pytest.fixture
def submitted(pods: StepPods) -> dict[str, Any]:
    return kubeflow_spec.describe(RUN, "7-1", 2400.9, pods)


def test_every_step_runs_the_platforms_image_by_digest_and_is_told_where_it_is(
    submitted: dict[str, Any], pods: StepPods
) -> None:
    executors = submitted["pipeline_spec"]["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{step}" for step in STEPS}
    for name, executor in executors.items():
        container = executor["container"]
        assert container["image"] == pods.image
        told = {each["name"]: each["value"] for each in container["env"]}
        assert told == {**pods.variables, ATTEMPT: "7-1"}
        assert container["args"][-1] == name.removeprefix("exec-")
        assert container["resources"]["resourceMemoryLimit"] == "2Gi"


def test_a_step_is_given_its_own_secrets_and_no_others(submitted: dict[str, Any], pods: StepPods) -> None:
    platform = submitted["platform_spec"]["platforms"]["kubernetes"]
    given = platform["deploymentSpec"]["executors"]
    for step in STEPS:
        mounted = {each["secretName"]: each["mountPath"] for each in given[f"exec-{step}"]["secretAsVolume"]}
        assert mounted == pods.secrets[step]
        labels = given[f"exec-{step}"]["podMetadata"]["labels"]
        assert labels["slipway.dev/model"] == "flight_delay"
        assert labels["slipway.dev/run"] == "7"
    assert platform["pipelineConfig"]["activeDeadlineSeconds"] == 2400, "Argo ends it, whoever watches"


def test_the_servers_own_cache_is_off(submitted: dict[str, Any]) -> None:
    tasks = submitted["pipeline_spec"]["root"]["dag"]["tasks"]
    assert [task["cachingOptions"] for task in tasks.values()] == [{}] * len(STEPS)
    assert json.dumps(submitted), "plain data"
