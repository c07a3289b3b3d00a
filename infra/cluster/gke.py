"""A cluster on Google Kubernetes Engine, as the list of what it is made of."""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from infra.cluster.made import Made, describe_gpus
from infra.components import cloud
from infra.components.cluster_component import ClusterSite
from infra.components.gke_apis import GkeApis, GkeApisArgs
from infra.components.gke_cluster import GkeCluster, GkeClusterArgs
from infra.components.gke_database import GkeDatabase, GkeDatabaseArgs
from infra.components.gke_network import GkeNetwork, GkeNetworkArgs
from infra.components.gke_object_store import GkeObjectStore, GkeObjectStoreArgs


def stand_up(site: ClusterSite) -> Made:
    """What must be switched on, network, cluster with its pools, and what of the cloud stands in for ours."""
    settings = site.settings
    account = gcp.Provider(
        "google",
        project=settings.network.project,
        region=settings.network.region,
        default_labels=cloud.tags(site.environment),
    )
    options = pulumi.ResourceOptions(provider=account)
    apis = GkeApis("apis", GkeApisArgs(site), options).services
    network = GkeNetwork("network", GkeNetworkArgs(site, apis), options)
    cluster = GkeCluster("cluster", GkeClusterArgs(site, network), options)
    managed = settings.managed
    return Made(
        cluster.kubeconfig,
        GkeDatabase("database", GkeDatabaseArgs(site, network), options).endpoint if managed.database else None,
        None,
        GkeObjectStore("object-store", GkeObjectStoreArgs(site, apis), options).endpoint
        if managed.object_store
        else None,
        describe_gpus(settings, "GKE brings it, and the device plugin"),
    )
