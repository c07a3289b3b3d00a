"""Cloud SQL for PostgreSQL with an address inside the cluster's network only: encrypted, with backups."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.database import ManagedDatabase
from infra.components.gke_network import GkeNetwork


@dataclass(frozen=True)
class GkeDatabaseArgs:
    site: ClusterSite
    network: GkeNetwork


class GkeDatabase(ClusterComponent):
    """`endpoint`: for the services."""

    def __init__(self, name: str, args: GkeDatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        password = args.site.secrets.read("database/administrator")
        instance = self._create_instance(self._create_peering())
        user = gcp.sql.User(
            f"{name}-administrator",
            name=cloud.ADMINISTRATOR,
            instance=instance.name,
            password=password,
            # The instance goes, and every login with it; one by one they could not, since they own tables.
            deletion_policy="ABANDON",
            opts=self._options(),
        )
        self.endpoint = ManagedDatabase(instance.private_ip_address, user.name, password)
        self.register_outputs({"host": instance.private_ip_address})

    def _create_peering(self) -> gcp.servicenetworking.Connection:
        network = self.args.network.network
        addresses = gcp.compute.GlobalAddress(
            f"{self.name}-addresses",
            name=f"{cloud.name_of(self.site.environment)}-database",
            purpose="VPC_PEERING",
            address_type="INTERNAL",
            prefix_length=20,
            network=network.id,
            opts=self._options(),
        )
        return gcp.servicenetworking.Connection(
            f"{self.name}-peering",
            network=network.id,
            service="servicenetworking.googleapis.com",
            reserved_peering_ranges=[addresses.name],
            # Google holds it for days after the database is gone; it goes with the network.
            deletion_policy="ABANDON",
            opts=self._options(),
        )

    def _create_instance(self, peering: gcp.servicenetworking.Connection) -> gcp.sql.DatabaseInstance:
        settings = self.site.settings
        managed, part = settings.managed, settings.parts.database
        return gcp.sql.DatabaseInstance(
            # Google keeps a deleted instance's name for a week: Pulumi puts some letters behind it.
            cloud.name_of(self.site.environment),
            database_version=f"POSTGRES_{cloud.DATABASE_VERSION}",
            region=settings.network.region,
            deletion_protection=managed.protect,
            settings=gcp.sql.DatabaseInstanceSettingsArgs(
                edition="ENTERPRISE",
                tier=managed.database_machine or cloud.DATABASE_MACHINES["gke"],
                availability_type="REGIONAL" if part.instances > 1 else "ZONAL",
                disk_size=cloud.gibibytes(part.storage, least=10),
                disk_type="PD_SSD",
                disk_autoresize=True,
                deletion_protection_enabled=managed.protect,
                backup_configuration=gcp.sql.DatabaseInstanceSettingsBackupConfigurationArgs(
                    enabled=True,
                    point_in_time_recovery_enabled=True,
                    transaction_log_retention_days=cloud.BACKUPS_KEPT,
                ),
                ip_configuration=gcp.sql.DatabaseInstanceSettingsIpConfigurationArgs(
                    ipv4_enabled=False,
                    private_network=self.args.network.network.id,
                    ssl_mode="ENCRYPTED_ONLY",
                ),
                user_labels=cloud.tags(self.site.environment),
            ),
            opts=self._options(peering, protect=managed.protect, ignore_changes=["settings.diskSize"]),
        )
