"""The step cache: the same inputs are reused, anything that decides the outcome makes a new entry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines import cache, provenance
from pipelines.cache import key_of, run_or_reuse
from pipelines.task import Run, Task, Values
from slipway.environment import Environment
from slipway.settings import Settings


class Step:
    """Writes its input, doubled; counts how often it ran."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, task: Task) -> Values:
        self.ran += 1
        task.outputs["rows"].write_text(task.inputs["events"].read_text() * 2)
        return {"ran": self.ran}


def task_of(root: Path, name: str, events: str = "abc", step: str = "snapshot") -> Task:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "events").write_text(events)
    environment = Environment(root / "environment.toml", Settings(name="test", state_dir=root / "state"))
    run = Run(1, name, "parcels", datetime(2013, 3, 1, tzinfo=UTC), None, {})
    return Task(step, environment, run, {"events": folder / "events"}, {"rows": folder / "rows"})


def test_the_same_inputs_are_not_computed_twice(tmp_path: Path) -> None:
    step = Step()
    first, second = task_of(tmp_path, "first"), task_of(tmp_path, "second")
    assert run_or_reuse(first, {"seed": 1}, step) == ({"ran": 1}, False)
    assert run_or_reuse(second, {"seed": 1}, step) == ({"ran": 1}, True)
    assert second.outputs["rows"].read_text() == "abcabc"
    assert step.ran == 1


@pytest.mark.parametrize(
    "changed",
    [{"events": "abd"}, {"step": "validate"}, {"facts": {"seed": 2}}],
    ids=["other input bytes", "another step", "another fact"],
)
def test_whatever_decides_the_outcome_makes_a_new_entry(tmp_path: Path, changed: dict[str, Any]) -> None:
    facts = changed.pop("facts", {"seed": 1})
    step = Step()
    run_or_reuse(task_of(tmp_path, "first"), {"seed": 1}, step)
    _, reused = run_or_reuse(task_of(tmp_path, "second", **changed), facts, step)
    assert not reused
    assert step.ran == 2


def test_changed_code_and_a_changed_lock_make_a_new_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path, "first")
    keys = {key_of(task, {})}
    monkeypatch.setattr(provenance, "code_hash", lambda model: "other code")
    keys.add(key_of(task, {}))
    monkeypatch.setattr(provenance, "lock_hash", lambda: "other lock")
    keys.add(key_of(task, {}))
    assert len(keys) == 3


def test_the_name_and_the_number_of_a_run_do_not_matter(tmp_path: Path) -> None:
    first, second = task_of(tmp_path, "first"), task_of(tmp_path, "second")
    assert key_of(first, {}) == key_of(second, {})


def test_a_step_that_names_no_facts_is_never_reused(tmp_path: Path) -> None:
    step = Step()
    for name in ("first", "second"):
        assert run_or_reuse(task_of(tmp_path, name), None, step)[1] is False
    assert step.ran == 2


def test_a_step_that_fails_leaves_no_entry(tmp_path: Path) -> None:
    def fail(task: Task) -> Values:
        task.outputs["rows"].write_text("half")
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError):
        run_or_reuse(task_of(tmp_path, "first"), {}, fail)
    step = Step()
    assert run_or_reuse(task_of(tmp_path, "second"), {}, step) == ({"ran": 1}, False)


def test_what_was_taken_from_the_cache_can_be_changed_without_changing_the_entry(tmp_path: Path) -> None:
    step = Step()
    first, second, third = (task_of(tmp_path, name) for name in ("first", "second", "third"))
    for task in (first, second):
        run_or_reuse(task, {}, step)
        task.outputs["rows"].write_text("spoilt")
    run_or_reuse(third, {}, step)
    assert third.outputs["rows"].read_text() == "abcabc"


def test_the_least_recently_used_entries_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    step = Step()
    for seed in (1, 2, 1, 3):
        run_or_reuse(task_of(tmp_path, f"run{seed}"), {"seed": seed}, step)
    ran = step.ran
    assert run_or_reuse(task_of(tmp_path, "again"), {"seed": 1}, step)[1] is True
    assert run_or_reuse(task_of(tmp_path, "again"), {"seed": 2}, step)[1] is False
    assert (ran, step.ran) == (3, 4)
