"""A plain Job as a team queues it: restricted, with requests, held until Kueue lets it go."""

from __future__ import annotations

from typing import Any

from infra.components import names
from infra.components.training import QUEUE
from tests.cluster.lab.nodes import GPU

Object = dict[str, Any]


def describe_job(name: str, team: str, *, cpu: str, gpus: int = 0) -> Object:
    """The object to apply."""
    resources = {"cpu": cpu, "memory": "1Gi", "ephemeral-storage": "64Mi"} | ({GPU: str(gpus)} if gpus else {})
    container = {
        "name": "main",
        "image": "example.com/none:1",
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": names.TRAINING, "labels": {QUEUE: team}},
        "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }
