"""The cluster's program, recorded as each provider would be asked: pools, switches, closed doors, exports."""

from __future__ import annotations

import base64
import functools
import importlib
import ipaddress
import itertools
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infra.cluster.program import stand_up
from infra.components import cloud, names, object_store
from infra.components.aks_cluster import read_cluster
from infra.components.gke_cluster import gpus_of
from infra.recording import Recorded, Recording, record
from infra.services.cluster import Cluster, find_cluster, find_endpoint
from slipway.errors import SlipwayError
from slipway.kubernetes_settings import CLOUDS as PROVIDERS
from slipway.kubernetes_settings import NOT_MANAGED, SUPPORTED_VERSIONS, KubernetesSettings
from slipway.settings import Settings
from tests.infra.cloud_answers import ANSWERS, AUTHORITY
from tests.infra.recorded_stack import CLOUDS, GPU_POOL, managed_by, recorded, settings_of

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}


def made(provider: str, **kubernetes: Any) -> Recording:
    """The cluster of an environment with these settings."""
    base = CLOUDS.get(provider, {"provider": provider})
    network = {**base.get("network", {}), **kubernetes.pop("network", {})}
    whole = {**base, **kubernetes, **({"network": network} if network else {})}
    return _made(json.dumps(whole, sort_keys=True))


@functools.cache
def _made(kubernetes: str) -> Recording:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(Path(folder), **json.loads(kubernetes))
        return record(lambda: stand_up(settings), project="slipway-cluster", answers=ANSWERS)


def of_type(recording: Recording, kind: str) -> list[Recorded]:
    made_of = [each for each in recording.resources if not each.type.startswith("slipway:")]
    return [each for each in made_of if each.type.rpartition(":")[2] == kind]


def only(recording: Recording, kind: str) -> dict[str, Any]:
    (found,) = of_type(recording, kind)
    return found.inputs


def kinds(recording: Recording) -> set[str]:
    return {each.type.rpartition(":")[2] for each in recording.resources if not each.type.startswith("slipway:")}


@pytest.mark.parametrize("provider", ["kind", *CLOUDS])
def test_a_cluster_is_made_of_no_kubernetes_object(provider: str) -> None:
    for each in made(provider, **_everything(provider)).resources:
        assert not each.type.startswith("kubernetes:"), each.name


@pytest.mark.parametrize("provider", CLOUDS)
def test_no_two_resources_of_a_cluster_have_one_name(provider: str) -> None:
    cluster = made(provider, **_everything(provider))
    assert [urn for urn, times in Counter(each.urn for each in cluster.resources).items() if times > 1] == []


@pytest.mark.parametrize("provider", CLOUDS)
def test_everything_of_a_cloud_goes_through_its_one_provider(provider: str) -> None:
    """Or it would be made in whatever account and region the machine has by default."""
    cluster = made(provider, **_everything(provider))
    (account,) = (each for each in cluster.resources if each.type.startswith("pulumi:providers:"))
    region = CLOUDS[provider]["network"]["region"]
    assert region in (account.inputs.get("region"), account.inputs.get("location"))
    prefix = account.type.rpartition(":")[2]
    assert all(each.type.startswith((f"{prefix}:", "slipway:", "pulumi:providers:")) for each in cluster.resources)


@pytest.mark.parametrize("module", ["infra.cluster.program", *(f"infra.cluster.{name}" for name in ("kind", *CLOUDS))])
def test_importing_creates_nothing(module: str) -> None:
    """Outside a program a resource could not even be registered: it would raise."""
    sys.modules.pop(module, None)
    importlib.import_module(module)


def test_the_program_refuses_what_makes_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="provider makes a cluster"):
        stand_up(settings_of(tmp_path, provider="existing"))
    with pytest.raises(ValueError, match="provider makes a cluster"):
        stand_up(Settings(name="local"))


# What it hands on


@pytest.mark.parametrize("provider", CLOUDS)
def test_the_exports_are_what_the_services_read(provider: str) -> None:
    endpoints = made(provider, **managed_by(provider)).outputs["endpoints"]
    expected = {
        "database": {"host", "username", "password"},
        "cache": {"host", "password"},
        "object_store": {"url", "region", "bucket", "keys"},
    }
    offered = {name: keys for name, keys in expected.items() if (provider, name) not in NOT_MANAGED}
    assert {name: set(endpoint) for name, endpoint in endpoints.items()} == offered
    assert all(value for endpoint in endpoints.values() for value in endpoint.values())
    assert made(provider).outputs["endpoints"] == {}
    if "object_store" in offered:
        keys = endpoints["object_store"]["keys"]
        assert set(keys) == {user.name for user in object_store.users_of(KubernetesSettings(provider="existing"))}
        assert all(set(key) == {"access_key", "secret_key"} and all(key.values()) for key in keys.values())


@pytest.mark.parametrize("provider", CLOUDS)
def test_the_services_take_these_exports(provider: str, tmp_path: Path) -> None:
    """The other project's own reading, given this project's own words."""
    exported = made(provider, **managed_by(provider)).outputs
    settings = settings_of(tmp_path, **CLOUDS[provider], **managed_by(provider))
    found: list[Cluster] = []

    recording = record(lambda: found.append(find_cluster(settings)))
    (reference,) = (each for each in recording.resources if each.type == "pulumi:pulumi:StackReference")
    assert reference.inputs["name"] == "organization/slipway-cluster/test"
    (cluster,) = found
    assert (cluster.database is not None) == ("database" in exported["endpoints"])
    assert (cluster.cache is not None) == ("cache" in exported["endpoints"])
    assert (cluster.object_store is not None) == ("object_store" in exported["endpoints"])


@pytest.mark.parametrize(
    ("provider", "server", "command"),
    [
        ("eks", "https://eks.example.com", "aws"),
        ("gke", "https://gke.example.com", "gke-gcloud-auth-plugin"),
        ("aks", "https://aks.example.com:443", "kubelogin"),
    ],
)
def test_a_clouds_kubeconfig_holds_no_credential(provider: str, server: str, command: str) -> None:
    kubeconfig = json.loads(made(provider).outputs["kubeconfig"])
    (cluster,), (user,) = kubeconfig["clusters"], kubeconfig["users"]
    assert cluster["cluster"] == {"server": server, "certificate-authority-data": AUTHORITY}
    assert user["user"]["exec"]["command"] == command
    assert set(user["user"]) == {"exec"}
    assert kubeconfig["current-context"] == kubeconfig["contexts"][0]["name"] == "slipway-test"


@pytest.mark.parametrize("provider", CLOUDS)
def test_gpus_are_told_only_where_there_are_some(provider: str) -> None:
    assert made(provider).outputs["gpu"] == {}
    told = made(provider, **GPU_POOL).outputs["gpu"]
    assert told["nodes"] == "0 to 2 of gpu-machine"
    assert told["taint"] == "nvidia.com/gpu=present:NoSchedule"
    assert told["label"] == "slipway.dev/accelerator=nvidia"


# Pools


def _gpu_pools(provider: str, cluster: Recording) -> list[Recorded]:
    kind = {"eks": "NodeGroup", "gke": "NodePool", "aks": "AgentPool"}[provider]
    return [each for each in of_type(cluster, kind) if each.name.endswith("-gpu")]


@pytest.mark.parametrize("provider", CLOUDS)
def test_without_a_gpu_pool_there_is_none(provider: str) -> None:
    assert _gpu_pools(provider, made(provider)) == []


def test_the_gpu_pool_of_eks_grows_from_nothing_and_is_told_apart() -> None:
    (pool,) = _gpu_pools("eks", made("eks", **GPU_POOL))
    assert pool.inputs["scalingConfig"] == {"minSize": 0, "maxSize": 2, "desiredSize": 0}
    assert pool.inputs["labels"] == {"slipway.dev/accelerator": "nvidia"}
    assert pool.inputs["taints"] == [TAINT]
    # Driver and toolkit are the image's; the device plugin is the services'.
    assert pool.inputs["amiType"] == "AL2023_x86_64_NVIDIA"


def test_the_gpu_pool_of_gke_grows_from_nothing_and_brings_its_driver() -> None:
    (pool,) = _gpu_pools("gke", made("gke", **GPU_POOL))
    assert pool.inputs["autoscaling"]["totalMinNodeCount"] == 0
    assert pool.inputs["autoscaling"]["totalMaxNodeCount"] == 2
    assert pool.inputs["initialNodeCount"] == 0
    node = pool.inputs["nodeConfig"]
    assert node["labels"] == {"slipway.dev/accelerator": "nvidia"}
    assert node["taints"] == [TAINT]
    (accelerator,) = node["guestAccelerators"]
    assert accelerator["type"] == "nvidia-l4"
    assert accelerator["gpuDriverInstallationConfig"] == {"gpuDriverVersion": "DEFAULT"}
    assert "gpuSharingConfig" not in accelerator


def test_gkes_own_plugin_is_told_how_a_gpu_is_shared() -> None:
    sharing = {"gpu": {"enabled": True, "sharing": "time_slicing", "slices": 3}}
    (pool,) = _gpu_pools("gke", made("gke", **GPU_POOL, parts=sharing))
    (accelerator,) = pool.inputs["nodeConfig"]["guestAccelerators"]
    assert accelerator["gpuSharingConfig"] == {"gpuSharingStrategy": "TIME_SHARING", "maxSharedClientsPerGpu": 3}


def test_gke_cuts_gpus_up_as_the_pool_says() -> None:
    pool = {"nodes": {"gpu": GPU_POOL["nodes"]["gpu"] | {"accelerator": "nvidia-tesla-a100", "partition": "1g.5gb"}}}
    (made_of,) = _gpu_pools("gke", made("gke", **pool, parts={"gpu": {"enabled": True, "sharing": "mig"}}))
    (accelerator,) = made_of.inputs["nodeConfig"]["guestAccelerators"]
    assert accelerator["gpuPartitionSize"] == "1g.5gb"
    assert "gpuSharingConfig" not in accelerator
    (whole,) = _gpu_pools("gke", made("gke", **GPU_POOL))
    assert "gpuPartitionSize" not in whole.inputs["nodeConfig"]["guestAccelerators"][0]


def test_the_gpu_pool_of_aks_grows_from_nothing_without_a_driver() -> None:
    """Or the GPU operator would find one that is not its own."""
    (pool,) = _gpu_pools("aks", made("aks", **GPU_POOL))
    assert (pool.inputs["minCount"], pool.inputs["maxCount"], pool.inputs["count"]) == (0, 2, 0)
    assert pool.inputs["nodeLabels"] == {"slipway.dev/accelerator": "nvidia"}
    assert pool.inputs["nodeTaints"] == ["nvidia.com/gpu=present:NoSchedule"]
    assert pool.inputs["gpuProfile"] == {"driver": "None"}


@pytest.mark.parametrize(
    ("machine", "count"),
    [("g2-standard-4", 1), ("g2-standard-48", 4), ("a2-highgpu-4g", 4), ("a3-highgpu-8g", 8), ("n1-standard-8", 1)],
)
def test_gke_is_told_how_many_gpus_a_machine_has(machine: str, count: int) -> None:
    assert gpus_of(machine) == count


def test_eks_has_a_pool_in_each_zone_that_add_up() -> None:
    cluster = made("eks", nodes={"cpu": {"min": 3, "max": 5}})
    sizes = [each.inputs["scalingConfig"] for each in of_type(cluster, "NodeGroup")]
    assert sorted((size["minSize"], size["maxSize"]) for size in sizes) == [(1, 2), (2, 3)]
    subnets = [tuple(each.inputs["subnetIds"]) for each in of_type(cluster, "NodeGroup")]
    assert len(set(subnets)) == 2 and all(len(each) == 1 for each in subnets)


def test_aks_keeps_the_least_and_scales_the_rest() -> None:
    cluster = made("aks", nodes={"cpu": {"min": 2, "max": 5}})
    (always,) = only(cluster, "ManagedCluster")["agentPoolProfiles"]
    (grows,) = of_type(cluster, "AgentPool")
    assert (always["mode"], always["count"]) == ("System", 2)
    assert (grows.inputs["minCount"], grows.inputs["maxCount"]) == (0, 3)
    fixed = made("aks", nodes={"cpu": {"min": 2, "max": 2}})
    assert of_type(fixed, "AgentPool") == []


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_machine_of_the_settings_is_taken(provider: str) -> None:
    text = json.dumps([each.inputs for each in made(provider, nodes={"cpu": {"machine": "own-machine"}}).resources])
    assert "own-machine" in text


def test_the_autoscaler_of_eks_may_change_the_pools_of_its_own_cluster_only() -> None:
    cluster = made("eks")
    (policy,) = (each for each in of_type(cluster, "RolePolicy") if each.name.endswith("autoscaler"))
    read, change = json.loads(policy.inputs["policy"])["Statement"]
    assert all(action.partition(":")[2].startswith(("Describe", "Get")) for action in read["Action"])
    assert change["Condition"] == {"StringEquals": {"aws:ResourceTag/k8s.io/cluster-autoscaler/slipway-test": "owned"}}
    association = only(cluster, "PodIdentityAssociation")
    assert (association["namespace"], association["serviceAccount"]) == (names.SYSTEM, "cluster-autoscaler")


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_the_autoscaler_of_eks_is_of_the_clusters_minor_version(version: str) -> None:
    """It simulates the scheduler of its own; one of another minor version is not supported."""
    deployment = recorded(**CLOUDS["eks"], version=version).find(f"Deployment/{names.SYSTEM}/cluster-autoscaler")
    (container,) = deployment.inputs["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith(f"registry.k8s.io/autoscaling/cluster-autoscaler:v{version}.")


# Network policies are enforced, versions are the settings'


@pytest.mark.parametrize("version", ["1.34", "1.36"])
def test_the_version_is_the_settings(version: str) -> None:
    assert only(made("eks", version=version), "Cluster")["version"] == version
    assert only(made("gke", version=version), "Cluster")["minMasterVersion"] == version
    assert only(made("aks", version=version), "ManagedCluster")["kubernetesVersion"] == version
    assert f"kindest/node:v{version}." in only(made("kind", version=version), "KindCluster")["image"]


def test_network_policies_are_enforced_everywhere() -> None:
    (cni,) = (each for each in of_type(made("eks"), "Addon") if each.inputs["addonName"] == "vpc-cni")
    assert json.loads(cni.inputs["configurationValues"]) == {"enableNetworkPolicy": "true"}
    assert only(made("gke"), "Cluster")["datapathProvider"] == "ADVANCED_DATAPATH"
    assert only(made("aks"), "ManagedCluster")["networkProfile"]["networkPolicy"] == "cilium"


# Closed by default


def test_the_api_answers_inside_only_unless_the_settings_name_who_may() -> None:
    mine = {"network": {"api_from": ["203.0.113.7/32"]}}
    closed, opened = (only(made("eks", **each), "Cluster")["vpcConfig"] for each in ({}, mine))
    assert (closed["endpointPublicAccess"], closed["endpointPrivateAccess"]) == (False, True)
    assert (opened["endpointPublicAccess"], opened["publicAccessCidrs"]) == (True, ["203.0.113.7/32"])

    closed, opened = (only(made("gke", **each), "Cluster") for each in ({}, mine))
    assert closed["privateClusterConfig"] == {"enablePrivateNodes": True, "enablePrivateEndpoint": True}
    assert closed["masterAuthorizedNetworksConfig"]["cidrBlocks"] == []
    assert opened["privateClusterConfig"]["enablePrivateEndpoint"] is False
    assert opened["masterAuthorizedNetworksConfig"]["cidrBlocks"] == [{"cidrBlock": "203.0.113.7/32"}]

    closed, opened = (only(made("aks", **each), "ManagedCluster")["apiServerAccessProfile"] for each in ({}, mine))
    assert closed == {"enablePrivateCluster": True, "disableRunCommand": True}
    assert opened["authorizedIPRanges"] == ["203.0.113.7/32"] and not opened["enablePrivateCluster"]


def test_a_managed_database_is_closed_encrypted_and_backed_up() -> None:
    rds = only(made("eks", **managed_by("eks")), "Instance")
    assert (rds["publiclyAccessible"], rds["storageEncrypted"], rds["backupRetentionPeriod"]) == (False, True, 7)
    sql = only(made("gke", **managed_by("gke")), "DatabaseInstance")["settings"]
    assert sql["ipConfiguration"]["ipv4Enabled"] is False
    assert sql["ipConfiguration"]["sslMode"] == "ENCRYPTED_ONLY"
    assert sql["backupConfiguration"]["pointInTimeRecoveryEnabled"] is True
    server = only(made("aks", **managed_by("aks")), "Server")
    assert server["network"]["publicNetworkAccess"] == "Disabled"
    assert server["backup"]["backupRetentionDays"] == 7


def test_a_managed_database_and_cache_are_reached_from_nodes_only() -> None:
    groups = {each.name: each.inputs for each in of_type(made("eks", **managed_by("eks")), "SecurityGroup")}
    for name, port in (("database-group", 5432), ("cache-group", 6379)):
        (rule,) = groups[name]["ingress"]
        assert rule["securityGroups"] == ["sg-nodes"]
        assert (rule["fromPort"], rule["toPort"]) == (port, port)
        assert "cidrBlocks" not in rule


@pytest.mark.parametrize(("asked", "given"), [("5Gi", 32), ("32Gi", 32), ("50Gi", 64), ("1Ti", 1024)])
def test_azure_is_asked_for_a_size_of_disk_that_it_has(asked: str, given: int) -> None:
    aks = made("aks", **managed_by("aks"), parts={"database": {"storage": asked}})
    assert only(aks, "Server")["storage"]["storageSizeGB"] == given


@pytest.mark.parametrize("instances", [1, 2])
def test_two_instances_of_the_database_are_two_at_the_cloud(instances: int) -> None:
    parts = {"parts": {"database": {"instances": instances}}}
    assert only(made("eks", **managed_by("eks"), **parts), "Instance")["multiAz"] is (instances > 1)
    sql = only(made("gke", **managed_by("gke"), **parts), "DatabaseInstance")["settings"]
    assert sql["availabilityType"] == ("REGIONAL" if instances > 1 else "ZONAL")
    server = only(made("aks", **managed_by("aks"), **parts), "Server")
    assert server["highAvailability"]["mode"] == ("ZoneRedundant" if instances > 1 else "Disabled")


def test_a_managed_bucket_is_closed_encrypted_and_versioned() -> None:
    cluster = made("eks", **managed_by("eks"))
    closed = only(cluster, "BucketPublicAccessBlock")
    assert all(
        closed[key] for key in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    )
    assert only(cluster, "BucketVersioning")["versioningConfiguration"] == {"status": "Enabled"}
    assert only(cluster, "BucketServerSideEncryptionConfiguration")["rules"]
    (statement,) = json.loads(only(cluster, "BucketPolicy")["policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    bucket = only(made("gke", **managed_by("gke")), "Bucket")
    assert bucket["publicAccessPrevention"] == "enforced" and bucket["uniformBucketLevelAccess"]
    assert bucket["versioning"] == {"enabled": True}


KFP = {"profile": "full", "parts": {"pipelines": {"engine": "kfp"}}}


@pytest.mark.parametrize("more", [{}, KFP])
def test_each_user_of_the_bucket_of_eks_may_touch_what_lies_below_its_name(more: dict[str, Any]) -> None:
    cluster = made("eks", **managed_by("eks"), **more)
    bucket = "arn:aws:s3:::slipway-test-1234567"
    policies = {each.inputs["user"]: json.loads(each.inputs["policy"]) for each in of_type(cluster, "UserPolicy")}
    users = {each.name for each in object_store.USERS} | ({"pipelines"} if more else set())
    assert set(policies) == {f"user-object-store-{user}" for user in users}
    for user in users:
        listing, touching = policies[f"user-object-store-{user}"]["Statement"]
        assert (listing["Action"], listing["Resource"]) == ("s3:ListBucket", bucket)
        assert listing["Condition"] == {"StringLike": {"s3:prefix": f"{user}/*"}}
        assert touching["Resource"] == f"{bucket}/{user}/*"
        assert "*" not in "".join(touching["Action"])
    keys = cluster.outputs["endpoints"]["object_store"]["keys"]
    assert {key["access_key"] for key in keys.values()} == {f"object-store-{user}-id" for user in users}


@pytest.mark.parametrize("more", [{}, KFP])
def test_each_user_of_the_bucket_of_gke_may_touch_what_lies_below_its_name(more: dict[str, Any]) -> None:
    cluster = made("gke", **managed_by("gke"), **more)
    users = {each.name for each in object_store.USERS} | ({"pipelines"} if more else set())
    members = {each.inputs["member"]: each.inputs for each in of_type(cluster, "BucketIAMMember")}
    assert set(members) == {f"serviceAccount:object-store-{user}@example.com" for user in users}
    for user in users:
        granted = members[f"serviceAccount:object-store-{user}@example.com"]
        assert granted["role"] == "roles/storage.objectUser"
        named, _, listed = granted["condition"]["expression"].partition(" || ")
        assert named == f'resource.name.startsWith("projects/_/buckets/slipway-test-1234567/objects/{user}/")'
        assert listed.endswith(f'"storage.googleapis.com/objectListPrefix", "").startsWith("{user}/")')
    keys = cluster.outputs["endpoints"]["object_store"]["keys"]
    assert {key["access_key"] for key in keys.values()} == {f"object-store-{user}-id" for user in users}
    # Google takes thirty characters, and each account needs a name of its own.
    ids = {each.inputs["accountId"] for each in of_type(cluster, "Account") if each.name.startswith("object-store")}
    assert len(ids) == len(users) and all(6 <= len(each) <= 30 for each in ids)


def test_every_part_reads_the_key_of_its_own_prefix() -> None:
    stack = recorded(**CLOUDS["eks"], **managed_by("eks"), **KFP)
    for user in (*object_store.USERS, object_store.PIPELINES):
        for namespace in user.namespaces:
            data = stack.find(f"Secret/{namespace}/{user.secret}").inputs["data"]
            secret = {key: base64.b64decode(value).decode() for key, value in data.items()}
            assert secret["AWS_ACCESS_KEY_ID"] == f"recorded-{user.name}"
            assert secret["root"] == f"s3://slipway/{user.name}"


def test_a_cluster_of_other_settings_is_told_so(tmp_path: Path) -> None:
    exported = {"object_store": {"keys": {"registry": {}}}}
    with pytest.raises(SlipwayError, match=r"endpoints\.object_store\.keys\.pipelines\.access_key: .*does not export"):
        find_endpoint(exported, ("object_store", "keys", "pipelines", "access_key"))


def test_a_managed_cache_has_a_password_that_it_takes() -> None:
    cache = only(made("eks", **managed_by("eks")), "ReplicationGroup")
    assert cache["transitEncryptionEnabled"] and cache["atRestEncryptionEnabled"]
    assert len(cache["authToken"]) >= 16
    assert "_" not in cache["authToken"]


def test_secrets_are_encrypted_by_a_key_of_the_cloud_when_asked() -> None:
    assert only(made("eks", **managed_by("eks")), "Cluster")["encryptionConfig"]["resources"] == ["secrets"]
    assert only(made("gke", **managed_by("gke")), "Cluster")["databaseEncryption"]["state"] == "ENCRYPTED"
    kms = only(made("aks", **managed_by("aks")), "ManagedCluster")["securityProfile"]["azureKeyVaultKms"]
    assert kms["enabled"] and kms["keyId"].startswith("https://")
    assert "encryptionConfig" not in only(made("eks"), "Cluster")
    assert "databaseEncryption" not in only(made("gke"), "Cluster")
    assert "azureKeyVaultKms" not in only(made("aks"), "ManagedCluster")["securityProfile"]


@pytest.mark.parametrize(
    ("provider", "kind"),
    [("eks", "Instance"), ("eks", "Bucket"), ("eks", "ReplicationGroup"), ("eks", "Key"), ("gke", "DatabaseInstance"),
     ("gke", "Bucket"), ("gke", "CryptoKey"), ("aks", "Server"), ("aks", "Vault")],
)  # fmt: skip
def test_what_is_not_asked_for_is_not_made(provider: str, kind: str) -> None:
    assert kind in kinds(made(provider, **managed_by(provider)))
    assert kind not in kinds(made(provider))


def test_protection_reaches_every_cloud() -> None:
    for protect in (False, True):
        eks = made("eks", managed={**managed_by("eks")["managed"], "protect": protect})
        assert only(eks, "Cluster")["deletionProtection"] is protect
        assert only(eks, "Instance")["deletionProtection"] is protect
        assert only(eks, "Bucket")["forceDestroy"] is not protect
        gke = made("gke", managed={**managed_by("gke")["managed"], "protect": protect})
        assert only(gke, "Cluster")["deletionProtection"] is protect
        assert only(gke, "DatabaseInstance")["settings"]["deletionProtectionEnabled"] is protect


@pytest.mark.parametrize("provider", CLOUDS)
def test_passwords_and_keys_are_secrets(provider: str) -> None:
    cluster = made(provider, **managed_by(provider))
    for each in cluster.resources:
        for key in ("password", "administratorLoginPassword", "authToken"):
            if key in each.inputs:
                assert key in each.secret_keys, each.name


# Addresses


@pytest.mark.parametrize("cidr", ["10.42.0.0/16", "172.20.64.0/18", "192.168.16.0/20"])
@pytest.mark.parametrize("provider", CLOUDS)
def test_the_parts_of_the_network_do_not_overlap(provider: str, cidr: str) -> None:
    managed = {"managed": {"database": True}}
    cluster = made(provider, network={"cidr": cidr}, nodes={"cpu": {"max": 2}}, **managed)
    if provider == "eks":
        parts = [each.inputs["cidrBlock"] for each in of_type(cluster, "Subnet")]
    elif provider == "gke":
        subnet = only(cluster, "Subnetwork")
        parts = [subnet["ipCidrRange"], *(each["ipCidrRange"] for each in subnet["secondaryIpRanges"])]
    else:
        profile = only(cluster, "ManagedCluster")["networkProfile"]
        (space,) = only(cluster, "VirtualNetwork")["addressSpace"]["addressPrefixes"]
        inside = [ipaddress.ip_network(each.inputs["addressPrefix"]) for each in of_type(cluster, "Subnet")]
        assert all(each.subnet_of(ipaddress.ip_network(space)) for each in inside)  # type: ignore[arg-type]
        assert not inside[0].overlaps(inside[1])
        assert ipaddress.ip_address(profile["dnsServiceIP"]) in ipaddress.ip_network(profile["serviceCidr"])
        parts = [space, profile["podCidr"], profile["serviceCidr"]]
    networks = [ipaddress.ip_network(part) for part in parts]
    assert all(part.subnet_of(ipaddress.ip_network(cidr)) for part in networks)  # type: ignore[arg-type]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))


# kind


def test_kind_maps_the_gateways_ports_to_loopback() -> None:
    configuration = json.loads(only(made("kind"), "KindCluster")["configuration"])
    assert configuration["networking"] == {"apiServerAddress": "127.0.0.1"}
    (node,) = configuration["nodes"]
    assert {each["containerPort"]: each["hostPort"] for each in node["extraPortMappings"]} == {
        names.NODE_PORTS["http"]: 80,
        names.NODE_PORTS["https"]: 443,
    }
    assert {each["listenAddress"] for each in node["extraPortMappings"]} == {"127.0.0.1"}
    assert "@sha256:" in node["image"]


def test_kind_takes_its_node_from_the_mirror() -> None:
    cluster = only(made("kind", mirror={"registry": "registry.example.com/mirror"}), "KindCluster")
    assert cluster["image"].startswith("registry.example.com/mirror/kindest/node:")
    assert json.loads(cluster["configuration"])["nodes"][0]["image"] == cluster["image"]


# Small functions


def test_azures_kubeconfig_gives_server_and_certificate() -> None:
    given = ANSWERS.calls["azure-native:containerservice:listManagedClusterUserCredentials"]["kubeconfigs"][0]["value"]
    assert read_cluster(given)["server"] == "https://aks.example.com:443"


def test_names_fit_what_a_cloud_takes() -> None:
    longest = "e" * 31
    assert len(cloud.name_of(longest)) <= 40
    accounts = {cloud.short_name(longest, user) for user in ("nodes", "objects")}
    assert len(accounts) == 2 and all(len(each) <= 30 for each in accounts)
    assert cloud.short_name("eks", "nodes") == "slipway-eks-nodes"


@pytest.mark.parametrize(
    ("quantity", "least", "expected"), [("5Gi", 20, 20), ("30Gi", 20, 30), ("1500Mi", 1, 2), ("1Ti", 20, 1024)]
)
def test_a_volume_in_whole_gibibytes(quantity: str, least: int, expected: int) -> None:
    assert cloud.gibibytes(quantity, least=least) == expected


def _everything(provider: str) -> dict[str, Any]:
    return {**GPU_POOL, **managed_by(provider)} if provider in PROVIDERS else {}
