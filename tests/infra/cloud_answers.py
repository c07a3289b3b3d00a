"""What the clouds would answer to the cluster's program: the outputs and look-ups that it reads."""

from __future__ import annotations

import base64
import json

from infra.recording import Answers

AUTHORITY = base64.b64encode(b"certificate").decode()
_AKS_KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [
        {"name": "aks", "cluster": {"server": "https://aks.example.com:443", "certificate-authority-data": AUTHORITY}}
    ],
}
ANSWERS = Answers(
    outputs={
        "aws:eks/cluster:Cluster": {
            "endpoint": "https://eks.example.com",
            "certificateAuthority": {"data": AUTHORITY},
            "vpcConfig": {"clusterSecurityGroupId": "sg-nodes"},
        },
        "aws:ec2/launchTemplate:LaunchTemplate": {"latestVersion": 1},
        "aws:rds/instance:Instance": {"address": "database.eks.example.com"},
        "aws:elasticache/replicationGroup:ReplicationGroup": {"primaryEndpointAddress": "cache.eks.example.com"},
        "aws:s3/bucket:Bucket": {"bucket": "slipway-test-1234567", "arn": "arn:aws:s3:::slipway-test-1234567"},
        "aws:iam/role:Role": {"arn": "arn:aws:iam::123456789012:role/one", "name": "one"},
        "aws:iam/user:User": {"name": "user-{name}"},
        "aws:iam/accessKey:AccessKey": {"secret": "secret-of-aws"},
        "aws:kms/key:Key": {"arn": "arn:aws:kms:eu-west-1:123456789012:key/one"},
        "gcp:container/cluster:Cluster": {
            "endpoint": "gke.example.com",
            "masterAuth": {"clusterCaCertificate": AUTHORITY},
        },
        "gcp:serviceaccount/account:Account": {"email": "{name}@example.com"},
        "gcp:projects/serviceIdentity:ServiceIdentity": {"member": "serviceAccount:gke@example.com"},
        "gcp:sql/databaseInstance:DatabaseInstance": {"privateIpAddress": "10.42.200.3"},
        "gcp:storage/bucket:Bucket": {"name": "slipway-test-1234567"},
        "gcp:storage/hmacKey:HmacKey": {"accessId": "{name}-id", "secret": "secret-of-gcp"},
        "azure-native:dbforpostgresql:Server": {"fullyQualifiedDomainName": "database.aks.example.com"},
        "azure-native:managedidentity:UserAssignedIdentity": {"principalId": "principal"},
        "azure-native:resources:ResourceGroup": {"name": "slipway-test"},
        "azure-native:containerservice:ManagedCluster": {
            "name": "slipway-test",
            # Given as a list, answered as a table.
            "identity": {"type": "UserAssigned", "userAssignedIdentities": {}},
        },
        "azure-native:keyvault:Vault": {"name": "keys"},
        "azure-native:keyvault:Key": {"keyUriWithVersion": "https://keys.vault.azure.net/keys/secrets/1"},
        "azure-native:privatedns:PrivateZone": {"name": "test.private.postgres.database.azure.com"},
        "azure-native:network:VirtualNetwork": {"name": "slipway-test"},
    },
    calls={
        "aws:index/getAvailabilityZones:getAvailabilityZones": {"names": ["eu-west-1a", "eu-west-1b", "eu-west-1c"]},
        "azure-native:authorization:getClientConfig": {"objectId": "whoever-is-logged-in", "tenantId": "tenant"},
        "azure-native:containerservice:listManagedClusterUserCredentials": {
            "kubeconfigs": [
                {"name": "clusterUser", "value": base64.b64encode(json.dumps(_AKS_KUBECONFIG).encode()).decode()}
            ]
        },
    },
)
