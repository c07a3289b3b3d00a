"""Pipelines: the runner, the template of a run's Job, and recurring monitors; the graph is the repository's own.

With engine `job`, a run is one Job that goes through the whole graph. With `kfp`, Kubeflow Pipelines (another
component) runs the same graph step by step, and the runner only submits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra.components import cache, database, names, network, object_store, registry
from infra.components.component import Component, Site
from infra.components.kuberay import DASHBOARD
from infra.components.pods import FromSecret, Requests, Scratch
from infra.components.training import QUEUE
from infra.components.workload import Rule, Workload, WorkloadArgs

TEMPLATE = "pipeline-run"
"""A CronJob that never starts by itself: the runner makes each run's Job from its template."""
KFP_PORT = 8888


@dataclass(frozen=True)
class PipelinesArgs:
    site: Site
    registry: str
    """Address of MLflow."""


class Pipelines(Component):
    """What starts, queues and runs training."""

    def __init__(self, name: str, args: PipelinesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pipelines", name, args.site, opts)
        self.args = args
        self._create_template()
        self._create_runner()
        self.register_outputs({})

    def _create_template(self) -> Workload:
        team = self.site.settings.parts.queueing.teams[0]
        return Workload(
            TEMPLATE,
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.TRAINING,
                image="platform",
                kind="CronJob",
                command=("python", "-m", "pipelines", "--once"),
                env=platform_environment(self.site, self.args.registry),
                volumes=(Scratch("/state", "4Gi"),),
                requests=Requests("500m", "1Gi", memory_limit="2Gi", scratch="1Gi"),
                egress_to=(*_DATA, *_RAY),
                labels={QUEUE: team, "slipway.dev/role": "pipeline-run"}
                if self.site.settings.parts.queueing.enabled
                else {"slipway.dev/role": "pipeline-run"},
            ),
            self._options(),
        )

    def _create_runner(self) -> Workload:
        engine = self.site.settings.parts.pipelines.engine
        return Workload(
            "runner",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.TRAINING,
                image="platform",
                command=("python", "-m", "pipelines"),
                env={**platform_environment(self.site, self.args.registry), "SLIPWAY_PIPELINE_ENGINE": engine},
                volumes=(Scratch("/state", "1Gi"),),
                requests=Requests("50m", "256Mi", memory_limit="512Mi"),
                egress_to=(
                    *_DATA,
                    *_RAY,
                    *((network.namespace(names.PIPELINES, KFP_PORT),) if engine == "kfp" else ()),
                ),
                rules=(
                    Rule(names.TRAINING, ("batch",), ("jobs",), ("get", "list", "watch", "create", "delete")),
                    Rule(names.TRAINING, ("batch",), ("cronjobs",), ("get",)),
                    Rule(names.TRAINING, ("ray.io",), ("rayjobs",), ("get", "list", "watch", "create", "delete")),
                    Rule(names.TRAINING, ("",), ("configmaps", "pods", "pods/log"), ("get", "list")),
                ),
            ),
            self._options(),
        )


def platform_environment(site: Site, registry_url: str) -> Mapping[str, str | FromSecret]:
    """What every process of the platform is told; passwords by reference."""
    login, objects = registry.LOGIN, object_store.INFERENCE_LOG.secret
    return {
        "HOME": "/tmp",  # noqa: S108
        "SLIPWAY_ENVIRONMENT_NAME": site.environment,
        "SLIPWAY_STATE_DIR": "/state",
        "SLIPWAY_LEDGER_URL": FromSecret(database.LEDGER.secret, "url"),
        "SLIPWAY_INFERENCE_LOG": FromSecret(objects, "root"),
        "AWS_ENDPOINT_URL_S3": FromSecret(objects, "url"),
        "AWS_ACCESS_KEY_ID": FromSecret(objects, "AWS_ACCESS_KEY_ID"),
        "AWS_SECRET_ACCESS_KEY": FromSecret(objects, "AWS_SECRET_ACCESS_KEY"),
        "AWS_REGION": FromSecret(objects, "AWS_REGION"),
        "MLFLOW_TRACKING_URI": registry_url,
        "MLFLOW_TRACKING_USERNAME": FromSecret(login, "username"),
        "MLFLOW_TRACKING_PASSWORD": FromSecret(login, "password"),
    }


_DATA = (
    network.anyone(database.PORT),
    network.namespace(names.DATA, cache.PORT, object_store.PORT, 6566, 6570),
    network.app("registry", registry.PORT, namespace=names.SYSTEM),
)
_RAY = (network.pods({"slipway.dev/role": "ray"}, DASHBOARD, 10001),)
