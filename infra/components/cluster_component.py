"""The shape of the cluster project's components: as every other, but what they make is no Kubernetes object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from infra.components.secrets import SecretStore
from slipway.kubernetes_settings import KubernetesSettings
from slipway.mirror.versions import Versions


@dataclass(frozen=True)
class ClusterSite:
    """What every component is told: the environment and its settings, the pins, the secrets."""

    environment: str
    settings: KubernetesSettings
    versions: Versions
    secrets: SecretStore


class ClusterComponent(pulumi.ComponentResource):
    """A piece of a cluster, or a service of its cloud."""

    def __init__(self, name: str, site: ClusterSite, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(f"slipway:components:{type(self).__name__}", name, {}, opts)
        self.name = name
        self.site = site

    def _options(self, *after: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        """Options of a child: this component is its parent, and it is made after `after`, destroyed before them."""
        return pulumi.ResourceOptions(parent=self, depends_on=list(after), **more)
