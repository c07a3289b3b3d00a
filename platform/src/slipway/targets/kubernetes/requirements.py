"""What the platform needs of a cluster, as tables: rights, operators, and the definitions that may be there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipway.kubernetes_settings import KubernetesSettings

OPERATORS = (
    "gateway", "cert_manager", "database", "features", "training", "queueing", "serving", "monitoring", "gpu",
)  # fmt: skip
"""Parts that bring an operator: it is what Kubernetes can be too old or too new for. The rest is plain workloads."""


ROOM = {"core": (4.0, 11.0), "full": (8.0, 22.0)}
"""CPUs and GiB that nodes must be able to give, by profile: all that stands, and a training run. A test computes it."""


_WATCHED = ("list", "watch")
_OWN = ("get", *_WATCHED, "create", "patch", "delete")
"""Pulumi's provider watches each kind that it removes something of, and waits for ever where it may not."""


@dataclass(frozen=True)
class Right:
    """What standing up and removing does with one kind of object."""

    group: str
    resource: str
    verbs: tuple[str, ...] = _OWN
    part: str = ""
    """Asked only where this part stands; empty: always."""

    @property
    def kind(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource


_GATEWAY_API, _ENVOY, _KUEUE = "gateway.networking.k8s.io", "gateway.envoyproxy.io", "kueue.x-k8s.io"

RIGHTS: tuple[Right, ...] = (
    Right("", "nodes", ("list",)),
    Right("storage.k8s.io", "storageclasses", ("list",)),
    # What Pulumi's provider looks at while it waits for Deployments, Jobs and Services.
    Right("", "pods", _WATCHED),
    Right("apps", "replicasets", _WATCHED),
    Right("", "endpoints", _WATCHED),
    Right("", "events", _WATCHED),
    Right("", "namespaces"),
    Right("", "secrets"),
    Right("", "configmaps"),
    Right("", "services"),
    Right("", "serviceaccounts"),
    Right("", "persistentvolumeclaims"),
    Right("", "limitranges"),
    Right("apps", "deployments"),
    Right("apps", "daemonsets", part="gpu"),
    Right("batch", "jobs"),
    Right("batch", "cronjobs"),
    Right("networking.k8s.io", "networkpolicies"),
    # An operator's role grants what we may not hold ourselves; Kubernetes lets only those write it who may do this.
    *(Right("rbac.authorization.k8s.io", kind, (*_OWN, "escalate", "bind")) for kind in ("roles", "clusterroles")),
    *(Right("rbac.authorization.k8s.io", kind) for kind in ("rolebindings", "clusterrolebindings")),
    Right("apiextensions.k8s.io", "customresourcedefinitions"),
    *(
        Right("admissionregistration.k8s.io", kind)
        for kind in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
    ),
    *(
        Right("admissionregistration.k8s.io", kind, part="gateway")
        for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
    ),
    Right("apiregistration.k8s.io", "apiservices", part="queueing"),
    *(Right("cert-manager.io", kind, part="cert_manager") for kind in ("certificates", "clusterissuers")),
    *(
        Right(_GATEWAY_API, kind, part="gateway")
        for kind in ("backendtlspolicies", "gatewayclasses", "gateways", "httproutes", "referencegrants")
    ),
    *(
        Right(_ENVOY, kind, part="gateway")
        for kind in ("backendtrafficpolicies", "clienttrafficpolicies", "envoyproxies", "securitypolicies")
    ),
    *(Right("postgresql.cnpg.io", kind, part="database") for kind in ("clusters", "databases")),
    *(Right(_KUEUE, kind, part="queueing") for kind in ("clusterqueues", "localqueues", "resourceflavors")),
    *(Right("monitoring.coreos.com", kind, part="monitoring") for kind in ("podmonitors", "prometheusrules")),
    Right("feast.dev", "featurestores", part="features"),
    Right("serving.kserve.io", "servingruntimes", part="serving"),
    Right("ray.io", "rayclusters", part="training"),
)
"""For objects of our own, and those that operators' charts bring; a test holds the program against it."""


def rights_of(settings: KubernetesSettings) -> Iterator[Right]:
    """Those that the settings need."""
    for right in RIGHTS:
        if not right.part or settings.part(right.part).enabled:
            yield right


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
