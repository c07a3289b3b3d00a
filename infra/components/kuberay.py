"""KubeRay: the operator that turns RayClusters and RayJobs into pods, in the namespace of training and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests

DASHBOARD = 8265


@dataclass(frozen=True)
class KubeRayArgs:
    site: Site


class KubeRay(Component):
    """Training's operator."""

    def __init__(self, name: str, args: KubeRayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("training", name, args.site, opts)
        pin = self.site.versions.image("kuberay_operator")
        HelmChart(
            "kuberay-operator",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="kuberay",
                namespace=names.TRAINING_OPERATOR,
                pods={"kuberay-operator": Requests("50m", "128Mi", memory_limit="512Mi")},
                # It submits jobs, and asks how they are, through each head's dashboard.
                egress_to=(network.namespace(names.TRAINING, DASHBOARD),),
                values={
                    "image": {"repository": pin.repository(), "tag": pin.tag, "pullPolicy": "IfNotPresent"},
                    # Rights in one namespace instead of all: only the first two together make Roles of the ClusterRole.
                    "singleNamespaceInstall": True,
                    "crNamespacedRbacEnable": True,
                    "watchNamespace": [names.TRAINING],
                    "batchScheduler": {"enabled": False},
                    "leaderElectionEnabled": True,
                },
            ),
            self._options(),
        )
        self.register_outputs({})
