"""The one Gateway: the only door, TLS on it, and authentication in front of everything behind it.

It holds no route of a part, and none of a model: parts bring theirs, and the control plane sets those of models with
their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import names, network
from infra.components.cert_manager import API, certificate_spec
from infra.components.component import Component, Site
from infra.components.pods import Requests

ENVOY = Requests("100m", "128Mi", memory_limit="512Mi")
SHUTDOWN = Requests("10m", "32Mi", memory_limit="64Mi")
_ENVOY_API = "gateway.envoyproxy.io/v1alpha1"
_GATEWAY_API = "gateway.networking.k8s.io"
_TLS = "gateway-tls"
_PROXY = {"gateway.envoyproxy.io/owning-gateway-name": names.GATEWAY_NAME}

# What the portal decides by; everything else stays with Envoy.
_ASKED = ("authorization", "cookie", "host", "origin", "accept", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
# What only the platform itself may say to a revision's server.
_FORBIDDEN = ("x-slipway-mirrored", "x-slipway-role")


@dataclass(frozen=True)
class GatewayArgs:
    site: Site
    issuer: str
    """ClusterIssuer of the certificate that browsers and clients see."""


class Gateway(Component):
    """Listens on 443 for every name below the domain; 80 only sends there."""

    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("gateway", name, args.site, opts)
        certificate = self._create_custom(
            API,
            "Certificate",
            _TLS,
            names.GATEWAY,
            certificate_spec(_TLS, [f"*.{args.site.settings.domain}"], args.issuer),
        )
        proxy = self._create_proxy()
        gateway_class = self._create_class(proxy)
        self.gateway = self._create_gateway(gateway_class, certificate)
        self._create_redirect()
        self._create_client_policy()
        self._create_authentication()
        self._create_network_policy()
        self.url = f"https://{args.site.host('portal')}"
        self.register_outputs({"url": self.url})

    def _create_proxy(self) -> CustomResource:
        """How Envoys run. What is not said here, Envoy Gateway fills in with its own image and context."""
        return self._create_custom(
            _ENVOY_API,
            "EnvoyProxy",
            names.GATEWAY_NAME,
            names.GATEWAY,
            {
                "provider": {
                    "type": "Kubernetes",
                    "kubernetes": {"envoyDeployment": self._deployment(), "envoyService": self._service()},
                },
                "shutdown": {"drainTimeout": "30s", "minDrainDuration": "5s"},
                "telemetry": {"metrics": {"prometheus": {}}},
            },
        )

    def _deployment(self) -> dict[str, Any]:
        context = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        return {
            "replicas": self.site.settings.parts.gateway.replicas,
            "container": {
                "image": self.site.image("envoy"),
                "resources": ENVOY.as_dict(),
                "securityContext": context,
            },
            "pod": {
                "labels": self._pod_labels(),
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            },
            # The second container of the pod has no fields of its own.
            "patch": {
                "type": "StrategicMerge",
                "value": {
                    "spec": {
                        "template": {
                            "spec": {
                                "automountServiceAccountToken": False,
                                "containers": [
                                    {
                                        "name": "shutdown-manager",
                                        "resources": SHUTDOWN.as_dict(),
                                        "securityContext": context,
                                    }
                                ],
                            }
                        }
                    }
                },
            },
        }

    def _pod_labels(self) -> dict[str, str]:
        """Ours but for those that Envoy Gateway selects its pods by: with other values its Deployment is refused."""
        ours = {key: value for key, value in self._labels("envoy").items() if key.startswith("slipway.dev/")}
        return ours | {"slipway.dev/metrics": "true"}

    def _service(self) -> dict[str, Any]:
        settings = self.site.settings
        if settings.provider != "kind":
            kinds = {"load_balancer": "LoadBalancer", "node_port": "NodePort", "cluster": "ClusterIP"}
            return {"type": kinds[settings.parts.gateway.exposure]}
        # A load balancer would stay pending: kind's port mappings lead to these.
        ports = [
            {"name": f"{name}-{port}", "port": port, "protocol": "TCP", "nodePort": names.NODE_PORTS[name]}
            for name, port in (("http", 80), ("https", 443))
        ]
        return {
            "type": "NodePort",
            "externalTrafficPolicy": "Cluster",
            "patch": {"type": "StrategicMerge", "value": {"spec": {"ports": ports}}},
        }

    def _create_class(self, proxy: CustomResource) -> CustomResource:
        return self._create_custom(
            f"{_GATEWAY_API}/v1",
            "GatewayClass",
            names.GATEWAY_NAME,
            None,
            {
                "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
                "parametersRef": {
                    "group": "gateway.envoyproxy.io",
                    "kind": "EnvoyProxy",
                    "name": names.GATEWAY_NAME,
                    "namespace": names.GATEWAY,
                },
            },
            after=[proxy],
        )

    def _create_gateway(self, gateway_class: CustomResource, certificate: CustomResource) -> CustomResource:
        domain = self.site.settings.domain
        routed = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {names.ROUTES_LABEL: "true"}}}}
        return self._create_custom(
            f"{_GATEWAY_API}/v1",
            "Gateway",
            names.GATEWAY_NAME,
            names.GATEWAY,
            {
                "gatewayClassName": names.GATEWAY_NAME,
                "listeners": [
                    {
                        "name": "https",
                        "port": 443,
                        "protocol": "HTTPS",
                        "hostname": f"*.{domain}",
                        "tls": {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": _TLS}]},
                        "allowedRoutes": routed,
                    },
                    {
                        "name": "http",
                        "port": 80,
                        "protocol": "HTTP",
                        "hostname": f"*.{domain}",
                        "allowedRoutes": {"namespaces": {"from": "Same"}},
                    },
                ],
            },
            after=[gateway_class, certificate],
        )

    def _create_redirect(self) -> None:
        self._create_custom(
            f"{_GATEWAY_API}/v1",
            "HTTPRoute",
            "to-https",
            names.GATEWAY,
            {
                "parentRefs": [{"name": names.GATEWAY_NAME, "sectionName": "http"}],
                "rules": [
                    {
                        "filters": [
                            {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}
                        ]
                    }
                ],
            },
            after=[self.gateway],
        )

    def _create_client_policy(self) -> None:
        self._create_custom(
            _ENVOY_API,
            "ClientTrafficPolicy",
            names.GATEWAY_NAME,
            names.GATEWAY,
            {
                "targetRefs": [self._target("https")],
                "tls": {"minVersion": "1.2"},
                "headers": {"earlyRequestHeaders": {"remove": list(_FORBIDDEN)}},
                "timeout": {"http": {"requestReceivedTimeout": "30s"}},
            },
            after=[self.gateway],
        )

    def _create_authentication(self) -> None:
        """The portal is asked about every request, by session or token; while it cannot answer, nobody passes."""
        policy = self._create_custom(
            _ENVOY_API,
            "SecurityPolicy",
            "authentication",
            names.GATEWAY,
            {
                "targetRefs": [self._target("https")],
                "extAuth": {
                    "failOpen": False,
                    "headersToExtAuth": list(_ASKED),
                    "http": {
                        "path": "/authorize",
                        "backendRefs": [{"name": "portal", "namespace": names.SYSTEM, "port": 8080}],
                    },
                },
            },
            after=[self.gateway],
        )
        self._create_custom(
            f"{_GATEWAY_API}/v1",
            "ReferenceGrant",
            "authentication",
            names.SYSTEM,
            {
                "from": [{"group": "gateway.envoyproxy.io", "kind": "SecurityPolicy", "namespace": names.GATEWAY}],
                "to": [{"group": "", "kind": "Service", "name": "portal"}],
            },
            after=[policy],
        )

    def _create_network_policy(self) -> None:
        """Anyone may come in; out go requests to the namespaces that have routes, and to the controller."""
        NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata("envoy", names.GATEWAY),
            spec=network.policy(
                _PROXY,
                # Envoy listens ten thousand above a port that only root may open.
                ingress=(network.anyone(10080, 10443), network.namespace(names.MONITORING, 19001)),
                egress=(
                    network.DNS,
                    network.pods({"control-plane": "envoy-gateway"}, 18000, 18001, 18002),
                    *(network.namespace(namespace) for namespace in (names.SYSTEM, names.SERVING, names.MONITORING)),
                ),
            ),
            opts=self._options(),
        )

    @staticmethod
    def _target(section: str) -> dict[str, str]:
        return {
            "group": _GATEWAY_API,
            "kind": "Gateway",
            "name": names.GATEWAY_NAME,
            "sectionName": section,
        }
