"""An AKS cluster: Cilium for network policies, logins by Entra ID only, CPU nodes, a GPU pool that grows from nothing.

AKS itself scales the pools. GPU nodes come without a driver: the GPU operator, one of the services, brings it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import pulumi
import yaml
from pulumi_azure_native import authorization, containerservice, managedidentity, resources

from infra.components import cloud
from infra.components.aks_key import AksKey, role_id
from infra.components.aks_network import AksNetwork
from infra.components.cluster_component import ClusterComponent, ClusterSite

NETWORK_CONTRIBUTOR = "4d97b98b-1d4f-4787-a291-c67834d212e7"
CLUSTER_ADMIN = "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b"
"""Azure's own ids of the roles `Network Contributor` and `Azure Kubernetes Service RBAC Cluster Admin`."""
_AKS_IN_ENTRA = "6dae42f8-4368-4678-94ff-3960e28e3630"
"""The application that every AKS cluster is, for who asks for a token."""


@dataclass(frozen=True)
class AksClusterArgs:
    site: ClusterSite
    group: resources.ResourceGroup
    network: AksNetwork
    identity: managedidentity.UserAssignedIdentity
    key: AksKey | None
    """What Secrets are encrypted with; None: with Azure's own key."""


class AksCluster(ClusterComponent):
    """`kubeconfig` asks `kubelogin` for a token, as whoever the Azure command line knows."""

    def __init__(self, name: str, args: AksClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        self.cluster_name = cloud.name_of(args.site.environment)
        granted = self._grant("network", NETWORK_CONTRIBUTOR, args.identity.principal_id, args.network.network.id)
        self.cluster = self._create_control_plane(granted)
        me = authorization.get_client_config_output(opts=pulumi.InvokeOptions(parent=self)).object_id
        self._grant("administrator", CLUSTER_ADMIN, me, self.cluster.id)
        self._create_pools()
        self.kubeconfig = self._find_kubeconfig()
        self.register_outputs({"name": self.cluster.name})

    def _grant(
        self, user: str, role: str, principal: pulumi.Input[str], scope: pulumi.Input[str]
    ) -> authorization.RoleAssignment:
        return authorization.RoleAssignment(
            f"{self.name}-{user}",
            principal_id=principal,
            role_definition_id=role_id(self.site, role),
            scope=scope,
            opts=self._options(),
        )

    def _create_control_plane(self, granted: authorization.RoleAssignment) -> containerservice.ManagedCluster:
        settings, network, key = self.site.settings, self.args.network, self.args.key
        after = [granted, key] if key else [granted]
        kms = containerservice.AzureKeyVaultKmsArgs(
            enabled=True, key_id=key.key_id, key_vault_network_access="Public"
        ) if key else None  # fmt: skip
        return containerservice.ManagedCluster(
            f"{self.name}-aks",
            resource_group_name=self.args.group.name,
            resource_name_=self.cluster_name,
            dns_prefix=self.cluster_name,
            kubernetes_version=settings.version,
            sku=containerservice.ManagedClusterSKUArgs(name="Base", tier="Standard"),
            identity=containerservice.ManagedClusterIdentityArgs(
                type="UserAssigned", user_assigned_identities=[self.args.identity.id]
            ),
            enable_rbac=True,
            disable_local_accounts=True,
            aad_profile=containerservice.ManagedClusterAADProfileArgs(managed=True, enable_azure_rbac=True),
            api_server_access_profile=self._access(),
            network_profile=containerservice.ContainerServiceNetworkProfileArgs(
                network_plugin="azure",
                network_plugin_mode="overlay",
                # Without them a NetworkPolicy is an object that nobody reads.
                network_dataplane="cilium",
                network_policy="cilium",
                pod_cidr=network.pods,
                service_cidr=network.services,
                dns_service_ip=network.dns,
                load_balancer_sku="standard",
                outbound_type="loadBalancer",
            ),
            agent_pool_profiles=[
                containerservice.ManagedClusterAgentPoolProfileArgs(
                    name="always",
                    mode="System",
                    count=settings.nodes.cpu.min,
                    **self._node(self.site.settings.cpu_machine),
                )
            ],
            auto_upgrade_profile=containerservice.ManagedClusterAutoUpgradeProfileArgs(
                upgrade_channel="patch", node_os_upgrade_channel="NodeImage"
            ),
            oidc_issuer_profile=containerservice.ManagedClusterOIDCIssuerProfileArgs(enabled=True),
            security_profile=containerservice.ManagedClusterSecurityProfileArgs(
                azure_key_vault_kms=kms,
                workload_identity=containerservice.ManagedClusterSecurityProfileWorkloadIdentityArgs(enabled=True),
            ),
            tags=cloud.tags(self.site.environment),
            # AKS lists the pools below here as well, and would take their absence for an order to remove them.
            opts=self._options(*after, protect=settings.managed.protect, ignore_changes=["agentPoolProfiles"]),
        )

    def _access(self) -> containerservice.ManagedClusterAPIServerAccessProfileArgs:
        ranges = list(self.site.settings.network.api_from)
        # What `az aks command invoke` runs would pass by the API server's own doors.
        return containerservice.ManagedClusterAPIServerAccessProfileArgs(
            authorized_ip_ranges=ranges or None, enable_private_cluster=not ranges, disable_run_command=True
        )

    def _node(self, machine: str) -> dict[str, Any]:
        return {
            "vm_size": machine,
            "os_type": "Linux",
            "os_sku": "Ubuntu",
            "os_disk_size_gb": cloud.NODE_DISK,
            "type": "VirtualMachineScaleSets",
            "vnet_subnet_id": self.args.network.nodes.id,
            "enable_node_public_ip": False,
            "upgrade_settings": containerservice.AgentPoolUpgradeSettingsArgs(max_surge="1"),
        }

    def _create_pools(self) -> None:
        nodes = self.site.settings.nodes
        if nodes.cpu.max > nodes.cpu.min:
            self._create_pool("cpu", self.site.settings.cpu_machine, 0, nodes.cpu.max - nodes.cpu.min)
        if nodes.gpu.max:
            taint = f"{cloud.GPU_TAINT_KEY}={cloud.GPU_TAINT_VALUE}:NoSchedule"
            self._create_pool(
                "gpu",
                nodes.gpu.machine,
                nodes.gpu.min,
                nodes.gpu.max,
                node_labels=cloud.GPU_LABELS,
                node_taints=[taint],
                gpu_profile=containerservice.GPUProfileArgs(driver="None"),
            )

    def _create_pool(self, pool: str, machine: str, least: int, most: int, **more: Any) -> containerservice.AgentPool:
        return containerservice.AgentPool(
            f"{self.name}-{pool}",
            resource_group_name=self.args.group.name,
            resource_name_=self.cluster.name,
            agent_pool_name=pool,
            mode="User",
            orchestrator_version=self.site.settings.version,
            enable_auto_scaling=True,
            count=least,
            min_count=least,
            max_count=most,
            **self._node(machine),
            **more,
            # How many there are is the autoscaler's.
            opts=self._options(ignore_changes=["count"]),
        )

    def _find_kubeconfig(self) -> pulumi.Output[str]:
        """Azure's own, with another way to log in: hers asks for a code in a browser."""
        given = containerservice.list_managed_cluster_user_credentials_output(
            resource_group_name=self.args.group.name,
            resource_name=self.cluster.name,
            opts=pulumi.InvokeOptions(parent=self),
        )
        cluster = given.apply(lambda answer: read_cluster(answer.kubeconfigs[0].value))
        return cloud.kubeconfig(
            self.cluster_name,
            cluster["server"],
            cluster["certificate-authority-data"],
            "kubelogin",
            ["get-token", "--login", "azurecli", "--server-id", _AKS_IN_ENTRA],
        )


def read_cluster(kubeconfig: str) -> dict[str, str]:
    """Server and certificate from a kubeconfig in base64."""
    document = yaml.safe_load(base64.b64decode(kubeconfig))
    return dict(document["clusters"][0]["cluster"])
