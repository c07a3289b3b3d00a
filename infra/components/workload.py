"""The only place that writes a pod of ours: a Deployment, Job or CronJob with everything that belongs to it.

Pod Security `restricted`, read-only root, requests and limits, an own account without a token, its volume claim, its
certificate, its Service and its NetworkPolicy. What a caller does not ask for, it does not get: no port, no peer, no
right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi
from pulumi_kubernetes.apps.v1 import Deployment, DeploymentSpecArgs, DeploymentStrategyArgs
from pulumi_kubernetes.batch.v1 import CronJob, CronJobSpecArgs, Job, JobSpecArgs, JobTemplateSpecArgs
from pulumi_kubernetes.core.v1 import (
    ContainerArgs,
    ContainerPortArgs,
    EnvVarArgs,
    EnvVarSourceArgs,
    ExecActionArgs,
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

from infra.components import names, network, pods
from infra.components.cert_manager import API, certificate_spec
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import Claim, ConfigFiles, FromSecret, Requests, Scratch, SecretFiles, Volume

CERTIFICATE = "/etc/certificate"
"""Where a program that speaks TLS finds `tls.crt` and `tls.key`."""


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
    tls: bool = False
    """It speaks TLS on its first port, with a certificate of its Service's names, which it finds in `CERTIFICATE`."""
    health: str = ""
    """Path on the first port that answers 200 when ready; empty: the port is open."""
    alive: tuple[str, ...] = ()
    """A command in its container that succeeds while it is alive, where no port tells or a port tells too little."""
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
    succession: Literal["gap", "overlap"] = "gap"
    """Of a lone pod and the one that replaces it: never two at once, or never none."""
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
        self.fingerprint = self._create_fingerprint()
        self.account = self._create_account()
        self.policy = self._create_network_policy()
        self._create_claims()
        if args.tls:
            self._create_certificate()
        self.service = self._create_service() if args.ports else None
        self.workload = self._create_workload()
        self.register_outputs({"name": name})

    @property
    def _certificate(self) -> str:
        return f"{self.name}-tls"

    @property
    def _never_meets_another(self) -> bool:
        """Two pods never hold one volume, and a lone controller decides alone."""
        keeps_a_volume = any(isinstance(volume, Claim) for volume in self.args.volumes)
        return keeps_a_volume or (self.args.replicas == 1 and self.args.succession == "gap")

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

    def _create_certificate(self) -> None:
        """Renewed by cert-manager, long before it ends; the kubelet then changes the files under the program."""
        hosts = names.service_names(self.name, self.args.namespace)
        spec = certificate_spec(self._certificate, hosts, names.GATEWAY_NAME)
        self._create_custom(API, "Certificate", self.name, self.args.namespace, spec)

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
        if self.args.kind == "Deployment":
            return Deployment(
                self.name,
                metadata=metadata,
                spec=DeploymentSpecArgs(
                    replicas=self.args.replicas,
                    revision_history_limit=3,
                    strategy=DeploymentStrategyArgs(type="Recreate" if self._never_meets_another else "RollingUpdate"),
                    selector=LabelSelectorArgs(match_labels=self.selector),
                    template=template,
                ),
                # In place the API server refuses it: the defaults of rolling updates stay, and Recreate has none.
                opts=self._options(
                    self.account,
                    self.policy,
                    replace_on_changes=["spec.strategy.type"],
                    delete_before_replace=True,
                ),
            )
        # A finished Job stays, or the next `up` would make it again; its name changes with what it runs.
        job = JobSpecArgs(backoff_limit=6, active_deadline_seconds=1800, template=template)
        if self.args.kind == "Job":
            return Job(
                self.name,
                # A password that it was told has changed: it has to tell others the new one.
                metadata=ObjectMetaArgs(
                    name=pulumi.Output.concat(self.name, "-", self.fingerprint),
                    namespace=self.args.namespace,
                    labels=self._labels(self.name),
                ),
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
        certificate = (SecretFiles(CERTIFICATE, self._certificate, only=("tls.crt", "tls.key")),) if args.tls else ()
        volumes = (*args.volumes, *certificate, Scratch("/tmp"))  # noqa: S108  (a folder of the pod)
        mounted = [pods.volume_args(volume, self.name) for volume in volumes]
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
            startup_probe=self._probe(period=5, failures=60),
            readiness_probe=self._probe(period=5, failures=3),
            liveness_probe=self._alive() or self._probe(period=20, failures=3),
        )
        return PodTemplateSpecArgs(
            metadata=ObjectMetaArgs(
                labels=self._labels(self.name)
                | dict(args.labels)
                | ({"slipway.dev/metrics": "true"} if args.metrics else {}),
                annotations={"slipway.dev/configuration": self.fingerprint},
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

    def _probe(self, *, period: int, failures: int) -> ProbeArgs | None:
        port = next(iter(self.args.ports), None)
        # A connection that is only opened is a failed handshake, and a line in the server's log.
        if port is None or (self.args.tls and not self.args.health):
            return self._alive(failures=failures)
        scheme = "HTTPS" if self.args.tls else None
        return ProbeArgs(
            http_get=HTTPGetActionArgs(path=self.args.health, port=port, scheme=scheme) if self.args.health else None,
            tcp_socket=None if self.args.health else TCPSocketActionArgs(port=port),
            period_seconds=period,
            failure_threshold=failures,
            timeout_seconds=3,
        )

    def _alive(self, *, failures: int = 3) -> ProbeArgs | None:
        if not self.args.alive:
            return None
        command = ExecActionArgs(command=list(self.args.alive))
        return ProbeArgs(exec_=command, period_seconds=20, failure_threshold=failures, timeout_seconds=10)

    def _create_fingerprint(self) -> pulumi.Output[str]:
        """Changes with what the program is told: image, command, variables, and what its Secrets and files hold."""
        args = self.args
        env = {name: str(value) for name, value in args.env.items()}
        told = [self.site.image(args.image), args.command, args.arguments, env]
        read = {("Secret", value.name) for value in args.env.values() if isinstance(value, FromSecret)}
        read |= {("Secret", volume.name) for volume in args.volumes if isinstance(volume, SecretFiles)}
        read |= {("ConfigMap", volume.name) for volume in args.volumes if isinstance(volume, ConfigFiles)}
        digests = [self.site.contents.digest(kind, args.namespace, name) for kind, name in sorted(read)]
        return pulumi.Output.all(*digests).apply(lambda each: _digest([*told, each]))


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]


def _variable(name: str, value: str | FromSecret) -> EnvVarArgs:
    if isinstance(value, str):
        return EnvVarArgs(name=name, value=value)
    return EnvVarArgs(
        name=name,
        value_from=EnvVarSourceArgs(secret_key_ref=SecretKeySelectorArgs(name=value.name, key=value.key)),
    )
