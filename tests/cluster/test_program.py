"""The whole program on an existing cluster, by the real engine, in both profiles.

The tests of a profile go on from one another, in the order of a platform's life, on a cluster of their own: stood up
(in `core` killed in the middle, and completed), left alone, changed by hand, upgraded, removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from infra.components import names
from infra.pulumi_cli import TOOLS
from infra.services.program import stand_up
from slipway.environment import open_environment
from slipway.mirror.versions import ChartPin, Versions, load_versions
from tests.cluster import shelf
from tests.cluster.engine_programs import kill_in_the_middle
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import construction, plugin, properties, rendering, servicer
from tests.cluster.tools.build import tools_folder
from tests.cluster.trial import Trial

pytestmark = pytest.mark.cluster

GONE_WITHIN = 60.0


@pytest.fixture(scope="module", params=["core", "full"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A cluster on which nothing of ours stands yet."""
    folder = tmp_path_factory.mktemp(request.param)
    versions = load_versions()
    shelf.fill(folder / "shelf", versions)
    with pytest.MonkeyPatch.context() as patch, ControlPlane(folder / "cluster") as cluster:
        home = plugin.install(folder / "pulumi")
        # No folder, no log: the engine keeps one of everything, 80 MB for a run and a third of its time.
        if home.is_relative_to(folder):
            (home / "logs").touch()
        patch.setenv("PULUMI_HOME", str(home))
        # Memory is here, and every step throws away a whole state.
        patch.setenv("GOGC", "400")
        patch.setenv(TOOLS, str(tools_folder()))
        patch.setenv("PATH", f"{tools_folder()}{os.pathsep}{os.environ['PATH']}")
        if request.param == "full":
            # Once is enough: `core` has the engine write its state at every step, and needs it when that is killed.
            patch.setenv("PULUMI_SKIP_CHECKPOINTS", "true")
        patch.setenv(rendering.SHELF, str(folder / "shelf"))
        patch.setenv(construction.REPORT, str(folder / "not-applied.jsonl"))
        patch.setenv(servicer.ABSENT_GROUPS, ",".join(shelf.ABSENT_GROUPS))
        patch.setenv(servicer.NO_OPERATORS, "true")
        patch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
        shelf.prepare(cluster, versions, (names.FEATURES_OPERATOR,))
        file = folder / "whole.toml"
        file.write_text(
            f'name = "whole"\ntarget = "kubernetes"\nstate_dir = "{folder / "state"}"\n[kubernetes]\n'
            f'provider = "existing"\nprofile = "{request.param}"\nkubeconfig = "{cluster.kubeconfig}"\n'
        )
        environment = open_environment(str(file))
        report = folder / "not-applied.jsonl"
        yield Trial(request.param, cluster, environment, versions, report, cluster.inventory())


def test_every_object_is_accepted_and_a_killed_up_completed(trial: Trial, tell: Callable[[str], None]) -> None:
    if trial.profile == "core":
        third = len(trial.expected) // 3
        log = trial.report.with_name("killed.log")
        kill_in_the_middle(trial.environment, log, lambda: len(_standing(trial)) > third, "whole")
        assert third < len(_standing(trial)) < len(trial.expected)

    outcome = trial.up()
    assert trial.in_state() == trial.expected
    assert _standing(trial) == trial.expected - trial.absent()
    if trial.profile == "core":
        assert any("unlocking" in line for line in trial.lines)
        assert 0 < outcome.steps["create"] < len(trial.expected)
    else:
        assert outcome.steps["create"] == len(trial.expected)
    tell("\n".join(_account(trial)))


def test_a_second_up_changes_nothing(trial: Trial) -> None:
    second = trial.up()
    assert second.changed == []
    assert second.steps == {"same": len(trial.expected)}


def test_what_was_not_applied_was_named_and_asked_for_as_pinned(trial: Trial) -> None:
    """No module carries these: their source, version and values are looked at instead."""
    named = {entry["name"] for entry in trial.skipped() if entry["reason"] != servicer.NO_DEFINITION}
    assert named == set(trial.unavailable)
    pinned = {_source(pin): pin.version for pin in trial.versions.charts.values()}
    addresses = {pin.source: pin.version for pin in trial.versions.manifests.values()}
    for name, component in trial.unavailable.items():
        inputs = component.inputs
        if "chart" in inputs:
            source = (inputs.get("repositoryOpts") or {}).get("repo")
            chart = f"{source}/{inputs['chart']}" if source else inputs["chart"]
            assert inputs["version"] == pinned[chart], name
            assert not properties.has_unknown(inputs["values"]), name
        elif "file" in inputs:
            assert addresses[inputs["file"]] in inputs["file"], name
        else:
            kustomization = (Path(inputs["directory"]) / "kustomization.yaml").read_text()
            assert any(f"?ref={version}" in kustomization for version in addresses.values()), name


def test_passwords_are_encrypted_in_the_state_and_nowhere_else(trial: Trial) -> None:
    live = trial.cluster.get("secret", "registry-login", names.SYSTEM)
    assert live is not None
    values = dict(trial.secrets())
    assert live["data"]["password"] == values["registry/administrator"]
    state = trial.environment.state
    files = [file for file in state.root.rglob("*") if file.is_file() and state.secrets not in file.parents]
    assert trial.state_file in files
    assert trial.state_file.read_text().count("ciphertext") >= len(values)
    said = "\n".join((*trial.lines, repr(trial.engine().outputs()))).encode()
    for name, value in trial.secrets():
        places = [file for file in files if value.encode() in file.read_bytes()]
        assert not places, f"{name} is readable in {places}"
        assert value.encode() not in said, f"{name} was printed"


def test_what_was_changed_by_hand_is_found_and_put_right(trial: Trial) -> None:
    """Of a workload of ours and one that a chart brought, of a custom object, and a policy that is gone."""
    cluster = trial.cluster
    before = _by_hand(cluster)
    cluster.kubectl("scale", "deployment", "registry", "-n", names.SYSTEM, "--replicas=7")
    cluster.kubectl("scale", "deployment", "kueue-controller-manager", "-n", names.QUEUEING, "--replicas=0")
    elsewhere = '[{"op": "replace", "path": "/spec/hostnames/0", "value": "elsewhere.example"}]'
    cluster.kubectl("patch", "httproute", "mlflow", "-n", names.SYSTEM, "--type=json", "-p", elsewhere)
    cluster.delete("networkpolicy", "deny-by-default", names.DATA)

    found = trial.engine().refresh()
    assert len(found.changed) == len(before)
    repaired = trial.up()
    assert repaired.changed
    assert set(repaired.changed) == set(found.changed)
    assert _by_hand(cluster) == before


def test_other_versions_of_two_parts_touch_those_parts_only(trial: Trial) -> None:
    """Of a server of ours, whose tables a Job brings up first, and of an operator that a chart brings."""
    newer = _with_tag(_with_tag(trial.versions, "mlflow", "3.99.0"), "kueue", "v0.99.0")
    changed = trial.up(partial(stand_up, versions=newer))
    assert {urn.rpartition("::")[2] for urn in changed.changed} == {
        "registry-migration",
        "registry",
        f"kueue:{names.QUEUEING}/kueue-controller-manager",
    }


def test_down_leaves_the_cluster_as_it_was(trial: Trial) -> None:
    """No object, no definition of ours and no finalizer; what others brought stays."""
    plan = trial.engine().plan_removal(keep_data=False)
    assert sum(plan.counts.values()) == len(trial.expected)
    trial.engine().down()
    deadline = time.monotonic() + GONE_WITHIN
    # The cluster's own controllers clean up behind what we removed.
    while left := trial.cluster.inventory() ^ trial.before:
        assert time.monotonic() < deadline, f"left or lost: {sorted(left)}"
        time.sleep(1)
    assert not trial.state_file.exists()


def _standing(trial: Trial) -> set[str]:
    """What of the program's objects is in the cluster."""
    return trial.expected & {_without_group(each) for each in trial.made()}


def _account(trial: Trial) -> Iterator[str]:
    """What was applied, by number; what was not, by name."""
    yield f"{trial.profile}: {len(trial.expected - trial.absent())} objects applied"
    for entry in trial.skipped():
        yield f"  not applied: {entry['type'].rpartition(':')[2]} {entry['name']}: {entry['reason']}"


def _by_hand(cluster: ControlPlane) -> list[object]:
    """The specifications of what the drift is tried on."""
    objects = (
        cluster.get("deployment", "registry", names.SYSTEM),
        cluster.get("deployment", "kueue-controller-manager", names.QUEUEING),
        cluster.get("httproute", "mlflow", names.SYSTEM),
        cluster.get("networkpolicy", "deny-by-default", names.DATA),
    )
    return [item and item["spec"] for item in objects]


def _source(pin: ChartPin) -> str:
    return f"{pin.source}/{pin.name}"


def _without_group(kind_and_name: str) -> str:
    kind, _, name = kind_and_name.partition(" ")
    return f"{kind.partition('.')[0]} {name.removeprefix('/')}"


def _with_tag(versions: Versions, image: str, tag: str) -> Versions:
    newer = versions.image(image).model_copy(update={"tag": tag, "digest": ""})
    return versions.model_copy(update={"images": versions.images | {image: newer}})
