"""What a user types on a cluster, from the first plan to the end, against a real control plane.

The tests go on from one another, in the order of a platform's life.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.components import names
from slipway.environment import open_environment
from slipway.targets.kubernetes.requirements import rights_of
from tests.cluster.site import ANSWERS_WITHIN, Said, Site, open_site

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(site: Site) -> Path:
    """An environment whose user may do exactly what `doctor` asks for, and no more."""
    settings = open_environment(str(site.write_environment("small"))).settings.kubernetes
    assert settings is not None
    rules = [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
        for right in rights_of(settings)
    ]
    site.create_account("installer", rules)
    return site.write_environment("small", kubeconfig=site.cluster.kubeconfig_of("installer", "default"))


def test_a_preview_tells_a_plan_by_part_and_makes_nothing(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    said = site.type(file, "preview")
    tell(said.transcript("slipway preview"))
    assert said.code == 0, said.text
    lines = said.out.splitlines()
    kubeconfig = site.cluster.folder / "default.installer.kubeconfig"
    assert lines[0].startswith(f"context lab of {kubeconfig} (https://127.0.0.1:")
    assert "services:" in lines
    assert any(line.startswith("  cache (") for line in lines)
    assert f"    + create  Deployment cache in {names.DATA}" in lines
    assert any(line.startswith("  in all: ") and " to create; 0 stay" in line for line in lines)
    assert "no findings of the policy pack" in lines
    assert lines[-1] == f"next: slipway --env {file} up"
    assert site.cluster.get("namespace", names.DATA) is None


def test_up_asks_and_takes_silence_for_no(site: Site, file: Path) -> None:
    said = site.type(file, "up")
    assert said.code == 1
    assert "nobody is there to answer: Stand small up in context lab of " in said.err
    assert "hint: --yes answers (make: YES=1)" in said.err
    assert site.cluster.get("namespace", names.DATA) is None


def test_up_asks_a_person_and_obeys_a_no(site: Site, file: Path) -> None:
    with site.start(file, "up") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("n\n")
        out = process.stdout.read()
        process.wait(ANSWERS_WITHIN)
    assert process.returncode == 1
    assert "Stand small up in context lab" in out
    assert "not confirmed: nothing was changed" in out


def test_ctrl_c_ends_up_cleanly_and_the_next_goes_on(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    seen: list[str] = []
    with site.start(file, "up", "--yes") as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if "+ create" in line:
                process.send_signal(signal.SIGINT)
                break
        seen += process.stdout
        process.wait(ANSWERS_WITHIN)
    tell(Said(process.returncode, "".join(seen), "").transcript("slipway up --yes, and Ctrl-C"))
    assert process.returncode == 130
    assert any("stopping   interrupted" in line for line in seen)
    assert seen[-1] == "interrupted; nothing is lost: the same command goes on from there\n"
    # The state was released: nobody has to take a lock away.
    assert not list((site.state / "small" / "pulumi" / ".pulumi" / "locks").rglob("*.json"))


def test_up_goes_on_prints_addresses_and_what_comes_next(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    said = site.type(file, "up", "--yes")
    tell(said.transcript("slipway up --yes"))
    assert said.code == 0, said.text
    assert "unlocking" not in said.out
    lines = said.out.splitlines()
    # There is no portal to log in at.
    assert lines[-1] == f"next: slipway --env {file} status"
    assert site.cluster.get("deployment", "cache", names.DATA) is not None
    # It came from the mirror.
    assert site.cluster.get("deployment", "kueue-controller-manager", names.QUEUEING) is not None


def test_status_tells_what_stands(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    said = site.type(file, "status")
    tell(said.transcript("slipway status"))
    assert said.code == 0
    assert "small/services: " in said.out
    (project,) = json.loads(site.type(file, "status", "--json").out).values()
    assert project["resources"] > 50
    assert set(project["namespaces"]) == set(names.PLATFORM)


def test_a_second_up_changes_nothing(site: Site, file: Path) -> None:
    again = site.type(file, "up", "--yes")
    assert again.code == 0, again.text
    (summary,) = [line for line in again.out.splitlines() if line.startswith("  services: ")]
    assert "create" not in summary
    assert "update" not in summary


def test_down_names_what_goes_and_takes_silence_for_no(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    said = site.type(file, "down")
    tell(said.transcript("slipway down"))
    assert said.code == 1
    assert "nobody is there to answer: Remove all this from context lab" in said.err
    for line in ("definitions, with every object of theirs: ", "data: PersistentVolumeClaim "):
        assert line in said.out
    assert "clusterqueues.kueue.x-k8s.io" in said.out
    assert "certificates.cert-manager.io" not in said.out
    assert site.cluster.get("deployment", "cache", names.DATA) is not None


def test_down_keeps_the_data_when_told_to(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    said = site.type(file, "down", "--keep-data", "--yes")
    tell(said.transcript("slipway down --keep-data --yes"))
    assert said.code == 0, said.text
    assert "The data stays" in said.out
    assert site.cluster.list("persistentvolumeclaims", names.DATA)
    assert site.cluster.list("deployments", names.DATA) == []


def test_down_leaves_nothing_of_ours_and_all_of_others(site: Site, file: Path, tell: Callable[[str], None]) -> None:
    said = site.type(file, "down", "--yes")
    tell(said.transcript("slipway down --yes"))
    assert said.code == 0, said.text
    assert "Nothing of small is left" in said.out
    left = {item["metadata"]["name"] for item in site.cluster.list("namespaces")}
    assert not left & {*names.PLATFORM, names.QUEUEING}
    definitions = {item["metadata"]["name"] for item in site.cluster.list("customresourcedefinitions")}
    assert definitions
    assert all(name.endswith("cert-manager.io") for name in definitions)
    assert site.type(file, "down").out.count("nothing stands") == 1
