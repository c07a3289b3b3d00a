"""A GKE cluster in one region: private nodes, Dataplane V2, Workload Identity, a CPU pool and a GPU pool from nothing.

GKE itself scales the pools, and brings driver and device plugin of the GPUs: nothing of ours does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.gke_network import PODS, SERVICES, GkeNetwork


@dataclass(frozen=True)
class GkeClusterArgs:
    site: ClusterSite
    network: GkeNetwork


class GkeCluster(ClusterComponent):
    """`kubeconfig` asks Google's own plugin for a token, as whoever is logged in."""

    def __init__(self, name: str, args: GkeClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        self.cluster_name = cloud.name_of(args.site.environment)
        self.account = self._create_account()
        self.cluster = self._create_control_plane()
        self._create_pools()
        self.kubeconfig = cloud.kubeconfig(
            self.cluster_name,
            self.cluster.endpoint.apply(lambda host: f"https://{host}"),
            self.cluster.master_auth.apply(lambda auth: auth.cluster_ca_certificate or ""),
            "gke-gcloud-auth-plugin",
            [],
        )
        self.register_outputs({"name": self.cluster.name})

    def _create_account(self) -> gcp.serviceaccount.Account:
        """Of the nodes: the project's own default account may do far more."""
        account = gcp.serviceaccount.Account(
            f"{self.name}-nodes",
            account_id=cloud.short_name(self.site.environment, "nodes"),
            display_name=f"Nodes of {self.cluster_name}",
            opts=self._options(),
        )
        for role in ("roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader"):
            gcp.projects.IAMMember(
                f"{self.name}-nodes-{role.rpartition('.')[2]}",
                project=self.site.settings.network.project,
                role=role,
                member=account.email.apply(lambda email: f"serviceAccount:{email}"),
                opts=self._options(),
            )
        return account

    def _create_control_plane(self) -> gcp.container.Cluster:
        settings = self.site.settings
        network, managed = settings.network, settings.managed
        return gcp.container.Cluster(
            f"{self.name}-gke",
            name=self.cluster_name,
            location=network.region,
            min_master_version=settings.version,
            # Google patches, and moves on when a version's time is over; `version` is the least.
            release_channel=gcp.container.ClusterReleaseChannelArgs(channel="REGULAR"),
            network=self.args.network.network.id,
            subnetwork=self.args.network.subnet.id,
            networking_mode="VPC_NATIVE",
            ip_allocation_policy=gcp.container.ClusterIpAllocationPolicyArgs(
                cluster_secondary_range_name=PODS, services_secondary_range_name=SERVICES
            ),
            # Without it a NetworkPolicy is an object that nobody reads.
            datapath_provider="ADVANCED_DATAPATH",
            # The first pool cannot be set up as we want it; ours stand beside the cluster.
            remove_default_node_pool=True,
            initial_node_count=1,
            node_config=gcp.container.ClusterNodeConfigArgs(service_account=self.account.email),
            workload_identity_config=gcp.container.ClusterWorkloadIdentityConfigArgs(
                workload_pool=f"{network.project}.svc.id.goog"
            ),
            private_cluster_config=gcp.container.ClusterPrivateClusterConfigArgs(
                enable_private_nodes=True, enable_private_endpoint=not network.api_from
            ),
            master_authorized_networks_config=gcp.container.ClusterMasterAuthorizedNetworksConfigArgs(
                cidr_blocks=[
                    gcp.container.ClusterMasterAuthorizedNetworksConfigCidrBlockArgs(cidr_block=each)
                    for each in network.api_from
                ],
                gcp_public_cidrs_access_enabled=False,
            ),
            master_auth=gcp.container.ClusterMasterAuthArgs(
                client_certificate_config=gcp.container.ClusterMasterAuthClientCertificateConfigArgs(
                    issue_client_certificate=False
                )
            ),
            database_encryption=self._secret_encryption() if managed.secrets else None,
            enable_shielded_nodes=True,
            deletion_protection=managed.protect,
            opts=self._options(protect=managed.protect, ignore_changes=["nodeConfig", "initialNodeCount"]),
        )

    def _secret_encryption(self) -> gcp.container.ClusterDatabaseEncryptionArgs:
        # A ring is never deleted, only its keys are: the letters that Pulumi adds let a second cluster have its own.
        ring = gcp.kms.KeyRing(
            cloud.name_of(self.site.environment), location=self.site.settings.network.region, opts=self._options()
        )
        key = gcp.kms.CryptoKey(
            f"{self.name}-secrets",
            key_ring=ring.id,
            purpose="ENCRYPT_DECRYPT",
            rotation_period=f"{90 * 24 * 3600}s",
            opts=self._options(),
        )
        gke = gcp.projects.ServiceIdentity(
            f"{self.name}-agent",
            project=self.site.settings.network.project,
            service="container.googleapis.com",
            opts=self._options(),
        )
        granted = gcp.kms.CryptoKeyIAMMember(
            f"{self.name}-secrets",
            crypto_key_id=key.id,
            role="roles/cloudkms.cryptoKeyEncrypterDecrypter",
            member=gke.member,
            opts=self._options(),
        )
        # Through the grant, so that the cluster is made after it.
        return gcp.container.ClusterDatabaseEncryptionArgs(state="ENCRYPTED", key_name=granted.crypto_key_id)

    def _create_pools(self) -> None:
        nodes = self.site.settings.nodes
        machine = self.site.settings.cpu_machine
        self._create_pool("cpu", self._node(machine), nodes.cpu.min, nodes.cpu.max)
        if nodes.gpu.max:
            self._create_pool("gpu", self._gpu_node(), nodes.gpu.min, nodes.gpu.max)

    def _create_pool(
        self, pool: str, node: gcp.container.NodePoolNodeConfigArgs, least: int, most: int
    ) -> gcp.container.NodePool:
        return gcp.container.NodePool(
            f"{self.name}-{pool}",
            name=pool,
            cluster=self.cluster.id,
            # In each zone; the autoscaler then brings the sum to what it should be.
            initial_node_count=1 if least else 0,
            autoscaling=gcp.container.NodePoolAutoscalingArgs(
                total_min_node_count=least,
                total_max_node_count=most,
                location_policy="ANY" if pool == "gpu" else "BALANCED",
            ),
            management=gcp.container.NodePoolManagementArgs(auto_repair=True, auto_upgrade=True),
            upgrade_settings=gcp.container.NodePoolUpgradeSettingsArgs(max_surge=1, max_unavailable=0),
            node_config=node,
            opts=self._options(ignore_changes=["initialNodeCount"]),
        )

    def _node(
        self,
        machine: str,
        accelerators: list[gcp.container.NodePoolNodeConfigGuestAcceleratorArgs] | None = None,
        labels: dict[str, str] | None = None,
        taints: list[gcp.container.NodePoolNodeConfigTaintArgs] | None = None,
    ) -> gcp.container.NodePoolNodeConfigArgs:
        return gcp.container.NodePoolNodeConfigArgs(
            machine_type=machine,
            disk_size_gb=cloud.NODE_DISK,
            disk_type="pd-balanced",
            image_type="COS_CONTAINERD",
            service_account=self.account.email,
            oauth_scopes=["https://www.googleapis.com/auth/cloud-platform"],
            labels=labels,
            taints=taints,
            guest_accelerators=accelerators,
            # Pods see the identity of their own account, never the node's.
            workload_metadata_config=gcp.container.NodePoolNodeConfigWorkloadMetadataConfigArgs(mode="GKE_METADATA"),
            shielded_instance_config=gcp.container.NodePoolNodeConfigShieldedInstanceConfigArgs(
                enable_secure_boot=True, enable_integrity_monitoring=True
            ),
            metadata={"disable-legacy-endpoints": "true"},
        )

    def _gpu_node(self) -> gcp.container.NodePoolNodeConfigArgs:
        pool = self.site.settings.nodes.gpu
        accelerator = gcp.container.NodePoolNodeConfigGuestAcceleratorArgs(
            type=pool.accelerator,
            count=gpus_of(pool.machine),
            gpu_driver_installation_config=gcp.container.NodePoolNodeConfigGuestAcceleratorGpuDriverInstallationConfigArgs(
                gpu_driver_version="DEFAULT"
            ),
            gpu_sharing_config=self._sharing(),
            # Each part is then an `nvidia.com/gpu` of its own.
            gpu_partition_size=pool.partition or None,
        )
        taint = gcp.container.NodePoolNodeConfigTaintArgs(
            key=cloud.GPU_TAINT_KEY, value=cloud.GPU_TAINT_VALUE, effect="NO_SCHEDULE"
        )
        return self._node(pool.machine, [accelerator], cloud.GPU_LABELS, [taint])

    def _sharing(self) -> gcp.container.NodePoolNodeConfigGuestAcceleratorGpuSharingConfigArgs | None:
        """GKE's own plugin is told by the pool how one GPU is shared."""
        part = self.site.settings.parts.gpu
        if part.sharing != "time_slicing":
            return None
        return gcp.container.NodePoolNodeConfigGuestAcceleratorGpuSharingConfigArgs(
            gpu_sharing_strategy="TIME_SHARING", max_shared_clients_per_gpu=part.slices
        )


def gpus_of(machine: str) -> int:
    """How many GPUs a machine type has, which GKE wants to be told though the type says it; 1 where it does not."""
    if match := re.search(r"-(\d+)g(-|$)", machine):
        return int(match[1])
    g2 = {"g2-standard-24": 2, "g2-standard-48": 4, "g2-standard-96": 8}
    return g2.get(machine, 1)
