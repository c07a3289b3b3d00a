"""Envoy Gateway: the controller that turns Gateways and routes into Envoys, and the Gateway API's definitions.

Its certificates come from cert-manager: the chart makes them in a Helm hook, which is not run. The Gateway itself is
another component.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.cert_manager import API, certificate_spec
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests

CONTROLLER = {"control-plane": "envoy-gateway"}
"""Label that its chart gives the controller."""
XDS = 18000
"""Where Envoys ask it what to do."""


@dataclass(frozen=True)
class EnvoyGatewayArgs:
    site: Site
    issuer: str
    """ClusterIssuer for the connection between controller and Envoys."""


class EnvoyGateway(Component):
    """The gateway's operator."""

    def __init__(self, name: str, args: EnvoyGatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("gateway", name, args.site, opts)
        existing = args.site.settings.parts.gateway.existing
        before: list[pulumi.Resource] = [self._create_definitions(gateway_api=not existing)]
        if existing:
            before.append(self._look_up_definition("gateways.gateway.networking.k8s.io"))
        before += self._create_certificates(args.issuer)
        self._create_controller(before)
        self.register_outputs({})

    def _create_definitions(self, *, gateway_api: bool) -> HelmChart:
        return HelmChart(
            "gateway-definitions",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="gateway_crds",
                namespace=names.GATEWAY,
                connected=False,
                values={
                    "crds": {
                        "gatewayAPI": {"enabled": gateway_api, "channel": "standard"},
                        "envoyGateway": {"enabled": True},
                    }
                },
            ),
            self._options(),
        )

    def _create_certificates(self, issuer: str) -> list[pulumi.Resource]:
        controller = names.service_names("envoy-gateway", names.GATEWAY)
        certificates: list[pulumi.Resource] = [
            self._create_custom(API, "Certificate", secret, names.GATEWAY, certificate_spec(secret, host_names, issuer))
            for secret, host_names in (("envoy-gateway", controller), ("envoy", [f"*.{names.GATEWAY}"]))
        ]
        # Signs cookies of OpenID Connect; the controller does not start without it.
        hmac = self._create_secret(
            "envoy-oidc-hmac", names.GATEWAY, {"hmac-secret": self.site.secrets.read("gateway/oidc-hmac")}
        )
        return [*certificates, hmac]

    def _create_controller(self, before: list[pulumi.Resource]) -> HelmChart:
        image = self.site.image("envoy_gateway")
        return HelmChart(
            "envoy-gateway",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="envoy_gateway",
                namespace=names.GATEWAY,
                skip_definitions=True,
                pods={"envoy-gateway": Requests("50m", "128Mi", memory_limit="512Mi")},
                # Envoys, the most exposed of all pods, share its namespace.
                selector=CONTROLLER,
                ingress_from=(network.pods(names.ENVOYS, XDS),),
                values={
                    "crds": {"enabled": False},
                    "global": {"images": {"envoyGateway": {"image": image, "pullPolicy": "IfNotPresent"}}},
                    # A webhook whose certificate only the hook would fill in; it tells Envoys their zone.
                    "topologyInjector": {"enabled": False},
                    "config": {
                        "envoyGateway": {
                            "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
                            "provider": {
                                "type": "Kubernetes",
                                # Its default is a moving tag.
                                "kubernetes": {"shutdownManager": {"image": image}},
                            },
                        }
                    },
                },
            ),
            self._options(*before),
        )
