"""The shape of every component: its resource type, what it is told, and the labels and options of its children.

A component is made as `Part("part", PartArgs(site, ...), opts)`. It creates its objects in `_create_...` methods and
ends with `register_outputs`. It never reads the cluster, except to look up what it is told to be there already.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.apiextensions.v1 import CustomResourceDefinition
from pulumi_kubernetes.core.v1 import ConfigMap, Secret
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from infra.components import names
from infra.components.contents import Contents
from infra.components.secrets import SecretStore
from slipway.kubernetes_settings import KubernetesSettings
from slipway.mirror.versions import Versions


@dataclass(frozen=True)
class Site:
    """What every component is told: the environment and its settings, the pins, the secrets, what there is so far."""

    environment: str
    settings: KubernetesSettings
    versions: Versions
    secrets: SecretStore
    contents: Contents
    environment_file: str
    """The settings as the platform's own pods are given them."""

    def image(self, name: str) -> str:
        """What a pod names; the platform's own image may be replaced by the settings."""
        if name == "platform" and self.settings.image:
            return self.settings.image
        return self.versions.image(name).address(self.settings.mirror.registry)

    def foreign_image(self, image: str) -> str:
        """What to run for an image that a chart names."""
        return self.versions.pinned(image, self.settings.mirror.registry)

    def name_images(self, text: str) -> str:
        """The same text with every image in it that is pinned named as a pod would."""
        return self.versions.pinned_in(text, self.settings.mirror.registry)

    def host(self, name: str) -> str:
        return names.host(name, self.settings.domain)

    @property
    def has_kubeflow(self) -> bool:
        """Whether Kubeflow Pipelines stands, and gives each step of a run a pod of its own."""
        return bool(self.settings.part("pipelines").enabled) and self.settings.parts.pipelines.engine == "kfp"

    def with_steps(self, namespaces: Sequence[str]) -> tuple[str, ...]:
        """These namespaces, and where the steps of runs are if training is among them: they are given the same."""
        more = (names.PIPELINES,) if self.has_kubeflow and names.TRAINING in namespaces else ()
        return tuple(dict.fromkeys((*namespaces, *more)))


class Component(pulumi.ComponentResource):
    """A part of the stack, or a piece that parts share; `part` is the part's name in the settings."""

    def __init__(
        self,
        part: str,
        name: str,
        site: Site,
        opts: pulumi.ResourceOptions | None = None,
        props: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"slipway:components:{type(self).__name__}", name, dict(props or {}), opts)
        self.part = part
        self.name = name
        self.site = site

    def _options(self, *after: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        """Options of a child: this component is its parent, and it is made after `after`, destroyed before them."""
        return pulumi.ResourceOptions(parent=self, depends_on=list(after), **more)

    def _labels(self, name: str, *, team: str = names.PLATFORM_TEAM) -> dict[str, str]:
        return names.labels(self.part, name, environment=self.site.environment, team=team)

    def _metadata(
        self,
        name: str,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        team: str = names.PLATFORM_TEAM,
    ) -> ObjectMetaArgs:
        return ObjectMetaArgs(
            name=name,
            namespace=namespace,
            labels=self._labels(name, team=team) | dict(labels or {}),
            annotations=dict(annotations) if annotations else None,
        )

    def _create_custom(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None,
        spec: Any,
        *,
        after: Sequence[pulumi.Resource] = (),
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        team: str = names.PLATFORM_TEAM,
    ) -> CustomResource:
        """An object of an operator's definition, made `after` that operator and so destroyed before it."""
        return CustomResource(
            f"{self.name}-{kind.lower()}-{name}",
            api_version=api_version,
            kind=kind,
            metadata=self._metadata(name, namespace, labels=labels, annotations=annotations, team=team),
            spec=spec,
            opts=self._options(*after),
        )

    def _create_secret(
        self,
        name: str,
        namespace: str,
        values: Mapping[str, pulumi.Input[str]],
        *,
        kind: str = "Opaque",
        labels: Mapping[str, str] | None = None,
        after: Sequence[pulumi.Resource] = (),
    ) -> Secret:
        self.site.contents.remember("Secret", namespace, name, values)
        return Secret(
            f"{self.name}-secret-{namespace}-{name}",
            metadata=self._metadata(name, namespace, labels=labels),
            type=kind,
            # `data`, not `stringData`: the API server keeps only the former, and a diff would compare the two.
            data={key: pulumi.Output.secret(value).apply(_encode) for key, value in values.items()},
            opts=self._options(*after),
        )

    def _look_up_definition(self, name: str) -> CustomResourceDefinition:
        """A definition that the cluster is told to have: it is read, never changed and never deleted."""
        return CustomResourceDefinition.get(f"{self.name}-existing-{name}", name, opts=self._options())

    def _create_route(
        self,
        name: str,
        namespace: str,
        service: str,
        port: int,
        *,
        hidden: Sequence[str] = ("authorization", "cookie"),
    ) -> CustomResource:
        """`name.<domain>` leads to a Service of `namespace`; the Gateway asks for a session or token first.

        `hidden` headers stay with the Gateway: nobody's token or session is for the server behind it to see.
        """
        remove = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": list(hidden)}}
        return self._create_custom(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            name,
            namespace,
            {
                "parentRefs": [{"name": names.GATEWAY_NAME, "namespace": names.GATEWAY, "sectionName": "https"}],
                "hostnames": [self.site.host(name)],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                        **({"filters": [remove]} if hidden else {}),
                        "backendRefs": [{"name": service, "port": port, "weight": 1}],
                    }
                ],
            },
        )

    def _create_config(self, name: str, namespace: str, files: Mapping[str, pulumi.Input[str]]) -> ConfigMap:
        self.site.contents.remember("ConfigMap", namespace, name, files)
        return ConfigMap(
            f"{self.name}-config-{namespace}-{name}",
            metadata=self._metadata(name, namespace),
            data=dict(files),
            opts=self._options(),
        )


def _encode(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
