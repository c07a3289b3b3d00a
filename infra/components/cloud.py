"""What the clouds' components share: how things are called and tagged, what a GPU node is told, the kubeconfig.

Creates nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import pulumi

from infra.components.training import GPU_NODE, GPU_TAINT

GPU_LABELS = dict(GPU_NODE)
"""On every GPU node, and from zero on the pool that grows it."""
GPU_TAINT_KEY = GPU_TAINT["key"]
GPU_TAINT_VALUE = GPU_TAINT["value"]

DATABASE_MACHINES = {"eks": "db.t4g.medium", "gke": "db-custom-2-7680", "aks": "Standard_D2ds_v5"}
"""2 CPUs, where the settings name no machine."""
DATABASE_VERSION = "17"
"""Of PostgreSQL; each of the three clouds has it."""
ADMINISTRATOR = "slipway"
"""Login of the managed database that makes the parts' own."""
BACKUPS_KEPT = 7
"""Days for which the cloud can bring the managed database back to any moment."""
NODE_DISK = 100
"""GiB of each node: images of machine learning are large."""


def name_of(environment: str) -> str:
    """The name of what a cloud shows in its lists: cluster, network, database."""
    return f"slipway-{environment}"


def short_name(environment: str, user: str) -> str:
    """For accounts of Google Cloud, which have at most 30 characters: the end is a digest when there is more."""
    name = f"{name_of(environment)}-{user}"
    return name if len(name) <= 30 else f"{name[:23].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def tags(environment: str) -> dict[str, str]:
    """The labels of every object in the cluster, spelled so that all clouds take them: for the bill."""
    return {"slipway-environment": environment, "slipway-team": "platform", "slipway-model": "shared"}


def gibibytes(quantity: str, *, least: int) -> int:
    """A Kubernetes quantity as whole GiB, rounded up."""
    units = {"Mi": 1, "Gi": 1024, "Ti": 1024**2}
    return max(least, -(-int(quantity[:-2]) * units[quantity[-2:]] // 1024))


def kubeconfig(
    name: str,
    server: pulumi.Input[str],
    authority: pulumi.Input[str],
    command: str,
    arguments: Sequence[pulumi.Input[str]],
    environment: Mapping[str, str] | None = None,
) -> pulumi.Output[str]:
    """A kubeconfig without a credential: `command` asks the cloud for one, as whoever is logged in.

    `authority`: the certificate in base64, as the clouds give it.
    """
    return pulumi.Output.all(server, authority, *arguments).apply(
        lambda known: json.dumps(_document(name, known[0], known[1], command, known[2:], environment or {}))
    )


def _document(
    name: str, server: str, authority: str, command: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> dict[str, object]:
    login = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": command,
        "args": list(arguments),
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "interactiveMode": "Never",
        "provideClusterInfo": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": {"exec": login}}],
    }
