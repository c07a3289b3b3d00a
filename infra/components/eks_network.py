"""The network of an EKS cluster: two zones, private subnets for nodes and data, public ones for load balancers.

One NAT gateway for both zones: when its zone fails, nodes of the other reach nothing outside until it is back.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite

ZONES = 2


@dataclass(frozen=True)
class EksNetworkArgs:
    site: ClusterSite


class EksNetwork(ClusterComponent):
    """`private` and `public`: the ids of the subnets, one a zone, in one order."""

    def __init__(self, name: str, args: EksNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.cluster = cloud.name_of(args.site.environment)
        self.zones = self._find_zones()
        self.vpc = self._create_vpc()
        whole = ipaddress.IPv4Network(args.site.settings.network.cidr)
        quarters = list(whole.subnets(prefixlen_diff=2))
        self.public = self._create_public(
            [str(each) for each in list(quarters[ZONES].subnets(prefixlen_diff=4))[:ZONES]]
        )
        self.private = self._create_private([str(each) for each in quarters[:ZONES]])
        self.register_outputs({"vpc": self.vpc.id})

    def _find_zones(self) -> list[pulumi.Output[str]]:
        found = aws.get_availability_zones_output(
            state="available",
            # Local zones are listed, too, and have no EKS.
            filters=[{"name": "opt-in-status", "values": ["opt-in-not-required"]}],
            opts=pulumi.InvokeOptions(parent=self),
        )
        return [found.names[position] for position in range(ZONES)]

    def _create_vpc(self) -> aws.ec2.Vpc:
        vpc = aws.ec2.Vpc(
            f"{self.name}-vpc",
            cidr_block=self.site.settings.network.cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": self.cluster},
            opts=self._options(),
        )
        # The group that is there without being asked for lets its members talk; no one is to be a member unawares.
        aws.ec2.DefaultSecurityGroup(f"{self.name}-default-group", vpc_id=vpc.id, opts=self._options())
        return vpc

    def _create_public(self, ranges: list[str]) -> list[pulumi.Output[str]]:
        door = aws.ec2.InternetGateway(
            f"{self.name}-internet", vpc_id=self.vpc.id, tags={"Name": self.cluster}, opts=self._options()
        )
        routes = aws.ec2.RouteTable(
            f"{self.name}-public",
            vpc_id=self.vpc.id,
            routes=[aws.ec2.RouteTableRouteArgs(cidr_block="0.0.0.0/0", gateway_id=door.id)],
            tags={"Name": f"{self.cluster}-public"},
            opts=self._options(),
        )
        subnets = self._create_subnets("public", ranges, {"kubernetes.io/role/elb": "1"}, routes)
        address = aws.ec2.Eip(f"{self.name}-nat", domain="vpc", tags={"Name": self.cluster}, opts=self._options(door))
        self.nat = aws.ec2.NatGateway(
            f"{self.name}-nat",
            allocation_id=address.id,
            subnet_id=subnets[0],
            tags={"Name": self.cluster},
            opts=self._options(door),
        )
        return subnets

    def _create_private(self, ranges: list[str]) -> list[pulumi.Output[str]]:
        routes = aws.ec2.RouteTable(
            f"{self.name}-private",
            vpc_id=self.vpc.id,
            routes=[aws.ec2.RouteTableRouteArgs(cidr_block="0.0.0.0/0", nat_gateway_id=self.nat.id)],
            tags={"Name": f"{self.cluster}-private"},
            opts=self._options(),
        )
        # Images of parts and bundles of models lie in S3: this way they pass no NAT gateway, which bills each byte.
        aws.ec2.VpcEndpoint(
            f"{self.name}-s3",
            vpc_id=self.vpc.id,
            service_name=f"com.amazonaws.{self.site.settings.network.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[routes.id],
            opts=self._options(),
        )
        return self._create_subnets("private", ranges, {"kubernetes.io/role/internal-elb": "1"}, routes)

    def _create_subnets(
        self, kind: str, ranges: list[str], tags: dict[str, str], routes: aws.ec2.RouteTable
    ) -> list[pulumi.Output[str]]:
        made: list[pulumi.Output[str]] = []
        for position, cidr in enumerate(ranges):
            subnet = aws.ec2.Subnet(
                f"{self.name}-{kind}-{position}",
                vpc_id=self.vpc.id,
                cidr_block=cidr,
                availability_zone=self.zones[position],
                map_public_ip_on_launch=False,
                tags={
                    "Name": f"{self.cluster}-{kind}-{position}",
                    f"kubernetes.io/cluster/{self.cluster}": "shared",
                    **tags,
                },
                opts=self._options(),
            )
            aws.ec2.RouteTableAssociation(
                f"{self.name}-{kind}-{position}", subnet_id=subnet.id, route_table_id=routes.id, opts=self._options()
            )
            made.append(subnet.id)
        return made
