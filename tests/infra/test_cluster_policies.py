"""The policy pack's rules for clouds: one bad resource per rule, and every cloud's own program as the good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pulumi_policy import ResourceValidationArgs

from infra.policies.cloud_rules import CLOUD_RULES, examine_cloud
from infra.policies.pulumi_pack import validate_resource
from infra.recording import record
from tests.infra.cloud_answers import ANSWERS
from tests.infra.recorded_stack import CLOUDS, GPU_POOL, managed_by, settings_of

BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("database_is_closed", "aws:rds/instance:Instance", {"publiclyAccessible": True, "storageEncrypted": True}),
    ("database_is_closed", "gcp:sql/databaseInstance:DatabaseInstance", {"settings": {"tier": "db-f1-micro"}}),
    ("database_is_closed", "azure-native:dbforpostgresql:Server", {"network": {"publicNetworkAccess": "Enabled"}}),
    ("data_is_encrypted", "aws:rds/instance:Instance", {"publiclyAccessible": False}),
    ("data_is_encrypted", "aws:elasticache/replicationGroup:ReplicationGroup", {"atRestEncryptionEnabled": True}),
    ("data_is_encrypted", "aws:ec2/launchTemplate:LaunchTemplate", {"blockDeviceMappings": [{"ebs": {}}]}),
    ("bucket_is_closed", "gcp:storage/bucket:Bucket", {"publicAccessPrevention": "inherited"}),
    (
        "bucket_is_closed",
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
        {"blockPublicAcls": True, "blockPublicPolicy": True, "ignorePublicAcls": True},
    ),
    ("api_is_not_open", "aws:eks/cluster:Cluster", {"vpcConfig": {}}),
    ("api_is_not_open", "aws:eks/cluster:Cluster",
     {"vpcConfig": {"endpointPublicAccess": True, "publicAccessCidrs": ["0.0.0.0/0"]}}),
    ("api_is_not_open", "gcp:container/cluster:Cluster", {"privateClusterConfig": {"enablePrivateNodes": True}}),
    ("api_is_not_open", "azure-native:containerservice:ManagedCluster", {}),
    ("group_is_narrow", "aws:ec2/securityGroup:SecurityGroup", {"ingress": [{"cidrBlocks": ["0.0.0.0/0"]}]}),
    ("rights_are_named", "aws:iam/userPolicy:UserPolicy",
     {"policy": '{"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::one/own/*"}]}'}),
    ("key_opens_one_prefix", "aws:iam/userPolicy:UserPolicy",
     {"policy": '{"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::one/*"}]}'}),
    ("key_opens_one_prefix", "aws:iam/userPolicy:UserPolicy",
     {"policy": '{"Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["*"]}]}'}),
    ("key_opens_one_prefix", "aws:iam/userPolicy:UserPolicy",
     {"policy": '{"Statement": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::one"}]}'}),
    ("key_opens_one_prefix", "aws:iam/userPolicy:UserPolicy",
     {"policy": '{"Statement": [{"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": "arn:aws:s3:::one", '
                '"Condition": {"StringLike": {"s3:prefix": "*"}}}]}'}),
    ("key_opens_one_prefix", "gcp:storage/bucketIAMMember:BucketIAMMember",
     {"role": "roles/storage.objectUser", "member": "serviceAccount:one@example.com"}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "kind", "inputs"), BAD)
def test_a_bad_resource_breaks_its_rule_and_no_other(rule: str, kind: str, inputs: dict[str, Any]) -> None:
    assert {message.partition(":")[0] for message in examine_cloud(kind, inputs)} == {rule}


def test_every_rule_has_a_resource_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BAD} == {rule.__name__ for rule in CLOUD_RULES}


@pytest.mark.parametrize("api_from", [[], ["203.0.113.7/32"]])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_our_own_clusters_break_none(cloud: str, api_from: list[str], tmp_path: Path) -> None:
    from infra.cluster.program import stand_up

    network = {**CLOUDS[cloud]["network"], "api_from": api_from}
    settings = settings_of(tmp_path, **{**CLOUDS[cloud], "network": network, **GPU_POOL, **managed_by(cloud)})
    cluster = record(lambda: stand_up(settings), project="slipway-cluster", answers=ANSWERS)
    assert [(each.name, *examine_cloud(each.type, each.inputs)) for each in cluster.resources if any(
        examine_cloud(each.type, each.inputs)
    )] == []  # fmt: skip


def test_the_pack_that_pulumi_runs_reports_them() -> None:
    told: list[str] = []
    options: Any = None
    args = ResourceValidationArgs(
        "aws:rds/instance:Instance", {"storageEncrypted": True}, "urn", "database", options, None
    )
    validate_resource(args, lambda message, urn=None: told.append(message))
    assert told == ["database_is_closed: publiclyAccessible is not false"]
