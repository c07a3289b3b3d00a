"""CloudNativePG: the operator that keeps PostgreSQL clusters. The cluster itself is another component."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.chart import Manifest, ManifestArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests


@dataclass(frozen=True)
class CloudNativePgArgs:
    site: Site


class CloudNativePg(Component):
    """The database's operator."""

    def __init__(self, name: str, args: CloudNativePgArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("database", name, args.site, opts)
        Manifest(
            "cloudnative-pg",
            ManifestArgs(
                site=self.site,
                part=self.part,
                pin="cloudnative_pg",
                namespace=names.DATABASE_OPERATOR,
                brings_namespace=True,
                pods={"cnpg-controller-manager": Requests("20m", "128Mi", memory_limit="256Mi")},
                ingress_from=network.from_api_server(9443),
                # The operator asks each instance how it is.
                egress_to=(network.namespace(names.DATA, 8000),),
            ),
            self._options(),
        )
        self.register_outputs({})
