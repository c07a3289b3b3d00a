"""The engine against a real API server: state, secrets, drift, interruption, removal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from infra import engine
from infra.engine import Engine, Outcome, Program
from infra.pulumi_cli import TOOLS
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, SlipwayError
from tests.cluster import engine_programs
from tests.cluster.engine_programs import NAMESPACE, PASSWORD
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import plugin, servicer
from tests.cluster.tools.build import find_program

pytestmark = pytest.mark.cluster


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
    assert f"    + create  Namespace {NAMESPACE}" in lines
    assert control_plane.get("namespace", NAMESPACE) is None


def test_a_server_may_have_two_pods_and_then_one_again(
    environment: Environment, control_plane: ControlPlane, lines: list[str]
) -> None:
    for replicas, strategy in ((2, "RollingUpdate"), (1, "Recreate"), (2, "RollingUpdate")):
        up(environment, lines, partial(engine_programs.stand_up_server, replicas=replicas))
        server = control_plane.get("deployment", "server", NAMESPACE)
        assert server is not None
        assert (server["spec"]["replicas"], server["spec"]["strategy"]["type"]) == (replicas, strategy)


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
    environment: Environment, control_plane: ControlPlane, lines: list[str], tmp_path: Path
) -> None:
    engine_programs.kill_in_the_middle(environment, tmp_path / "killed.log", lambda: len(_links(control_plane)) >= 5)
    made_before = len(_links(control_plane))
    assert 0 < made_before < 30
    outcome = up(environment, lines, engine_programs.stand_up_slowly)
    assert len(_links(control_plane)) == 30
    assert outcome.steps["create"] <= 30 - made_before + 1
    assert any("unlocking" in line for line in lines)
    assert up(environment, lines, engine_programs.stand_up_slowly).changed == []
    open_engine(environment, lines, engine_programs.stand_up_slowly).down()
    assert _links(control_plane) == []


def test_what_a_kill_cut_short_beside_the_state_stops_nobody(environment: Environment, lines: list[str]) -> None:
    up(environment, lines)
    bookkeeping = environment.state.root / "pulumi" / ".pulumi"
    (state,) = (bookkeeping / "stacks").rglob("trial.json")
    assert not list(bookkeeping.rglob("*.attrs")), "Pulumi writes them where they are to stay"
    state.with_name("trial.json.attrs").touch()
    assert up(environment, lines).changed == []


@pytest.mark.parametrize("name", ["password", "trial", NAMESPACE])
def test_what_a_provider_that_died_had_made_is_taken_up_by_the_next_run(
    environment: Environment, control_plane: ControlPlane, lines: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The engine lives on and forgets what it asked for, be it a Secret, a custom object or a namespace."""
    monkeypatch.setenv(servicer.DIES_AFTER, name)
    with pytest.raises(SlipwayError) as caught:
        up(environment, lines)
    assert "looks first at what it had begun" in caught.value.hint
    monkeypatch.delenv(servicer.DIES_AFTER)
    up(environment, lines)
    assert up(environment, lines).changed == []
    open_engine(environment, lines).down()
    assert control_plane.get("namespace", NAMESPACE) is None


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


def test_a_webhook_that_does_not_answer_yet_is_waited_for(
    environment: Environment, control_plane: ControlPlane, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an operator's is for a moment after its pods are ready."""
    monkeypatch.setattr(engine, "_PAUSES", (0.1, 0.1))
    control_plane.apply([_webhook_of_nobody()])

    def say(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            control_plane.delete("validatingwebhookconfiguration", "late")

    try:
        outcome = Engine(environment, "services", say, engine_programs.stand_up).up(policies=False)
    finally:
        control_plane.delete("validatingwebhookconfiguration", "late")
    assert outcome.steps["create"] == len(set(outcome.changed)) == 6
    assert sum("waiting" in line for line in lines) == 1
    assert up(environment, lines).changed == []


def test_a_webhook_that_never_answers_is_named(
    environment: Environment, control_plane: ControlPlane, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PAUSES", (0.1,))
    control_plane.apply([_webhook_of_nobody()])
    try:
        with pytest.raises(SlipwayError, match=r"failed calling webhook") as caught:
            up(environment, lines)
    finally:
        control_plane.delete("validatingwebhookconfiguration", "late")
    assert caught.value.hint.startswith("nobody answers for late.engine.test")


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


def _webhook_of_nobody() -> dict[str, object]:
    """On the Secrets of the trial; nothing listens where it leads."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "late"},
        "webhooks": [
            {
                "name": "late.engine.test",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
                "rules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}
                ],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


def _links(control_plane: ControlPlane) -> list[str]:
    found = control_plane.list("configmaps", "default")
    return [item["metadata"]["name"] for item in found if item["metadata"]["name"].startswith("link-")]
