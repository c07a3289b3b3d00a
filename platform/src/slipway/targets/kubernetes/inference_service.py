"""One revision as KServe's InferenceService: what is asked for, and whether it is there.

Image, settings, secrets and volumes are those of the ServingRuntime that the infrastructure program makes; what differs
between models comes from the contract. The runtime is copied and not named: KServe takes a named one without
`storageUri` for a server of many models, and puts a container of its own beside it that nobody hardened. There is no
`storageUri`, since the server fetches and verifies its bundle itself, and no `spec.canary`, since a revision is one
object and stays what it is.
"""

from __future__ import annotations

from typing import Any

from slipway.contract import Contract, Resources
from slipway.targets.kubernetes import names

API, PLURAL = "serving.kserve.io/v1beta1", "inferenceservices"
RUNTIME_API, RUNTIME_PLURAL = "serving.kserve.io/v1alpha1", "servingruntimes"

Object = dict[str, Any]

USER = 65532
GRACE = 45
"""Seconds between the order to stop and the kill: the pause for routes to forget the pod, and the last answers."""
_PAUSE = 5
_CPU_LIMIT_FACTOR = 2
"""A start loads libraries and verifies a bundle: more than the answers afterwards need."""


def describe(contract: Contract, version: int, environment: str, runtime: Object) -> Object:
    """The object to apply; `runtime` is the live ServingRuntime."""
    model = contract.model
    labels = {
        names.MODEL_LABEL: model,
        names.VERSION_LABEL: str(version),
        "app.kubernetes.io/name": "revision",
        "app.kubernetes.io/component": "serving",
        "app.kubernetes.io/part-of": "slipway",
        "app.kubernetes.io/managed-by": "slipway",
        "slipway.dev/environment": environment,
        "slipway.dev/team": names.label_value(contract.owner.team),
        "slipway.dev/role": "revision",
    }
    return {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {
            "name": names.revision_name(model, version),
            "namespace": names.NAMESPACE,
            "labels": labels,
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                # Replicas are the contract's; an autoscaler would take them over.
                "serving.kserve.io/autoscalerClass": "none",
            },
        },
        "spec": {"predictor": _predictor(contract, version, labels, runtime["spec"])},
    }


def _predictor(contract: Contract, version: int, labels: dict[str, str], runtime: Object) -> Object:
    replicas = contract.serving.replicas
    return {
        "minReplicas": replicas,
        "maxReplicas": replicas,
        "labels": {**runtime.get("labels", {}), **labels},
        "serviceAccountName": names.ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(contract, version, runtime)],
        "volumes": runtime.get("volumes", []),
        **_placement(contract.serving.resources),
    }


def _container(contract: Contract, version: int, runtime: Object) -> Object:
    (template,) = runtime["containers"]
    return {
        **template,
        "args": [f"--model={contract.model}", f"--version={version}"],
        "resources": _resources(contract.serving.resources),
        # The model's own readiness: the server's is true before the golden requests are answered.
        "readinessProbe": _probe(contract.model, period=5, failures=3),
        "startupProbe": _probe(contract.model, period=2, failures=90),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PAUSE}}},
    }


def _resources(asked: Resources) -> Object:
    devices = {names.ACCELERATOR_RESOURCE: str(asked.gpu)} if asked.gpu else {}
    cpu = round(asked.cpu * 1000)
    return {
        "requests": {"cpu": f"{cpu}m", "memory": asked.memory, "ephemeral-storage": "64Mi", **devices},
        "limits": {
            "cpu": f"{cpu * _CPU_LIMIT_FACTOR}m",
            "memory": asked.memory,
            "ephemeral-storage": "2Gi",
            **devices,
        },
    }


def _placement(asked: Resources) -> Object:
    """GPU pods go to GPU nodes and nowhere else; the taint keeps all others from there."""
    if not asked.gpu:
        return {}
    return {"nodeSelector": names.ACCELERATOR, "tolerations": [names.ACCELERATOR_TAINT]}


def _probe(model: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": f"/v2/models/{model}/ready", "port": names.PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
        "successThreshold": 1,
    }


def version_of(live: Object) -> int:
    return int(live["metadata"]["labels"][names.VERSION_LABEL])


def is_ready(live: Object) -> bool:
    """Whether what was last applied is ready; what was true of an earlier state does not count."""
    status = live.get("status") or {}
    if live["metadata"].get("deletionTimestamp") or status.get("observedGeneration") != live["metadata"]["generation"]:
        return False
    return conditions(live).get("Ready", {}).get("status") == "True"


def conditions(live: Object) -> dict[str, Object]:
    """By type."""
    return {condition["type"]: condition for condition in (live.get("status") or {}).get("conditions") or []}


def explain(live: Object | None) -> str:
    """Why it is not ready, as KServe says it."""
    if live is None:
        return "its InferenceService is gone"
    bad = [
        f"{kind}: {condition.get('message') or condition.get('reason') or condition['status']}"
        for kind, condition in sorted(conditions(live).items())
        if condition["status"] != "True"
    ]
    return "; ".join(bad) or "KServe has not looked at it: does its manager run?"
