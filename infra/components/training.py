"""Where training runs: the template of a Ray job, a standing Ray cluster where the profile keeps one, their network.

Ray listens on every address and trusts whoever reaches it, so both a token and a network policy stand before it. Which
job runs is a team's business, who fill the template in; the platform's own runs train on a Ray in their pod.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.core.v1 import ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import names, network
from infra.components.component import Component, Site
from infra.components.kuberay import DASHBOARD
from infra.components.pods import Requests

API = "ray.io/v1"
ANY = "0.0.0.0"  # noqa: S104  (inside a pod; its policy and the token decide who is answered)
RAY_VERSION = "2.60.0"
TOKEN = "ray-token"  # noqa: S105  (the Secret's name)
TEMPLATE = "ray-job-template"
HEAD = Requests("500m", "2Gi", scratch="1Gi")
"""Never less memory: the head's own processes take more than one GiB."""
WORKER = Requests("1", "2Gi", cpu_limit="2", scratch="1Gi")
GPU_WORKER = Requests("2", "8Gi", cpu_limit="4", scratch="4Gi")
RAY = {"slipway.dev/role": "ray"}
"""Label of every pod of Ray: without it nobody reaches Ray's ports."""
QUEUE = "kueue.x-k8s.io/queue-name"
ELASTIC = "kueue.x-k8s.io/elastic-job"
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
GPU_NODE = {"slipway.dev/accelerator": "nvidia"}
"""Label of GPU nodes, set on the pool: a pool from zero has no node that a device plugin could label."""


@dataclass(frozen=True)
class TrainingArgs:
    site: Site


class Training(Component):
    """Ray for everybody's training."""

    def __init__(self, name: str, args: TrainingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("training", name, args.site, opts)
        ServiceAccount(
            f"{name}-account",
            metadata=self._metadata("ray", names.TRAINING),
            automount_service_account_token=False,
            opts=self._options(),
        )
        token = self._create_secret(TOKEN, names.TRAINING, {"auth_token": self.site.secrets.read("ray_token")})
        policy = self._create_network_policy()
        if self.site.settings.parts.training.standing_cluster:
            self._create_autoscaler_policy()
        team = self.site.settings.parts.queueing.teams[0]
        self._create_config(TEMPLATE, names.TRAINING, {"rayjob.json": json.dumps(self.job(team), indent=1)})
        if self.site.settings.parts.training.standing_cluster:
            # Kueue holds a labelled cluster back until its quota admits it, and its workers as they come; without
            # being told that they come and go, it refuses a cluster that scales itself.
            self._create_custom(
                API,
                "RayCluster",
                name,
                names.TRAINING,
                self.cluster(),
                after=[token, policy],
                labels={QUEUE: team},
                annotations={ELASTIC: "true"},
            )
        self.register_outputs({})

    def job(self, team: str) -> dict[str, Any]:
        """A RayJob that brings its own cluster and takes it away; who submits it sets name and entrypoint."""
        return {
            "apiVersion": API,
            "kind": "RayJob",
            "metadata": {"namespace": names.TRAINING, "labels": self._labels("ray", team=team) | {QUEUE: team}},
            "spec": {
                "submissionMode": "HTTPMode",
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 300,
                "activeDeadlineSeconds": 3600,
                "backoffLimit": 0,
                # Kueue starts it.
                "suspend": True,
                "rayClusterSpec": self.cluster(autoscaling=False),
            },
        }

    def cluster(self, *, autoscaling: bool = True) -> dict[str, Any]:
        """A head that runs no tasks, CPU workers and, where there are GPUs, GPU workers.

        Workers begin at zero under the autoscaler. A queued job asks for all it may use at once: Kueue cannot admit
        what is not said.
        """
        part = self.site.settings.parts.training
        groups = [self._group("cpu", WORKER, part.cpu_workers, autoscaling=autoscaling)]
        if part.gpu_workers:
            groups.append(self._group("gpu", GPU_WORKER, part.gpu_workers, autoscaling=autoscaling))
        return {
            "rayVersion": RAY_VERSION,
            "enableInTreeAutoscaling": autoscaling,
            "authOptions": {"mode": "token", "secretName": TOKEN},
            "headGroupSpec": {
                "serviceType": "ClusterIP",
                "rayStartParams": {"num-cpus": "0", "dashboard-host": ANY, "object-store-memory": "100000000"},
                "template": self._pod("head", HEAD, autoscaling=autoscaling),
                **({"headService": self._head_service()} if autoscaling else {}),
            },
            "workerGroupSpecs": groups,
        } | ({"autoscalerOptions": self._autoscaler()} if autoscaling else {})

    def _head_service(self) -> dict[str, Any]:
        """Of the standing cluster. KubeRay ends the name of every job's Service in `-head-svc`, and would take this one
        over for a job that is called like the cluster."""
        return {
            "metadata": {"name": f"{self.name}-standing"},
            # As KubeRay makes its own: no address but the pod's, ready or not.
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True},
        }

    def _autoscaler(self) -> dict[str, Any]:
        return {
            "version": "v2",
            "idleTimeoutSeconds": 120,
            "resources": Requests("50m", "256Mi", memory_limit="512Mi").as_dict(),
            "securityContext": _CONTEXT,
        }

    def _group(self, name: str, requests: Requests, most: int, *, autoscaling: bool) -> dict[str, Any]:
        return {
            "groupName": name,
            "replicas": 0 if autoscaling else most,
            "minReplicas": 0 if autoscaling else most,
            "maxReplicas": most,
            "rayStartParams": {"object-store-memory": "100000000"},
            "template": self._pod(name, requests, autoscaling=False),
        }

    def _pod(self, role: str, requests: Requests, *, autoscaling: bool) -> dict[str, Any]:
        resources = requests.as_dict()
        gpu = role == "gpu"
        if gpu:
            for kind in ("requests", "limits"):
                resources[kind]["nvidia.com/gpu"] = "1"
        spec: dict[str, Any] = {
            # The autoscaler, in the head's pod, is the only one that calls the API server; KubeRay makes its account.
            **({} if autoscaling else {"serviceAccountName": "ray"}),
            "automountServiceAccountToken": autoscaling,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "ray",
                    "image": self.site.image("platform"),
                    "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
                    "resources": resources,
                    "securityContext": _CONTEXT,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}}],
        }
        if gpu:
            spec |= {"nodeSelector": GPU_NODE, "tolerations": [GPU_TAINT]}
        labels = self._labels("ray") | RAY
        return {"metadata": {"labels": labels}, "spec": spec}

    def _create_network_policy(self) -> NetworkPolicy:
        # Ray's pods are given no address and no password: a job brings what it needs.
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata("ray", names.TRAINING),
            spec=network.policy(
                RAY,
                ingress=(
                    network.pods(RAY),
                    network.namespace(names.TRAINING_OPERATOR, DASHBOARD),
                ),
                egress=(network.DNS, network.pods(RAY)),
            ),
            opts=self._options(),
        )

    def _create_autoscaler_policy(self) -> NetworkPolicy:
        """The autoscaler runs in the head's pod; workers, where tasks run, have nothing to ask the API server."""
        return NetworkPolicy(
            f"{self.name}-autoscaler-network",
            metadata=self._metadata("ray-autoscaler", names.TRAINING),
            spec=network.policy(RAY | {"ray.io/node-type": "head"}, egress=(network.API_SERVER,)),
            opts=self._options(),
        )


_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
