"""Amazon RDS for PostgreSQL in the cluster's private subnets: encrypted, with backups, reached by nodes only."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.components import cloud, database
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.database import ManagedDatabase
from infra.components.eks_network import EksNetwork


@dataclass(frozen=True)
class EksDatabaseArgs:
    site: ClusterSite
    network: EksNetwork
    nodes: pulumi.Input[str]
    """Security group of the nodes."""


class EksDatabase(ClusterComponent):
    """`endpoint`: for the services. The database is kept for years; what it asks for are the cloud's defaults."""

    def __init__(self, name: str, args: EksDatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        password = args.site.secrets.read("database/administrator")
        instance = self._create_instance(password)
        self.endpoint = ManagedDatabase(instance.address, cloud.ADMINISTRATOR, password)
        self.register_outputs({"host": instance.address})

    def _create_instance(self, password: pulumi.Output[str]) -> aws.rds.Instance:
        settings = self.site.settings
        managed, part = settings.managed, settings.parts.database
        name = cloud.name_of(self.site.environment)
        subnets = aws.rds.SubnetGroup(
            f"{self.name}-subnets", subnet_ids=self.args.network.private, opts=self._options()
        )
        group = aws.ec2.SecurityGroup(
            f"{self.name}-group",
            description="PostgreSQL from the cluster's nodes",
            vpc_id=self.args.network.vpc.id,
            ingress=[
                aws.ec2.SecurityGroupIngressArgs(
                    description="nodes",
                    protocol="tcp",
                    from_port=database.PORT,
                    to_port=database.PORT,
                    security_groups=[self.args.nodes],
                )
            ],
            opts=self._options(),
        )
        return aws.rds.Instance(
            f"{self.name}-rds",
            identifier=name,
            engine="postgres",
            engine_version=cloud.DATABASE_VERSION,
            auto_minor_version_upgrade=True,
            instance_class=managed.database_machine or cloud.DATABASE_MACHINES["eks"],
            multi_az=part.instances > 1,
            allocated_storage=cloud.gibibytes(part.storage, least=20),
            max_allocated_storage=5 * cloud.gibibytes(part.storage, least=20),
            storage_type="gp3",
            storage_encrypted=True,
            db_subnet_group_name=subnets.name,
            vpc_security_group_ids=[group.id],
            publicly_accessible=False,
            username=cloud.ADMINISTRATOR,
            password=password,
            backup_retention_period=cloud.BACKUPS_KEPT,
            copy_tags_to_snapshot=True,
            deletion_protection=managed.protect,
            # `down` says that it deletes the data, and then leaves none of it.
            skip_final_snapshot=True,
            delete_automated_backups=True,
            opts=self._options(protect=managed.protect, ignore_changes=["allocatedStorage"]),
        )
