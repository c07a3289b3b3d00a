"""Amazon ElastiCache for Valkey in the cluster's private subnets: encrypted at rest and on the way, with a password."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.components import cache, cloud
from infra.components.cache import ManagedCache
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.eks_network import EksNetwork


@dataclass(frozen=True)
class EksCacheArgs:
    site: ClusterSite
    network: EksNetwork
    nodes: pulumi.Input[str]
    """Security group of the nodes."""


class EksCache(ClusterComponent):
    """One node without a replica: what it holds can be materialized anew."""

    def __init__(self, name: str, args: EksCacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        # ElastiCache takes no underscore in a password.
        password = args.site.secrets.read("cache/managed").apply(lambda value: value.replace("_", "-"))
        group = self._create_group(password)
        self.endpoint = ManagedCache(group.primary_endpoint_address, password)
        self.register_outputs({"host": group.primary_endpoint_address})

    def _create_group(self, password: pulumi.Output[str]) -> aws.elasticache.ReplicationGroup:
        subnets = aws.elasticache.SubnetGroup(
            f"{self.name}-subnets", subnet_ids=self.args.network.private, opts=self._options()
        )
        group = aws.ec2.SecurityGroup(
            f"{self.name}-group",
            description="Valkey from the cluster's nodes",
            vpc_id=self.args.network.vpc.id,
            ingress=[
                aws.ec2.SecurityGroupIngressArgs(
                    description="nodes",
                    protocol="tcp",
                    from_port=cache.PORT,
                    to_port=cache.PORT,
                    security_groups=[self.args.nodes],
                )
            ],
            opts=self._options(),
        )
        return aws.elasticache.ReplicationGroup(
            f"{self.name}-valkey",
            replication_group_id=cloud.name_of(self.site.environment),
            description=f"Feature values of {self.site.environment}",
            engine="valkey",
            engine_version="8.0",
            node_type="cache.t4g.small",
            num_cache_clusters=1,
            automatic_failover_enabled=False,
            port=cache.PORT,
            subnet_group_name=subnets.name,
            security_group_ids=[group.id],
            at_rest_encryption_enabled=True,
            transit_encryption_enabled=True,
            auth_token=password,
            opts=self._options(),
        )
