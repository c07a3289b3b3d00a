"""The network of a GKE cluster: one subnet with ranges for pods and Services, and a NAT for nodes without addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite

PODS = "pods"
SERVICES = "services"


@dataclass(frozen=True)
class GkeNetworkArgs:
    site: ClusterSite
    apis: Sequence[pulumi.Resource]
    """Switched on before anything of theirs is made."""


class GkeNetwork(ClusterComponent):
    """Half of the range is for pods (GKE gives each node 256 addresses), a quarter for nodes, a part for Services."""

    def __init__(self, name: str, args: GkeNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        self.region = args.site.settings.network.region
        whole = ipaddress.IPv4Network(args.site.settings.network.cidr)
        rest, pods = whole.subnets()
        nodes, services = rest.subnets()
        self.network = self._create_network()
        self.subnet = self._create_subnet(str(nodes), str(pods), str(services))
        self._create_nat()
        self.register_outputs({"network": self.network.id})

    def _create_network(self) -> gcp.compute.Network:
        return gcp.compute.Network(
            f"{self.name}-vpc",
            name=cloud.name_of(self.site.environment),
            auto_create_subnetworks=False,
            opts=self._options(*self.args.apis),
        )

    def _create_subnet(self, nodes: str, pods: str, services: str) -> gcp.compute.Subnetwork:
        return gcp.compute.Subnetwork(
            f"{self.name}-nodes",
            name=cloud.name_of(self.site.environment),
            network=self.network.id,
            region=self.region,
            ip_cidr_range=nodes,
            secondary_ip_ranges=[
                gcp.compute.SubnetworkSecondaryIpRangeArgs(range_name=PODS, ip_cidr_range=pods),
                gcp.compute.SubnetworkSecondaryIpRangeArgs(range_name=SERVICES, ip_cidr_range=services),
            ],
            # Registries and storage of Google are reached without the NAT.
            private_ip_google_access=True,
            opts=self._options(),
        )

    def _create_nat(self) -> None:
        router = gcp.compute.Router(
            f"{self.name}-router",
            name=cloud.name_of(self.site.environment),
            network=self.network.id,
            region=self.region,
            opts=self._options(),
        )
        gcp.compute.RouterNat(
            f"{self.name}-nat",
            name=cloud.name_of(self.site.environment),
            router=router.name,
            region=self.region,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
            opts=self._options(),
        )
