"""What this project hands on: how the cluster is reached, what its cloud serves, what its GPU nodes are."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from typing import Any

import pulumi

from infra.components import cloud
from infra.components.cache import ManagedCache
from infra.components.database import ManagedDatabase
from infra.components.object_store import ManagedObjectStore
from slipway.kubernetes_settings import KubernetesSettings


@dataclass(frozen=True)
class Made:
    """A cluster, from whoever made it."""

    kubeconfig: pulumi.Input[str]
    database: ManagedDatabase | None = None
    cache: ManagedCache | None = None
    object_store: ManagedObjectStore | None = None
    gpu: dict[str, str] = field(default_factory=dict)
    """What a person asks about GPU nodes; empty: there are none."""

    def export(self) -> None:
        """As `infra/services/cluster.py` reads it."""
        served = {"database": self.database, "cache": self.cache, "object_store": self.object_store}
        pulumi.export("kubeconfig", pulumi.Output.secret(self.kubeconfig))
        pulumi.export(
            "endpoints",
            pulumi.Output.secret({name: _plain(endpoint) for name, endpoint in served.items() if endpoint}),
        )
        pulumi.export("gpu", self.gpu)


def describe_gpus(settings: KubernetesSettings, driver: str) -> dict[str, str]:
    """How many, of what, how they are found, and who brings the driver."""
    pool = settings.nodes.gpu
    if not pool.max:
        return {}
    label, value = next(iter(cloud.GPU_LABELS.items()))
    return {
        "nodes": f"{pool.min} to {pool.max} of {pool.machine}",
        "label": f"{label}={value}",
        "taint": f"{cloud.GPU_TAINT_KEY}={cloud.GPU_TAINT_VALUE}:NoSchedule",
        "driver": driver,
    }


def _plain(value: Any) -> Any:
    """A dataclass as a table, its outputs as they are: the standard library's way would copy them."""
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
