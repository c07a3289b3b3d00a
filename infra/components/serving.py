"""Where revisions run: their account, their secrets, the network they see, and the runtime that every one is made from.

No InferenceService and no route is here: the control plane makes one of the former for each revision, and one of the
latter for each model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.core.v1 import ServiceAccount, VolumeMountArgs
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import cache, names, network, object_store, platform_pod, pods, prometheus, registry
from infra.components.component import Component, Site
from infra.components.pods import Requests, Scratch, Volume

PORT = 8080
RUNTIME = "slipway"
REVISION = Requests("100m", "512Mi", memory_limit="1Gi")
"""A runtime must say something; a revision's contract decides."""
ACCOUNT = "revision"


@dataclass(frozen=True)
class ServingArgs:
    site: Site
    registry: str
    """Address of MLflow."""


class Serving(Component):
    """The namespace of revisions, ready for the first."""

    def __init__(self, name: str, args: ServingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("serving", name, args.site, opts)
        ServiceAccount(
            f"{name}-account",
            metadata=self._metadata(ACCOUNT, names.SERVING),
            automount_service_account_token=False,
            opts=self._options(),
        )
        self._create_network_policy()
        self._create_runtime(args.registry)
        if args.site.settings.parts.gateway.enabled:
            self._create_retries()
        self.register_outputs({})

    def _create_network_policy(self) -> NetworkPolicy:
        """Asked by the Gateway, the collector and Prometheus; asks the registry, the feature store and the log."""
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata("revisions", names.SERVING),
            spec=network.policy(
                {"slipway.dev/role": "revision"},
                ingress=(
                    network.namespace(names.GATEWAY, PORT),
                    network.app("collector", PORT, namespace=names.SYSTEM),
                    prometheus.peer(self.site.settings, PORT),
                ),
                egress=(
                    network.DNS,
                    registry.PEER,
                    # Features online, and the log of what was answered.
                    cache.peer(self.site.settings),
                    object_store.peer(self.site.settings),
                ),
            ),
            opts=self._options(),
        )

    def _create_retries(self) -> None:
        """Attempts that no server has worked on are made again, at another pod of the same version if it has one.

        Not at another version: the route has written on the request who answers it.
        """
        self._create_custom(
            "gateway.envoyproxy.io/v1alpha1",
            "BackendTrafficPolicy",
            "revisions",
            names.SERVING,
            {
                "targetSelectors": [
                    {
                        "group": "gateway.networking.k8s.io",
                        "kind": "HTTPRoute",
                        "matchLabels": {"app.kubernetes.io/name": "route", "app.kubernetes.io/part-of": "slipway"},
                    }
                ],
                "retry": {
                    "numRetries": 2,
                    "retryOn": {"triggers": ["connect-failure", "refused-stream", "reset-before-request"]},
                    "perRetry": {"backOff": {"baseInterval": "25ms", "maxInterval": "250ms"}},
                },
            },
        )

    def _create_runtime(self, registry_url: str) -> None:
        """What all revisions have in common, for the control plane to copy; KServe itself never takes it.

        A revision that named it would get a container of KServe's own beside ours, which nobody hardened.
        """
        given: tuple[Volume, ...] = (
            Scratch("/tmp"),  # noqa: S108
            Scratch(platform_pod.STATE, "2Gi"),
            *platform_pod.files(registry.LOGIN, cache.SECRET, object_store.INFERENCE_LOG.secret),
        )
        volumes = [pods.volume_args(volume, RUNTIME) for volume in given]
        self._create_custom(
            "serving.kserve.io/v1alpha1",
            "ServingRuntime",
            RUNTIME,
            names.SERVING,
            {
                "disabled": True,
                "containers": [self._container(registry_url, [mount for _, mount in volumes])],
                "labels": {"slipway.dev/role": "revision", "slipway.dev/metrics": "true"},
                "volumes": [volume for volume, _ in volumes],
            },
        )

    def _container(self, registry_url: str, mounts: list[VolumeMountArgs]) -> dict[str, Any]:
        """Which model and version it serves, and what it may use, each revision says itself."""
        told = platform_pod.variables(registry_url, listen=PORT)
        return {
            "name": "kserve-container",
            "image": self.site.image("platform"),
            "command": ["python", "-m", "serving"],
            "env": [{"name": name, "value": value} for name, value in told.items()],
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "resources": REVISION.as_dict(),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": pods.USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": mounts,
        }
