"""What `down` takes away, said before it does, and what stays when the data is to be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Resource = Mapping[str, Any]

# Types whose removal removes what somebody stored.
_VOLUMES = (
    "kubernetes:core/v1:PersistentVolumeClaim",
    "kubernetes:apps/v1:StatefulSet",
    "kubernetes:postgresql.cnpg.io/v1:Cluster",
)
_CLOUD_DATA = (
    "aws:rds/", "aws:s3/", "aws:elasticache/", "gcp:sql/", "gcp:storage/", "gcp:redis/", "gcp:memorystore/",
    "azure-native:dbforpostgresql", "azure-native:storage", "azure-native:redis", "azure-native:cache",
)  # fmt: skip
_DEFINITION = "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition"
_NAMESPACE = "kubernetes:core/v1:Namespace"


@dataclass(frozen=True)
class Removal:
    """What goes: how much of everything, and by name what a person would want to know."""

    counts: Mapping[str, int]
    definitions: Sequence[str]
    """Custom resource definitions; every object of theirs goes with them, whoever made it."""
    data: Sequence[str]
    load_balancers: Sequence[str]
    kept: Sequence[str]
    """URNs that stay."""

    def lines(self) -> list[str]:
        """For the person who is asked."""
        total = sum(self.counts.values())
        if not total:
            return ["nothing stands"]
        lines = [f"{total} resources go: " + ", ".join(f"{count} {kind}" for kind, count in self.counts.items())]
        for title, names in (
            ("definitions, with every object of theirs", self.definitions),
            ("data", self.data),
            ("load balancers", self.load_balancers),
        ):
            if names:
                lines.append(f"{title}: {', '.join(names)}")
        if self.kept:
            lines.append(f"{len(self.kept)} resources stay, with the data in them")
        return lines


def plan_removal(resources: Sequence[Resource], *, keep_data: bool) -> Removal:
    """From the state's resources. `keep_data`: what holds data stays, and all that it stands on."""
    kept = _close(resources, [resource["urn"] for resource in resources if _holds_data(resource)]) if keep_data else []
    going = [item for item in resources if item["urn"] not in set(kept) and item.get("custom") and not _is_tool(item)]
    # What was only looked up (external) is somebody else's.
    going = [item for item in going if not item.get("retainOnDelete") and not item.get("external")]
    counts = Counter(item["type"].rpartition(":")[2] for item in going)
    return Removal(
        dict(counts.most_common()),
        [_name(item) for item in going if item["type"] == _DEFINITION],
        [f"{item['type'].rpartition(':')[2]} {_name(item)}" for item in going if _holds_data(item)],
        [_name(item) for item in going if _is_load_balancer(item)],
        kept,
    )


def _close(resources: Sequence[Resource], start: Iterable[str]) -> list[str]:
    """The URNs, and all that they depend on: parents, providers, dependencies, namespaces. In the state's order."""
    by_urn = {resource["urn"]: resource for resource in resources}
    namespaces = {_name(item): item["urn"] for item in resources if item["type"] == _NAMESPACE}
    kept: set[str] = set()
    waiting = list(start)
    while waiting:
        urn = waiting.pop()
        if urn in kept or urn not in by_urn:
            continue
        kept.add(urn)
        item = by_urn[urn]
        waiting += item.get("dependencies") or []
        waiting += [item["parent"]] if item.get("parent") else []
        waiting += [item["provider"].rpartition("::")[0]] if item.get("provider") else []
        namespace = _metadata(item).get("namespace")
        waiting += [namespaces[namespace]] if namespace in namespaces else []
    return [resource["urn"] for resource in resources if resource["urn"] in kept]


def _holds_data(item: Resource) -> bool:
    return item["type"] in _VOLUMES or item["type"].startswith(_CLOUD_DATA)


def _is_load_balancer(item: Resource) -> bool:
    if item["type"].endswith(":Gateway"):
        return True
    return item["type"] == "kubernetes:core/v1:Service" and _section(item, "spec").get("type") == "LoadBalancer"


def _is_tool(item: Resource) -> bool:
    """Of Pulumi itself: stacks and providers are nothing that stands anywhere."""
    return bool(item["type"].startswith(("pulumi:pulumi:", "pulumi:providers:")))


def _name(item: Resource) -> str:
    metadata = _metadata(item)
    name = metadata.get("name") or item.get("id") or item["urn"].rpartition("::")[2]
    return f"{metadata['namespace']}/{name}" if metadata.get("namespace") else str(name)


def _metadata(item: Resource) -> Mapping[str, Any]:
    return _section(item, "metadata")


def _section(item: Resource, key: str) -> Mapping[str, Any]:
    section = (item.get("inputs") or {}).get(key)
    return section if isinstance(section, dict) else {}
