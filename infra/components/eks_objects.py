"""What EKS leaves to its users: a default StorageClass, which encrypts, and the autoscaler of the node pools.

The autoscaler finds the pools by the tags that EKS gives them, and what an empty one would bring by asking EKS for its
labels and taints. Its role comes from the cluster's project, by its account's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.rbac.v1 import ClusterRole, ClusterRoleBinding, PolicyRuleArgs, RoleRefArgs, SubjectArgs
from pulumi_kubernetes.storage.v1 import StorageClass

from infra.components import cloud, names, network
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import Requests
from infra.components.workload import Rule, Workload, WorkloadArgs

AUTOSCALER = "cluster-autoscaler"
"""Of the Deployment and its service account, which the cluster's project gives a role to."""
_READ = ("get", "list", "watch")
_POD_IDENTITY = Peer((80,), cidrs=("169.254.170.23/32",))
"""Where the node's agent hands out credentials; never the metadata service."""


@dataclass(frozen=True)
class EksObjectsArgs:
    site: Site


class EksObjects(Component):
    """Only on EKS: the other clouds bring both themselves."""

    def __init__(self, name: str, args: EksObjectsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster", name, args.site, opts)
        self._create_storage_class()
        self._create_autoscaler(self._create_rights())
        self.register_outputs({})

    def _create_storage_class(self) -> StorageClass:
        return StorageClass(
            f"{self.name}-volumes",
            metadata=self._metadata(
                "slipway-encrypted", annotations={"storageclass.kubernetes.io/is-default-class": "true"}
            ),
            provisioner="ebs.csi.aws.com",
            parameters={"type": "gp3", "encrypted": "true"},
            # A volume lies in one zone: wait for the pod, and make it in the pod's.
            volume_binding_mode="WaitForFirstConsumer",
            allow_volume_expansion=True,
            reclaim_policy="Delete",
            opts=self._options(),
        )

    def _create_rights(self) -> ClusterRoleBinding:
        """It simulates the scheduler, so it reads what the scheduler reads; it evicts pods and changes nodes."""
        role = ClusterRole(
            f"{self.name}-autoscaler",
            metadata=self._metadata(AUTOSCALER),
            rules=[
                PolicyRuleArgs(api_groups=list(groups), resources=list(resources), verbs=list(verbs))
                for groups, resources, verbs in _RIGHTS
            ],
            opts=self._options(),
        )
        return ClusterRoleBinding(
            f"{self.name}-autoscaler",
            metadata=self._metadata(AUTOSCALER),
            role_ref=RoleRefArgs(api_group="rbac.authorization.k8s.io", kind="ClusterRole", name=AUTOSCALER),
            subjects=[SubjectArgs(kind="ServiceAccount", name=AUTOSCALER, namespace=names.SYSTEM)],
            opts=self._options(role),
        )

    def _create_autoscaler(self, rights: ClusterRoleBinding) -> Workload:
        cluster = cloud.name_of(self.site.environment)
        tags = f"k8s.io/cluster-autoscaler/enabled,k8s.io/cluster-autoscaler/{cluster}"
        return Workload(
            AUTOSCALER,
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image=f"cluster_autoscaler_{self.site.settings.version.replace('.', '_')}",
                command=("./cluster-autoscaler",),
                arguments=(
                    "--cloud-provider=aws",
                    f"--namespace={names.SYSTEM}",
                    f"--node-group-auto-discovery=asg:tag={tags}",
                    "--balance-similar-node-groups=true",
                    "--expander=least-waste",
                    "--skip-nodes-with-local-storage=false",
                    "--scale-down-unneeded-time=10m",
                ),
                env={"AWS_REGION": self.site.settings.network.region},
                ports={"http": 8085},
                health="/health-check",
                requests=Requests("20m", "256Mi", memory_limit="600Mi"),
                egress_to=(network.internet(443), _POD_IDENTITY),
                rules=(
                    Rule(names.SYSTEM, ("",), ("configmaps",), ("create", *_READ, "update")),
                    Rule(names.SYSTEM, ("coordination.k8s.io",), ("leases",), ("create", *_READ, "update")),
                ),
            ),
            self._options(rights),
        )


_RIGHTS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("",), ("nodes",), (*_READ, "update", "patch")),
    (("",), ("pods/eviction",), ("create",)),
    (("",), ("pods/status",), ("update",)),
    (("",), ("events",), ("create", "patch")),
    (
        ("",),
        ("pods", "services", "replicationcontrollers", "persistentvolumeclaims", "persistentvolumes", "namespaces"),
        _READ,
    ),
    (("apps",), ("daemonsets", "replicasets", "statefulsets"), _READ),
    (("batch",), ("jobs", "cronjobs"), _READ),
    (("policy",), ("poddisruptionbudgets",), _READ),
    (
        ("storage.k8s.io",),
        ("storageclasses", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"),
        _READ,
    ),
    (("resource.k8s.io",), ("deviceclasses", "resourceclaims", "resourceslices"), _READ),
)
"""As cluster-autoscaler's own example has them, without what only other clouds need."""
