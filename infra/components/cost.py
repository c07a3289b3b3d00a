"""OpenCost: what each model and team costs, asked by the labels that every object carries.

Prices are the cloud's public list, or what its configuration says for hardware of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network, prometheus
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests

PORT = 9003


@dataclass(frozen=True)
class CostArgs:
    site: Site
    prometheus: str
    """Address of Prometheus."""


class Cost(Component):
    """Allocation of cost by label: `/allocation?aggregate=label:slipway.dev/model`."""

    def __init__(self, name: str, args: CostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cost", name, args.site, opts)
        HelmChart(
            "opencost",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="opencost",
                namespace=names.COST,
                pods={"opencost": Requests("20m", "64Mi", memory_limit="512Mi")},
                ingress_from=(prometheus.peer(self.site.settings, PORT),),
                # Prices of the cloud, and the samples.
                egress_to=(network.internet(443), prometheus.peer(self.site.settings, prometheus.PORT)),
                values={
                    "opencost": {
                        "ui": {"enabled": False},
                        # A second port, on which anybody who reaches it may ask.
                        "mcp": {"enabled": False},
                        "metrics": {"serviceMonitor": {"enabled": True}},
                        "prometheus": {
                            "internal": {"enabled": False},
                            "external": {"enabled": True, "url": args.prometheus},
                        },
                        "exporter": {"defaultClusterId": args.site.environment},
                    }
                },
            ),
            self._options(),
        )
        self.register_outputs({})
