"""What is imposed on objects that a chart or manifest brings: our labels, requests, security context, image registry.

Works on rendered objects as plain dictionaries, so that init containers are covered like the others. Of pods that an
operator makes later it reaches the images that the operator is told of, in whatever text; the rest is set in the
operator's own objects, and the policy pack looks at both. Definitions lose the prose of their schemas.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.components.pods import Requests
from infra.quantity import parse_quantity

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
BASELINE = RESTRICTED | {"pod-security.kubernetes.io/enforce": "baseline"}
PRIVILEGED = RESTRICTED | {"pod-security.kubernetes.io/enforce": "privileged"}
"""Labels of a namespace: what it refuses, and what it at least writes down."""
_TMP = "slipway-tmp"
_VALUES = ("default", "enum", "example")
"""Of a schema: what is in there is data."""


@dataclass(frozen=True)
class Hardening:
    """What to impose; `restricted = False` leaves security contexts alone (a device plugin), everything else stays."""

    labels: Mapping[str, str]
    pods: Mapping[str, Requests] = field(default_factory=dict)
    """Workload, or workload/container, -> what its first container, or that one, requests; the others get little."""
    image: Callable[[str], str] = str
    """What to run in place of an image: the same by digest, or from a mirror."""
    text: Callable[[str], str] = str
    """The same for the images within a text: arguments, variables, files in a ConfigMap, fields of custom resources."""
    restricted: bool = True

    def apply(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The same object with everything imposed; the given one stays as it is."""
        changed = copy.deepcopy(dict(document))
        metadata = changed.setdefault("metadata", {})
        # What the chart says about names and selectors stays; ours are added beside it.
        metadata["labels"] = {**self.labels, **(metadata.get("labels") or {})}
        if changed.get("kind") == "CustomResourceDefinition":
            changed["spec"] = _without_prose(changed["spec"])
        elif changed.get("kind") != "Secret":
            changed = {key: value if key == "metadata" else self._name(value) for key, value in changed.items()}
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

    def _name(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._name(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._name(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def _request(self, container: dict[str, Any], workload: str, position: int) -> None:
        declared = self.pods.get(f"{workload}/{container['name']}") or (
            self.pods.get(workload) if not position else None
        )
        if declared:
            container["resources"] = declared.as_dict()
            return
        container["resources"] = _complete(container.get("resources") or {})


def _complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a chart says of a container's resources, and the rest in accordance with it: no request is above its limit.

    Where the chart itself says so, which Kubernetes would refuse, its request decides.
    """
    requests, limits = ({**(given.get(kind) or {})} for kind in ("requests", "limits"))
    modest = Requests("10m", "32Mi", memory_limit="128Mi").as_dict()
    for name, least in modest["requests"].items():
        requests.setdefault(name, min(least, limits.get(name, least), key=parse_quantity))
    for name, most in modest["limits"].items():
        limits.setdefault(name, most)
    for name in requests.keys() & limits.keys():
        limits[name] = max(limits[name], requests[name], key=parse_quantity)
    return {**given, "requests": requests, "limits": limits}


def _without_prose(schema: Any) -> Any:
    """Without descriptions: two thirds of a definition, which the engine would write into its state at every step."""
    if isinstance(schema, dict):
        return {
            key: value if key in _VALUES else _without_prose(value)
            for key, value in schema.items()
            # A field may be called so, too; then it is a schema.
            if not (key == "description" and isinstance(value, str))
        }
    return [_without_prose(item) for item in schema] if isinstance(schema, list) else schema


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
