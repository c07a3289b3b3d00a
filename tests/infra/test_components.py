"""The program as a whole, recorded without an engine: names, order, switches, profiles, providers, secrets."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_repo.permissions import READERS
from infra.components import cert_manager, names, object_store, platform_pod
from infra.quantity import parse_bytes
from infra.recording import Recording, record
from infra.services.program import stand_up
from pipelines.steps import STEPS
from slipway import step_pods
from slipway.kubernetes_parts import NEEDS, PART_NAMES
from slipway.mirror.versions import load_versions
from slipway.step_pods import StepPods
from tests.infra.recorded_stack import CLOUDS, GPU, GPU_POOL, ancestors, fill_mirror, managed_by, recorded, settings_of

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


def test_the_database_lets_each_login_into_its_own_database_by_tls_and_nobody_else() -> None:
    stack = recorded(profile="full")
    rules = stack.find(f"Cluster/{names.DATA}/{names.DATABASE}").inputs["spec"]["postgresql"]["pg_hba"]
    users = {each.metadata["name"].removeprefix("role-") for each in stack.of_kind("Secret") if "/role-" in each.where}
    allowed, rest = (line.split() for line in rules)
    assert (allowed[:2], set(allowed[2].split(",")), allowed[3:]) == (
        ["hostssl", "sameuser"],
        users,
        ["all", "scram-sha-256"],
    )
    assert rest == ["host", "all", "all", "all", "reject"], "before the operator's own last rule, which lets all in"
    for login in (each for each in stack.of_kind("Secret") if "/database-" in each.where):
        data = {key: base64.b64decode(value).decode() for key, value in login.inputs["data"].items()}
        assert f":5432/{data['username']}?sslmode=" in data["url"], login.where
        assert data["username"] in users


def test_the_authority_alone_keeps_its_key_when_it_is_made_anew() -> None:
    # Otherwise servers and clients would disagree until each certificate of theirs is renewed.
    stack = recorded(profile="full")
    kept = {each.metadata["name"]: each.inputs["spec"]["privateKey"] for each in stack.of_kind("Certificate")}
    assert {name for name, key in kept.items() if key["rotationPolicy"] == "Never"} == {"slipway-authority"}


@pytest.mark.parametrize("instances", [1, 2])
def test_the_only_instance_of_the_database_keeps_no_node_from_being_drained(instances: int) -> None:
    stack = recorded(profile="core", parts={"database": {"instances": instances}})
    cluster = stack.find(f"Cluster/{names.DATA}/{names.DATABASE}")
    assert cluster.inputs["spec"]["enablePDB"] is (instances > 1)


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
        level = "baseline" if name == names.FEATURES else "restricted"
        assert namespace.metadata["labels"]["pod-security.kubernetes.io/enforce"] == level
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
    managed = managed_by(provider) if provider in CLOUDS else {}
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
    values = {file.read_text().strip() for file in (tmp_path / "secrets").rglob("*") if file.is_file()} - {""}  # a lock
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


def test_a_lone_portal_answers_until_its_successor_does() -> None:
    # It is asked about every request: without it no model answers.
    portal = recorded().find("Deployment/slipway-system/portal").inputs["spec"]
    assert (portal["replicas"], portal["strategy"]) == (1, {"type": "RollingUpdate"})


def test_an_envoy_can_be_told_that_all_its_requests_are_answered() -> None:
    deployment = recorded().find("EnvoyProxy/slipway-gateway/slipway").inputs["spec"]["provider"]["kubernetes"]
    pod = deployment["envoyDeployment"]["patch"]["value"]["spec"]["template"]["spec"]
    (manager,) = pod["containers"]
    # Envoy Gateway's shutdown-manager writes `/tmp/shutdown-ready`.
    assert manager["securityContext"]["readOnlyRootFilesystem"] is True
    assert [(mount["mountPath"], "readOnly" in mount) for mount in manager["volumeMounts"]] == [("/tmp", False)]
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"] for mount in manager["volumeMounts"]]


def test_a_lone_controller_never_meets_its_successor_and_two_may_hold_a_lease() -> None:
    assert recorded().find("Deployment/slipway-system/controller").inputs["spec"]["strategy"] == {"type": "Recreate"}
    role = recorded(profile="full").find("Role/slipway-system/controller")
    assert role.inputs["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    ]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_offers_its_own_services_in_place_of_ours(cloud: str) -> None:
    ours = recorded(**CLOUDS[cloud])
    offered = managed_by(cloud)
    theirs = recorded(**CLOUDS[cloud], **offered)
    assert (len(list(ours.of_kind("Cluster"))), len(list(theirs.of_kind("Cluster")))) == (1, 0)
    for name, part in (("cache", "cache"), ("object-store", "object_store")):
        where = f"Deployment/slipway-data/{name}"
        for stack, expected in ((ours, 1), (theirs, 0 if offered["managed"].get(part) else 1)):
            assert [each.where for each in stack.of_kind("Deployment") if each.where == where] == [where] * expected
    assert "cloudnative-pg" not in charts(theirs)
    logins = [each for each in theirs.of_kind("Secret") if each.metadata["name"] == "database-ledger"]
    assert {each.metadata["namespace"] for each in logins} == {names.SYSTEM, names.TRAINING}
    theirs.find("NetworkPolicy/slipway-data/database-roles")


@pytest.mark.parametrize("storage", ["1Gi", "10Gi", "50Gi", "1Ti", "10Ti"])
def test_every_bucket_has_a_file_of_its_own_on_any_disk_and_most_of_it_is_left(storage: str) -> None:
    stack = recorded(parts={"object_store": {"storage": storage}})
    (container,) = stack.find("Deployment/slipway-data/object-store").inputs["spec"]["template"]["spec"]["containers"]
    (size,) = (word.partition("=")[2] for word in container["args"] if word.startswith("-master.volumeSizeLimitMB="))
    # Pipelines' too, and what SeaweedFS keeps for itself.
    files = len((*object_store.USERS, object_store.PIPELINES)) + 1
    assert files * int(size) * 2**20 < parse_bytes(storage) / 2
    assert int(size) <= 30_000


@pytest.mark.parametrize(
    ("provider", "sharing", "bringer"),
    [
        ("eks", "none", "nvidia-device-plugin"),
        ("existing", "mig", "gpu-operator"),
        ("gke", "none", None),
        ("aks", "none", "gpu-operator"),
        ("existing", "time_slicing", "nvidia-device-plugin"),
    ],
)
def test_a_node_never_gets_two_device_plugins(provider: str, sharing: str, bringer: str | None) -> None:
    pool = GPU_POOL if provider in CLOUDS else {}
    stack = recorded(**CLOUDS.get(provider, {}), **pool, parts={"gpu": {"enabled": True, "sharing": sharing}})
    plugins = {each.metadata["name"] for each in stack.of_kind("DaemonSet")} & {"nvidia-device-plugin"}
    assert plugins | charts(stack) & {"gpu-operator"} == ({bringer} if bringer else set())
    if sharing == "time_slicing":
        files = stack.find(f"ConfigMap/{names.GPU}/{bringer}").inputs["data"]
        slicing = json.loads(files["config.json"])["sharing"]["timeSlicing"]
        assert slicing["resources"] == [{"name": "nvidia.com/gpu", "replicas": 4}]


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


def test_our_overlay_mounts_its_own_configuration_where_the_server_reads_it() -> None:
    folder = Path(stand_up.__code__.co_filename).parents[1] / "components/kubeflow"
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (generated,) = overlay["configMapGenerator"]
    patches = [
        yaml.safe_load(each["patch"]) for each in overlay["patches"] if each["target"].get("name") == "ml-pipeline"
    ]
    (pod,) = (patch["spec"]["template"]["spec"] for patch in patches)
    mount, authority = pod["containers"][0]["volumeMounts"]
    # What its image is started with: --config=/config, beside a file of samples that stays.
    assert (mount["mountPath"], mount["subPath"]) == ("/config/config.json", "config.json")
    assert pod["volumes"][0] == {"name": mount["name"], "configMap": {"name": generated["name"]}}
    assert f"{authority['mountPath']}/ca.crt" == cert_manager.AUTHORITY_FILE
    configuration = json.loads((folder / generated["files"][0]).read_text())
    assert "plugins" not in configuration and "AccessKey" not in configuration["ObjectStoreConfig"]


@pytest.mark.parametrize("profile", PROFILES)
def test_feast_knows_our_definitions_and_permissions_before_it_serves(profile: str) -> None:
    stack = recorded(profile=profile)
    (job,) = (each for each in stack.of_kind("Job") if each.metadata["name"].startswith("feature-definitions-"))
    store = stack.find(f"FeatureStore/{names.FEATURES}/features")
    assert job.urn in ancestors(stack, store)
    assert store.inputs["spec"]["services"]["runFeastApplyOnInit"] is False, "its example would replace ours"
    assert "kubernetes" in store.inputs["spec"]["authz"]
    pod = job.inputs["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert [each["command"] for each in pod["containers"]] == [["python", "-m", "feature_repo"]]
    mounted = {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    assert mounted == {"environment", "database-features", cert_manager.AUTHORITY}
    policy = stack.find(f"NetworkPolicy/{names.SYSTEM}/feature-definitions").inputs["spec"]
    assert policy["ingress"] == []
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 5432}


def test_only_that_job_and_the_servers_know_the_feature_registrys_password() -> None:
    reading = {
        each.metadata["name"].rpartition("-")[0]
        for each in recorded(profile="full").of_kind("Deployment", "Job", "CronJob")
        if "database-features" in json.dumps(each.inputs)
    }
    assert reading == {"feature-definitions"}


def test_every_step_of_the_graph_has_a_pod_with_what_it_needs_and_no_more() -> None:
    stack = recorded(profile="full")
    told = stack.find(f"ConfigMap/{names.TRAINING}/step-pods").inputs["data"]
    pods = StepPods(**json.loads(told[step_pods.FILE]))
    assert set(pods.secrets) == set(STEPS)
    there = {each.metadata["name"] for each in stack.of_kind("Secret") if each.metadata["namespace"] == names.PIPELINES}
    # cert-manager makes the authority's.
    assert {secret for given in pods.secrets.values() for secret in given} - {cert_manager.AUTHORITY} <= there
    assert [step for step, given in pods.secrets.items() if "signing" in given] == ["register"]
    assert [step for step, given in pods.secrets.items() if "database-ledger" in given] == ["gate"]
    assert "cache" not in there and "tokens" not in there and "ray-token" not in there
    runner = stack.find(f"Deployment/{names.TRAINING}/runner").inputs["spec"]["template"]["spec"]
    mounted = {each["name"]: each["mountPath"] for each in runner["containers"][0]["volumeMounts"]}
    files = {each["configMap"]["name"]: mounted[each["name"]] for each in runner["volumes"] if "configMap" in each}
    assert files == {"step-pods": f"{platform_pod.MOUNTS}/{step_pods.FOLDER}"}


def test_without_kubeflow_pipelines_nothing_is_copied_for_it() -> None:
    stack = recorded()
    assert not [each for each in stack.of_kind("Secret") if each.metadata["namespace"] == names.PIPELINES]
    assert not [each for each in stack.of_kind("ConfigMap") if each.metadata["name"] == "step-pods"]


def test_feast_lets_in_the_namespaces_of_our_own_pods() -> None:
    assert set(READERS) == set(platform_pod.NAMESPACES)


def test_the_platforms_image_may_be_ones_own() -> None:
    image = "registry.example.com/own@sha256:" + "a" * 64
    stack = recorded(image=image)
    (container,) = stack.find("Deployment/slipway-system/portal").inputs["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image


def test_an_environment_without_a_cluster_is_refused(tmp_path: Path) -> None:
    from slipway.settings import Settings

    with pytest.raises(ValueError, match="target kubernetes"):
        stand_up(Settings(name="local", state_dir=tmp_path))
