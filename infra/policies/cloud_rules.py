"""Rules about what a cloud makes for us: closed to the world, encrypted, and no right that nobody asked for.

They look at inputs, as the program gave them; what a preview does not know yet is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infra.policies.objects import UNKNOWN, items, mapping, plain

CloudRule = Callable[[str, Mapping[str, Any]], Iterator[str]]

WORLD = {"0.0.0.0/0", "::/0"}
_EVERYTHING = re.compile(r"^\*$|:\*$|:::[^/]+/\*$")


def examine_cloud(resource_type: str, props: Mapping[str, Any]) -> Iterator[str]:
    """What a resource of a cloud breaks, each message with its rule's name in front."""
    if resource_type.startswith(("kubernetes:", "pulumi:")):
        return
    inputs = plain(props)
    for rule in CLOUD_RULES:
        yield from (f"{rule.__name__}: {message}" for message in rule(resource_type, inputs))


def database_is_closed(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """A managed database has no address outside the cluster's network."""
    if kind == "aws:rds/instance:Instance" and inputs.get("publiclyAccessible") is not False:
        yield "publiclyAccessible is not false"
    if kind == "gcp:sql/databaseInstance:DatabaseInstance":
        network = mapping(mapping(inputs.get("settings")).get("ipConfiguration"))
        if network.get("ipv4Enabled") is not False:
            yield "settings.ipConfiguration.ipv4Enabled is not false"
    access = mapping(inputs.get("network")).get("publicNetworkAccess")
    if kind == "azure-native:dbforpostgresql:Server" and access != "Disabled":
        yield "network.publicNetworkAccess is not Disabled"


def data_is_encrypted(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """What a cloud encrypts only when it is told to is told to."""
    needed = {
        "aws:rds/instance:Instance": ("storageEncrypted",),
        "aws:elasticache/replicationGroup:ReplicationGroup": ("atRestEncryptionEnabled", "transitEncryptionEnabled"),
    }
    for key in needed.get(kind, ()):
        if inputs.get(key) is not True:
            yield f"{key} is not true"
    if kind == "aws:ec2/launchTemplate:LaunchTemplate":
        for position, disk in enumerate(items(inputs.get("blockDeviceMappings"))):
            if str(mapping(mapping(disk).get("ebs")).get("encrypted")) != "true":
                yield f"blockDeviceMappings[{position}] is not encrypted"


def bucket_is_closed(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """No object is readable without a credential, whatever a policy says later."""
    if kind == "gcp:storage/bucket:Bucket" and inputs.get("publicAccessPrevention") != "enforced":
        yield "publicAccessPrevention is not enforced"
    if kind == "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock":
        for key in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"):
            if inputs.get(key) is not True:
                yield f"{key} is not true"


def api_is_not_open(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """The Kubernetes API answers inside the network, or to ranges that somebody named."""
    if kind == "aws:eks/cluster:Cluster":
        network = mapping(inputs.get("vpcConfig"))
        ranges = items(network.get("publicAccessCidrs"))
        if network.get("endpointPublicAccess") is not False and (not ranges or WORLD & set(ranges)):
            yield "vpcConfig lets everybody reach the API"
    if kind == "gcp:container/cluster:Cluster":
        ranges = [mapping(each).get("cidrBlock") for each in items(
            mapping(inputs.get("masterAuthorizedNetworksConfig")).get("cidrBlocks")
        )]  # fmt: skip
        private = mapping(inputs.get("privateClusterConfig")).get("enablePrivateEndpoint")
        if private is not True and (not ranges or WORLD & set(ranges)):
            yield "masterAuthorizedNetworksConfig lets everybody reach the API"
    if kind == "azure-native:containerservice:ManagedCluster":
        access = mapping(inputs.get("apiServerAccessProfile"))
        ranges = items(access.get("authorizedIPRanges"))
        if access.get("enablePrivateCluster") is not True and (not ranges or WORLD & set(ranges)):
            yield "apiServerAccessProfile lets everybody reach the API"


def group_is_narrow(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """No security group lets the world in."""
    if kind != "aws:ec2/securityGroup:SecurityGroup":
        return
    for position, rule in enumerate(map(mapping, items(inputs.get("ingress")))):
        if WORLD & {*items(rule.get("cidrBlocks")), *items(rule.get("ipv6CidrBlocks"))}:
            yield f"ingress[{position}] is open to the world"


def rights_are_named(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """A policy names the actions that it grants; what only describes may do so everywhere."""
    if kind not in ("aws:iam/rolePolicy:RolePolicy", "aws:iam/userPolicy:UserPolicy", "aws:iam/policy:Policy"):
        return
    for where, statement in _allowing(inputs):
        if any("*" in action for action in _listed(statement.get("Action"))):
            yield f"{where}.Action has a wildcard; name what is needed"


def key_opens_one_prefix(kind: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """A credential of a bucket is for one prefix in it: the objects there, and the names that a list shows."""
    if kind == "aws:iam/userPolicy:UserPolicy":
        for where, statement in _allowing(inputs):
            if any(_EVERYTHING.search(resource) for resource in _listed(statement.get("Resource"))):
                yield f"{where}.Resource is every object of the bucket"
            prefixes = _listed(mapping(mapping(statement.get("Condition")).get("StringLike")).get("s3:prefix"))
            if "s3:ListBucket" in _listed(statement.get("Action")) and not all(
                prefix.strip("*") for prefix in prefixes or [""]
            ):
                yield f"{where}.Condition names no s3:prefix"
    if kind == "gcp:storage/bucketIAMMember:BucketIAMMember":
        expression = mapping(inputs.get("condition")).get("expression")
        if expression != UNKNOWN and "/objects/" not in str(expression):
            yield "condition names no prefix of objects"


def _allowing(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The statements of a policy that grant something, each with its place; none while the policy is not known."""
    try:
        document = json.loads(str(inputs.get("policy")))
    except ValueError:
        return
    for position, statement in enumerate(map(mapping, items(mapping(document).get("Statement")))):
        if statement.get("Effect") == "Allow":
            yield f"Statement[{position}]", statement


def _listed(value: Any) -> list[str]:
    """IAM takes one text where it takes a list of one."""
    return [value] if isinstance(value, str) else [str(each) for each in items(value)]


CLOUD_RULES: tuple[CloudRule, ...] = (
    database_is_closed,
    data_is_encrypted,
    bucket_is_closed,
    api_is_not_open,
    group_is_narrow,
    rights_are_named,
    key_opens_one_prefix,
)
