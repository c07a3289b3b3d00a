"""A cluster on Azure Kubernetes Service, as the list of what it is made of."""

from __future__ import annotations

import pulumi
from pulumi_azure_native import Provider, managedidentity, resources

from infra.cluster.made import Made, describe_gpus
from infra.components import cloud
from infra.components.aks_cluster import AksCluster, AksClusterArgs
from infra.components.aks_database import AksDatabase, AksDatabaseArgs
from infra.components.aks_key import AksKey, AksKeyArgs
from infra.components.aks_network import AksNetwork, AksNetworkArgs
from infra.components.cluster_component import ClusterSite


def stand_up(site: ClusterSite) -> Made:
    """A group that all else is in, network, identity, key, cluster with its pools, and the database if asked for."""
    settings = site.settings
    account = Provider("azure", subscription_id=settings.network.subscription, location=settings.network.region)
    options = pulumi.ResourceOptions(provider=account)
    name, tags = cloud.name_of(site.environment), cloud.tags(site.environment)
    group = resources.ResourceGroup("group", resource_group_name=name, tags=tags, opts=options)
    identity = managedidentity.UserAssignedIdentity(
        "identity", resource_group_name=group.name, resource_name_=name, tags=tags, opts=options
    )
    network = AksNetwork("network", AksNetworkArgs(site, group), options)
    key = AksKey("key", AksKeyArgs(site, group, identity), options) if settings.managed.secrets else None
    cluster = AksCluster("cluster", AksClusterArgs(site, group, network, identity, key), options)
    database = (
        AksDatabase("database", AksDatabaseArgs(site, group, network.network, network.database), options).endpoint
        if network.database
        else None
    )
    return Made(cluster.kubeconfig, database, gpu=describe_gpus(settings, "the GPU operator brings it"))
