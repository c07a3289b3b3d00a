"""A kind cluster on this machine: one node, whose ports the gateway has on loopback.

Its network policies are enforced and its volumes lie in the node: deleting the cluster deletes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi

from infra.components import cloud, names
from infra.components.cluster_component import ClusterComponent, ClusterSite
from infra.components.kind_resource import KindCluster as KindClusterResource

HOST_PORTS = {"http": 80, "https": 443}
"""On loopback: what the pages' addresses, which name no port, lead to."""
_TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class KindClusterArgs:
    site: ClusterSite


class KindCluster(ClusterComponent):
    """`kubeconfig` holds the administrator's key."""

    def __init__(self, name: str, args: KindClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.cluster = self._create_cluster()
        self.kubeconfig = self.cluster.kubeconfig
        self.register_outputs({})

    def _create_cluster(self) -> KindClusterResource:
        settings = self.site.settings
        pin = self.site.versions.image(f"kind_node_{settings.version.replace('.', '_')}")
        image = pin.address(settings.mirror.registry)
        configuration = json.dumps(self._configuration(image), indent=1, sort_keys=True)
        return KindClusterResource(
            f"{self.name}-kind", cloud.name_of(self.site.environment), image, configuration, self._options()
        )

    def _configuration(self, image: str) -> dict[str, Any]:
        """kind's `v1alpha4`. Pods name a mirror themselves, so the node needs no list of mirrors."""
        node: dict[str, Any] = {
            "role": "control-plane",
            "image": image,
            "extraPortMappings": [
                {
                    "containerPort": names.NODE_PORTS[name],
                    "hostPort": port,
                    "listenAddress": "127.0.0.1",
                    "protocol": "TCP",
                }
                for name, port in HOST_PORTS.items()
            ],
        }
        if self.site.settings.mirror.registry and _TRUSTED.is_file():
            # A mirror is often signed by an authority of the house: the node trusts whom this machine trusts.
            node["extraMounts"] = [{"hostPath": str(_TRUSTED), "containerPath": str(_TRUSTED), "readOnly": True}]
        return {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "networking": {"apiServerAddress": "127.0.0.1"},
            "nodes": [node],
        }
