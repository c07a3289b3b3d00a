"""What a cluster, its nodes and two of its pods may do in the account; no policy here has more than its user needs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite

_CLUSTER = ("AmazonEKSClusterPolicy",)
_NODES = ("AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly")
_VOLUMES = ("service-role/AmazonEBSCSIDriverPolicy",)


@dataclass(frozen=True)
class EksRolesArgs:
    site: ClusterSite


class EksRoles(ClusterComponent):
    """The roles of the control plane, the nodes, the volume driver and the autoscaler."""

    def __init__(self, name: str, args: EksRolesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.cluster = self._create_role("cluster", "eks.amazonaws.com", _CLUSTER)
        self.nodes = self._create_role("nodes", "ec2.amazonaws.com", _NODES)
        self.volumes = self._create_role("volumes", "pods.eks.amazonaws.com", _VOLUMES)
        self.autoscaler = self._create_role("autoscaler", "pods.eks.amazonaws.com", ())
        self._allow_scaling()
        self.register_outputs({})

    def _create_role(self, user: str, service: str, policies: tuple[str, ...]) -> aws.iam.Role:
        # Pods are given a role with the session tags that say which pod it is.
        actions = ["sts:AssumeRole", "sts:TagSession"] if service.startswith("pods.") else ["sts:AssumeRole"]
        role = aws.iam.Role(
            f"{self.name}-{user}",
            assume_role_policy=_policy({"Principal": {"Service": service}, "Action": actions}),
            opts=self._options(),
        )
        for policy in policies:
            aws.iam.RolePolicyAttachment(
                f"{self.name}-{user}-{policy.rpartition('/')[2]}",
                role=role.name,
                policy_arn=f"arn:aws:iam::aws:policy/{policy}",
                opts=self._options(),
            )
        return role

    def _allow_scaling(self) -> None:
        """Reading cannot be narrowed; changing is for the groups of this cluster. Source: cluster-autoscaler's manual.

        With `eks:DescribeNodegroup` it knows labels and taints of a group that has no node yet.
        """
        cluster = cloud.name_of(self.site.environment)
        owned = {"StringEquals": {f"aws:ResourceTag/k8s.io/cluster-autoscaler/{cluster}": "owned"}}
        aws.iam.RolePolicy(
            f"{self.name}-autoscaler",
            role=self.autoscaler.name,
            policy=_policy(
                {
                    "Action": [
                        "autoscaling:DescribeAutoScalingGroups",
                        "autoscaling:DescribeAutoScalingInstances",
                        "autoscaling:DescribeLaunchConfigurations",
                        "autoscaling:DescribeScalingActivities",
                        "autoscaling:DescribeTags",
                        "ec2:DescribeImages",
                        "ec2:DescribeInstanceTypes",
                        "ec2:DescribeLaunchTemplateVersions",
                        "ec2:GetInstanceTypesFromInstanceRequirements",
                        "eks:DescribeNodegroup",
                    ],
                    "Resource": "*",
                },
                {
                    "Action": [
                        "autoscaling:SetDesiredCapacity",
                        "autoscaling:TerminateInstanceInAutoScalingGroup",
                    ],
                    "Resource": "*",
                    "Condition": owned,
                },
            ),
            opts=self._options(),
        )


def _policy(*statements: dict[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **each} for each in statements]})
