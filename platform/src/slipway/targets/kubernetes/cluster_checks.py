"""Checks that ask the cluster: version, rights, definitions of others, nodes, storage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slipway.kubernetes_settings import SUPPORTED_VERSIONS, KubernetesSettings
from slipway.targets.finding import Finding, finding
from slipway.targets.kubernetes.examined_cluster import ExaminedCluster
from slipway.targets.kubernetes.requirements import (
    OPERATORS,
    ROOM,
    Definition,
    definitions_of,
    is_existing,
    rights_of,
)

CERT_MANAGER = "cert-manager"
_WITH_VOLUMES = ("database", "cache", "object_store", "monitoring")

_UNITS = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "k": 1e3, "M": 1e6, "G": 1e9}

Check = Callable[[ExaminedCluster, KubernetesSettings, str], Iterator[Finding]]


def check_version(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """Too old or too new, and which parts refuse."""
    told = cluster.get("/version")
    found = f"{told.get('major')}.{str(told.get('minor', '')).rstrip('+')}"
    oldest, newest = SUPPORTED_VERSIONS[0], SUPPORTED_VERSIONS[-1]
    ok = found in SUPPORTED_VERSIONS
    if ok:
        said = found if found == settings.version else f"{found} (the settings say {settings.version})"
    else:
        refusing = ", ".join(
            part for part in OPERATORS if settings.part(part).enabled and not _is_existing(settings, part)
        )
        said = f"{found} is too {'old' if _order(found) < _order(oldest) else 'new'}: refused by {refusing}"
    remedy = f"a cluster of {oldest} to {newest}, which the pinned operators of these parts are for"
    yield finding(f"Kubernetes {oldest} to {newest}", ok, said, remedy)


def _is_existing(settings: KubernetesSettings, part: str) -> bool:
    # The Gateway API's definitions may be there; Envoy Gateway is ours in any case.
    return part != "gateway" and bool(getattr(settings.part(part), "existing", False))


def check_rights(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """Every right that standing up needs and this user lacks."""
    needed = list(rights_of(settings))
    lacking: dict[str, list[str]] = {}
    # An administrator, who may do all, is asked once.
    if not cluster.may("*", "*", "*"):
        for right in needed:
            verbs = [verb for verb in right.verbs if not cluster.may(verb, right.group, right.resource)]
            if verbs:
                lacking.setdefault("/".join(verbs), []).append(right.kind)
    found = f"on {len(needed)} kinds"
    if lacking:
        found = "may not " + "; ".join(f"{verbs} {', '.join(kinds)}" for verbs, kinds in lacking.items())
    remedy = "a context of a cluster administrator: definitions and operators' roles belong to the whole cluster"
    yield finding("rights", not lacking, found, remedy)


def check_definitions(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """Definitions that are there: ours, somebody else's, or of an older version than our objects are written in."""
    for definition in definitions_of(settings):
        there = cluster.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition.name}")
        yield _definition_finding(definition, there, environment, existing=is_existing(settings, definition))


def check_issuer(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """Where a cert-manager that is not ours looks for the key of our authority."""
    part = settings.parts.cert_manager
    if not part.enabled or not part.existing:
        return
    there = cluster.get(f"/api/v1/namespaces/{CERT_MANAGER}")
    yield finding(
        f"namespace {CERT_MANAGER}",
        bool(there),
        "there" if there else "is not there, and the key of our authority belongs into cert-manager's own namespace",
        f"an existing cert-manager that runs in namespace {CERT_MANAGER}, its default",
    )


def _definition_finding(wanted: Definition, there: Mapping[str, Any], environment: str, *, existing: bool) -> Finding:
    check, key = f"definition {wanted.name}", f"kubernetes.parts.{wanted.part}.existing"
    if not there:
        said = "is not there" if existing else "not there yet"
        return finding(check, not existing, said, f"{key} = false: then it is installed")
    old = _too_old(wanted, there)
    if old:
        return finding(check, False, old, f"upgrade what brought it ({_owner_of(there) or 'unknown'}), or remove it")
    owner = _owner_of(there)
    if existing:
        return finding(check, True, f"there, of {owner or 'somebody else'}", "")
    ours = there.get("metadata", {}).get("labels", {}).get("slipway.dev/environment")
    if ours == environment:
        return finding(check, True, "there, ours", "")
    belongs = f"environment {ours}" if ours else owner or "somebody else"
    switch = f"{key} = true: then it is used, and never deleted" if _can_exist(wanted) else "another cluster"
    return finding(check, False, f"there already, of {belongs}", switch)


def _can_exist(wanted: Definition) -> bool:
    return wanted.part in ("gateway", "cert_manager", "monitoring", "gpu") and "envoyproxy" not in wanted.name


def _owner_of(there: Mapping[str, Any]) -> str:
    """Who brought a definition, as far as it says."""
    metadata = there.get("metadata", {})
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    release = annotations.get("meta.helm.sh/release-name")
    if release:
        return f"Helm release {annotations.get('meta.helm.sh/release-namespace', 'default')}/{release}"
    manager = labels.get("app.kubernetes.io/managed-by") or labels.get("app.kubernetes.io/part-of")
    return str(manager) if manager else ""


def _too_old(wanted: Definition, there: Mapping[str, Any]) -> str:
    served = {version["name"] for version in there.get("spec", {}).get("versions", ()) if version.get("served")}
    if wanted.version not in served:
        return f"serves {', '.join(sorted(served)) or 'nothing'}, not {wanted.version}"
    bundle = (there.get("metadata", {}).get("annotations") or {}).get(wanted.bundle, "")
    if bundle and wanted.least and _order(bundle) < _order(wanted.least):
        return f"is {bundle}, older than {wanted.least}"
    return ""


def check_nodes(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """Nodes that are ready, and what they can give."""
    nodes = cluster.get("/api/v1/nodes").get("items", [])
    ready = [node for node in nodes if _is_ready(node)]
    yield finding(
        "nodes are ready",
        bool(ready) and len(ready) == len(nodes),
        f"{len(ready)} of {len(nodes)}",
        "kubectl describe nodes: the condition Ready says why" if nodes else "the cluster has no node: add some",
    )
    cpus, gibibytes = (sum(_can_give(node, name) for node in ready) for name in ("cpu", "memory"))
    gibibytes /= 2**30
    least_cpus, least_memory = ROOM[settings.profile]
    grows = settings.is_cloud and settings.nodes.cpu.max > len(ready)
    yield finding(
        f"room for profile {settings.profile}",
        grows or (cpus >= least_cpus and gibibytes >= least_memory),
        f"{cpus:.1f} CPUs, {gibibytes:.1f} GiB{', and the pool can grow' if grows else ''}",
        f"{least_cpus:.0f} CPUs and {least_memory:.0f} GiB"
        + (': more nodes, or profile = "core"' if settings.profile == "full" else " on all nodes together"),
    )


def check_gpus(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """GPUs asked of an existing cluster; what other clusters have, the settings say."""
    parts = settings.parts
    wanted = {"training.gpu_workers": parts.training.gpu_workers, "queueing.gpus": parts.queueing.gpus}
    asked = [f"kubernetes.parts.{key}" for key, count in wanted.items() if count]
    if settings.provider != "existing" or not (asked or parts.gpu.enabled):
        return
    nodes = cluster.get("/api/v1/nodes").get("items", [])
    gpus = sum(_can_give(node, "nvidia.com/gpu") for node in nodes)
    # With the part a node's GPUs show later: the plugin comes first, or the pool grows from zero.
    yield finding(
        "GPUs",
        gpus > 0 or parts.gpu.enabled,
        f"{gpus:.0f}" if gpus or not asked else f"0, and {' and '.join(asked)} ask for them",
        "nodes with GPUs and kubernetes.parts.gpu.enabled = true (existing = true where a device plugin is there), "
        "or leave the key out",
    )


def check_storage(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    """The StorageClass that volumes will be of."""
    if not any(settings.part(part).enabled for part in _WITH_VOLUMES):
        return
    classes = cluster.get("/apis/storage.k8s.io/v1/storageclasses").get("items", [])
    names = [str(item["metadata"]["name"]) for item in classes]
    standard = "storageclass.kubernetes.io/is-default-class"
    default = [
        str(item["metadata"]["name"])
        for item in classes
        if (item["metadata"].get("annotations") or {}).get(standard) == "true"
    ]
    wanted = settings.storage_class
    ok = wanted in names if wanted else bool(default)
    found = (wanted if ok else f"no {wanted}") if wanted else ", ".join(default) or "no default"
    known = f"; there are: {', '.join(names)}" if names else "; the cluster has none: install one"
    yield finding("storage class", ok, found, f"set kubernetes.storage_class{known}")


CHECKS: tuple[Check, ...] = (
    check_version, check_rights, check_definitions, check_issuer, check_nodes, check_gpus, check_storage,
)  # fmt: skip
"""All of `doctor`'s; the first finds out whether anybody answers."""
BEFORE_UP: tuple[Check, ...] = tuple(check for check in CHECKS if check is not check_nodes)
"""Without these nothing can stand; too few nodes are no obstacle, since pods wait for more."""
BEFORE_DOWN: tuple[Check, ...] = (check_rights,)


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def _can_give(node: Mapping[str, Any], resource: str) -> float:
    text = str(node.get("status", {}).get("allocatable", {}).get(resource, "0"))
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text)
    return float(match[1]) * _UNITS.get(match[2], 1.0) if match else 0.0


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
