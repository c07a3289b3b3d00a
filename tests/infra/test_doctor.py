"""What `slipway doctor` says of clusters that are missing, old, closed or taken: asked over real TLS."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.environment import Environment
from slipway.errors import InvalidInput
from slipway.kubernetes_settings import KubernetesSettings
from slipway.settings import Settings
from slipway.targets.finding import Finding
from slipway.targets.kubernetes import doctor, machine_checks
from slipway.targets.kubernetes.cluster_checks import CHECKS
from slipway.targets.kubernetes.examined_cluster import ExaminedCluster, Unreachable, open_cluster
from slipway.targets.kubernetes.requirements import DEFINITIONS, RIGHTS, rights_of
from slipway.targets.local.doctor import Finding as LocalFinding
from tests.infra.api_server import CRDS, ApiServer, definition, kubeconfig, node, storage_class
from tests.infra.recorded_stack import GPU, recorded


def settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"provider": "existing", **more})


@pytest.fixture
def cluster(server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path) -> ExaminedCluster:
    return open_cluster(settings(kubeconfig=kubeconfig(tmp_path, server.address, certificate[0])), tmp_path / "none")


def asked(cluster: ExaminedCluster, **more: Any) -> dict[str, Finding]:
    """Every check of the cluster, by name."""
    return {found.check: found for check in CHECKS for found in check(cluster, settings(**more), "test")}


def failures(cluster: ExaminedCluster, **more: Any) -> list[Finding]:
    return [found for found in asked(cluster, **more).values() if not found.ok]


def test_a_cluster_with_room_and_rights_passes_and_is_not_changed(cluster: ExaminedCluster, server: ApiServer) -> None:
    assert failures(cluster) == []
    assert server.changes == []


@pytest.mark.parametrize(("minor", "word"), [("33", "too old"), ("28+", "too old"), ("37", "too new")])
def test_a_kubernetes_that_is_not_supported_is_refused_by_the_parts_that_are_wanted(
    cluster: ExaminedCluster, server: ApiServer, minor: str, word: str
) -> None:
    server.version = ("1", minor)
    (found,) = failures(cluster, parts={"queueing": {"enabled": False}, "cert_manager": {"existing": True}})[:1]
    assert word in found.found
    assert "serving" in found.found
    assert "queueing" not in found.found
    assert "cert_manager" not in found.found
    assert "1.34 to 1.36" in found.remedy


def test_every_missing_right_is_named(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.refused = {f"{verb} {kind}" for verb in ("create", "delete") for kind in ("namespaces", "configmaps")}
    server.refused.add("escalate clusterroles")
    (found,) = failures(cluster)
    assert (
        found.found == "may not create/delete namespaces, configmaps; escalate clusterroles.rbac.authorization.k8s.io"
    )
    assert "cluster administrator" in found.remedy


def test_a_right_that_only_a_disabled_part_needs_is_not_missed(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.refused = {"create featurestores"}
    assert [found.found for found in failures(cluster)] == ["may not create featurestores.feast.dev"]
    assert failures(cluster, parts={"features": {"enabled": False}}) == []


def test_no_right_is_asked_for_twice() -> None:
    assert len({right.kind for right in RIGHTS}) == len(RIGHTS)


def test_a_definition_of_another_release_is_named_with_its_owner_and_the_switch(
    cluster: ExaminedCluster, server: ApiServer
) -> None:
    server.answers[f"{CRDS}certificates.cert-manager.io"] = definition(
        "v1", **{"meta.helm.sh/release-name": "certs", "meta.helm.sh/release-namespace": "tools"}
    )
    (found,) = failures(cluster)
    assert found.found == "there already, of Helm release tools/certs"
    assert found.remedy.startswith("kubernetes.parts.cert_manager.existing = true")
    (found,) = failures(cluster, parts={"cert_manager": {"existing": True}})
    assert found.check == "namespace cert-manager"
    server.answers["/api/v1/namespaces/cert-manager"] = {"metadata": {"name": "cert-manager"}}
    assert failures(cluster, parts={"cert_manager": {"existing": True}}) == []


def test_a_definition_that_no_switch_can_share_asks_for_another_cluster(
    cluster: ExaminedCluster, server: ApiServer
) -> None:
    server.answers[f"{CRDS}inferenceservices.serving.kserve.io"] = definition("v1beta1")
    (found,) = failures(cluster)
    assert found.remedy == "another cluster"


def test_a_definition_of_ours_is_no_obstacle_and_that_of_another_environment_is(
    cluster: ExaminedCluster, server: ApiServer
) -> None:
    path = f"{CRDS}rayjobs.ray.io"
    server.answers[path] = definition("v1", labels={"slipway.dev/environment": "test"})
    assert failures(cluster) == []
    server.answers[path] = definition("v1", labels={"slipway.dev/environment": "other"})
    (found,) = failures(cluster)
    assert found.found == "there already, of environment other"


@pytest.mark.parametrize("existing", [True, False])
def test_a_definition_of_an_older_version_is_refused_either_way(
    cluster: ExaminedCluster, server: ApiServer, existing: bool
) -> None:
    path = f"{CRDS}httproutes.gateway.networking.k8s.io"
    server.answers[path] = definition("v1", **{"gateway.networking.k8s.io/bundle-version": "v1.4.1"})
    (found,) = failures(cluster, parts={"gateway": {"existing": existing}})
    assert found.found == "is v1.4.1, older than v1.6.0"
    server.answers[path] = definition("v1beta1")
    (found,) = failures(cluster, parts={"gateway": {"existing": existing}})
    assert found.found == "serves v1beta1, not v1"


def test_what_is_said_to_exist_must_be_there(cluster: ExaminedCluster) -> None:
    (found,) = failures(cluster, parts={"monitoring": {"existing": True}})
    assert (found.check, found.found) == ("definition prometheuses.monitoring.coreos.com", "is not there")
    assert "existing = false" in found.remedy


def test_a_part_that_is_not_wanted_is_not_asked_for(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.answers[f"{CRDS}rayjobs.ray.io"] = definition("v1")
    assert failures(cluster, parts={"training": {"enabled": False}}) == []


def test_every_definition_belongs_to_a_part() -> None:
    for wanted in DEFINITIONS:
        settings().part(wanted.part)


def test_nodes_that_are_not_ready_give_nothing(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.answers["/api/v1/nodes"] = {"items": [node("4", "16Gi"), node("8", "32Gi", ready="Unknown")]}
    assert [found.found for found in failures(cluster)] == ["1 of 2"]
    server.answers["/api/v1/nodes"] = {"items": [node("3900m", "7000000Ki")]}
    assert [found.found for found in failures(cluster)] == ["3.9 CPUs, 6.7 GiB"]


def test_profile_full_needs_more_and_says_which_profile_needs_less(cluster: ExaminedCluster) -> None:
    (found,) = failures(cluster, profile="full")
    assert 'profile = "core"' in found.remedy


def test_gpu_workers_need_a_gpu_or_the_part_that_brings_it(cluster: ExaminedCluster, server: ApiServer) -> None:
    wanted = {"training": {"gpu_workers": 1}}
    assert [found.check for found in failures(cluster, parts=wanted)] == ["GPUs"]
    assert failures(cluster, parts=wanted | {"gpu": {"enabled": True}}) == []
    server.answers["/api/v1/nodes"] = {"items": [node("4", "16Gi", **{"nvidia.com/gpu": "2"})]}
    assert failures(cluster, parts=wanted) == []


def test_a_storage_class_must_be_there(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.answers["/apis/storage.k8s.io/v1/storageclasses"] = {"items": [storage_class("slow")]}
    (found,) = failures(cluster)
    assert (found.found, found.remedy) == ("no default", "set kubernetes.storage_class; there are: slow")
    assert failures(cluster, storage_class="slow") == []
    (found,) = failures(cluster, storage_class="fast")
    assert found.found == "no fast"


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"kubernetes\.kubeconfig") as caught:
        open_cluster(settings(kubeconfig=tmp_path / "none"), tmp_path / "made")
    assert "set kubernetes.kubeconfig" in str(caught.value)


@pytest.mark.parametrize("text", ["", "contexts: 3", "{", "apiVersion: v1\nkind: Config\n"])
def test_what_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"kubernetes\.(kubeconfig|context)"):
        open_cluster(settings(kubeconfig=file), tmp_path / "made")


def test_an_unknown_context_is_named_with_those_that_exist(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "https://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="one of: main, other"):
        open_cluster(settings(kubeconfig=file, context="production"), tmp_path / "made")


def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    cluster = open_cluster(settings(kubeconfig=kubeconfig(tmp_path, "https://127.0.0.1:1")), tmp_path / "made")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer: .*refused"):
        cluster.get("/version")


def test_a_cluster_of_another_authority_is_not_trusted(server: ApiServer, tmp_path: Path) -> None:
    cluster = open_cluster(settings(kubeconfig=kubeconfig(tmp_path, server.address)), tmp_path / "made")
    with pytest.raises(Unreachable, match="certificate"):
        cluster.get("/version")


def test_a_wrong_token_asks_for_a_new_login(server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, server.address, certificate[0], token="wrong")
    with pytest.raises(Unreachable, match="401") as caught:
        open_cluster(settings(kubeconfig=file), tmp_path / "made").get("/version")
    assert "log in again" in caught.value.hint
    assert "wrong" not in str(caught.value)


def opened(tmp_path: Path, **kubernetes: Any) -> Environment:
    document = {"name": "test", "target": "kubernetes", "state_dir": tmp_path / "state", "kubernetes": kubernetes}
    return Environment(tmp_path / "test.toml", Settings.model_validate(document))


@pytest.fixture
def no_other_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with nothing on it, and registries that nobody asks."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SLIPWAY_TOOLS", raising=False)
    monkeypatch.setattr(machine_checks, "_answers", lambda host: host != "ghcr.io")
    return folder


def tool(folder: Path, name: str, says: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)


def test_every_check_is_made_and_every_failure_has_a_remedy(
    server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path, no_other_tools: Path
) -> None:
    server.version = ("1", "20")
    found = doctor.examine(
        opened(tmp_path, provider="existing", kubeconfig=kubeconfig(tmp_path, server.address, certificate[0]))
    )
    failed = {item.check: item for item in found if not item.ok}
    assert {"pulumi", "kubectl", "image registries", "Kubernetes 1.34 to 1.36"} <= set(failed)
    assert failed["image registries"].found == "no answer from ghcr.io"
    assert all(item.remedy for item in failed.values())
    assert not any(item.remedy for item in found if item.ok)


def test_a_cluster_that_is_gone_is_one_finding(tmp_path: Path, no_other_tools: Path) -> None:
    file = kubeconfig(tmp_path, "https://127.0.0.1:1")
    found = doctor.examine(opened(tmp_path, provider="existing", kubeconfig=file))
    (gone,) = [item for item in found if item.check.startswith("cluster of context")]
    assert "does not answer" in gone.found
    assert gone.remedy == "is the cluster up, and reachable from here?"


@pytest.mark.parametrize(
    ("says", "ok", "found"),
    [("v3.259.0", True, "3.259.0"), ("v3.100.2", False, "3.100.2"), ("nonsense", False, "says no version")],
)
def test_a_tool_that_is_too_old_is_not_enough(
    tmp_path: Path, no_other_tools: Path, says: str, ok: bool, found: str
) -> None:
    tool(no_other_tools, "pulumi", says)
    environment = opened(tmp_path, provider="existing")
    assert environment.settings.kubernetes is not None
    (pulumi, *_) = machine_checks.check_tools(environment, environment.settings.kubernetes)
    assert (pulumi.ok, pulumi.found) == (ok, found)


@pytest.mark.parametrize(
    ("provider", "network", "tools"),
    [
        ("kind", {}, {"docker", "kind"}),
        ("eks", {"region": "r"}, {"aws"}),
        ("gke", {"region": "r", "project": "your-project"}, {"gcloud", "gke-gcloud-auth-plugin"}),
        ("aks", {"region": "r", "subscription": "s"}, {"az", "kubelogin"}),
    ],
)
def test_each_provider_needs_its_own_tools_and_a_login(
    tmp_path: Path, no_other_tools: Path, provider: str, network: dict[str, str], tools: set[str]
) -> None:
    given = {"provider": provider} | ({"network": network} if network else {})
    failed = {item.check for item in doctor.examine(opened(tmp_path, **given)) if not item.ok}
    assert tools <= failed
    assert [check for check in failed if check.endswith(" answers")]
    assert ("no placeholder is left" in failed) == (provider == "gke")
    # Before the first `up` there is no cluster to ask: that is no failure.
    assert "kubeconfig" not in failed


def plugins(tmp_path: Path, **given: Any) -> list[Finding]:
    environment = opened(tmp_path, **given)
    assert environment.settings.kubernetes is not None
    return list(machine_checks.check_plugins(environment, environment.settings.kubernetes))


def test_a_provider_of_pulumi_is_found_fetched_or_missed(
    tmp_path: Path, no_other_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path))
    version = importlib.metadata.version("pulumi-kubernetes")
    (found,) = plugins(tmp_path, provider="existing")
    assert (found.ok, found.found) == (True, "fetched by the first `up`")
    monkeypatch.setattr(machine_checks, "_answers", lambda host: False)
    found, cloud = plugins(tmp_path, provider="eks", network={"region": "r"})
    assert found.found == "not installed, and get.pulumi.com does not answer"
    assert found.remedy.startswith(f"pulumi plugin install resource kubernetes v{version}")
    assert cloud.check.startswith("Pulumi's aws")
    folder = tmp_path / "plugins" / f"resource-kubernetes-v{version}"
    folder.mkdir(parents=True)
    (found,) = plugins(tmp_path, provider="existing")
    assert not found.ok, "a folder alone is a download that did not end"
    (folder / "pulumi-resource-kubernetes").touch()
    (found,) = plugins(tmp_path, provider="existing")
    assert (found.ok, found.found) == (True, "installed")


@pytest.mark.parametrize(("version", "kubectl", "kind"), [("1.34", "1.33.0", "0.30.0"), ("1.36", "1.35.0", "0.32.0")])
def test_tools_must_fit_the_kubernetes_that_is_wanted(
    tmp_path: Path, no_other_tools: Path, version: str, kubectl: str, kind: str
) -> None:
    for name in ("kubectl", "kind"):
        tool(no_other_tools, name, "v1.35.0" if name == "kubectl" else "v0.32.0")
    environment = opened(tmp_path, provider="kind", version=version)
    assert environment.settings.kubernetes is not None
    found = {item.check for item in machine_checks.check_tools(environment, environment.settings.kubernetes)}
    assert {f"kubectl {kubectl}", f"kind {kind}"} <= found


def test_a_passphrase_that_others_can_read_is_found(tmp_path: Path, no_other_tools: Path) -> None:
    file = tmp_path / "passphrase"
    environment = opened(tmp_path, provider="existing", backend={"passphrase_file": file})
    assert environment.settings.kubernetes is not None
    check = machine_checks.check_passphrase
    (found,) = check(environment, environment.settings.kubernetes)
    assert found.remedy.startswith("put it back")
    file.write_text("x")
    file.chmod(0o644)
    (found,) = check(environment, environment.settings.kubernetes)
    assert found.remedy == f"chmod 600 {file}"
    file.chmod(0o600)
    (found,) = check(environment, environment.settings.kubernetes)
    assert found.ok


def test_an_incomplete_mirror_is_named_item_by_item(tmp_path: Path, no_other_tools: Path) -> None:
    environment = opened(tmp_path, provider="existing", mirror={"dir": tmp_path, "registry": "registry.example.com"})
    assert environment.settings.kubernetes is not None
    (found,) = machine_checks.check_mirror(environment, environment.settings.kubernetes)
    assert "charts.kueue" in found.found
    (registries,) = machine_checks.check_registries(environment, environment.settings.kubernetes)
    assert (registries.ok, registries.found) == (True, "1 answer")


def test_both_targets_report_alike() -> None:
    assert LocalFinding is Finding


def plural(kind: str) -> str:
    return (
        f"{kind.lower()[:-1]}ies"
        if kind.endswith(("cy", "xy"))
        else f"{kind.lower()}{'es' if kind.endswith('s') else 's'}"
    )


@pytest.mark.parametrize("profile", ["core", "full"])
def test_the_rights_asked_for_are_those_that_the_program_needs(profile: str) -> None:
    created = {
        (found.inputs["apiVersion"].rpartition("/")[0], plural(found.kind))
        for found in recorded(profile=profile, **GPU).objects()
    }
    asked = {(right.group, right.resource) for right in rights_of(settings(profile=profile, **GPU))}
    assert created <= asked
    # The rest is read, or comes with charts.
    of_charts = {"clusterroles", "clusterrolebindings", "customresourcedefinitions"}
    of_charts |= {"validatingwebhookconfigurations", "mutatingwebhookconfigurations", "apiservices"}
    of_charts |= {"validatingadmissionpolicies", "validatingadmissionpolicybindings"}
    rest = {resource for _, resource in asked - created}
    watched = {"pods", "replicasets", "endpoints", "events"}
    assert rest <= of_charts | watched | {"nodes", "storageclasses", "rayclusters"}


def test_a_login_whose_program_is_missing_is_told_at_once(
    server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    file = kubeconfig(tmp_path, server.address, certificate[0])
    document = yaml.safe_load(file.read_text())
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-login", "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": program}
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(InvalidInput, match=r"nobody is logged in by context main: .*no-such-login"):
        open_cluster(settings(kubeconfig=file), tmp_path / "made")


def test_what_may_not_be_read_asks_for_another_context(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.closed = {"/api/v1/nodes"}
    with pytest.raises(Unreachable, match="403 Forbidden") as caught:
        cluster.get("/api/v1/nodes")
    assert caught.value.hint == "a context of a cluster administrator"


def test_a_state_dir_in_which_nothing_can_be_made_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    environment = opened(file, provider="existing")
    assert environment.settings.kubernetes is not None
    found = list(machine_checks.check_disk(environment, environment.settings.kubernetes))
    assert [each.found for each in found if not each.ok] == [f"nothing can be made in {file}"]
