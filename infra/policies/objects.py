"""A Kubernetes object as rules see it: plain data, whether it comes from Pulumi or from a rendered chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pulumi_policy.proxy import UnknownValueError

UNKNOWN = "(known after apply)"
"""Stands for what a preview cannot know yet."""

RELEASE = "kubernetes:helm.sh/v3:Release"


@dataclass(frozen=True)
class KubeObject:
    """One object; `urn` is Pulumi's name of it, empty where there is none."""

    body: Mapping[str, Any]
    urn: str = ""

    @property
    def kind(self) -> str:
        return str(self.body.get("kind", ""))

    @property
    def group(self) -> str:
        """Of the API; empty for the core group."""
        version = str(self.body.get("apiVersion", ""))
        return version.partition("/")[0] if "/" in version else ""

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        return mapping(self.body.get("metadata"))

    @property
    def name(self) -> str:
        return str(self.metadata.get("name") or self.metadata.get("generateName") or "")

    @property
    def namespace(self) -> str:
        """Empty for what has none, and for what is put into the client's own."""
        return str(self.metadata.get("namespace") or "")

    @property
    def labels(self) -> Mapping[str, Any]:
        return mapping(self.metadata.get("labels"))

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        return mapping(self.body.get("spec"))

    @property
    def where(self) -> str:
        """`Deployment/slipway-system/registry`: what messages and exceptions name."""
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


def read_resource(resource_type: str, name: str, props: Mapping[str, Any], urn: str) -> KubeObject | None:
    """The object behind a resource of Pulumi's; None where it is none of Kubernetes'."""
    if not resource_type.startswith("kubernetes:"):
        return None
    body = plain(props)
    if resource_type == RELEASE:
        metadata = {"name": body.get("name") or name, "namespace": body.get("namespace")}
        return KubeObject({"apiVersion": "helm.sh/v3", "kind": "Release", "metadata": metadata}, urn)
    if not body.get("kind") or not body.get("apiVersion"):
        return None
    metadata = dict(mapping(body.get("metadata")))
    metadata.setdefault("name", name)
    return KubeObject({**body, "metadata": metadata}, urn)


def plain(value: Any) -> Any:
    """A copy without Pulumi's guards; what a preview does not know becomes UNKNOWN instead of an exception."""
    if isinstance(value, Mapping):
        return {str(key): _known(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_known(value, position) for position in range(len(value))]
    return value


def _known(container: Any, key: Any) -> Any:
    try:
        return plain(container[key])
    except UnknownValueError:
        return UNKNOWN


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping; otherwise an empty one, so that a rule meets no `None`."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> Sequence[Any]:
    """`value` where it is a list; otherwise an empty one."""
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text inside, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for position, inner in enumerate(value):
            yield from texts(inner, f"{path}[{position}]")
