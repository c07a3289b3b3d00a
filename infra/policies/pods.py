"""Where pods hide inside objects: in templates, in custom resources, and in fields that an operator makes pods of.

Knows structure only; what a pod must keep to is in the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.policies.objects import KubeObject, items, mapping

TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("apps", "Deployment"): ("spec.template",),
    ("apps", "StatefulSet"): ("spec.template",),
    ("apps", "DaemonSet"): ("spec.template",),
    ("apps", "ReplicaSet"): ("spec.template",),
    ("", "ReplicationController"): ("spec.template",),
    ("", "PodTemplate"): ("template",),
    ("batch", "Job"): ("spec.template",),
    ("batch", "CronJob"): ("spec.jobTemplate.spec.template",),
    ("ray.io", "RayCluster"): ("spec.headGroupSpec.template", "spec.workerGroupSpecs.*.template"),
    ("ray.io", "RayJob"): (
        "spec.rayClusterSpec.headGroupSpec.template",
        "spec.rayClusterSpec.workerGroupSpecs.*.template",
        "spec.submitterPodTemplate",
    ),
    ("ray.io", "RayService"): (
        "spec.rayClusterConfig.headGroupSpec.template",
        "spec.rayClusterConfig.workerGroupSpecs.*.template",
    ),
}
"""Paths of whole pod templates; `*` goes through a list."""

POD_SPECS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): ("spec",),
    ("serving.kserve.io", "InferenceService"): ("spec.predictor", "spec.transformer", "spec.explainer"),
    ("serving.kserve.io", "ServingRuntime"): ("spec",),
    ("serving.kserve.io", "ClusterServingRuntime"): ("spec",),
}
"""Paths of pod specs without metadata of their own: the object's labels are the pod's."""


@dataclass(frozen=True)
class Container:
    where: str
    """`containers[server]`, below the pod's own path."""
    body: Mapping[str, Any]

    @property
    def security(self) -> Mapping[str, Any]:
        return mapping(self.body.get("securityContext"))


@dataclass(frozen=True)
class Pod:
    """A pod that an object leads to."""

    where: str
    """Path inside the object."""
    spec: Mapping[str, Any]
    labels: Mapping[str, Any]
    namespace: str
    token_is_the_operators: bool = False
    """The operator gives the pod its account, or another object does; this one has no say in it."""

    @property
    def security(self) -> Mapping[str, Any]:
        return mapping(self.spec.get("securityContext"))

    def containers(self) -> Iterator[Container]:
        """All of them: init and ephemeral ones, too."""
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for position, body in enumerate(items(self.spec.get(kind))):
                yield Container(f"{self.where}.{kind}[{mapping(body).get('name', position)}]", mapping(body))


def pods_of(thing: KubeObject) -> Iterator[Pod]:
    """Every pod that the object has made, directly or by an operator."""
    key = (thing.group, thing.kind)
    for path in TEMPLATES.get(key, ()):
        for where, template in _follow(thing.body, path):
            labels = mapping(mapping(template.get("metadata")).get("labels"))
            # KubeRay makes the account of a head that scales its own cluster, with rights to change that cluster.
            scales = where.endswith("headGroupSpec.template") and _scales_itself(thing)
            yield Pod(f"{where}.spec", mapping(template.get("spec")), labels, thing.namespace, scales)
    for path in POD_SPECS.get(key, ()):
        for where, spec in _follow(thing.body, path):
            # The InferenceService that uses a runtime says whose account its pods have: a runtime has no field for it.
            yield Pod(where, spec, thing.labels, thing.namespace, thing.kind.endswith("ServingRuntime"))
    if key in OPERATORS:
        yield from OPERATORS[key](thing)


def _scales_itself(thing: KubeObject) -> bool:
    return bool(_ray_cluster(thing)[1].get("enableInTreeAutoscaling"))


def _ray_cluster(thing: KubeObject) -> tuple[str, Mapping[str, Any]]:
    """Where the cluster's own spec stands, and that spec."""
    inner = next((key for key in ("rayClusterSpec", "rayClusterConfig") if key in thing.spec), None)
    return (f"spec.{inner}", mapping(thing.spec[inner])) if inner else ("spec", thing.spec)


def _follow(body: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Any]] = [("", body)]
    for part in path.split("."):
        if part == "*":
            found = [(f"{where}[{n}]", inner) for where, outer in found for n, inner in enumerate(items(outer))]
        else:
            found = [(f"{where}.{part}".lstrip("."), mapping(outer).get(part)) for where, outer in found]
    yield from ((where, mapping(value)) for where, value in found if value)


SET_BY_OPERATOR: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What operators give each container by themselves, read in the sources of the pinned releases: CloudNativePG in
`pkg/specs/containers.go`, Envoy Gateway in `internal/infrastructure/kubernetes/resource/resource.go` (all but the
read-only root), the Prometheus operator in `pkg/prometheus/server/statefulset.go` (what only containers have).
"""


def _database(thing: KubeObject) -> Iterator[Pod]:
    """CloudNativePG sets every security context itself, and its instances watch their Cluster with an own account."""
    body = {
        "name": "postgres",
        "image": thing.spec.get("imageName"),
        "resources": thing.spec.get("resources"),
        "securityContext": SET_BY_OPERATOR,
    }
    yield Pod("spec", {"containers": [body]}, _inherited(thing), thing.namespace, token_is_the_operators=True)


def _inherited(thing: KubeObject) -> Mapping[str, Any]:
    return {**thing.labels, **mapping(mapping(thing.spec.get("inheritedMetadata")).get("labels"))}


def _envoy(thing: KubeObject) -> Iterator[Pod]:
    """Envoy Gateway makes the Envoys of this; it adds no token, and merges what is said here over a safe base."""
    provider = mapping(mapping(thing.spec.get("provider")).get("kubernetes"))
    # Nothing said is an Envoy of upstream's image and size, which the rules then refuse.
    for kind in [name for name in ("envoyDeployment", "envoyDaemonSet") if name in provider] or ["envoyDeployment"]:
        made = mapping(provider.get(kind))
        pod, body = mapping(made.get("pod")), mapping(made.get("container"))
        envoy = {
            "name": "envoy",
            "image": body.get("image"),
            "resources": body.get("resources"),
            "env": body.get("env"),
            "securityContext": {
                **{name: value for name, value in SET_BY_OPERATOR.items() if name != "readOnlyRootFilesystem"},
                **mapping(body.get("securityContext")),
            },
        }
        spec = {
            "automountServiceAccountToken": False,
            "securityContext": pod.get("securityContext"),
            "volumes": pod.get("volumes"),
            "containers": [envoy],
            "initContainers": made.get("initContainers"),
        }
        labels = {**thing.labels, **mapping(pod.get("labels"))}
        yield Pod(f"spec.provider.kubernetes.{kind}", spec, labels, thing.namespace)


def _prometheus(thing: KubeObject) -> Iterator[Pod]:
    """The Prometheus operator sets the containers' contexts, and takes the pod's from here."""
    body = {
        "name": thing.kind.lower(),
        "image": thing.spec.get("image"),
        "resources": thing.spec.get("resources"),
        "securityContext": {name: SET_BY_OPERATOR[name] for name in OF_CONTAINERS},
    }
    spec = {
        "securityContext": thing.spec.get("securityContext"),
        "hostNetwork": thing.spec.get("hostNetwork"),
        "volumes": thing.spec.get("volumes"),
        "containers": [body, *_complete(items(thing.spec.get("containers")))],
        "initContainers": thing.spec.get("initContainers"),
    }
    labels = {**thing.labels, **mapping(mapping(thing.spec.get("podMetadata")).get("labels"))}
    yield Pod("spec", spec, labels, thing.namespace, token_is_the_operators=True)


def _autoscaler(thing: KubeObject) -> Iterator[Pod]:
    """KubeRay puts the autoscaler into the head's pod, as these options say, and from the head's image."""
    where, cluster = _ray_cluster(thing)
    if not cluster.get("enableInTreeAutoscaling"):
        return
    template = mapping(mapping(cluster.get("headGroupSpec")).get("template"))
    head = mapping(template.get("spec"))
    options = mapping(cluster.get("autoscalerOptions"))
    first = next(map(mapping, items(head.get("containers"))), {})
    spec = {
        "securityContext": head.get("securityContext"),
        "containers": [{"name": "autoscaler", "image": first.get("image"), **options}],
    }
    labels = mapping(mapping(template.get("metadata")).get("labels"))
    yield Pod(f"{where}.autoscalerOptions", spec, labels, thing.namespace, token_is_the_operators=True)


def _feature_store(thing: KubeObject) -> Iterator[Pod]:
    """Feast's operator takes the pod's context from here, and gives its containers none; their account is its own."""
    services = mapping(thing.spec.get("services"))
    registry = mapping(mapping(services.get("registry")).get("local"))
    servers = {"online": services.get("onlineStore"), "offline": services.get("offlineStore"), "registry": registry}
    bodies = [
        {"name": name, **mapping(mapping(of).get("server"))} for name, of in servers.items() if "server" in mapping(of)
    ]
    spec = {
        "securityContext": services.get("securityContext"),
        "containers": bodies,
        "volumes": services.get("volumes"),
    }
    yield Pod("spec.services", spec, thing.labels, thing.namespace, token_is_the_operators=True)


OF_CONTAINERS = ("allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem")


def _complete(containers: Any) -> Iterator[Mapping[str, Any]]:
    """Containers of our own beside the operator's; one without an image only changes one of the operator's."""
    yield from (body for body in map(mapping, containers) if body.get("image"))


OPERATORS: dict[tuple[str, str], Callable[[KubeObject], Iterator[Pod]]] = {
    ("feast.dev", "FeatureStore"): _feature_store,
    ("ray.io", "RayCluster"): _autoscaler,
    ("ray.io", "RayJob"): _autoscaler,
    ("ray.io", "RayService"): _autoscaler,
    ("postgresql.cnpg.io", "Cluster"): _database,
    ("gateway.envoyproxy.io", "EnvoyProxy"): _envoy,
    ("monitoring.coreos.com", "Prometheus"): _prometheus,
    ("monitoring.coreos.com", "Alertmanager"): _prometheus,
}
"""Objects that carry no pod template but fields of one, completed by what their operator always does."""
