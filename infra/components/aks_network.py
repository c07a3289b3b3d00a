"""The network of an AKS cluster: a subnet for nodes, and one that only the managed database may be in.

Pods have addresses of their own (an overlay), which the network does not know.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_azure_native import network, resources

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite

_POSTGRESQL = "Microsoft.DBforPostgreSQL/flexibleServers"


@dataclass(frozen=True)
class AksNetworkArgs:
    site: ClusterSite
    group: resources.ResourceGroup


class AksNetwork(ClusterComponent):
    """The first half of the range is the network's, a quarter the pods', and the last eighth the Services'."""

    def __init__(self, name: str, args: AksNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        eighths = list(ipaddress.IPv4Network(args.site.settings.network.cidr).subnets(prefixlen_diff=3))
        self.pods = str(eighths[4].supernet())
        self.services = str(eighths[7])
        self.dns = str(eighths[7][10])
        self.network = self._create_network(str(eighths[0].supernet(2)))
        self.nodes = self._create_subnet("nodes", str(eighths[0].supernet()))
        self.database: network.Subnet | None = None
        if args.site.settings.managed.database:
            # One after the other: Azure changes a network's subnets one at a time.
            self.database = self._create_subnet("database", str(eighths[2]), [self.nodes], delegated_to=_POSTGRESQL)
        self.register_outputs({"network": self.network.id})

    def _create_network(self, cidr: str) -> network.VirtualNetwork:
        return network.VirtualNetwork(
            f"{self.name}-vnet",
            resource_group_name=self.args.group.name,
            virtual_network_name=cloud.name_of(self.site.environment),
            address_space=network.AddressSpaceArgs(address_prefixes=[cidr]),
            tags=cloud.tags(self.site.environment),
            # Subnets are resources of their own; the network lists them, too.
            opts=self._options(ignore_changes=["subnets"]),
        )

    def _create_subnet(
        self, subnet: str, cidr: str, after: Sequence[pulumi.Resource] = (), *, delegated_to: str = ""
    ) -> network.Subnet:
        delegations = [network.DelegationArgs(name="owner", service_name=delegated_to)] if delegated_to else None
        return network.Subnet(
            f"{self.name}-{subnet}",
            resource_group_name=self.args.group.name,
            virtual_network_name=self.network.name,
            subnet_name=subnet,
            address_prefix=cidr,
            delegations=delegations,
            opts=self._options(*after),
        )
