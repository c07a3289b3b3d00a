"""A kind cluster: one resource, and nothing of a cloud."""

from __future__ import annotations

from infra.cluster.made import Made
from infra.components.cluster_component import ClusterSite
from infra.components.kind_cluster import KindCluster, KindClusterArgs


def stand_up(site: ClusterSite) -> Made:
    """The cluster."""
    return Made(KindCluster("cluster", KindClusterArgs(site)).kubeconfig)
