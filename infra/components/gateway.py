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

from infra.components import (
    control_plane,
    envoy_gateway,
    monitoring,
    names,
    network,
    prometheus,
    registry,
    serving,
)
from infra.components.cert_manager import API, certificate_spec
from infra.components.component import Component, Site
from infra.components.pods import Requests
from slipway.targets.kubernetes.names import TLS

ENVOY = Requests("100m", "128Mi", memory_limit="512Mi")
SHUTDOWN = Requests("10m", "32Mi", memory_limit="64Mi")
_ENVOY_API = "gateway.envoyproxy.io/v1alpha1"
_GATEWAY_API = "gateway.networking.k8s.io"

# What the portal decides by; everything else stays with Envoy.
_ASKED = ("authorization", "cookie", "host", "origin", "accept", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
# What only the platform itself may say to a revision's server.
_FORBIDDEN = ("x-slipway-mirrored", "x-slipway-role")

# Envoy's own bounds (25, 50, 100 ms, ...) are too far apart to see that a version answers half as fast again.
LATENCIES = {
    "op": "add",
    "path": "/stats_config/histogram_bucket_settings",
    "value": [
        {
            "match": {"suffix": "upstream_rq_time"},
            "buckets": [
                *range(1, 7),
                *(step * scale for scale in (1, 10, 100, 1000) for step in (8, 10, 12.5, 16, 20, 25, 31.5, 40, 50, 63)),
            ],
        }
    ],
}
"""Milliseconds, a quarter apart, to a minute."""


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
            TLS,
            names.GATEWAY,
            certificate_spec(TLS, [f"*.{args.site.settings.domain}"], args.issuer),
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
                "bootstrap": {"type": "JSONPatch", "jsonPatches": [LATENCIES]},
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
                "labels": self._owner_labels() | {"slipway.dev/metrics": "true"},
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
                                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                                    }
                                ],
                                # It tells Envoy by a file in there that all requests are answered: without one, every
                                # Envoy that goes is waited for until the drain's time is over.
                                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Mi"}}],
                            }
                        }
                    }
                },
            },
        }

    def _owner_labels(self) -> dict[str, str]:
        """Ours but for those that Envoy Gateway selects its pods by: with other values its Deployment is refused."""
        return {key: value for key, value in self._labels("envoy").items() if key.startswith("slipway.dev/")}

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
                # On all that the controller makes for it.
                "infrastructure": {"labels": self._owner_labels()},
                "listeners": [
                    {
                        "name": "https",
                        "port": 443,
                        "protocol": "HTTPS",
                        "hostname": f"*.{domain}",
                        "tls": {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": TLS}]},
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
        """The portal is asked about every request, by session or token; while it cannot answer, nobody passes.

        Where the server behind a door has a login of its own, the portal answers with it.
        """
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
                        "headersToBackend": ["authorization"],
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
        """Anyone may come in; out go requests to what has routes, and to the controller."""
        parts = self.site.settings.parts
        grafana = parts.monitoring.grafana and not parts.monitoring.existing
        NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata("envoy", names.GATEWAY),
            spec=network.policy(
                names.ENVOYS,
                # Envoy listens ten thousand above a port that only root may open.
                ingress=(
                    network.anyone(10080, 10443),
                    prometheus.peer(self.site.settings, 19001),
                    # How many answers each version gave.
                    network.app("controller", 19001, namespace=names.SYSTEM),
                ),
                egress=(
                    network.DNS,
                    network.pods(envoy_gateway.CONTROLLER, envoy_gateway.XDS),
                    network.namespace(names.SYSTEM, control_plane.PORT, registry.PORT, monitoring.REPORTS_PORT),
                    network.namespace(names.SERVING, serving.PORT),
                    *((network.namespace(names.MONITORING, prometheus.GRAFANA),) if grafana else ()),
                    *((network.namespace(names.PIPELINES, 3000),) if parts.pipelines.engine == "kfp" else ()),
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
