"""Queues and quotas of training: one for CPUs, one apart for GPUs, and a door to them for each team.

CPU and GPU flavours stand in resource groups of their own. In one group, a CPU job could be placed on a GPU node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

from infra.components import names
from infra.components.component import Component, Site
from infra.components.training import GPU_NODE, GPU_TAINT

API = "kueue.x-k8s.io/v1beta2"
COHORT = "slipway"


@dataclass(frozen=True)
class QueueingArgs:
    site: Site


class Queueing(Component):
    """A ClusterQueue for each team, that lends what it does not use, and takes it back when it needs it."""

    def __init__(self, name: str, args: QueueingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("queueing", name, args.site, opts)
        self.part_settings = args.site.settings.parts.queueing
        flavors = [self._create_flavor("cpu", {})]
        if self.part_settings.gpus:
            flavors.append(self._create_flavor("gpu", {"nodeLabels": GPU_NODE, "tolerations": [GPU_TAINT]}))
        for position, team in enumerate(self.part_settings.teams):
            self._create_queues(team, position, flavors)
        self.register_outputs({"teams": list(self.part_settings.teams)})

    def _create_flavor(self, name: str, spec: dict[str, Any]) -> CustomResource:
        return self._create_custom(API, "ResourceFlavor", name, None, spec)

    def _create_queues(self, team: str, position: int, flavors: list[CustomResource]) -> None:
        queue = self._create_custom(
            API,
            "ClusterQueue",
            team,
            None,
            {
                "cohortName": COHORT,
                "queueingStrategy": "BestEffortFIFO",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": names.TRAINING}},
                "preemption": {"reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority"},
                "resourceGroups": self._groups(position),
            },
            after=flavors,
            team=team,
        )
        self._create_custom(API, "LocalQueue", team, names.TRAINING, {"clusterQueue": team}, after=[queue], team=team)

    def _groups(self, position: int) -> list[dict[str, Any]]:
        """This team's share of every quota; what does not divide evenly goes to the first teams."""
        settings, teams = self.part_settings, len(self.part_settings.teams)
        size, unit = int(settings.memory[:-2]), settings.memory[-2:]
        # In the next smaller unit, so that three teams can share one Gi.
        smaller = {"Mi": "Ki", "Gi": "Mi", "Ti": "Gi"}[unit]
        groups = [
            {
                "coveredResources": ["cpu", "memory"],
                "flavors": [
                    {
                        "name": "cpu",
                        "resources": [
                            {"name": "cpu", "nominalQuota": f"{share(settings.cpus * 1000, teams, position)}m"},
                            {"name": "memory", "nominalQuota": f"{share(size * 1024, teams, position)}{smaller}"},
                        ],
                    }
                ],
            }
        ]
        if settings.gpus:
            gpus = share(settings.gpus, teams, position)
            groups.append(
                {
                    "coveredResources": ["nvidia.com/gpu"],
                    "flavors": [{"name": "gpu", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": str(gpus)}]}],
                }
            )
        return groups


def share(total: int, parties: int, position: int) -> int:
    """What the party at `position` gets of a whole number that is divided as evenly as can be."""
    return total // parties + (1 if position < total % parties else 0)
