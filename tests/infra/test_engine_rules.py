"""The engine's rules that need neither Pulumi nor a cluster: passphrase, locks, unfinished work, removal, errors."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from pulumi.automation import CommandError, CommandResult
from pulumi.automation.events import EngineEvent

from infra import commands, locks, pulumi_cli
from infra.backend import LOGS_KEPT, may_have, open_backend
from infra.engine import projects_of
from infra.failures import explain, is_passing, spell
from infra.progress import Progress, describe, is_real
from infra.recovery import adopt_unfinished
from infra.removal import plan_removal
from slipway.environment import Environment
from slipway.errors import InvalidInput, Refused, SlipwayError
from slipway.settings import ENVIRONMENTS, Settings

STACK = "urn:pulumi:trial::slipway-services::"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    document = {"name": "trial", "target": "kubernetes", "state_dir": str(tmp_path / "state"), "kubernetes": {}}
    return Environment(tmp_path / "trial.toml", Settings.model_validate(document))


def resource(token: str, name: str, **more: Any) -> dict[str, Any]:
    return {"urn": f"{STACK}{token}::{name}", "type": token, "custom": True, **more}


def metadata(name: str, namespace: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name} | ({"namespace": namespace} if namespace else {})}


def test_the_passphrase_is_made_once_for_the_owner_alone(environment: Environment) -> None:
    first = open_backend(environment)
    text = first.passphrase_file.read_text()
    assert len(text) >= 32
    assert first.passphrase_file.stat().st_mode & 0o777 == 0o600
    assert first.folder.stat().st_mode & 0o777 == 0o700
    assert open_backend(environment).passphrase_file.read_text() == text
    assert text not in str(first.variables())
    assert first.url == f"file://{environment.state.root}/pulumi?metadata=skip"


def test_what_a_killed_run_left_beside_the_state_is_taken_away(environment: Environment) -> None:
    bookkeeping = open_backend(environment).folder / ".pulumi"
    stacks, held = bookkeeping / "stacks" / "slipway-services", bookkeeping / "locks" / "organization"
    for folder in (stacks, held):
        folder.mkdir(parents=True)
    kept = [stacks / "trial.json", held / "0000.json", held / "1111.json.18c.tmp"]
    swept = [stacks / "trial.json.attrs", held / "0000.json.attrs", held / "2222.json.18c.tmp"]
    for file in (*kept, *swept):
        file.touch()
    os.utime(swept[-1], (0, 0))
    open_backend(environment)
    assert all(file.exists() for file in kept), "of a run that may be alive"
    assert not any(file.exists() for file in swept)


@pytest.mark.parametrize(
    ("chosen", "used"),
    [
        ("file:///srv/state?no_tmp_dir=false", "file:///srv/state?metadata=skip&no_tmp_dir=false"),
        ("file://~/state", "file://~/state?metadata=skip"),
        ("s3://bucket/state?region=eu-central-1", "s3://bucket/state?region=eu-central-1"),
    ],
)
def test_a_place_of_the_team_is_used_as_it_is_named(environment: Environment, chosen: str, used: str) -> None:
    document = environment.settings.model_dump(exclude_unset=True) | {"kubernetes": {"backend": {"url": chosen}}}
    team = Environment(environment.file, Settings.model_validate(document))
    assert open_backend(team).url == used


def test_a_lost_passphrase_is_never_replaced_by_a_new_one(environment: Environment) -> None:
    backend = open_backend(environment)
    work = backend.work_folder("services")
    work.mkdir()
    (work / "Pulumi.trial.yaml").write_text("encryptionsalt: v1:x\n")
    backend.passphrase_file.unlink()
    with pytest.raises(InvalidInput, match=r"(?s)passphrase_file: .* is not there.*backup"):
        open_backend(environment)
    assert not backend.passphrase_file.exists()


def test_a_passphrase_that_others_can_read_is_refused(environment: Environment) -> None:
    open_backend(environment).passphrase_file.chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        open_backend(environment)


def test_a_passphrase_in_the_surroundings_is_refused_unread(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "hush")
    with pytest.raises(InvalidInput, match="unset PULUMI_CONFIG_PASSPHRASE") as caught:
        open_backend(environment)
    assert "hush" not in str(caught.value)


def test_a_lock_is_dead_only_when_its_run_was_here_and_is_gone() -> None:
    said = (
        "the stack is currently locked by 2 lock(s).\n"
        f"  file:///a: created by ada@{socket.gethostname()} (pid 4194304) at 2026-01-01T00:00:00Z\n"
        "  file:///b: created by bob@elsewhere (pid 4194304) at 2026-01-01T00:00:00Z"
    )
    here, elsewhere = locks.read_owners(said)
    assert (here.user, here.pid) == ("ada", 4194304)
    assert here.is_dead
    assert not elsewhere.is_dead


def test_a_lock_that_stays_is_bad_input_with_the_command_that_takes_it_away() -> None:
    owner = locks.Owner("ada", "elsewhere", 7, "2026-01-01T00:00:00Z")
    error = locks.refusal([owner], "prod", "services")
    assert error.exit_code == 2
    assert "state of services: is locked by ada@elsewhere, process 7" in str(error)
    assert "hint: wait until that run has ended" in str(error)
    assert "python -m infra unlock --env prod --project services" in str(error)


def test_an_environment_is_spelled_as_it_is_found(environment: Environment) -> None:
    assert spell(environment) == str(environment.file)
    assert spell(Environment(ENVIRONMENTS / "trial.toml", environment.settings)) == "trial"


def test_a_process_id_that_another_program_has_now_is_not_the_run() -> None:
    assert locks.Owner("ada", socket.gethostname(), os.getpid(), "now").is_dead is (
        b"pulumi" not in Path("/proc/self/cmdline").read_bytes()
    )


def test_a_creation_that_may_have_happened_is_looked_up_by_the_next_run() -> None:
    made = resource("kubernetes:core/v1:ConfigMap", "made", inputs=metadata("made", "ns"))
    cloud = resource("aws:s3/bucket:Bucket", "bucket", inputs={})
    changed = resource("kubernetes:core/v1:Secret", "changed", inputs=metadata("changed", "ns"))
    state = {
        "resources": [changed],
        "pending_operations": [
            {"resource": made, "type": "creating"},
            {"resource": cloud, "type": "creating"},
            {"resource": changed, "type": "updating"},
        ],
    }
    mended, settled, unsettled = adopt_unfinished(state)
    assert [item.get("id") for item in mended["resources"]] == [None, "ns/made"]
    assert mended["pending_operations"] == []
    assert settled == [made["urn"], changed["urn"]]
    assert unsettled == [cloud["urn"]]
    assert state["resources"] == [changed]


def test_an_object_without_namespace_is_looked_up_by_its_name_alone() -> None:
    made = resource("kubernetes:core/v1:Namespace", "n", inputs=metadata("n"))
    mended, _, _ = adopt_unfinished({"pending_operations": [{"resource": made, "type": "creating"}]})
    assert mended["resources"][0]["id"] == "n"


@pytest.fixture
def standing() -> list[dict[str, Any]]:
    provider = resource("pulumi:providers:kubernetes", "cluster", id="0")
    reference = f"{provider['urn']}::0"
    namespace = resource("kubernetes:core/v1:Namespace", "data", inputs=metadata("data"), provider=reference)
    volume = resource("kubernetes:core/v1:PersistentVolumeClaim", "v", inputs=metadata("v", "data"), provider=reference)
    service = resource(
        "kubernetes:core/v1:Service",
        "s",
        provider=reference,
        inputs=metadata("s", "x") | {"spec": {"type": "LoadBalancer"}},
    )
    definition = resource(
        "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition",
        "d",
        inputs=metadata("d.example"),
        provider=reference,
    )
    return [provider, namespace, volume, service, definition]


def test_removal_names_definitions_data_and_load_balancers(standing: list[dict[str, Any]]) -> None:
    removal = plan_removal(standing, keep_data=False)
    assert removal.definitions == ["d.example"]
    assert removal.data == ["PersistentVolumeClaim data/v"]
    assert removal.load_balancers == ["x/s"]
    assert removal.kept == []
    assert sum(removal.counts.values()) == 4
    assert any("data/v" in line for line in removal.lines())


def test_keeping_data_keeps_what_the_data_stands_on(standing: list[dict[str, Any]]) -> None:
    removal = plan_removal(standing, keep_data=True)
    assert [urn.rpartition("::")[2] for urn in removal.kept] == ["cluster", "data", "v"]
    assert removal.data == []
    assert sum(removal.counts.values()) == 2


def test_what_outlives_its_removal_is_not_said_to_go(standing: list[dict[str, Any]]) -> None:
    standing[-1]["retainOnDelete"] = True
    assert plan_removal(standing, keep_data=False).definitions == []


def test_what_was_only_looked_up_is_not_said_to_go(standing: list[dict[str, Any]]) -> None:
    standing[-1]["external"] = True
    assert plan_removal(standing, keep_data=False).definitions == []


def test_nothing_standing_is_said_in_words() -> None:
    assert plan_removal([], keep_data=False).lines() == ["nothing stands"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("error: incorrect passphrase", "is not the passphrase that trial/services was encrypted with"),
        (
            "error: no resource plugin 'pulumi-resource-kubernetes' found in the workspace at version v4.34.2 or on",
            "pulumi plugin install resource kubernetes v4.34.2",
        ),
        (
            # As 3.259 says it without the internet.
            "warning: error downloading provider: dial tcp: lookup get.pulumi.com: no such host\n"
            "error: Could not automatically download and install resource plugin 'pulumi-resource-kubernetes' at "
            "version v4.34.2, install the plugin using `pulumi plugin install resource kubernetes v4.34.2`: error "
            "downloading provider kubernetes to file: failed all 5 attempts",
            "pulumi plugin install resource kubernetes v4.34.2 (without the internet: docs/operations.md, Air gap)",
        ),
        (
            'error: namespaces is forbidden: User "ada" cannot create resource "namespaces" in API group ""',
            'ada may not create resource "namespaces"',
        ),
    ],
)
def test_what_the_user_can_mend_is_bad_input(said: str, expected: str) -> None:
    error = explain(CommandError(CommandResult("", said, 255)), [], stack="trial/services", passphrase_file="p")
    assert isinstance(error, InvalidInput)
    assert expected in str(error)


def test_any_other_failure_repeats_each_of_the_engines_errors_once() -> None:
    errors = ["Deployment a: Apply failed with 1 conflict", "Deployment a: Apply failed with 1 conflict"]
    error = explain(CommandError(CommandResult("", "", 1)), errors, stack="trial/services", passphrase_file="p")
    assert type(error) is SlipwayError
    assert str(error).count("1 conflict") == 1
    assert "run the same command again" in error.hint


@pytest.mark.parametrize("said", ['deployments.apps "a" already exists', "Deployment/a is there already, and not ours"])
def test_what_stands_outside_the_state_is_a_case_of_the_manual(said: str) -> None:
    error = explain(CommandError(CommandResult("", "", 1)), [said], stack="trial/services", passphrase_file="p")
    assert "docs/troubleshooting.md" in error.hint


WEBHOOK = 'Internal error occurred: failed calling webhook "webhook.cert-manager.io": connect: connection refused'


def test_a_webhook_that_does_not_answer_is_no_cluster_that_is_down() -> None:
    error = explain(CommandError(CommandResult("", "", 1)), [WEBHOOK], stack="trial/services", passphrase_file="p")
    assert "webhook.cert-manager.io" in error.hint
    assert "is the cluster up" not in error.hint


def test_a_removal_that_does_not_end_is_a_case_of_the_manual() -> None:
    said = "Namespace slipway-data: timed out waiting for the condition"
    error = explain(CommandError(CommandResult("", "", 1)), [said], stack="trial/services", passphrase_file="p")
    assert "docs/troubleshooting.md" in error.hint


@pytest.mark.parametrize(
    ("errors", "passing"),
    [([WEBHOOK, "update failed"], True), ([WEBHOOK, "Secret a: quota exceeded"], False), (["update failed"], False)],
)
def test_only_what_a_webhook_alone_stopped_passes_by_itself(errors: list[str], passing: bool) -> None:
    assert is_passing(errors) is passing


def test_a_missing_command_line_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(pulumi_cli.TOOLS, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"(?s)not installed.*install Pulumi 3\.259\.0"):
        pulumi_cli.find_cli()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [("v3.100.0", "3.250.0 or newer"), ("v4.0.0", "version 4.0.0"), ("", "does not say its version")],
)
def test_a_command_line_of_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, complaint: str
) -> None:
    program = tmp_path / "pulumi"
    program.write_text(f"#!/bin/sh\necho {answer}\n")
    program.chmod(0o755)
    monkeypatch.delenv(pulumi_cli.TOOLS, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(InvalidInput, match=complaint):
        pulumi_cli.find_cli()


def test_resources_are_called_as_people_call_them() -> None:
    urn = f"{STACK}slipway:components:Registry$kubernetes:apps/v1:Deployment::registry"
    assert describe(urn) == "Deployment registry"
    assert is_real(urn)
    assert not is_real(f"{STACK}slipway:components:Registry::registry")
    assert not is_real(f"{STACK}kubernetes:helm.sh/v4:Chart::kueue")


@pytest.mark.parametrize("as_json", [False, True])
def test_status_of_what_was_never_stood_up_makes_nothing(
    environment: Environment, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulumi_cli, "find_cli", lambda: pytest.fail("it needs no Pulumi"))
    said: list[str] = []
    assert commands.status(environment, said.append, as_json=as_json) == 0
    assert said == (['{\n  "trial/services": {\n    "resources": 0\n  }\n}'] if as_json else ["trial/services: not up"])
    assert not environment.state.root.exists()


def test_a_state_without_its_passphrase_is_no_state_that_was_never_there(environment: Environment) -> None:
    backend = open_backend(environment)
    backend.work_folder("services").mkdir()
    (backend.work_folder("services") / "Pulumi.trial.yaml").write_text("encryptionsalt: v1:x\n")
    backend.passphrase_file.unlink()
    assert may_have(environment, "services")


def test_pulumis_own_logs_are_bounded_unless_the_user_says_how_far(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "PULUMI_LOG_ROTATION_MAX_TOTAL_MB"
    monkeypatch.delenv(variable, raising=False)
    assert open_backend(environment).variables()[variable] == str(LOGS_KEPT)
    monkeypatch.setenv(variable, "1000")
    assert open_backend(environment).variables()[variable] == "1000"


def test_an_existing_cluster_has_no_project_that_makes_it(environment: Environment) -> None:
    assert projects_of(environment.settings) == ("services",)
    with pytest.raises(Refused, match="slipway up"):
        projects_of(Settings(name="local"))


@pytest.mark.parametrize(("planned", "noted"), [(False, [f"{STACK}kubernetes:core/v1:Secret::x-a"]), (True, [])])
def test_what_a_provider_that_died_was_to_make_is_noted_but_not_of_a_preview(planned: bool, noted: list[str]) -> None:
    secret = resource("kubernetes:core/v1:Secret", "x-a", inputs=metadata("a", "ns"), parent="", provider="p")
    failed = {"op": "create", "urn": secret["urn"], "type": secret["type"], "provider": "p", "new": secret}
    said = {
        "urn": secret["urn"],
        "severity": "error",
        "message": "rpc error: code = Unavailable desc = EOF",
        "color": "",
    }
    progress = Progress(lambda _: None, planned=planned)
    for told in ({"resOpFailedEvent": {"metadata": failed, "status": 0, "steps": 1}}, {"diagnosticEvent": said}):
        progress(EngineEvent.from_json({"sequence": 1, "timestamp": 1, **told}))
    assert [each.urn for each in progress.unanswered] == noted
