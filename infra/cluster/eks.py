"""A cluster on Amazon EKS, as the list of what it is made of."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from infra.cluster.made import Made, describe_gpus
from infra.components import cloud
from infra.components.cluster_component import ClusterSite
from infra.components.eks_cache import EksCache, EksCacheArgs
from infra.components.eks_cluster import EksCluster, EksClusterArgs
from infra.components.eks_database import EksDatabase, EksDatabaseArgs
from infra.components.eks_network import EksNetwork, EksNetworkArgs
from infra.components.eks_object_store import EksObjectStore, EksObjectStoreArgs
from infra.components.eks_roles import EksRoles, EksRolesArgs


def stand_up(site: ClusterSite) -> Made:
    """Network, roles, cluster with its pools, and what of the cloud stands in for services of ours."""
    settings = site.settings
    account = aws.Provider(
        "aws",
        region=settings.network.region,
        default_tags=aws.ProviderDefaultTagsArgs(tags=cloud.tags(site.environment)),
    )
    options = pulumi.ResourceOptions(provider=account)
    network = EksNetwork("network", EksNetworkArgs(site), options)
    roles = EksRoles("roles", EksRolesArgs(site), options)
    cluster = EksCluster("cluster", EksClusterArgs(site, network, roles), options)
    managed, nodes = settings.managed, cluster.nodes_group
    return Made(
        cluster.kubeconfig,
        EksDatabase("database", EksDatabaseArgs(site, network, nodes), options).endpoint if managed.database else None,
        EksCache("cache", EksCacheArgs(site, network, nodes), options).endpoint if managed.cache else None,
        EksObjectStore("object-store", EksObjectStoreArgs(site), options).endpoint if managed.object_store else None,
        describe_gpus(settings, "in the node's image"),
    )
