"""The only place that writes a pod of ours: a Deployment, Job or CronJob with everything that belongs to it.

Pod Security `restricted`, read-only root, requests and limits, an own account without a token, its volume claim, its
Service and its NetworkPolicy. What a caller does not ask for, it does not get: no port, no peer, no right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pulumi
from pulumi_kubernetes.apps.v1 import Deployment, DeploymentSpecArgs, DeploymentStrategyArgs
from pulumi_kubernetes.batch.v1 import CronJob, CronJobSpecArgs, Job, JobSpecArgs, JobTemplateSpecArgs
from pulumi_kubernetes.core.v1 import (
    ContainerArgs,
    ContainerPortArgs,
    EnvVarArgs,
    EnvVarSourceArgs,
    HTTPGetActionArgs,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpecArgs,
    PodSpecArgs,
    PodTemplateSpecArgs,
    ProbeArgs,
    SecretKeySelectorArgs,
    Service,
    ServiceAccount,
    ServicePortArgs,
    ServiceSpecArgs,
    TCPSocketActionArgs,
    VolumeResourceRequirementsArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, ObjectMetaArgs
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.rbac.v1 import PolicyRuleArgs, Role, RoleBinding, RoleRefArgs, SubjectArgs

from infra.components import network, pods
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import Claim, ConfigFiles, FromSecret, Requests, Scratch, Volume


@dataclass(frozen=True)
class Rule:
    """What an account may do in one namespace. Wildcards are refused."""

    namespace: str
    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]

    def __post_init__(self) -> None:
        if "*" in (*self.groups, *self.resources, *self.verbs):
            raise ValueError(f"a rule in {self.namespace} has a wildcard: name what is needed")


@dataclass(frozen=True)
class WorkloadArgs:
    site: Site
    part: str
    namespace: str
    image: str
    """Name of a pin in versions.toml."""
    command: tuple[str, ...] = ()
    """Empty: the image's own."""
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str | FromSecret] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Name -> port, of the pod and of its Service."""
    health: str = ""
    """Path on the first port that answers 200 when ready; empty: the port is open."""
    volumes: tuple[Volume, ...] = ()
    requests: Requests = field(default_factory=Requests)
    ingress_from: tuple[Peer, ...] = ()
    egress_to: tuple[Peer, ...] = ()
    rules: tuple[Rule, ...] = ()
    """Not empty: the pod gets a token of its account, with these rights, and reaches the API server."""
    kind: Literal["Deployment", "Job", "CronJob"] = "Deployment"
    schedule: str = ""
    """Of a CronJob; empty: it never starts by itself, Jobs are made from its template."""
    replicas: int = 1
    metrics: bool = False
    """Prometheus scrapes `/metrics` on the first port."""
    user: int = pods.USER
    labels: Mapping[str, str] = field(default_factory=dict)
    """Besides those of every object."""


class Workload(Component):
    """One program that runs in the cluster. Its objects are all called like it."""

    def __init__(self, name: str, args: WorkloadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(args.part, name, args.site, opts)
        self.args = args
        self.selector = {"app.kubernetes.io/name": name}
        self.account = self._create_account()
        self.policy = self._create_network_policy()
        self._create_claims()
        self.service = self._create_service() if args.ports else None
        self.workload = self._create_workload()
        self.register_outputs({"name": name})

    @property
    def _keeps_a_volume(self) -> bool:
        return any(isinstance(volume, Claim) for volume in self.args.volumes)

    def _create_account(self) -> ServiceAccount:
        account = ServiceAccount(
            f"{self.name}-account",
            metadata=self._metadata(self.name, self.args.namespace),
            automount_service_account_token=False,
            opts=self._options(),
        )
        for namespace in dict.fromkeys(rule.namespace for rule in self.args.rules):
            role = Role(
                f"{self.name}-role-{namespace}",
                metadata=self._metadata(self.name, namespace),
                rules=[
                    PolicyRuleArgs(api_groups=list(rule.groups), resources=list(rule.resources), verbs=list(rule.verbs))
                    for rule in self.args.rules
                    if rule.namespace == namespace
                ],
                opts=self._options(),
            )
            RoleBinding(
                f"{self.name}-binding-{namespace}",
                metadata=self._metadata(self.name, namespace),
                role_ref=RoleRefArgs(api_group="rbac.authorization.k8s.io", kind="Role", name=self.name),
                subjects=[SubjectArgs(kind="ServiceAccount", name=self.name, namespace=self.args.namespace)],
                opts=self._options(account, role),
            )
        return account

    def _create_network_policy(self) -> NetworkPolicy:
        api_server = (network.API_SERVER,) if self.args.rules else ()
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata(self.name, self.args.namespace),
            spec=network.policy(
                self.selector,
                ingress=self.args.ingress_from,
                egress=(network.DNS, *api_server, *self.args.egress_to) if self.args.egress_to or api_server else (),
            ),
            opts=self._options(),
        )

    def _create_claims(self) -> None:
        for volume in self.args.volumes:
            if isinstance(volume, Claim):
                PersistentVolumeClaim(
                    f"{self.name}-claim",
                    metadata=self._metadata(
                        # A class that binds late would otherwise be waited for before there is a pod.
                        self.name,
                        self.args.namespace,
                        annotations={"pulumi.com/skipAwait": "true"},
                    ),
                    spec=PersistentVolumeClaimSpecArgs(
                        access_modes=["ReadWriteOnce"],
                        storage_class_name=self.site.settings.storage_class or None,
                        resources=VolumeResourceRequirementsArgs(requests={"storage": volume.size}),
                    ),
                    opts=self._options(),
                )

    def _create_service(self) -> Service:
        return Service(
            f"{self.name}-service",
            metadata=self._metadata(self.name, self.args.namespace, annotations={"pulumi.com/skipAwait": "true"}),
            spec=ServiceSpecArgs(
                type="ClusterIP",
                selector=self.selector,
                ports=[
                    ServicePortArgs(name=name, port=port, target_port=name, protocol="TCP")
                    for name, port in self.args.ports.items()
                ],
            ),
            opts=self._options(),
        )

    def _create_workload(self) -> Deployment | Job | CronJob:
        metadata = self._metadata(self.name, self.args.namespace, labels=self.args.labels)
        options = self._options(self.account, self.policy)
        template = self._pod()
        # A finished Job stays, or the next `up` would make it again; its name changes with what it runs.
        if self.args.kind == "Deployment":
            return Deployment(
                self.name,
                metadata=metadata,
                spec=DeploymentSpecArgs(
                    replicas=self.args.replicas,
                    revision_history_limit=3,
                    # Two pods never hold one volume, and a lone controller never meets its successor.
                    strategy=DeploymentStrategyArgs(
                        type="Recreate" if self._keeps_a_volume or self.args.replicas == 1 else "RollingUpdate"
                    ),
                    selector=LabelSelectorArgs(match_labels=self.selector),
                    template=template,
                ),
                opts=options,
            )
        job = JobSpecArgs(backoff_limit=6, active_deadline_seconds=1800, template=template)
        if self.args.kind == "Job":
            return Job(
                self.name,
                metadata=self._metadata(f"{self.name}-{self._fingerprint()}", self.args.namespace),
                spec=job,
                opts=options,
            )
        return CronJob(
            self.name,
            metadata=metadata,
            spec=CronJobSpecArgs(
                schedule=self.args.schedule or "0 0 31 2 *",
                suspend=not self.args.schedule,
                concurrency_policy="Forbid",
                successful_jobs_history_limit=1,
                failed_jobs_history_limit=3,
                starting_deadline_seconds=300,
                job_template=JobTemplateSpecArgs(metadata=ObjectMetaArgs(labels=self._labels(self.name)), spec=job),
            ),
            opts=options,
        )

    def _pod(self) -> PodTemplateSpecArgs:
        args = self.args
        volumes = (*args.volumes, Scratch("/tmp"))  # noqa: S108  (a folder of the pod, not of this machine)
        mounted = [pods.volume_args(volume, self.name) for volume in volumes]
        first = next(iter(args.ports), None)
        container = ContainerArgs(
            name=self.name,
            image=self.site.image(args.image),
            image_pull_policy="IfNotPresent",
            command=list(args.command) or None,
            args=list(args.arguments) or None,
            env=[_variable(name, value) for name, value in args.env.items()] or None,
            ports=[ContainerPortArgs(name=name, container_port=port) for name, port in args.ports.items()] or None,
            resources=args.requests.as_args(),
            security_context=pods.container_security(),
            volume_mounts=[mount for _, mount in mounted],
            startup_probe=self._probe(first, period=5, failures=60) if first else None,
            readiness_probe=self._probe(first, period=5, failures=3) if first else None,
            liveness_probe=self._probe(first, period=20, failures=3) if first else None,
        )
        return PodTemplateSpecArgs(
            metadata=ObjectMetaArgs(
                labels=self._labels(self.name)
                | dict(args.labels)
                | ({"slipway.dev/metrics": "true"} if args.metrics else {}),
                annotations={"slipway.dev/configuration": self._fingerprint()},
            ),
            spec=PodSpecArgs(
                service_account_name=self.name,
                automount_service_account_token=bool(args.rules),
                enable_service_links=False,
                restart_policy="Always" if args.kind == "Deployment" else "OnFailure",
                termination_grace_period_seconds=30,
                security_context=pods.pod_security(args.user),
                containers=[container],
                volumes=[volume for volume, _ in mounted],
            ),
        )

    def _probe(self, port: str, *, period: int, failures: int) -> ProbeArgs:
        return ProbeArgs(
            http_get=HTTPGetActionArgs(path=self.args.health, port=port) if self.args.health else None,
            tcp_socket=None if self.args.health else TCPSocketActionArgs(port=port),
            period_seconds=period,
            failure_threshold=failures,
            timeout_seconds=3,
        )

    def _fingerprint(self) -> str:
        """Changes with what the program is told: image, command, plain variables, configuration files."""
        plain = {name: str(value) for name, value in self.args.env.items()}
        files = [volume.content for volume in self.args.volumes if isinstance(volume, ConfigFiles)]
        told = [self.site.image(self.args.image), self.args.command, self.args.arguments, plain, files]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]


def _variable(name: str, value: str | FromSecret) -> EnvVarArgs:
    if isinstance(value, str):
        return EnvVarArgs(name=name, value=value)
    return EnvVarArgs(
        name=name,
        value_from=EnvVarSourceArgs(secret_key_ref=SecretKeySelectorArgs(name=value.name, key=value.key)),
    )
