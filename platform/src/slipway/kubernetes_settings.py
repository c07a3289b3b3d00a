"""The `[kubernetes]` table of an environment file: what cluster, how large, and which parts of the stack stand on it.

Checks what the file alone can tell. What only a cluster or a cloud account can tell (reachable, allowed, enough
quota) is `slipway doctor`'s.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from slipway.kubernetes_parts import PART_NAMES, PROFILES, PartSettings, PartsSettings, Profile, complete_profile
from slipway.section import LocalPath, Section
from slipway.validation import HINT, BrokenRules

Provider = Literal["kind", "existing", "eks", "gke", "aks"]

CLOUDS: tuple[Provider, ...] = ("eks", "gke", "aks")
SUPPORTED_VERSIONS = ("1.34", "1.35", "1.36")
"""Of Kubernetes: what every pinned operator supports."""

CPU_MACHINES: dict[Provider, str] = {"eks": "m7i.xlarge", "gke": "n2-standard-4", "aks": "Standard_D4s_v5"}
"""4 CPUs and 16 GiB, x86, where the settings name no machine."""

NOT_MANAGED: dict[tuple[Provider, str], str] = {
    ("gke", "cache"): "Memorystore for Valkey knows no password, and an authority of its own signs its certificates",
    ("aks", "cache"): "Azure has no managed Valkey",
    ("aks", "object_store"): "Blob Storage does not speak S3, which every part of the platform does",
}
"""Services that a cloud does not have in a form that the platform can use, and why."""

_NODES_IN_16: dict[Provider, int] = {"eks": 512, "gke": 128, "aks": 64}
"""Nodes that find room in a /16, as `infra/components` divides it; each further bit halves them."""

Count = Annotated[int, Field(strict=True, ge=0, le=1000)]

__all__ = [
    "CLOUDS", "NOT_MANAGED", "PART_NAMES", "PROFILES", "SUPPORTED_VERSIONS",
    "KubernetesSettings", "PartSettings", "PartsSettings", "Profile", "Provider",
]  # fmt: skip


class CpuNodes(Section):
    machine: str = ""
    """Machine type of the pool; empty takes the provider's default of 4 CPUs and 16 GiB. Clouds only."""
    min: Count = 1
    """Nodes that are always there. Clouds only."""
    max: Count = 4
    """Nodes that the autoscaler may reach. Clouds only."""


class GpuNodes(Section):
    machine: str = ""
    """Machine type of the GPU pool; needed as soon as `max` is above 0. Clouds only."""
    min: Count = 0
    """GPU nodes that are always there; 0 lets the pool grow from nothing. Clouds only."""
    max: Count = 0
    """GPU nodes that the autoscaler may reach; 0: there is no GPU pool. Clouds only."""
    accelerator: str = ""
    """Name of the accelerator as GKE spells it (`nvidia-l4`); the other clouds tell it by the machine type."""
    partition: Annotated[str, Field(pattern=r"^([1-7]g\.[1-9][0-9]*gb)?$")] = ""
    """Size of what GKE cuts each GPU into under `parts.gpu.sharing = "mig"`, as NVIDIA spells it: `1g.5gb`."""


class NodesSettings(Section):
    cpu: CpuNodes = CpuNodes()
    gpu: GpuNodes = GpuNodes()


class NetworkSettings(Section):
    cidr: str = "10.42.0.0/16"
    """Address range of the network that is made for the cluster. Clouds only."""
    region: str = ""
    """Region of the cluster; needed on every cloud."""
    project: str = ""
    """Google Cloud project; needed on GKE."""
    subscription: str = ""
    """Azure subscription; needed on AKS."""
    api_from: tuple[str, ...] = ()
    """Address ranges that may reach the Kubernetes API from outside; none: it answers inside the network only."""

    @field_validator("api_from")
    @classmethod
    def _are_ranges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                network = ipaddress.ip_network(each)
            except ValueError:
                raise ValueError(f"{each!r} is not an address range{HINT}`203.0.113.7/32` for one address") from None
            if network.version != 4 or network.prefixlen == 0:
                raise ValueError(f"{each} lets everybody in, or is not IPv4{HINT}the ranges that you work from")
        return value

    @field_validator("cidr")
    @classmethod
    def _is_a_private_range(cls, value: str) -> str:
        try:
            network = ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(f"not an address range{HINT}`10.42.0.0/16`: address and prefix, no host bits") from None
        if not network.is_private or network.prefixlen > 20 or network.version != 4:
            raise ValueError(f"not a private IPv4 range with room for pods{HINT}a prefix up to /20, as 10.42.0.0/16")
        return value


class ManagedSettings(Section):
    database: bool = False
    """Use the cloud's PostgreSQL instead of running one. Clouds only."""
    object_store: bool = False
    """Use the cloud's object store instead of running one. Clouds only."""
    cache: bool = False
    """Use the cloud's Valkey instead of running one. Clouds only."""
    secrets: bool = False
    """Encrypt Kubernetes Secrets with a key of the cloud's key service. Clouds only."""
    database_machine: str = ""
    """Machine type of the managed PostgreSQL; empty takes the provider's default of 2 CPUs. Clouds only."""
    protect: bool = False
    """Refuse to delete cluster, database and bucket, until this is false and `up` has run. Clouds only."""


class BackendSettings(Section):
    url: str = ""
    """Where Pulumi keeps its state: `s3://`, `gs://`, `azblob://`, `https://` or `file://`; empty: below state_dir."""
    passphrase_file: LocalPath | None = None
    """File (0600) with the passphrase that encrypts secrets in the state; unset: generated once below state_dir."""

    @field_validator("url")
    @classmethod
    def _names_a_backend(cls, value: str) -> str:
        if value and not re.match(r"(s3|gs|azblob|https|file)://\S+", value):
            raise ValueError(
                f"not a Pulumi backend{HINT}s3://, gs://, azblob://, https:// or file://, or leave it empty"
            )
        return value


class MirrorSettings(Section):
    dir: LocalPath | None = None
    """Folder that `slipway mirror pull` filled: charts and manifests are read from it. Unset: from their sources."""
    registry: str = ""
    """Registry that every image is taken from instead of its source's (`registry.example.com/mirror`)."""

    @field_validator("registry")
    @classmethod
    def _is_a_registry(cls, value: str) -> str:
        if value and not re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*", value):
            raise ValueError(
                f"not a registry{HINT}`registry.example.com/mirror`: host and path, no scheme, no last slash"
            )
        return value


class KubernetesSettings(Section):
    """Everything that an environment on Kubernetes can set. Defaults of parts are those of profile core."""

    provider: Provider = "existing"
    """Who makes the cluster: `existing` takes the one that the kubeconfig names."""
    profile: Profile = "core"
    """How much stands: `core` fits a laptop of 16 GB, `full` brings every part and spare replicas."""
    kubeconfig: LocalPath | None = None
    """File that names the cluster; unset: what kubectl would take. Only for `existing`, the others make theirs."""
    context: str = ""
    """Context in the kubeconfig; empty: the current one. Only for `existing`."""
    version: str = "1.35"
    """Kubernetes version, 1.34 to 1.36: made by the provider, demanded of an existing cluster."""
    domain: str = Field(
        default="slipway.localhost", pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$"
    )
    """Name below which every page and endpoint has its own host name."""
    storage_class: str = ""
    """StorageClass of every volume; empty: the cluster's default."""
    image: str = ""
    """The platform's own image by digest (`registry/name@sha256:...`); empty: the one in infra/versions.toml."""
    nodes: NodesSettings = NodesSettings()
    network: NetworkSettings = NetworkSettings()
    managed: ManagedSettings = ManagedSettings()
    backend: BackendSettings = BackendSettings()
    mirror: MirrorSettings = MirrorSettings()
    parts: PartsSettings = PartsSettings()

    @property
    def is_cloud(self) -> bool:
        return self.provider in CLOUDS

    @property
    def cpu_machine(self) -> str:
        """Machine type of the pool without GPUs; on a cloud only."""
        return self.nodes.cpu.machine or CPU_MACHINES[self.provider]

    def part(self, name: str) -> PartSettings:
        """The settings of one part of the stack. Raises KeyError for a name that is none."""
        if name not in PART_NAMES:
            raise KeyError(f"{name!r} is no part of the stack: {', '.join(PART_NAMES)}")
        part: PartSettings = getattr(self.parts, name)
        return part

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_the_profile_says(cls, document: Any) -> Any:
        return complete_profile(document) if isinstance(document, dict) else document

    @field_validator("version")
    @classmethod
    def _is_a_supported_version(cls, value: str) -> str:
        if value not in SUPPORTED_VERSIONS:
            raise ValueError(f"not a supported Kubernetes{HINT}one of: {', '.join(SUPPORTED_VERSIONS)}")
        return value

    @field_validator("image")
    @classmethod
    def _is_pinned_by_digest(cls, value: str) -> str:
        if value and not re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}", value):
            raise ValueError(f"not an image by digest{HINT}registry/name@sha256: and 64 hexadecimal digits")
        return value

    @model_validator(mode="after")
    def _rules_hold_together(self) -> KubernetesSettings:
        broken = [*self._provider_rules(), *self._gpu_rules()]
        broken += [(f"parts.{key}", message, hint) for key, message, hint in self.parts.broken_rules(self.profile)]
        if broken:
            raise BrokenRules(broken)
        return self

    def _provider_rules(self) -> Iterator[tuple[str, str, str]]:
        if self.is_cloud:
            yield from self._cloud_rules()
        else:
            for key, table in (("nodes", self.nodes), ("network", self.network), ("managed", self.managed)):
                if table != type(table)():
                    yield (
                        key,
                        f"only clouds have it, and the provider is {self.provider}",
                        f"leave [kubernetes.{key}] out, or provider = eks, gke or aks",
                    )
        if self.provider != "existing":
            for key, given in (("kubeconfig", self.kubeconfig), ("context", self.context)):
                if given:
                    yield key, f"provider {self.provider} makes its own", f"leave {key} out, or provider = existing"

    def _cloud_rules(self) -> Iterator[tuple[str, str, str]]:
        for key, given, provider in (
            ("region", self.network.region, self.provider),
            ("project", self.network.project, "gke"),
            ("subscription", self.network.subscription, "aks"),
        ):
            if provider == self.provider and not given:
                yield f"network.{key}", "is missing", f"the {key} that the {provider} cluster belongs to"
        cpu, gpu = self.nodes.cpu, self.nodes.gpu
        for name, least, most in (("cpu", cpu.min, cpu.max), ("gpu", gpu.min, gpu.max)):
            if least > most:
                yield f"nodes.{name}.min", f"{least} is above max {most}", "at most max"
        if cpu.max == 0:
            yield "nodes.cpu.max", "0: nothing could run", "at least 1"
        elif cpu.min == 0 and self.provider != "gke":
            yield "nodes.cpu.min", "0: what the cluster itself runs needs a node", "at least 1"
        if gpu.max and not gpu.machine:
            yield "nodes.gpu.machine", "is missing while nodes.gpu.max is above 0", "a machine type with a GPU"
        if gpu.max and not gpu.accelerator and self.provider == "gke":
            yield "nodes.gpu.accelerator", "is missing while nodes.gpu.max is above 0", "as GKE spells it: nvidia-l4"
        yield from self._partition_rules()
        for service in ("database", "object_store", "cache", "secrets"):
            reason = NOT_MANAGED.get((self.provider, service))
            if reason and getattr(self.managed, service):
                yield (
                    f"managed.{service}",
                    f"{self.provider} cannot: {reason}",
                    "leave it out: the cluster runs its own",
                )
        yield from self._room_rules()

    def _room_rules(self) -> Iterator[tuple[str, str, str]]:
        prefix = ipaddress.ip_network(self.network.cidr).prefixlen
        if prefix < 16:
            yield "network.cidr", f"/{prefix} is more than a cloud's network takes", "/16 to /20"
            return
        room = _NODES_IN_16[self.provider] >> (prefix - 16)
        # An upgrade brings one node more before it takes one away.
        needed = self.nodes.cpu.max + self.nodes.gpu.max + 1
        if needed > room:
            message = f"/{prefix} has room for {room} nodes on {self.provider}, and {needed} may be needed"
            yield "network.cidr", message, "a wider range, or a smaller nodes.cpu.max and nodes.gpu.max"

    def _partition_rules(self) -> Iterator[tuple[str, str, str]]:
        mig, size = self.parts.gpu.sharing == "mig", self.nodes.gpu.partition
        if mig and self.provider != "gke":
            yield (
                "parts.gpu.sharing",
                f"'mig': nodes that the autoscaler of {self.provider} starts take pods before their GPUs are cut up",
                "time_slicing; GKE makes such nodes itself, and those of an existing cluster stand already",
            )
        elif mig and not size:
            yield "nodes.gpu.partition", "is missing while parts.gpu.sharing is mig", "as NVIDIA spells it: 1g.5gb"
        elif size and not mig:
            yield "nodes.gpu.partition", f"{size}: GPUs are cut up under mig only", 'parts.gpu.sharing = "mig" on GKE'

    def _gpu_rules(self) -> Iterator[tuple[str, str, str]]:
        # An existing cluster may have GPU nodes; only the cluster itself can tell.
        if self.provider == "existing" or (self.is_cloud and self.nodes.gpu.max):
            return
        remedy = "set nodes.gpu.machine and nodes.gpu.max" if self.is_cloud else "a kind cluster has none: leave it out"
        for key, asked in (
            ("gpu.enabled", self.parts.gpu.enabled),
            ("training.gpu_workers", self.parts.training.gpu_workers),
            ("queueing.gpus", self.parts.queueing.gpus),
        ):
            if asked:
                yield f"parts.{key}", "asks for GPUs, but there is no GPU pool", remedy
