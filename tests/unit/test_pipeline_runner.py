"""The runner, with a small program in the place of the graph: every end of a run, and taking a run up again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.runner import Runner
from slipway.environment import Environment
from slipway.ledger import Ledger, alarms, open_ledger, runs, versions
from slipway.ledger.schema import RunRow
from slipway.settings import Settings

MODEL = "flight_delay"
MOMENT = datetime(2013, 3, 2, tzinfo=UTC)
REGISTERED = {
    "version": 1,
    "digest": "d" * 64,
    "verdict": "passed",
    "gate": {"verdict": "passed", "reasons": [], "value": 0.7},
}

# Plays the lines that stand beside it, as the graph's steps would write them, then ends as told. What is `late` is said
# where the attempt before it had to.
_GRAPH = """
import json, os, pathlib, signal, sys, time
play = json.loads(pathlib.Path(sys.argv[1]).read_text())
attempts = pathlib.Path(sys.argv[1]).with_suffix(".attempts")
attempts.write_text(str(int(attempts.read_text()) + 1 if attempts.exists() else 1))
scene = play[min(int(attempts.read_text()), len(play)) - 1]
told = attempts.with_suffix(".told")
if scene.get("late"):
    try:
        with open(told.read_text(), "a") as stream:
            stream.write(json.dumps(scene["late"]) + "\\n")
    except OSError:
        pass
told.write_text(os.environ["SLIPWAY_STEP_PROGRESS"])
with open(os.environ["SLIPWAY_STEP_PROGRESS"], "a") as stream:
    for line in scene["lines"]:
        stream.write(json.dumps(line) + "\\n")
if scene["end"] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if scene["end"] == "hang":
    time.sleep(60)
print("the graph's own last words")
sys.exit(scene["end"])
"""


def step(name: str, **ended: Any) -> list[dict[str, Any]]:
    return [{"step": name, "state": "begun"}, {"step": name, "state": "ended", "seconds": 0.1, **ended}]


def error(outcome: str, message: str = "why", problems: list[str] | None = None) -> dict[str, Any]:
    return {"outcome": outcome, "message": message, "problems": problems or [], "traceback": ""}


def taken() -> list[dict[str, Any]]:
    return step("snapshot", values={"snapshot_id": "a" * 64, "rows": 10}, reused=True)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    environment = Environment(file, Settings(name="test", state_dir=tmp_path / "state"))
    environment.state.prepare()
    return environment


@pytest.fixture
def ledger(environment: Environment) -> Ledger:
    return open_ledger(environment)


Start = Callable[..., Runner]


@pytest.fixture
def start(environment: Environment, tmp_path: Path) -> Start:
    def start(*scenes: dict[str, Any], stopping: Callable[[], bool] = lambda: False) -> Runner:
        program, play = tmp_path / "graph.py", tmp_path / "play.json"
        program.write_text(_GRAPH)
        play.write_text(json.dumps(scenes))
        command = (sys.executable, str(program), str(play))
        return Runner(environment, stopping=stopping, beat=lambda: None, graph=command, warm=False, pause=0.01)

    return start


def submit(ledger: Ledger, key: str = "run-1") -> int:
    with ledger.transaction() as session:
        return runs.submit(session, key=key, model=MODEL, reason="test", as_of=MOMENT).id


def read(ledger: Ledger, number: int) -> RunRow:
    with ledger.read() as session:
        run = runs.read(session, number)
        session.expunge(run)
        return run


def list_alarms(ledger: Ledger) -> list[str]:
    with ledger.read() as session:
        return [alarm.message for alarm in alarms.list_all(session)]


def test_without_a_waiting_run_there_is_nothing_to_do(start: Start) -> None:
    assert start().turn() is False


def test_a_run_that_passed_leaves_a_candidate_and_what_each_step_took(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    assert start({"lines": [*taken(), *step("register", values=REGISTERED)], "end": 0}).turn()
    run = read(ledger, number)
    assert (run.state, run.version, run.step) == ("succeeded", 1, "register")
    assert run.outcome["snapshot_id"] == "a" * 64
    assert run.outcome["steps"][0] == {"step": "snapshot", "seconds": 0.1, "reused": True}
    with ledger.read() as session:
        assert versions.read(session, MODEL, 1).state == "candidate"


def test_a_version_refused_by_the_gate_is_kept_for_audit_and_is_no_candidate(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    gate = {"verdict": "refused", "reasons": ["auc_floor: 0.53, at least 0.65 is asked for"]}
    refused = {**REGISTERED, "verdict": "refused", "gate": gate}
    start({"lines": [*taken(), *step("register", values=refused)], "end": 0}).turn()
    run = read(ledger, number)
    assert (run.state, run.version) == ("refused", 1)
    assert run.outcome["message"] == "auc_floor: 0.53, at least 0.65 is asked for"
    with ledger.read() as session:
        assert versions.read(session, MODEL, 1).state == "refused"
    assert list_alarms(ledger) == []


def test_content_that_was_rolled_back_is_refused_under_a_new_number(start: Start, ledger: Ledger) -> None:
    with ledger.transaction() as session:
        versions.add(session, MODEL, 1, digest="d" * 64, gate={}, passed=True, as_of=MOMENT)
        versions.block(session, MODEL, 1)
    number = submit(ledger)
    start({"lines": step("register", values={**REGISTERED, "version": 2}), "end": 0}).turn()
    run = read(ledger, number)
    assert (run.state, run.version) == ("refused", 2)
    assert run.outcome["message"] == "this content was rolled back before"


def test_bad_data_end_the_run_as_refused_with_every_problem(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    problems = ["distance: outside 10 ... 6000", "temp: 90% missing"]
    lines = [*taken(), *step("validate", error=error("refused", "two problems", problems))]
    start({"lines": lines, "end": 1}).turn()
    run = read(ledger, number)
    assert (run.state, run.step, run.version) == ("refused", "validate", None)
    assert run.outcome["problems"] == problems
    assert list_alarms(ledger) == [f"run {number} refused: two problems"]


def test_a_failed_step_fails_the_run_and_raises_one_alarm(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    start({"lines": step("train", error=error("failed", "out of memory")), "end": 1}).turn()
    assert read(ledger, number).state == "failed"
    assert list_alarms(ledger) == [f"run {number} failed: out of memory"]


def test_what_was_not_ready_is_tried_again(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    away = {"lines": step("train", error=error("again", "ray: no answer")), "end": 1}
    runner = start(away, {"lines": step("register", values=REGISTERED), "end": 0})
    assert runner.turn()
    assert read(ledger, number).state == "running"
    assert runner.turn()
    run = read(ledger, number)
    assert (run.state, run.attempts) == ("succeeded", 2)


def test_after_three_attempts_a_run_fails_with_the_reason(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    runner = start({"lines": step("train", error=error("again", "ray: no answer")), "end": 1})
    while runner.turn():
        pass
    run = read(ledger, number)
    assert (run.state, run.attempts, run.outcome["message"]) == ("failed", 3, "ray: no answer")
    assert len(list_alarms(ledger)) == 1


def test_a_graph_that_is_killed_is_tried_again(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    runner = start({"lines": taken(), "end": "kill"}, {"lines": step("register", values=REGISTERED), "end": 0})
    while runner.turn():
        pass
    assert (read(ledger, number).state, read(ledger, number).attempts) == ("succeeded", 2)


def test_a_step_that_outlives_a_killed_runner_does_not_speak_for_the_next_attempt(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    killed = {"lines": taken(), "end": "kill"}
    late = {"step": "train", "state": "ended", "error": error("failed", "the step server is gone")}
    runner = start(killed, {"late": late, "lines": step("register", values=REGISTERED), "end": 0})
    while runner.turn():
        pass
    run = read(ledger, number)
    assert (run.state, [step["step"] for step in run.outcome["steps"]]) == ("succeeded", ["register"])


def test_a_graph_that_ends_without_a_word_fails_with_its_last_lines(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    runner = start({"lines": [], "end": 3})
    while runner.turn():
        pass
    assert "the graph's own last words" in read(ledger, number).outcome["message"]


def test_a_stopping_runner_leaves_the_run_to_the_next_one(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    asked: list[bool] = []

    def stopping() -> bool:
        asked.append(True)
        return len(asked) > 6

    hanging = {"lines": taken(), "end": "hang"}
    start(hanging, stopping=stopping).turn()
    assert read(ledger, number).state == "running"
    start(hanging, {"lines": step("register", values=REGISTERED), "end": 0}).turn()
    assert (read(ledger, number).state, read(ledger, number).attempts) == ("succeeded", 2)


def test_a_run_whose_runner_died_three_times_fails_with_an_alarm(start: Start, ledger: Ledger) -> None:
    number = submit(ledger)
    for _ in range(3):
        with ledger.transaction() as session:
            runs.claim(session)  # and the runner dies
    assert start().turn() is False
    assert read(ledger, number).state == "failed"
    assert list_alarms(ledger) == [f"run {number} failed: the runner died 3 times at step start"]


def test_runs_are_taken_in_the_order_in_which_they_were_asked_for(start: Start, ledger: Ledger) -> None:
    first, second = submit(ledger, "one"), submit(ledger, "two")
    other = {**REGISTERED, "version": 2, "digest": "e" * 64}
    runner = start(
        {"lines": step("register", values=REGISTERED), "end": 0}, {"lines": step("register", values=other), "end": 0}
    )
    while runner.turn():
        pass
    assert [read(ledger, number).version for number in (first, second)] == [1, 2]
