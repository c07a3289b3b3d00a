"""What a pod may ask for and what it is kept from: requests, volumes, and the one security context of the platform."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pulumi_kubernetes.core.v1 import (
    CapabilitiesArgs,
    ConfigMapVolumeSourceArgs,
    EmptyDirVolumeSourceArgs,
    KeyToPathArgs,
    PersistentVolumeClaimVolumeSourceArgs,
    PodSecurityContextArgs,
    ResourceRequirementsArgs,
    SeccompProfileArgs,
    SecretVolumeSourceArgs,
    SecurityContextArgs,
    VolumeArgs,
    VolumeMountArgs,
)

from infra.quantity import parse_quantity

USER = 65532
"""Nobody in particular: no image of ours needs an account."""


@dataclass(frozen=True)
class Requests:
    """What one container asks for. The limit of memory is the request unless said, that of CPU four times it."""

    cpu: str = "50m"
    memory: str = "128Mi"
    memory_limit: str = ""
    cpu_limit: str = ""
    scratch: str = "64Mi"
    """Ephemeral storage."""

    def as_dict(self) -> dict[str, dict[str, str]]:
        """As Kubernetes and charts write it."""
        return {
            "requests": {"cpu": self.cpu, "memory": self.memory, "ephemeral-storage": self.scratch},
            "limits": {
                "cpu": self.cpu_limit or f"{int(4000 * parse_quantity(self.cpu))}m",
                "memory": self.memory_limit or self.memory,
                # Below the request it would be refused.
                "ephemeral-storage": max(self.scratch, "2Gi", key=parse_quantity),
            },
        }

    def as_args(self) -> ResourceRequirementsArgs:
        resources = self.as_dict()
        return ResourceRequirementsArgs(requests=resources["requests"], limits=resources["limits"])


@dataclass(frozen=True)
class Scratch:
    """An empty folder that ends with the pod."""

    path: str
    size: str = "64Mi"


@dataclass(frozen=True)
class Claim:
    """A volume that outlives the pod; the workload makes its claim, named like itself."""

    path: str
    size: str


@dataclass(frozen=True)
class ConfigFiles:
    """The files of a ConfigMap."""

    path: str
    name: str


@dataclass(frozen=True)
class SecretFiles:
    """The files of a Secret, readable by the pod's user alone."""

    path: str
    name: str
    only: tuple[str, ...] = ()
    """These of its keys; none means all."""


Volume = Scratch | Claim | ConfigFiles | SecretFiles


@dataclass(frozen=True)
class FromSecret:
    """An environment variable's value: a key of a Secret."""

    name: str
    key: str


def volume_args(volume: Volume, workload: str) -> tuple[VolumeArgs, VolumeMountArgs]:
    """The volume of a pod and where its container sees it."""
    name = f"{type(volume).__name__.lower()}-{hashlib.sha256(volume.path.encode()).hexdigest()[:6]}"
    source: dict[str, Any]
    match volume:
        case Scratch():
            source = {"empty_dir": EmptyDirVolumeSourceArgs(size_limit=volume.size)}
        case Claim():
            source = {"persistent_volume_claim": PersistentVolumeClaimVolumeSourceArgs(claim_name=workload)}
        case ConfigFiles():
            source = {"config_map": ConfigMapVolumeSourceArgs(name=volume.name, default_mode=0o444)}
        case SecretFiles():
            chosen = [KeyToPathArgs(key=key, path=key) for key in volume.only] or None
            source = {"secret": SecretVolumeSourceArgs(secret_name=volume.name, items=chosen, default_mode=0o440)}
    writable = isinstance(volume, Scratch | Claim)
    return VolumeArgs(name=name, **source), VolumeMountArgs(name=name, mount_path=volume.path, read_only=not writable)


def pod_security(user: int = USER) -> PodSecurityContextArgs:
    return PodSecurityContextArgs(
        run_as_non_root=True,
        run_as_user=user,
        run_as_group=user,
        fs_group=user,
        fs_group_change_policy="OnRootMismatch",
        seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
    )


def container_security() -> SecurityContextArgs:
    return SecurityContextArgs(
        allow_privilege_escalation=False,
        capabilities=CapabilitiesArgs(drop=["ALL"]),
        privileged=False,
        read_only_root_filesystem=True,
        run_as_non_root=True,
        seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
    )
