"""Kubeflow Pipelines, on our overlay: without its shipped passwords, its object store, and what V1 runs needed.

Knows no login of its own, so its pages are reached through the gateway only. Tables stay in its MySQL: PostgreSQL is
untested upstream.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import cert_manager, database, names, network, object_store, registry
from infra.components.chart import Manifest, ManifestArgs
from infra.components.component import Component, Site
from infra.components.pipelines import ROLE, STEP
from infra.components.pods import Requests

OVERLAY = "kubeflow"
_SMALL = Requests("20m", "64Mi", memory_limit="256Mi")


@dataclass(frozen=True)
class KubeflowPipelinesArgs:
    site: Site


class KubeflowPipelines(Component):
    """The engine `kfp`."""

    def __init__(self, name: str, args: KubeflowPipelinesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pipelines", name, args.site, opts)
        secrets = self._create_secrets()
        authority = self._create_custom(*cert_manager.authority_of(names.PIPELINES))
        Manifest(
            "kubeflow-pipelines",
            ManifestArgs(
                site=self.site,
                part=self.part,
                pin="kubeflow_pipelines",
                namespace=names.PIPELINES,
                overlay=OVERLAY,
                pods={
                    "metadata-envoy-deployment": _SMALL,
                    "metadata-grpc-deployment": _SMALL,
                    "ml-pipeline": Requests("100m", "256Mi", memory_limit="1Gi"),
                    "ml-pipeline-persistenceagent": Requests("50m", "128Mi", memory_limit="512Mi"),
                    "ml-pipeline-scheduledworkflow": _SMALL,
                    "ml-pipeline-ui": _SMALL,
                    "mysql": Requests("100m", "512Mi", memory_limit="1Gi"),
                    "workflow-controller": Requests("50m", "128Mi", memory_limit="512Mi"),
                },
                ingress_from=(
                    network.namespace(names.PIPELINES),
                    network.namespace(names.GATEWAY, 3000),
                    network.app("runner", 8888, namespace=names.TRAINING),
                ),
                egress_to=(
                    network.namespace(names.PIPELINES),
                    network.app("object-store", object_store.PORT, namespace=names.DATA),
                ),
            ),
            self._options(*secrets, authority, self._create_steps_policy()),
        )
        self._create_route("pipelines", names.PIPELINES, "ml-pipeline-ui", 80)
        self.register_outputs({})

    def _create_steps_policy(self) -> NetworkPolicy:
        """What a step of ours reaches beside what every pod here does."""
        return NetworkPolicy(
            f"{self.name}-steps-network",
            metadata=self._metadata(STEP, names.PIPELINES),
            spec=network.policy(
                {ROLE: STEP},
                egress=(
                    registry.PEER,
                    database.peer(self.site.settings),
                    object_store.peer(self.site.settings),
                ),
            ),
            opts=self._options(),
        )

    def _create_secrets(self) -> list[pulumi.Resource]:
        """Under the names that its Deployments read, in place of the ones that it ships."""
        objects = object_store.PIPELINES.name
        return [
            self._create_secret(
                "mysql-secret",
                names.PIPELINES,
                {"username": "root", "password": self.site.secrets.read("pipelines/mysql")},
            ),
            self._create_secret(
                "mlpipeline-minio-artifact",
                names.PIPELINES,
                {
                    "accesskey": self.site.secrets.read(f"objects/{objects}-id"),
                    "secretkey": self.site.secrets.read(f"objects/{objects}-key"),
                },
            ),
        ]
