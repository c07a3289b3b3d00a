"""Components that the provider makes on its own: each rendered object becomes a resource of its own in the engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pulumi
from pulumi.provider import ConstructResult, Provider

from tests.cluster.provider import rendering
from tests.cluster.provider.objects import Object

REPORT = "SLIPWAY_TEST_REPORT"
"""File to which a JSON line is added for each thing that was not applied."""

RENDERERS: dict[str, Callable[[Object, str], list[Object]]] = {
    "kubernetes:helm.sh/v4:Chart": rendering.render_chart,
    "kubernetes:yaml/v2:ConfigFile": lambda inputs, _: rendering.render_files(inputs),
    "kubernetes:yaml/v2:ConfigGroup": lambda inputs, _: rendering.render_files(inputs),
    "kubernetes:kustomize/v2:Directory": lambda inputs, _: rendering.render_folder(inputs),
}

# Definitions and namespaces are there before what needs them, webhooks come last: they would refuse what is not ready.
_FIRST = ("Namespace", "CustomResourceDefinition")
_LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


class Rendered(pulumi.ComponentResource):
    """The component that the program asked for."""


class Child(pulumi.CustomResource):
    """One object of it."""


class Construction(Provider):
    """Registers what was rendered for one component. What could not be is said aloud, and has no objects."""

    def __init__(self, version: str, inputs: Object, rendered: list[Object], missing: str) -> None:
        super().__init__(version)
        self._inputs = inputs
        self._rendered = rendered
        self._missing = missing

    def construct(
        self,
        name: str,
        resource_type: str,
        inputs: Mapping[str, pulumi.Input[Any]],
        options: pulumi.ResourceOptions | None = None,
    ) -> ConstructResult:
        component = Rendered(resource_type, name, {}, options)
        if self._missing:
            pulumi.log.warn(f"NOT APPLIED: {resource_type.rpartition(':')[2]} {name}: {self._missing}", component)
        resources = _register(component, name, resource_type, self._inputs, self._rendered)
        component.register_outputs({"resources": resources})
        return ConstructResult(urn=component.urn, state={"resources": resources})


def _register(
    component: Rendered, name: str, token: str, inputs: Object, objects: list[Object]
) -> list[pulumi.Resource]:
    prefix = inputs.get("resourcePrefix") or name
    keep = {"helm.sh/resource-policy": "keep"}
    first: list[pulumi.Resource] = []
    rest: list[pulumi.Resource] = []
    for item in sorted(complete(token, inputs, objects), key=_order):
        metadata = item["metadata"]
        group = item["apiVersion"] if "/" in item["apiVersion"] else f"core/{item['apiVersion']}"
        place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
        child = Child(
            f"kubernetes:{group}:{item['kind']}",
            f"{prefix}:{place}{metadata['name']}",
            item,
            pulumi.ResourceOptions(
                parent=component,
                depends_on=list(rest) if item["kind"] in _LAST else [] if item["kind"] in _FIRST else list(first),
                retain_on_delete=keep.items() <= (metadata.get("annotations") or {}).items() or None,
            ),
        )
        (first if item["kind"] in _FIRST else rest).append(child)
    return [*first, *rest]


def complete(token: str, inputs: Object, objects: list[Object]) -> list[Object]:
    """With the namespaces that a chart leaves to helm, and without those of what belongs to none."""
    for item in objects:
        metadata = item.setdefault("metadata", {})
        if item["kind"] in _CLUSTER_WIDE:
            metadata.pop("namespace", None)
        elif token.endswith(":Chart") and "namespace" not in metadata:
            metadata["namespace"] = inputs.get("namespace") or "default"
    return objects


def report_skipped(token: str, name: str, reason: str, inputs: Object) -> None:
    """One JSON line for each, so that a run can say by name what it did not apply."""
    if not (file := os.environ.get(REPORT)):
        return
    entry = {"type": token, "name": name, "reason": reason}
    entry |= {key: inputs[key] for key in ("chart", "version", "file", "files", "repositoryOpts") if key in inputs}
    with Path(file).open("a") as stream:
        stream.write(json.dumps(entry) + "\n")


def _order(item: Object) -> int:
    return _FIRST.index(item["kind"]) if item["kind"] in _FIRST else 9 if item["kind"] in _LAST else 5


# Charts leave the namespace to helm; these belong to none. Others that belong to none name none in charts either.
_CLUSTER_WIDE = frozenset(
    {
        "Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "StorageClass",
        "IngressClass", "RuntimeClass", "PersistentVolume", "APIService", "GatewayClass", "ClusterIssuer",
        "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ClusterServingRuntime",
        "ClusterStorageContainer", "ClusterImageCatalog", "ResourceFlavor", "ClusterQueue",
        "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "FlowSchema", "PriorityLevelConfiguration",
    }
)  # fmt: skip
