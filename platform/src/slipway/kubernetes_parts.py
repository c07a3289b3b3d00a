"""The parts of the stack and what each can be told: `[kubernetes.parts.<part>]`.

The defaults in the classes are those of profile `core`; `FULL` holds what profile `full` changes, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from slipway.section import Section
from slipway.validation import HINT

Profile = Literal["core", "full"]
PROFILES: tuple[Profile, ...] = ("core", "full")

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
Count = Annotated[int, Field(strict=True, ge=0, le=1000)]
Replicas = Annotated[int, Field(strict=True, ge=1, le=9)]


class PartSettings(Section):
    enabled: bool = True
    """Whether the part stands at all."""


class GatewayPart(PartSettings):
    existing: bool = False
    """The cluster has the Gateway API's definitions already: use them, never delete them."""
    replicas: Replicas = 1
    """Envoys behind the one Gateway."""
    exposure: Literal["load_balancer", "node_port", "cluster"] = "load_balancer"
    """How the Gateway is reached from outside; a kind cluster always maps ports of its node."""


class CertManagerPart(PartSettings):
    existing: bool = False
    """The cluster has cert-manager already: use it."""
    issuer: str = ""
    """ClusterIssuer that signs the gateway's certificate; empty: an authority of our own, made once."""


class DatabasePart(PartSettings):
    storage: Quantity = "5Gi"
    """Volume of each PostgreSQL instance."""
    instances: Replicas = 1
    """PostgreSQL instances; from 2 on one can fail."""


class CachePart(PartSettings):
    memory: Quantity = "128Mi"
    """What Valkey may hold before it drops the keys that are used least."""


class ObjectStorePart(PartSettings):
    storage: Quantity = "10Gi"
    """Volume of the S3 store."""


class RegistryPart(PartSettings):
    replicas: Replicas = 1
    """MLflow servers."""


class FeaturesPart(PartSettings):
    pass


class PipelinesPart(PartSettings):
    engine: Literal["job", "kfp"] = "job"
    """`job` runs the graph in one Kubernetes Job, `kfp` each step in a pod. Profile core knows `job` only."""


class TrainingPart(PartSettings):
    standing_cluster: bool = False
    """Keep a Ray cluster for jobs that people submit; a run brings a Ray of its own and takes it away."""
    cpu_workers: Count = 1
    """Ray workers that one cluster may grow to, from zero."""
    gpu_workers: Count = 0
    """Ray workers with one GPU each that one cluster may grow to, from zero; needs a GPU pool."""


class QueueingPart(PartSettings):
    cpus: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 8
    """CPUs that all training together may hold."""
    memory: Quantity = "24Gi"
    """Memory that all training together may hold."""
    gpus: Count = 0
    """GPUs that all training together may hold; needs a GPU pool."""
    teams: tuple[str, ...] = ("models",)
    """Teams with a queue of their own; a team may borrow what the others leave idle."""

    @field_validator("teams")
    @classmethod
    def _name_queues(cls, teams: tuple[str, ...]) -> tuple[str, ...]:
        # Not by the type: pydantic would call a list whose only name is wrong an empty one, too.
        if not teams:
            raise ValueError(f"training needs a queue{HINT}at least one team")
        for team in teams:
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", team):
                raise ValueError(f"{team!r} names no team{HINT}small letters, digits and `-`, first a letter")
        return teams


class ServingPart(PartSettings):
    pass


class MonitoringPart(PartSettings):
    existing: bool = False
    """The cluster has the Prometheus operator already: our monitors, rules and dashboards are given to it."""
    prometheus: bool = True
    """Bring Prometheus; without it the monitors over models still run and report."""
    grafana: bool = False
    """Bring Grafana with our dashboards."""
    metrics_server: Literal["none", "install", "existing"] = "none"
    """Resource metrics for `kubectl top`; nothing of ours needs them."""
    retention: Annotated[str, Field(pattern=r"^[1-9][0-9]*d$")] = "7d"
    """How long Prometheus keeps its samples."""
    storage: Quantity = "5Gi"
    """Volume of Prometheus."""

    @property
    def brings_grafana(self) -> bool:
        return self.grafana and self.prometheus and not self.existing


class ControlPlanePart(PartSettings):
    standby: bool = False
    """A second controller waits for the lease of the first."""


class GpuPart(PartSettings):
    enabled: bool = False
    """Whether the part stands at all; needs a GPU pool."""
    existing: bool = False
    """The cluster has a device plugin or the GPU operator already: never bring a second one."""
    sharing: Literal["none", "time_slicing", "mig"] = "none"
    """How one GPU serves several pods."""
    slices: Annotated[int, Field(strict=True, ge=2, le=16)] = 4
    """Pods that share one GPU under time slicing."""


class CostPart(PartSettings):
    enabled: bool = False
    """Whether the part stands at all; needs Prometheus. Profile full brings it."""


class PartsSettings(Section):
    gateway: GatewayPart = GatewayPart()
    cert_manager: CertManagerPart = CertManagerPart()
    database: DatabasePart = DatabasePart()
    cache: CachePart = CachePart()
    object_store: ObjectStorePart = ObjectStorePart()
    registry: RegistryPart = RegistryPart()
    features: FeaturesPart = FeaturesPart()
    pipelines: PipelinesPart = PipelinesPart()
    training: TrainingPart = TrainingPart()
    queueing: QueueingPart = QueueingPart()
    serving: ServingPart = ServingPart()
    monitoring: MonitoringPart = MonitoringPart()
    control_plane: ControlPlanePart = ControlPlanePart()
    gpu: GpuPart = GpuPart()
    cost: CostPart = CostPart()

    def broken_rules(self, profile: Profile) -> Iterator[tuple[str, str, str]]:
        """Rules between parts, as (key, what is wrong, what to do)."""
        for part, needed, why in NEEDS:
            if getattr(self, part).enabled and not getattr(self, needed).enabled:
                yield f"{part}.enabled", f"{part} needs {needed}: {why}", f"enable {needed}, or disable {part}"
        if profile == "core" and self.pipelines.engine == "kfp":
            yield (
                "pipelines.engine",
                "'kfp' belongs to profile full: its 14 Deployments do not fit core",
                'profile = "full", or engine = "job"',
            )
        if self.cost.enabled and not self.monitoring.existing and not self.monitoring.prometheus:
            yield "cost.enabled", "cost needs Prometheus", "parts.monitoring.prometheus = true, or disable cost"
        if self.gpu.enabled and self.gpu.existing and self.gpu.sharing != "none":
            yield (
                "gpu.sharing",
                "sharing is set by who installed the device plugin",
                "leave sharing out, or existing = false",
            )


PART_NAMES: tuple[str, ...] = tuple(PartsSettings.model_fields)

NEEDS: tuple[tuple[str, str, str], ...] = (
    ("gateway", "cert_manager", "TLS certificates"),
    ("database", "cert_manager", "the certificate that it shows"),
    ("cache", "cert_manager", "the certificate that it shows"),
    ("object_store", "cert_manager", "the certificate that it shows"),
    ("registry", "database", "its runs and versions"),
    ("registry", "object_store", "its artifacts"),
    ("features", "database", "the registry of features"),
    ("features", "cache", "the online values"),
    ("pipelines", "registry", "registered versions"),
    ("serving", "object_store", "the inference log"),
    ("control_plane", "database", "the release ledger"),
    ("control_plane", "serving", "the revisions that it starts"),
    ("control_plane", "gateway", "the routes that it sets"),
    ("cost", "monitoring", "the samples that it prices"),
)
"""(part, part that it needs, for what)."""

FULL: dict[str, dict[str, Any]] = {
    "gateway": {"replicas": 2},
    "database": {"instances": 2, "storage": "20Gi"},
    "cache": {"memory": "512Mi"},
    "object_store": {"storage": "50Gi"},
    "pipelines": {"engine": "kfp"},
    "training": {"standing_cluster": True, "cpu_workers": 4},
    "queueing": {"cpus": 32, "memory": "128Gi"},
    "monitoring": {"grafana": True, "retention": "30d", "storage": "20Gi"},
    "registry": {"replicas": 2},
    "control_plane": {"standby": True},
    "cost": {"enabled": True},
}
"""What profile full changes."""


def complete_profile(document: dict[str, Any]) -> dict[str, Any]:
    """The `[kubernetes]` table with what its profile says where the file says nothing.

    What has the wrong type is left as it is, for the model to refuse.
    """
    if document.get("profile") != "full":
        return document
    parts = document.get("parts", {})
    if not isinstance(parts, dict):
        return document
    filled = dict(parts)
    for name, values in FULL.items():
        given = parts.get(name, {})
        if isinstance(given, dict):
            filled[name] = values | given
    return document | {"parts": filled}
