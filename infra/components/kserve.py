"""KServe in Standard mode: its manager turns an InferenceService into a Deployment and a Service.

It makes no routes (the platform sets them, with weights), fetches no models (a server verifies its own bundle) and
brings no runtime of its own (theirs lack a read-only root).
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests


@dataclass(frozen=True)
class KServeArgs:
    site: Site


class KServe(Component):
    """The revisions' operator."""

    def __init__(self, name: str, args: KServeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("serving", name, args.site, opts)
        definitions = self._create_definitions()
        self._create_manager(definitions)
        self.register_outputs({})

    def _create_definitions(self) -> HelmChart:
        full = self.site.settings.profile == "full"
        return HelmChart(
            "kserve-definitions",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="kserve_crds" if full else "kserve_crds_minimal",
                namespace=names.SERVING_OPERATOR,
                connected=False,
            ),
            self._options(),
        )

    def _create_manager(self, definitions: HelmChart) -> HelmChart:
        pin = self.site.versions.image("kserve_controller")
        registry = self.site.settings.mirror.registry or "docker.io"
        return HelmChart(
            "kserve",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="kserve",
                namespace=names.SERVING_OPERATOR,
                pods={
                    "kserve-controller-manager/manager": Requests("50m", "128Mi", memory_limit="384Mi"),
                    "kserve-controller-manager/kube-rbac-proxy": Requests("10m", "32Mi", memory_limit="128Mi"),
                },
                ingress_from=network.from_api_server(9443),
                values={
                    "kserve": {
                        "version": pin.tag,
                        "controller": {
                            "image": pin.repository(),
                            "tag": pin.tag,
                            "imagePullPolicy": "IfNotPresent",
                            # The chart's own default is Knative.
                            "deploymentMode": "Standard",
                            "gateway": {
                                "domain": self.site.settings.domain,
                                "disableIngressCreation": True,
                                "disableIstioVirtualHost": True,
                                "ingressGateway": {"enableGatewayApi": False, "createGateway": False},
                            },
                        },
                        # Its default adds a token to every revision; the account of revisions has none.
                        "security": {"autoMountServiceAccountToken": False},
                        "inferenceservice": {
                            "resources": {
                                "requests": {"cpu": "100m", "memory": "512Mi"},
                                "limits": {"cpu": "1", "memory": "1Gi"},
                            }
                        },
                        "storage": {
                            "image": f"{registry}/kserve/storage-initializer",
                            "enableModelcar": False,
                        },
                    }
                },
            ),
            self._options(definitions),
        )
