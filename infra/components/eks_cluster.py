"""An EKS cluster: control plane, what every node runs, a CPU pool in each zone, and a GPU pool that grows from nothing.

Volumes belong to one zone, so each zone has a pool of its own: the autoscaler then grows the one that a pod's volume is
in. The autoscaler itself and the default StorageClass are objects, and so of the services' project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.components import cloud, names
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.eks_network import EksNetwork
from infra.components.eks_objects import AUTOSCALER
from infra.components.eks_roles import EksRoles


@dataclass(frozen=True)
class EksClusterArgs:
    site: ClusterSite
    network: EksNetwork
    roles: EksRoles


class EksCluster(ClusterComponent):
    """`kubeconfig` asks the AWS command line for a token, as whoever is logged in."""

    def __init__(self, name: str, args: EksClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        self.cluster_name = cloud.name_of(args.site.environment)
        self.cluster = self._create_control_plane()
        before = [self._create_addon(each) for each in ("vpc-cni", "kube-proxy", "eks-pod-identity-agent")]
        # A node that comes before its way out, or before its rights, never joins.
        self.pools = self._create_pools([*before, args.network, args.roles])
        self._create_addon("coredns", after=self.pools)
        self._create_addon("aws-ebs-csi-driver", after=self.pools)
        aws.eks.PodIdentityAssociation(
            f"{name}-autoscaler",
            cluster_name=self.cluster.name,
            namespace=names.SYSTEM,
            service_account=AUTOSCALER,
            role_arn=args.roles.autoscaler.arn,
            opts=self._options(),
        )
        # The group that every node and the control plane are in, made by EKS.
        self.nodes_group = self.cluster.vpc_config.apply(lambda vpc: vpc.cluster_security_group_id or "")
        region = args.site.settings.network.region
        self.kubeconfig = cloud.kubeconfig(
            self.cluster_name,
            self.cluster.endpoint,
            self.cluster.certificate_authority.apply(lambda authority: authority.data or ""),
            "aws",
            ["--region", region, "eks", "get-token", "--cluster-name", self.cluster_name, "--output", "json"],
        )
        self.register_outputs({"name": self.cluster.name})

    def _create_control_plane(self) -> aws.eks.Cluster:
        settings = self.site.settings
        network = settings.network
        return aws.eks.Cluster(
            f"{self.name}-eks",
            name=self.cluster_name,
            version=settings.version,
            role_arn=self.args.roles.cluster.arn,
            # The add-ons below bring the same in versions that EKS keeps.
            bootstrap_self_managed_addons=False,
            access_config=aws.eks.ClusterAccessConfigArgs(
                authentication_mode="API", bootstrap_cluster_creator_admin_permissions=True
            ),
            vpc_config=aws.eks.ClusterVpcConfigArgs(
                subnet_ids=[*self.args.network.private, *self.args.network.public],
                endpoint_private_access=True,
                endpoint_public_access=bool(network.api_from),
                public_access_cidrs=list(network.api_from) or None,
            ),
            encryption_config=self._secret_encryption() if settings.managed.secrets else None,
            enabled_cluster_log_types=["api", "audit", "authenticator", "controllerManager", "scheduler"],
            upgrade_policy=aws.eks.ClusterUpgradePolicyArgs(support_type="STANDARD"),
            deletion_protection=settings.managed.protect,
            opts=self._options(self.args.roles, protect=settings.managed.protect),
        )

    def _secret_encryption(self) -> aws.eks.ClusterEncryptionConfigArgs:
        key = aws.kms.Key(
            f"{self.name}-secrets",
            description=f"Kubernetes Secrets of {self.cluster_name}",
            enable_key_rotation=True,
            # The least that AWS allows: a backup of the control plane cannot be read without it.
            deletion_window_in_days=7,
            opts=self._options(),
        )
        return aws.eks.ClusterEncryptionConfigArgs(
            provider=aws.eks.ClusterEncryptionConfigProviderArgs(key_arn=key.arn), resources=["secrets"]
        )

    def _create_addon(self, addon: str, after: Sequence[pulumi.Resource] = ()) -> aws.eks.Addon:
        configuration = _ADDONS.get(addon)
        identities = None
        if addon == "aws-ebs-csi-driver":
            identities = [
                aws.eks.AddonPodIdentityAssociationArgs(
                    service_account="ebs-csi-controller-sa", role_arn=self.args.roles.volumes.arn
                )
            ]
        return aws.eks.Addon(
            f"{self.name}-{addon}",
            cluster_name=self.cluster.name,
            addon_name=addon,
            configuration_values=json.dumps(configuration) if configuration else None,
            pod_identity_associations=identities,
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="OVERWRITE",
            opts=self._options(*after),
        )

    def _create_pools(self, after: Sequence[pulumi.Resource]) -> list[aws.eks.NodeGroup]:
        nodes = self.site.settings.nodes
        template = self._create_template()
        machine = self.site.settings.cpu_machine
        subnets = self.args.network.private
        pools = [
            self._create_pool(
                f"cpu-{position}",
                machine,
                [subnet],
                (_share(nodes.cpu.min, position, len(subnets)), max(1, _share(nodes.cpu.max, position, len(subnets)))),
                template,
                after,
            )
            for position, subnet in enumerate(subnets)
        ]
        if nodes.gpu.max:
            size = (nodes.gpu.min, nodes.gpu.max)
            pools.append(self._create_pool("gpu", nodes.gpu.machine, list(subnets), size, template, after, gpu=True))
        return pools

    def _create_template(self) -> aws.ec2.LaunchTemplate:
        """Encrypted disks, and a metadata service that answers the node and none of its pods."""
        disk = aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
            volume_size=cloud.NODE_DISK, volume_type="gp3", encrypted="true", delete_on_termination="true"
        )
        return aws.ec2.LaunchTemplate(
            f"{self.name}-nodes",
            block_device_mappings=[
                aws.ec2.LaunchTemplateBlockDeviceMappingArgs(device_name="/dev/xvda", ebs=disk),
            ],
            metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            tag_specifications=[
                aws.ec2.LaunchTemplateTagSpecificationArgs(
                    resource_type=kind,
                    tags={"Name": self.cluster_name, **cloud.tags(self.site.environment)},
                )
                for kind in ("instance", "volume")
            ],
            opts=self._options(),
        )

    def _create_pool(
        self,
        pool: str,
        machine: str,
        subnets: list[pulumi.Output[str]],
        size: tuple[int, int],
        template: aws.ec2.LaunchTemplate,
        after: Sequence[pulumi.Resource],
        *,
        gpu: bool = False,
    ) -> aws.eks.NodeGroup:
        least, most = size
        taint = aws.eks.NodeGroupTaintArgs(key=cloud.GPU_TAINT_KEY, value=cloud.GPU_TAINT_VALUE, effect="NO_SCHEDULE")
        return aws.eks.NodeGroup(
            f"{self.name}-{pool}",
            cluster_name=self.cluster.name,
            node_group_name=f"{self.cluster_name}-{pool}",
            node_role_arn=self.args.roles.nodes.arn,
            version=self.site.settings.version,
            subnet_ids=subnets,
            # The image for GPUs has driver and container toolkit; the device plugin is one of the services.
            ami_type="AL2023_x86_64_NVIDIA" if gpu else "AL2023_x86_64_STANDARD",
            instance_types=[machine],
            launch_template=aws.eks.NodeGroupLaunchTemplateArgs(
                id=template.id, version=template.latest_version.apply(str)
            ),
            scaling_config=aws.eks.NodeGroupScalingConfigArgs(min_size=least, max_size=most, desired_size=least),
            update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable=1),
            labels=cloud.GPU_LABELS if gpu else None,
            taints=[taint] if gpu else None,
            # How many there are is the autoscaler's.
            opts=self._options(*after, ignore_changes=["scalingConfig.desiredSize"]),
        )


_ADDONS: dict[str, dict[str, object]] = {
    # Without it a NetworkPolicy is an object that nobody reads.
    "vpc-cni": {"enableNetworkPolicy": "true"},
}


def _share(total: int, position: int, among: int) -> int:
    """So much of `total` belongs to one of several pools; the first ones take what is left over."""
    return total // among + (position < total % among)
