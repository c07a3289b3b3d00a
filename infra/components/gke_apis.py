"""The services of Google Cloud that must be switched on in the project. `down` leaves them on: others may use them."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from infra.components.cluster_component import ClusterComponent, ClusterSite

_ALWAYS = ("compute", "container", "iam", "cloudresourcemanager")
_MANAGED = {
    "database": ("sqladmin", "servicenetworking"),
    "object_store": ("storage",),
    "secrets": ("cloudkms",),
}


@dataclass(frozen=True)
class GkeApisArgs:
    site: ClusterSite


class GkeApis(ClusterComponent):
    """`services`: what everything else is made after."""

    def __init__(self, name: str, args: GkeApisArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        managed = args.site.settings.managed
        wanted = [*_ALWAYS, *(each for key, apis in _MANAGED.items() if getattr(managed, key) for each in apis)]
        self.services = [self._create_service(each) for each in wanted]
        self.register_outputs({})

    def _create_service(self, api: str) -> gcp.projects.Service:
        return gcp.projects.Service(
            f"{self.name}-{api}", service=f"{api}.googleapis.com", disable_on_destroy=False, opts=self._options()
        )
