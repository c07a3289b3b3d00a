"""Kubernetes objects as Pulumi resources: identity, names given by the provider, differences, drift."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.cluster.provider.properties import UNKNOWN

Object = dict[str, Any]

AUTONAMED = "pulumi.com/autonamed"
FORCE = "pulumi.com/patchForce"

# What the API server refuses to change. The published provider carries such a table, too.
_FIXED: dict[str, tuple[str, ...]] = {
    "Job": ("spec.template", "spec.selector", "spec.completions", "spec.completionMode"),
    "Deployment": ("spec.selector",),
    "DaemonSet": ("spec.selector",),
    "StatefulSet": ("spec.selector", "spec.serviceName", "spec.volumeClaimTemplates", "spec.podManagementPolicy"),
    "RoleBinding": ("roleRef",),
    "ClusterRoleBinding": ("roleRef",),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.storageClassName", "spec.volumeName", "spec.selector"),
    "StorageClass": ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
    "Secret": ("type",),
    "CustomResourceDefinition": ("spec.group", "spec.scope", "spec.names.kind", "spec.names.plural"),
}
_IDENTITY = ("apiVersion", "kind", "metadata.name", "metadata.namespace")
_SERVER_SET = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


class Identity(NamedTuple):
    api_version: str
    kind: str
    namespace: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class Change(NamedTuple):
    path: str
    what: str
    """`add`, `delete` or `update`."""
    replaces: bool


def kind_of_type(token: str) -> tuple[str, str]:
    """`kubernetes:apps/v1:Deployment` -> (`apps/v1`, `Deployment`)."""
    _, module, kind = token.split(":")
    return module.removeprefix("core/"), kind


def identify(token: str, values: Object, id_: str = "") -> Identity:
    """From the object itself, or from its type and id when there is no object."""
    api_version, kind = kind_of_type(token)
    namespace, _, name = id_.rpartition("/")
    metadata = values.get("metadata") or {}
    return Identity(
        values.get("apiVersion") or api_version,
        values.get("kind") or kind,
        namespace or metadata.get("namespace") or "",
        name or metadata["name"],
    )


def complete(token: str, name: str, inputs: Object, before: Object, seed: bytes, namespace: str) -> Object:
    """Inputs with kind, name and the provider's namespace; a name once given by us stays the same."""
    api_version, kind = kind_of_type(token)
    completed: Object = {"apiVersion": api_version, "kind": kind} | copy.deepcopy(inputs)
    metadata = completed.setdefault("metadata", {})
    if metadata == UNKNOWN:
        return completed
    if "name" not in metadata and "generateName" not in metadata:
        given = (before.get("metadata") or {}).get("name")
        metadata["name"] = given or f"{name}-{hashlib.sha256(seed).hexdigest()[:8]}"
        metadata.setdefault("annotations", {})[AUTONAMED] = "true"
    if namespace and "namespace" not in metadata:
        metadata["namespace"] = namespace
    return completed


def list_changes(before: Object, after: Object, *, mutable: frozenset[str]) -> list[Change]:
    """What differs, by path, and whether it can only be had by making the object anew.

    `mutable`: which of ConfigMap and Secret may change their data in place; by default the published provider
    replaces them.
    """
    kind = after.get("kind", "")
    fixed = _IDENTITY + _FIXED.get(kind, ())
    if kind in ("ConfigMap", "Secret") and kind not in mutable:
        fixed += ("data", "binaryData", "stringData")
    return [
        Change(path, what, any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fixed))
        for path, what in _differences("", before, after)
    ]


def without_server_fields(live: Object) -> Object:
    """The object as somebody could have written it."""
    kept = {key: copy.deepcopy(value) for key, value in live.items() if key != "status"}
    kept["metadata"] = {key: value for key, value in kept["metadata"].items() if key not in _SERVER_SET}
    return kept


def as_outputs(live: Object) -> Object:
    """What the state keeps of a live object: all but the long list of who manages which field.

    Of a definition not the schema either, which stands among the inputs: the engine writes all of its state anew at
    every step.
    """
    left_out = ("spec",) if live.get("kind") == "CustomResourceDefinition" else ()
    kept = {key: copy.deepcopy(value) for key, value in live.items() if key not in left_out}
    kept["metadata"].pop("managedFields", None)
    return kept


def silence_webhooks(wanted: Object) -> Object:
    """The same configuration, never called: where no operator runs, its webhooks would refuse every object of its."""
    if wanted.get("kind") not in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        return wanted
    never = [{"name": "no-operator-runs-here", "expression": "false"}]
    return wanted | {"webhooks": [webhook | {"matchConditions": never} for webhook in wanted.get("webhooks") or []]}


def find_drift(wanted: Any, applied: Any, live: Any) -> Any:
    """What was wanted, with the live value wherever it is not what applying it again would give.

    `applied` is what a dry run of `wanted` gives: it has the API server's spelling of quantities and the like, so that
    only true differences remain.
    """
    if applied == live:
        return wanted
    if isinstance(wanted, dict) and isinstance(applied, dict) and isinstance(live, dict):
        return {
            key: find_drift(value, applied.get(key), live.get(key))
            for key, value in wanted.items()
            # A key that is only written (stringData) is in neither; one that somebody removed is in the first.
            if key in live or key not in applied
        }
    if isinstance(wanted, list) and isinstance(applied, list) and isinstance(live, list):
        if len(wanted) == len(applied) == len(live):
            return [find_drift(*items) for items in zip(wanted, applied, live, strict=True)]
        return live
    return live


def _differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, str]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            place = f"{path}.{key}" if path else key
            if key not in before:
                yield place, "add"
            elif key not in after:
                yield place, "delete"
            else:
                yield from _differences(place, before[key], after[key])
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{path}[{index}]", old, new)
    elif before != after:
        yield path, "update"
