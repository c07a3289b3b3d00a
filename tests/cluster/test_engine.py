"""The engine against a real API server: state, secrets, drift, interruption, removal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from infra import locks
from infra.engine import Engine, Outcome, Program
from infra.pulumi_cli import TOOLS
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, SlipwayError
from tests.cluster import engine_programs
from tests.cluster.engine_programs import NAMESPACE, PASSWORD
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import plugin
from tests.cluster.tools.build import find_program

pytestmark = pytest.mark.cluster

KILLED_WITHIN = 120.0


@pytest.fixture
def environment(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """An environment of its own for each test; whatever the test leaves standing is removed."""
    monkeypatch.setenv("PULUMI_HOME", str(plugin.install(tmp_path / "pulumi")))
    monkeypatch.setenv(TOOLS, str(find_program("pulumi").parent))
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    file = tmp_path / "trial.toml"
    file.write_text(
        f'name = "trial"\ntarget = "kubernetes"\nstate_dir = "{tmp_path / "state"}"\n'
        f'[kubernetes]\nprovider = "existing"\nkubeconfig = "{control_plane.kubeconfig}"\n'
    )
    yield open_environment(str(file))
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")
    control_plane.kubectl("delete", "crd", "trials.engine.test", "--ignore-not-found", "--timeout=60s")
    for name in _links(control_plane):
        control_plane.delete("configmap", name)


@pytest.fixture
def lines() -> list[str]:
    """All that was said to the user."""
    return []


def open_engine(environment: Environment, lines: list[str], program: Program = engine_programs.stand_up) -> Engine:
    return Engine(environment, "services", lines.append, program)


def up(environment: Environment, lines: list[str], program: Program = engine_programs.stand_up) -> Outcome:
    return open_engine(environment, lines, program).up(policies=False)


def names(outcome: Outcome) -> set[str]:
    return {urn.rpartition("::")[2] for urn in outcome.changed}


def test_preview_says_what_up_would_do_and_does_nothing(
    environment: Environment, control_plane: ControlPlane, lines: list[str]
) -> None:
    outcome = open_engine(environment, lines).preview(policies=False)
    assert outcome.steps["create"] == 6
    assert any("create" in line and "Namespace namespace" in line for line in lines)
    assert control_plane.get("namespace", NAMESPACE) is None


def test_a_second_up_changes_nothing(environment: Environment, control_plane: ControlPlane, lines: list[str]) -> None:
    assert up(environment, lines).steps["create"] == 6
    before = control_plane.get("deployment", "pinned", NAMESPACE)
    second = up(environment, lines)
    assert second.changed == []
    assert second.steps["same"] == 6
    after = control_plane.get("deployment", "pinned", NAMESPACE)
    assert before is not None
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_what_was_changed_by_hand_is_found_and_put_right(
    environment: Environment, control_plane: ControlPlane, lines: list[str]
) -> None:
    up(environment, lines)
    control_plane.kubectl("scale", "deployment", "pinned", "-n", NAMESPACE, "--replicas=7")
    control_plane.kubectl("delete", "trials.engine.test", "trial", "-n", NAMESPACE)

    found = open_engine(environment, lines).refresh()
    assert names(found) == {"pinned", "trial"}

    repaired = up(environment, lines)
    assert names(repaired) == {"pinned", "trial"}
    deployment = control_plane.get("deployment", "pinned", NAMESPACE)
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 1
    assert control_plane.get("trials.engine.test", "trial", NAMESPACE) is not None
    assert up(environment, lines).changed == []


def test_another_version_of_one_part_touches_that_part_only(environment: Environment, lines: list[str]) -> None:
    up(environment, lines)
    lines.clear()
    changed = up(environment, lines, partial(engine_programs.stand_up, version="1.0.1"))
    assert names(changed) == {"pinned"}
    assert changed.steps == {"update": 1, "same": 5}
    assert any("spec.template.spec.containers[0].image" in line for line in lines)


def test_secrets_are_encrypted_in_the_state_and_nowhere_else(
    environment: Environment, control_plane: ControlPlane, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = up(environment, lines)
    encoded = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ=="
    live = control_plane.get("secret", "password", NAMESPACE)
    assert live is not None
    assert live["data"] == {"password": encoded}
    assert outcome.outputs == {"url": "https://trial.example"}
    files = [file for file in environment.state.root.rglob("*") if file.is_file()]
    assert any("ciphertext" in file.read_text(errors="ignore") for file in files)
    printed = "".join(capfd.readouterr())
    for text in (PASSWORD, encoded):
        assert not any(text.encode() in file.read_bytes() for file in files)
        assert text not in "\n".join(lines) + printed
    passphrase = environment.state.secrets / "pulumi-passphrase"
    assert passphrase.stat().st_mode & 0o777 == 0o600


def test_down_leaves_no_object_no_definition_and_no_stack(
    environment: Environment, control_plane: ControlPlane, lines: list[str]
) -> None:
    up(environment, lines)
    engine = open_engine(environment, lines)
    plan = engine.plan_removal(keep_data=False)
    assert plan.definitions == ["trials.engine.test"]
    assert sum(plan.counts.values()) == 6
    engine.down()
    assert control_plane.get("namespace", NAMESPACE) is None
    assert control_plane.get("crd", "trials.engine.test") is None
    assert not list((environment.state.root / "pulumi" / ".pulumi" / "stacks").rglob("trial.json"))


def test_a_run_that_was_killed_is_completed_by_the_next(
    environment: Environment, control_plane: ControlPlane, lines: list[str]
) -> None:
    made_before = _kill_in_the_middle(environment, control_plane)
    assert 0 < made_before < 30
    outcome = up(environment, lines, engine_programs.stand_up_slowly)
    assert len(_links(control_plane)) == 30
    assert outcome.steps["create"] <= 30 - made_before + 1
    assert any("unlocking" in line for line in lines)
    assert up(environment, lines, engine_programs.stand_up_slowly).changed == []
    open_engine(environment, lines, engine_programs.stand_up_slowly).down()
    assert _links(control_plane) == []


def test_what_stands_there_already_is_refused_and_left_alone(
    environment: Environment, control_plane: ControlPlane, lines: list[str]
) -> None:
    control_plane.create_namespace(NAMESPACE, {"owner": "somebody-else"})
    with pytest.raises(SlipwayError, match="is there already"):
        up(environment, lines)
    open_engine(environment, lines).down()
    theirs = control_plane.get("namespace", NAMESPACE)
    assert theirs is not None
    assert theirs["metadata"]["labels"]["owner"] == "somebody-else"


def test_a_wrong_passphrase_is_named_with_its_file(environment: Environment, lines: list[str]) -> None:
    up(environment, lines)
    passphrase = environment.state.secrets / "pulumi-passphrase"
    passphrase.write_text("not the one")
    with pytest.raises(InvalidInput, match=r"(?s)passphrase_file: .*pulumi-passphrase is not the passphrase.*backup"):
        up(environment, lines)


def test_the_lock_of_a_living_run_is_respected(environment: Environment, lines: list[str]) -> None:
    up(environment, lines)
    folder = environment.state.root / "pulumi" / ".pulumi" / "locks" / "organization" / "slipway-services" / "trial"
    lock = {"pid": 1, "username": "ada", "hostname": "elsewhere", "timestamp": "2026-01-01T00:00:00Z"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0000.json").write_text(json.dumps(lock))
    with pytest.raises(SlipwayError, match=r"(?s)locked by ada@elsewhere, process 1.*infra unlock"):
        up(environment, lines)
    open_engine(environment, lines).unlock()
    assert up(environment, lines).changed == []


def _links(control_plane: ControlPlane) -> list[str]:
    found = control_plane.list("configmaps", "default")
    return [item["metadata"]["name"] for item in found if item["metadata"]["name"].startswith("link-")]


def _kill_in_the_middle(environment: Environment, control_plane: ControlPlane) -> int:
    """Start the long program, and kill it with all its children as soon as some of its objects are there."""
    command = [sys.executable, "-m", "tests.cluster.engine_programs", str(environment.file)]
    with subprocess.Popen(
        command, start_new_session=True, cwd=plugin.REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + KILLED_WITHIN
        try:
            while len(_links(control_plane)) < 5:
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < deadline, "it made nothing"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    made = len(_links(control_plane))
    locked = environment.state.root / "pulumi" / ".pulumi" / "locks"
    assert list(locked.rglob("*.json")), "a killed run leaves its lock"
    assert locks.read_owners("") == []
    return made
