"""The ground that everything stands on: namespaces that refuse unsafe pods and all traffic, defaults for requests, and
what the platform's own pods are told of their environment.

No object of a part is here; an operator's definitions come with the operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.core.v1 import LimitRange, LimitRangeItemArgs, LimitRangeSpecArgs, Namespace
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import names, network, platform_pod
from infra.components.component import Component, Site
from infra.components.hardening import BASELINE, PRIVILEGED, RESTRICTED

_OWNED: dict[str, tuple[str, ...]] = {
    "cert_manager": (names.CERT_MANAGER,),
    "features": (names.FEATURES,),
    "serving": (names.SERVING_OPERATOR,),
    "training": (names.TRAINING_OPERATOR,),
    "queueing": (names.QUEUEING,),
    "gpu": (names.GPU,),
    "cost": (names.COST,),
}
"""Namespaces of operators, by part; those of manifests that bring their own are not here."""
# The device plugin mounts the kubelet's socket folder, and Feast's operator gives its containers no context: nothing
# restricted can be or do that.
_SECURITY = {names.GPU: PRIVILEGED, names.FEATURES: BASELINE}


@dataclass(frozen=True)
class DefinitionsArgs:
    site: Site


class Definitions(Component):
    """Namespaces with their default policies."""

    def __init__(self, name: str, args: DefinitionsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("definitions", name, args.site, opts)
        self.namespaces = {namespace: self._create_namespace(namespace) for namespace in self._wanted()}
        self._create_environment()
        self.register_outputs({"namespaces": list(self.namespaces)})

    def _wanted(self) -> list[str]:
        settings = self.site.settings
        owned = [
            namespace
            for part, namespaces in _OWNED.items()
            if settings.part(part).enabled and not getattr(settings.part(part), "existing", False)
            for namespace in namespaces
        ]
        if self.site.has_kubeflow:
            owned.append(names.PIPELINES)
        return [*names.PLATFORM, *owned]

    def _create_environment(self) -> None:
        """What every pod of ours reads; the private half of the signing key only where something is signed."""
        told: dict[str, pulumi.Input[str]] = {
            platform_pod.FILE: self.site.environment_file,
            "signing.pub": self.site.secrets.read("signing.pub"),
        }
        for namespace in self.site.with_steps(platform_pod.NAMESPACES):
            self._create_secret(platform_pod.ENVIRONMENT, namespace, told, after=(self.namespaces[namespace],))
        key = {"signing.key": self.site.secrets.read("signing.key")}
        for namespace in self.site.with_steps((names.SYSTEM, names.TRAINING)):
            self._create_secret(platform_pod.SIGNING, namespace, key, after=(self.namespaces[namespace],))

    def _create_namespace(self, name: str) -> Namespace:
        security = _SECURITY.get(name, RESTRICTED)
        namespace = Namespace(
            name,
            metadata=self._metadata(
                name, labels=security | ({names.ROUTES_LABEL: "true"} if name in names.ROUTED else {})
            ),
            opts=self._options(),
        )
        NetworkPolicy(
            f"{name}-deny",
            metadata=self._metadata("deny-by-default", name),
            spec=network.policy({}),
            opts=self._options(namespace),
        )
        LimitRange(
            f"{name}-limits",
            metadata=self._metadata("defaults", name),
            # For pods that an operator makes without saying what they need.
            spec=LimitRangeSpecArgs(
                limits=[
                    LimitRangeItemArgs(
                        type="Container",
                        default={"cpu": "500m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
                        default_request={"cpu": "10m", "memory": "64Mi", "ephemeral-storage": "64Mi"},
                    )
                ]
            ),
            opts=self._options(namespace),
        )
        return namespace
