"""What is imposed on objects that a chart or manifest brings: our labels, requests, security context, image registry.

Works on rendered objects as plain dictionaries, so that init containers are covered like the others. It does not
reach pods that an operator makes later: those are set in the operator's own objects, and the policy pack looks at both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.components.pods import Requests

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
PRIVILEGED = {"pod-security.kubernetes.io/enforce": "privileged"} | {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("audit", "warn")
}
"""Labels of a namespace: what it refuses, and what it at least writes down."""
_TMP = "slipway-tmp"


@dataclass(frozen=True)
class Hardening:
    """What to impose; `restricted = False` leaves security contexts alone (a device plugin), everything else stays."""

    labels: Mapping[str, str]
    pods: Mapping[str, Requests] = field(default_factory=dict)
    """Workload, or workload/container, -> what its first container, or that one, requests; the others get little."""
    image: Callable[[str], str] = str
    """What to run in place of an image: the same by digest, or from a mirror."""
    restricted: bool = True

    def apply(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The same object with everything imposed; the given one stays as it is."""
        changed = copy.deepcopy(dict(document))
        metadata = changed.setdefault("metadata", {})
        # What the chart says about names and selectors stays; ours are added beside it.
        metadata["labels"] = {**self.labels, **(metadata.get("labels") or {})}
        if changed.get("kind") == "Namespace":
            metadata["labels"] |= RESTRICTED if self.restricted else PRIVILEGED
        path = _TEMPLATES.get(str(changed.get("kind")))
        if path:
            template = changed
            for key in path:
                template = template[key]
            self._impose(template, str(metadata.get("name", "")))
        return changed

    def _impose(self, template: dict[str, Any], workload: str) -> None:
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {**self.labels, **(metadata.get("labels") or {})}
        spec = template["spec"]
        for position, container in enumerate(_containers(spec)):
            self._request(container, workload, position)
            container["image"] = self.image(container["image"])
        if not self.restricted:
            return
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            spec.pop(name, None)
        context = spec.get("securityContext") or {}
        spec["securityContext"] = {
            **context,
            "runAsNonRoot": True,
            "seccompProfile": context.get("seccompProfile") or {"type": "RuntimeDefault"},
        }
        for container in _containers(spec):
            _restrict(container)
        _give_tmp(spec)

    def _request(self, container: dict[str, Any], workload: str, position: int) -> None:
        declared = self.pods.get(f"{workload}/{container['name']}") or (
            self.pods.get(workload) if not position else None
        )
        if declared:
            container["resources"] = declared.as_dict()
            return
        given = container.get("resources") or {}
        modest = Requests("10m", "32Mi", memory_limit="128Mi").as_dict()
        container["resources"] = {kind: {**modest[kind], **(given.get(kind) or {})} for kind in ("requests", "limits")}


def _containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The containers first, then the init containers."""
    yield from spec.get("containers") or []
    yield from spec.get("initContainers") or []


def _restrict(container: dict[str, Any]) -> None:
    context = container.get("securityContext") or {}
    context.pop("privileged", None)
    container["securityContext"] = {
        **context,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": context.get("seccompProfile") or {"type": "RuntimeDefault"},
    }


def _give_tmp(spec: dict[str, Any]) -> None:
    """A writable /tmp for every container that has no volume there: its root is read-only now."""
    lacking = [
        container
        for container in _containers(spec)
        if not any(mount.get("mountPath") == "/tmp" for mount in container.get("volumeMounts") or [])  # noqa: S108
    ]
    if lacking and not any(volume["name"] == _TMP for volume in spec.get("volumes") or []):
        spec["volumes"] = [*(spec.get("volumes") or []), {"name": _TMP, "emptyDir": {"sizeLimit": "64Mi"}}]
    for container in lacking:
        mount = {"name": _TMP, "mountPath": "/tmp"}  # noqa: S108
        container["volumeMounts"] = [*(container.get("volumeMounts") or []), mount]
