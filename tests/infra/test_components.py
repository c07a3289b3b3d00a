"""The program as a whole, recorded without an engine: names, order, switches, profiles, providers, secrets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from recorded_stack import CLOUDS, GPU, GPU_POOL, ancestors, fill_mirror, recorded, settings_of

from infra.components import names
from infra.recording import Recording, record
from infra.services.program import stand_up
from infra.versions import load_versions
from slipway.kubernetes_parts import NEEDS, PART_NAMES

PROFILES = ("core", "full")
OPERATORS = {
    "cert-manager.io": "cert-manager",
    "gateway.networking.k8s.io": "gateway-definitions",
    "gateway.envoyproxy.io": "gateway-definitions",
    "postgresql.cnpg.io": "cloudnative-pg",
    "feast.dev": "feast-operator",
    "serving.kserve.io": "kserve",
    "ray.io": "kuberay-operator",
    "kueue.x-k8s.io": "kueue",
    "monitoring.coreos.com": "monitoring",
}
"""API group -> the chart or manifest that defines it."""
REMOTE = ("kubernetes:helm.sh/v4:Chart", "kubernetes:yaml/v2:ConfigFile", "kubernetes:kustomize/v2:Directory")


def charts(recording: Recording) -> set[str]:
    return {each.name for each in recording.resources if each.type in REMOTE}


@pytest.mark.parametrize("profile", PROFILES)
def test_no_two_resources_have_one_name(profile: str) -> None:
    stack = recorded(profile=profile, **GPU)
    assert [urn for urn, times in Counter(each.urn for each in stack.resources).items() if times > 1] == []
    assert [where for where, times in Counter(each.where for each in stack.objects()).items() if times > 1] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_custom_resource_comes_after_its_operator_and_goes_before_it(profile: str) -> None:
    stack = recorded(profile=profile, **GPU)
    operators = {each.name: each.urn for each in stack.resources if each.type in REMOTE}
    seen = set()
    for each in stack.objects():
        group = each.inputs["apiVersion"].partition("/")[0]
        if group in OPERATORS:
            seen.add(group)
            assert operators[OPERATORS[group]] in ancestors(stack, each), each.where
    assert seen == set(OPERATORS) - (set() if profile == "full" else {"ray.io"})


@pytest.mark.parametrize("profile", PROFILES)
def test_an_object_comes_after_its_namespace(profile: str) -> None:
    stack = recorded(profile=profile, **GPU)
    namespaces = {each.metadata["name"]: each.urn for each in stack.of_kind("Namespace")}
    brought = {each.inputs.get("namespace") for each in stack.resources if each.type in REMOTE}
    for each in stack.objects():
        namespace = each.metadata.get("namespace")
        if namespace in namespaces:
            assert namespaces[namespace] in ancestors(stack, each), each.where
        elif namespace:
            assert namespace in (names.DATABASE_OPERATOR, names.FEATURES_OPERATOR) or namespace in brought, each.where


@pytest.mark.parametrize("profile", PROFILES)
def test_every_namespace_is_restricted_denies_by_default_and_has_default_requests(profile: str) -> None:
    stack = recorded(profile=profile)
    for namespace in stack.of_kind("Namespace"):
        name = namespace.metadata["name"]
        assert namespace.metadata["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        policy = stack.find(f"NetworkPolicy/{name}/deny-by-default").inputs["spec"]
        assert policy == {
            "podSelector": {"matchLabels": {}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [],
        }
        stack.find(f"LimitRange/{name}/defaults")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_object_says_whose_it_is(profile: str) -> None:
    wanted = {"slipway.dev/environment", "slipway.dev/team", "slipway.dev/model", "app.kubernetes.io/component"}
    for each in recorded(profile=profile, **GPU).objects():
        assert wanted <= set(each.metadata["labels"]), each.where


def _with_dependents(part: str) -> set[str]:
    gone = {part}
    while more := {each for each, needed, _ in NEEDS if needed in gone} - gone:
        gone |= more
    return gone


@pytest.mark.parametrize("part", PART_NAMES)
def test_a_part_that_is_switched_off_leaves_nothing(part: str) -> None:
    off = _with_dependents(part)
    stack = recorded(parts={each: {"enabled": False} for each in off})
    parts = {each.metadata["labels"]["app.kubernetes.io/component"].replace("-", "_") for each in stack.objects()}
    assert parts == {"definitions", *PART_NAMES} - off - {"gpu", "cost"}


@pytest.mark.parametrize(
    ("part", "definition", "chart"),
    [
        ("cert_manager", "certificates.cert-manager.io", "cert-manager"),
        ("monitoring", "servicemonitors.monitoring.coreos.com", "monitoring"),
        ("gateway", "gateways.gateway.networking.k8s.io", None),
        ("gpu", None, "nvidia-device-plugin"),
    ],
)
def test_what_is_there_already_is_looked_up_and_not_installed(
    part: str, definition: str | None, chart: str | None
) -> None:
    existing: dict[str, Any] = {"existing": True} | ({"enabled": True} if part == "gpu" else {})
    stack = recorded(parts={part: existing})
    assert chart not in charts(stack)
    read = {each.inputs.get("metadata", {}).get("name") or each.urn for each in stack.resources if each.existing}
    if definition:
        assert any(definition in each for each in read)
    assert all("CustomResourceDefinition" in each.type for each in stack.resources if each.existing)


def test_existing_gateway_definitions_are_not_installed_but_envoys_own_are() -> None:
    for existing in (False, True):
        stack = recorded(parts={"gateway": {"existing": existing}})
        (chart,) = (each for each in stack.resources if each.name == "gateway-definitions" and each.type in REMOTE)
        assert chart.inputs["values"]["crds"]["gatewayAPI"]["enabled"] is not existing
        assert chart.inputs["values"]["crds"]["envoyGateway"]["enabled"] is True


@pytest.mark.parametrize("provider", ["existing", *CLOUDS])
def test_values_of_charts_hold_nothing_unknown_or_secret(provider: str, tmp_path: Path) -> None:
    managed = {"managed": {"database": True, "cache": True, "object_store": True}} if provider in CLOUDS else {}
    settings = settings_of(tmp_path, profile="full", **CLOUDS.get(provider, {}), **managed)
    stack = record(lambda: stand_up(settings), preview=True)
    for each in stack.resources:
        if each.type in REMOTE:
            assert not each.secret_keys, each.name
            json.dumps(each.inputs)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_secret_stands_in_secrets_only(profile: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, profile=profile)
    stack = record(lambda: stand_up(settings))
    values = {file.read_text().strip() for file in (tmp_path / "secrets").rglob("*") if file.is_file()}
    assert len(values) > 15
    for each in stack.resources:
        if each.kind == "Secret":
            assert each.secret_keys == {"data"}, each.where
        else:
            text = json.dumps(each.inputs)
            assert not [value for value in values if value in text], each.name
    assert not [value for value in values if value in json.dumps(stack.outputs)]


def test_secrets_are_private_files_and_stay_the_same(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    first, second = (record(lambda: stand_up(settings)) for _ in range(2))
    files = [file for file in (tmp_path / "secrets").rglob("*") if file.is_file()]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
    one, other = ({each.where: each.inputs for each in stack.of_kind("Secret")} for stack in (first, second))
    assert one == other


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    record(lambda: stand_up(settings))
    (tmp_path / "secrets" / "cache" / "password").chmod(0o644)
    with pytest.raises(Exception, match="others may read it"):
        record(lambda: stand_up(settings))


def test_profile_full_brings_what_core_leaves_out() -> None:
    core, full = recorded(), recorded(profile="full")
    assert charts(full) - charts(core) == {"kubeflow-pipelines", "opencost"}
    assert charts(core) - charts(full) == set()
    pins = [{each.inputs["pin"] for each in stack.components("HelmChart")} for stack in (core, full)]
    assert "kserve_crds_minimal" in pins[0] and "kserve_crds" in pins[1]
    assert [each.kind for each in core.of_kind("RayCluster")] == []
    for where, key in (("Deployment/slipway-system/registry", 2), ("Deployment/slipway-system/controller", 2)):
        assert core.find(where).inputs["spec"]["replicas"] == 1
        assert full.find(where).inputs["spec"]["replicas"] == key


def test_a_lone_controller_never_meets_its_successor_and_two_may_hold_a_lease() -> None:
    assert recorded().find("Deployment/slipway-system/controller").inputs["spec"]["strategy"] == {"type": "Recreate"}
    role = recorded(profile="full").find("Role/slipway-system/controller")
    assert role.inputs["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    ]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_offers_its_own_services_in_place_of_ours(cloud: str) -> None:
    ours = recorded(**CLOUDS[cloud])
    theirs = recorded(**CLOUDS[cloud], managed={"database": True, "cache": True, "object_store": True})
    for stack, expected in ((ours, 1), (theirs, 0)):
        assert len(list(stack.of_kind("Cluster"))) == expected
        for name in ("cache", "object-store"):
            where = f"Deployment/slipway-data/{name}"
            assert [each.where for each in stack.of_kind("Deployment") if each.where == where] == [where] * expected
    assert "cloudnative-pg" not in charts(theirs)
    logins = [each for each in theirs.of_kind("Secret") if each.metadata["name"] == "database-ledger"]
    assert {each.metadata["namespace"] for each in logins} == {names.SYSTEM, names.TRAINING}
    theirs.find("NetworkPolicy/slipway-data/database-roles")


@pytest.mark.parametrize(
    ("provider", "sharing", "chart"),
    [
        ("eks", "none", "nvidia-device-plugin"),
        ("eks", "mig", "gpu-operator"),
        ("gke", "none", None),
        ("aks", "none", "gpu-operator"),
        ("existing", "time_slicing", "nvidia-device-plugin"),
    ],
)
def test_a_node_never_gets_two_device_plugins(provider: str, sharing: str, chart: str | None) -> None:
    pool = GPU_POOL if provider in CLOUDS else {}
    stack = recorded(**CLOUDS.get(provider, {}), **pool, parts={"gpu": {"enabled": True, "sharing": sharing}})
    assert charts(stack) & {"nvidia-device-plugin", "gpu-operator"} == ({chart} if chart else set())
    if sharing == "time_slicing":
        (plugin,) = (each for each in stack.resources if each.name == chart and each.type in REMOTE)
        config = json.loads(plugin.inputs["values"]["config"]["map"]["default"])
        assert config["sharing"]["timeSlicing"]["resources"] == [{"name": "nvidia.com/gpu", "replicas": 4}]


def test_only_gpu_workers_may_stand_on_gpu_nodes_and_nowhere_else() -> None:
    (cluster,) = recorded(profile="full", **GPU).of_kind("RayCluster")
    cpu, gpu = cluster.inputs["spec"]["workerGroupSpecs"]
    for group, present in ((cpu, False), (gpu, True)):
        pod = group["template"]["spec"]
        assert (pod.get("nodeSelector") == {"slipway.dev/accelerator": "nvidia"}) is present
        assert bool(pod.get("tolerations")) is present
        assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) is present
        assert group["minReplicas"] == group["replicas"] == 0
    assert cluster.inputs["spec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}


def test_quotas_of_all_teams_together_are_what_the_settings_say() -> None:
    stack = recorded(parts={"queueing": {"teams": ["a", "b", "c"], "gpus": 4, "cpus": 8, "memory": "10Gi"}})
    queues = [each.inputs["spec"]["resourceGroups"] for each in stack.of_kind("ClusterQueue")]
    assert [[group["coveredResources"] for group in groups] for groups in queues] == [
        [["cpu", "memory"], ["nvidia.com/gpu"]]
    ] * 3
    quotas = [
        {each["name"]: each["nominalQuota"] for group in groups for each in group["flavors"][0]["resources"]}
        for groups in queues
    ]
    assert sum(int(quota["cpu"].removesuffix("m")) for quota in quotas) == 8000
    assert sum(int(quota["memory"].removesuffix("Mi")) for quota in quotas) == 10 * 1024
    assert sorted(quota["nvidia.com/gpu"] for quota in quotas) == ["1", "1", "2"]
    assert {each.metadata["name"] for each in stack.of_kind("LocalQueue")} == {"a", "b", "c"}


def test_kind_reaches_the_gateway_by_ports_of_its_node() -> None:
    kind = recorded(provider="kind").find("EnvoyProxy/slipway-gateway/slipway").inputs["spec"]["provider"]["kubernetes"]
    assert kind["envoyService"]["type"] == "NodePort"
    ports = kind["envoyService"]["patch"]["value"]["spec"]["ports"]
    assert {each["port"]: each["nodePort"] for each in ports} == {80: 30080, 443: 30443}
    other = recorded().find("EnvoyProxy/slipway-gateway/slipway").inputs["spec"]["provider"]["kubernetes"]
    assert other["envoyService"] == {"type": "LoadBalancer"}


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_behind_the_gateway_is_reached_without_being_asked(profile: str) -> None:
    stack = recorded(profile=profile)
    policy = stack.find("SecurityPolicy/slipway-gateway/authentication").inputs["spec"]
    assert policy["extAuth"]["failOpen"] is False
    assert [each["sectionName"] for each in policy["targetRefs"]] == ["https"]
    for route in stack.of_kind("HTTPRoute"):
        sections = {each["sectionName"] for each in route.inputs["spec"]["parentRefs"]}
        assert sections == {"https"} or route.metadata["name"] == "to-https", route.where


@pytest.mark.parametrize("profile", PROFILES)
def test_a_route_leads_to_a_port_that_is_there(profile: str) -> None:
    stack = recorded(profile=profile)
    services = {
        (each.metadata["namespace"], each.metadata["name"]): {port["port"] for port in each.inputs["spec"]["ports"]}
        for each in stack.of_kind("Service")
    }
    by_charts = {("slipway-monitoring", "monitoring-grafana"), ("kubeflow", "ml-pipeline-ui")}
    for route in stack.of_kind("HTTPRoute"):
        for rule in route.inputs["spec"]["rules"]:
            for backend in rule.get("backendRefs", []):
                service = (route.metadata["namespace"], backend["name"])
                assert service in by_charts or backend["port"] in services[service], route.where


def test_a_mirror_serves_every_chart_manifest_and_image(tmp_path: Path) -> None:
    registry = "registry.example.com/mirror"
    mirror = fill_mirror(tmp_path)
    stack = recorded(profile="full", mirror={"dir": str(mirror), "registry": registry})
    for each in stack.resources:
        if each.type in REMOTE:
            address = each.inputs.get("chart") or each.inputs.get("file")
            assert str(address).startswith(str(mirror)), each.name
            assert "repositoryOpts" not in each.inputs
    for each in stack.of_kind("Deployment"):
        for container in each.inputs["spec"]["template"]["spec"]["containers"]:
            assert container["image"].startswith(f"{registry}/"), each.where
            assert container["image"].endswith("@sha256:" + "0" * 64)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_chart_is_pinned_and_comes_from_its_source(profile: str) -> None:
    versions, stack = load_versions(), recorded(profile=profile, **GPU)
    for component in stack.components("HelmChart"):
        pin = versions.chart(component.inputs["pin"])
        (chart,) = (each for each in stack.below(component) if each.type in REMOTE)
        assert chart.inputs["version"] == pin.version
        source = chart.inputs.get("repositoryOpts", {}).get("repo") or chart.inputs["chart"].rpartition("/")[0]
        assert source == pin.source


def test_our_overlay_stands_on_the_pinned_release_of_kubeflow_pipelines() -> None:
    overlay = (Path(stand_up.__code__.co_filename).parents[1] / "components/kubeflow/kustomization.yaml").read_text()
    pin = load_versions().manifest("kubeflow_pipelines")
    addresses = [line.strip(" -") for line in overlay.splitlines() if "?ref=" in line]
    assert pin.source in addresses
    assert {address.rpartition("?ref=")[2] for address in addresses} == {pin.version}


def test_the_platforms_image_may_be_ones_own() -> None:
    image = "registry.example.com/own@sha256:" + "a" * 64
    stack = recorded(image=image)
    (container,) = stack.find("Deployment/slipway-system/portal").inputs["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image


def test_an_environment_without_a_cluster_is_refused(tmp_path: Path) -> None:
    from slipway.settings import Settings

    with pytest.raises(ValueError, match="target kubernetes"):
        stand_up(Settings(name="local", state_dir=tmp_path))
