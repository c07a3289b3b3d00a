"""What the platform needs of a cluster, as tables: rights, operators, and the definitions that may be there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipway.kubernetes_settings import KubernetesSettings

OPERATORS = (
    "gateway", "cert_manager", "database", "features", "training", "queueing", "serving", "monitoring", "gpu",
)  # fmt: skip
"""Parts that bring an operator: it is what Kubernetes can be too old or too new for. The rest is plain workloads."""


@dataclass(frozen=True)
class Right:
    """Something that standing up does in the cluster."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    """Empty: in all."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


_CLUSTER_WIDE = (
    ("", "namespaces"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
)
_NAMESPACED = (
    ("", "secrets"),
    ("", "configmaps"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "persistentvolumeclaims"),
    ("apps", "deployments"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
    ("networking.k8s.io", "networkpolicies"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
)

RIGHTS: tuple[Right, ...] = (
    *(Right(verb, *kind) for kind in _CLUSTER_WIDE for verb in ("create", "patch", "delete")),
    *(Right(verb, *kind) for kind in _NAMESPACED for verb in ("create", "patch", "delete")),
    # An operator's role grants what we may not hold ourselves; Kubernetes lets only those write it who may do this.
    Right("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    Right("bind", "rbac.authorization.k8s.io", "clusterroles"),
)


@dataclass(frozen=True)
class Definition:
    """A custom resource definition that tells whether a part is in the cluster, and which version of it."""

    part: str
    name: str
    version: str
    """The API version that our objects are written in."""
    bundle: str = ""
    """Annotation that holds the version of what brought it; empty: there is none."""
    least: str = ""
    """Least value of `bundle`."""


DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "gateway", "httproutes.gateway.networking.k8s.io", "v1", "gateway.networking.k8s.io/bundle-version", "v1.6.0"
    ),
    Definition("gateway", "envoyproxies.gateway.envoyproxy.io", "v1alpha1"),
    Definition("cert_manager", "certificates.cert-manager.io", "v1"),
    Definition("database", "clusters.postgresql.cnpg.io", "v1"),
    Definition("features", "featurestores.feast.dev", "v1"),
    Definition("training", "rayjobs.ray.io", "v1"),
    Definition("queueing", "clusterqueues.kueue.x-k8s.io", "v1beta2"),
    Definition("serving", "inferenceservices.serving.kserve.io", "v1beta1"),
    Definition("monitoring", "prometheuses.monitoring.coreos.com", "v1"),
    Definition("gpu", "clusterpolicies.nvidia.com", "v1"),
)


def definitions_of(settings: KubernetesSettings) -> Iterator[Definition]:
    """Those of the parts that the settings want."""
    for definition in DEFINITIONS:
        if settings.part(definition.part).enabled and not _is_managed(settings, definition.part):
            yield definition


def is_existing(settings: KubernetesSettings, definition: Definition) -> bool:
    """Whether the settings say that the cluster has it already; Envoy Gateway itself is always ours."""
    if definition.name.endswith(".envoyproxy.io"):
        return False
    return bool(getattr(settings.part(definition.part), "existing", False))


def _is_managed(settings: KubernetesSettings, part: str) -> bool:
    return part == "database" and settings.managed.database
