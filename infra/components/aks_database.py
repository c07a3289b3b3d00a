"""Azure Database for PostgreSQL with an address inside the cluster's network only: encrypted, with backups."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_azure_native import dbforpostgresql, network, privatedns, resources

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.database import ManagedDatabase


@dataclass(frozen=True)
class AksDatabaseArgs:
    site: ClusterSite
    group: resources.ResourceGroup
    network: network.VirtualNetwork
    subnet: network.Subnet


class AksDatabase(ClusterComponent):
    """`endpoint`: for the services."""

    def __init__(self, name: str, args: AksDatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        password = args.site.secrets.read("database/administrator")
        server = self._create_server(password, *self._create_zone())
        self.endpoint = ManagedDatabase(server.fully_qualified_domain_name, cloud.ADMINISTRATOR, password)
        self.register_outputs({"host": server.fully_qualified_domain_name})

    def _create_zone(self) -> tuple[privatedns.PrivateZone, privatedns.VirtualNetworkLink]:
        zone = privatedns.PrivateZone(
            f"{self.name}-zone",
            resource_group_name=self.args.group.name,
            private_zone_name=f"{cloud.name_of(self.site.environment)}.private.postgres.database.azure.com",
            location="global",
            tags=cloud.tags(self.site.environment),
            opts=self._options(),
        )
        link = privatedns.VirtualNetworkLink(
            f"{self.name}-zone",
            resource_group_name=self.args.group.name,
            private_zone_name=zone.name,
            virtual_network_link_name="cluster",
            virtual_network=privatedns.SubResourceArgs(id=self.args.network.id),
            registration_enabled=False,
            location="global",
            opts=self._options(),
        )
        return zone, link

    def _create_server(
        self, password: pulumi.Output[str], zone: privatedns.PrivateZone, link: privatedns.VirtualNetworkLink
    ) -> dbforpostgresql.Server:
        settings = self.site.settings
        managed, part = settings.managed, settings.parts.database
        return dbforpostgresql.Server(
            # Names of servers are the whole world's: Pulumi puts some letters behind it.
            cloud.name_of(self.site.environment),
            resource_group_name=self.args.group.name,
            version=cloud.DATABASE_VERSION,
            create_mode="Default",
            administrator_login=cloud.ADMINISTRATOR,
            administrator_login_password=password,
            sku=dbforpostgresql.SkuArgs(
                name=managed.database_machine or cloud.DATABASE_MACHINES["aks"], tier="GeneralPurpose"
            ),
            storage=dbforpostgresql.StorageArgs(
                # Azure's disks come in powers of two, and nothing in between is taken.
                storage_size_gb=1 << (cloud.gibibytes(part.storage, least=32) - 1).bit_length(),
                auto_grow="Enabled",
            ),
            network=dbforpostgresql.NetworkArgs(
                delegated_subnet_resource_id=self.args.subnet.id,
                private_dns_zone_arm_resource_id=zone.id,
                public_network_access="Disabled",
            ),
            backup=dbforpostgresql.BackupArgs(
                backup_retention_days=cloud.BACKUPS_KEPT, geo_redundant_backup="Disabled"
            ),
            high_availability=dbforpostgresql.HighAvailabilityArgs(
                mode="ZoneRedundant" if part.instances > 1 else "Disabled"
            ),
            tags=cloud.tags(self.site.environment),
            opts=self._options(link, protect=managed.protect, ignore_changes=["storage.storageSizeGB"]),
        )
