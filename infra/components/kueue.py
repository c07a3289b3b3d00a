"""Kueue: holds jobs back until their team's quota admits them. The queues themselves are another component."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pulumi

from infra.components import names, network
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests


@dataclass(frozen=True)
class KueueArgs:
    site: Site


class Kueue(Component):
    """The queues' operator. Its webhooks fail closed, so it comes before every workload that it looks at."""

    def __init__(self, name: str, args: KueueArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("queueing", name, args.site, opts)
        pin = self.site.versions.image("kueue")
        HelmChart(
            "kueue",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="kueue",
                namespace=names.QUEUEING,
                pods={"kueue-controller-manager": Requests("50m", "128Mi", memory_limit="512Mi")},
                # Webhooks, and what waits in the queues as an API.
                ingress_from=network.from_api_server(9443, 8082),
                values={
                    "enableCertManager": False,
                    "enableKueueViz": False,
                    "controllerManager": {
                        "replicas": 1,
                        # The chart names a staging image.
                        "manager": {
                            "image": {
                                "repository": pin.repository(),
                                "tag": pin.tag,
                                "pullPolicy": "IfNotPresent",
                            }
                        },
                    },
                    "managerConfig": {"controllerManagerConfigYaml": json.dumps(configuration())},
                },
            ),
            self._options(),
        )
        self.register_outputs({})


def configuration() -> dict[str, Any]:
    """Kueue looks at jobs of the training namespace that name a queue, and at nothing else in the cluster."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": ":8443", "enableClusterQueueResources": True},
        "webhook": {"port": 9443},
        "leaderElection": {"leaderElect": True, "resourceName": "c1f6bfd2.kueue.x-k8s.io"},
        # Every pod asks for scratch space, and no queue has a quota of it: without this nothing would be admitted.
        "resources": {"excludeResourcePrefixes": ["ephemeral-storage"]},
        "manageJobsWithoutQueueName": False,
        "managedJobsNamespaceSelector": {
            "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [names.TRAINING]}]
        },
        "integrations": {"frameworks": ["batch/job", "ray.io/rayjob", "ray.io/raycluster"]},
    }
