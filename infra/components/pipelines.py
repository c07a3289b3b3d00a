"""Pipelines: the runner, the template of a run's Job, and recurring monitors; the graph is the repository's own.

With engine `job`, a run is one Job that goes through the whole graph. With `kfp`, Kubeflow Pipelines (another
component) runs the same graph step by step; the runner submits it, with the pods that are described here for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import cache, database, names, network, object_store, platform_pod, registry
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import ConfigFiles, Requests, Scratch
from infra.components.training import QUEUE
from infra.components.workload import Rule, Workload, WorkloadArgs
from slipway import step_pods
from slipway.step_pods import StepPods

TEMPLATE = "pipeline-run"
"""A CronJob that never starts by itself: the runner makes each run's Job from its template."""
KFP_PORT = 8888
STEP, ROLE = "pipeline-step", "slipway.dev/role"
"""What Kubeflow Pipelines' pods of our steps are called by their labels, and by which."""
_STEP_PODS = "step-pods"
_RUN = Requests("500m", "2560Mi", memory_limit="4Gi", scratch="1Gi")
"""Of a run that is one pod, and of a step that is one. With Ray's own processes the example on two months took 2,260
MiB (PSS).
"""


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
        if self.site.has_kubeflow:
            self._create_step_pods()
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
                env=platform_pod.variables(self.args.registry),
                volumes=(Scratch(platform_pod.STATE, "4Gi"), *platform_pod.files(*_GIVEN, *_READ)),
                requests=_RUN,
                egress_to=(*self._data(), cache.peer(self.site.settings)),
                labels={QUEUE: team, "slipway.dev/role": "pipeline-run"}
                if self.site.settings.parts.queueing.enabled
                else {"slipway.dev/role": "pipeline-run"},
            ),
            self._options(),
        )

    def _create_step_pods(self) -> None:
        """For the runner: nothing here is secret. What signs is given to the step that registers, and to no other."""
        told = StepPods(
            server=f"http://{names.service('ml-pipeline', names.PIPELINES)}:{KFP_PORT}",
            image=self.site.image("platform"),
            variables=platform_pod.variables(self.args.registry),
            labels=self._labels(STEP) | {ROLE: STEP},
            folders={platform_pod.STATE: "4Gi", "/tmp": "1Gi"},  # noqa: S108  (of the pod)
            resources=_RUN.as_dict(),
            secrets={
                step: platform_pod.folders(object_store.PIPELINES.secret, *secrets) for step, secrets in _STEPS.items()
            },
        )
        self._create_config(_STEP_PODS, names.TRAINING, {step_pods.FILE: told.to_json()})

    def _create_runner(self) -> Workload:
        kubeflow = self.site.has_kubeflow
        return Workload(
            "runner",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.TRAINING,
                image="platform",
                command=("python", "-m", "pipelines"),
                alive=platform_pod.alive("runner"),
                env=platform_pod.variables(self.args.registry),
                volumes=(
                    Scratch(platform_pod.STATE, "1Gi"),
                    *platform_pod.files(*_GIVEN, *((object_store.PIPELINES.secret,) if kubeflow else ())),
                    *((ConfigFiles(f"{platform_pod.MOUNTS}/{step_pods.FOLDER}", _STEP_PODS),) if kubeflow else ()),
                ),
                requests=Requests("50m", "256Mi", memory_limit="512Mi"),
                egress_to=(
                    *self._data(),
                    *((network.namespace(names.PIPELINES, KFP_PORT),) if kubeflow else ()),
                ),
                rules=(
                    Rule(names.TRAINING, ("batch",), ("jobs",), ("get", "list", "watch", "create", "delete")),
                    Rule(names.TRAINING, ("batch",), ("cronjobs",), ("get",)),
                    Rule(names.TRAINING, ("",), ("pods", "pods/log"), ("get", "list")),
                ),
            ),
            self._options(),
        )

    def _data(self) -> tuple[Peer, ...]:
        settings = self.site.settings
        return database.peer(settings), object_store.peer(settings), registry.PEER


_READ = (object_store.FEATURES.secret, object_store.SNAPSHOTS.secret)
"""What only the run itself needs: what was published, and where the rows it takes of it are kept."""
_STEPS: dict[str, tuple[str, ...]] = {
    "snapshot": _READ,
    "validate": (),
    "train": (),
    # The champion's features, where they are of another service.
    "evaluate": (registry.LOGIN, object_store.FEATURES.secret),
    "gate": (database.LEDGER.secret,),
    "register": (registry.LOGIN, platform_pod.SIGNING),
}
"""Step -> what it is given beside the environment and the place where it says how it is getting on."""
_GIVEN = (database.LEDGER.secret, object_store.INFERENCE_LOG.secret, registry.LOGIN, platform_pod.SIGNING)
