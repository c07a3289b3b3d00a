"""Where revisions run: their account, their secrets, the network they see, and the runtime that every one is made from.

No InferenceService and no route is here: the control plane makes one of the former for each revision, and one of the
latter for each model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.core.v1 import ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import cache, database, names, network, object_store, registry
from infra.components.component import Component, Site
from infra.components.pods import Requests

PORT = 8080
RUNTIME = "slipway"
REVISION = Requests("100m", "512Mi", memory_limit="1Gi")
"""What a revision gets whose contract says nothing."""
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
        self.register_outputs({})

    def _create_network_policy(self) -> NetworkPolicy:
        """Asked by the Gateway, the collector and the control plane; asks the registry and the feature store."""
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata("revisions", names.SERVING),
            spec=network.policy(
                {"slipway.dev/role": "revision"},
                ingress=(
                    network.namespace(names.GATEWAY, PORT),
                    network.app("collector", PORT, namespace=names.SYSTEM),
                    network.app("controller", PORT, namespace=names.SYSTEM),
                    network.namespace(names.MONITORING, PORT),
                ),
                egress=(
                    network.DNS,
                    network.app("registry", registry.PORT, namespace=names.SYSTEM),
                    network.namespace(names.DATA, cache.PORT, object_store.PORT, database.PORT),
                ),
            ),
            opts=self._options(),
        )

    def _create_runtime(self, registry_url: str) -> None:
        self._create_custom(
            "serving.kserve.io/v1alpha1",
            "ServingRuntime",
            RUNTIME,
            names.SERVING,
            {
                "supportedModelFormats": [{"name": "slipway", "version": "1", "autoSelect": True}],
                "protocolVersions": ["v1", "v2"],
                "multiModel": False,
                "containers": [self._container(registry_url)],
                "labels": {"slipway.dev/role": "revision", "slipway.dev/metrics": "true"},
                "volumes": [
                    {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
                    {"name": "state", "emptyDir": {"sizeLimit": "2Gi"}},
                ],
            },
        )

    def _container(self, registry_url: str) -> dict[str, Any]:
        def secret(name: str, key: str) -> dict[str, Any]:
            return {"secretKeyRef": {"name": name, "key": key}}

        return {
            "name": "kserve-container",
            "image": self.site.image("platform"),
            "command": ["python", "-m", "serving"],
            "args": ["--model={{.Labels.model}}", "--version={{.Labels.version}}"],
            "env": [
                {"name": "HOME", "value": "/tmp"},  # noqa: S108
                {"name": "SLIPWAY_LISTEN", "value": f"0.0.0.0:{PORT}"},
                {"name": "SLIPWAY_STATE_DIR", "value": "/state"},
                {"name": "MLFLOW_TRACKING_URI", "value": registry_url},
                {"name": "MLFLOW_TRACKING_USERNAME", "valueFrom": secret(registry.LOGIN, "username")},
                {"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": secret(registry.LOGIN, "password")},
                {"name": "SLIPWAY_ONLINE_STORE", "valueFrom": secret(cache.SECRET, "address")},
            ],
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "resources": REVISION.as_dict(),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "state", "mountPath": "/state"}],  # noqa: S108
        }
