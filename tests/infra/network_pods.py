"""Who is in the pods' network of a recorded stack, and which addresses each pod is told.

Labels and ports of what the program writes are read from the recording. What an operator adds, and what charts bring,
is said here as its pinned release has it (`tests/cluster/test_network.py` holds the charts that can be rendered to it).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.components import names
from infra.components.pipelines import ROLE, STEP
from infra.policies.objects import KubeObject, texts
from infra.policies.pods import TEMPLATES, pods_of
from infra.recording import Recorded, Recording
from slipway.contract import load_contract
from slipway.targets.kubernetes import inference_service
from tests.infra.network_rules import Address, End, Network, Pod

Object = Mapping[str, Any]

ADDRESSES = {
    each.name: each
    for each in (
        Address("api-server", "172.18.0.2"),
        Address("node", "172.18.0.3"),
        *(Address(f"inside-{ip}", ip) for ip in ("10.42.100.5", "172.20.0.5", "192.168.9.5", "100.64.3.5")),
        Address("cloud-outside", "52.218.0.10"),
        Address("internet", "93.184.216.34"),
        Address("metadata", "169.254.169.254"),
        Address("pod-identity", "169.254.170.23"),
    )
}
INSIDE = [name for name in ADDRESSES if name.startswith("inside-")]
"""Where a cloud's database may be: which private range it takes is the cloud's choice."""
CLUSTER = [
    Pod("dns", names.CLUSTER, {"k8s-app": "kube-dns"}, {"dns": 53, "metrics": 9153}),
    # Through it the API server of some clouds calls webhooks.
    Pod("api-proxy", names.CLUSTER, {"k8s-app": "konnectivity-agent"}),
]
PROMETHEUS = Pod("prometheus", "observability", {"app.kubernetes.io/name": "prometheus"})
"""One that was there before; where the program brings its own, that one counts."""
STRANGERS = [
    Pod("stranger", "default", {"app.kubernetes.io/name": "runner", "slipway.dev/role": "ray"}, {"http": 8080}),
    *(Pod(f"stranger-in-{where}", where, {"app": "x"}, {"http": 8080}) for where in names.PLATFORM),
]
"""Pods that nobody made for the platform: elsewhere with its labels, and in its namespaces without."""


def _operator(name: str, namespace: str, labels: dict[str, str] | None = None, **ports: int) -> Pod:
    return Pod(name, namespace, labels or {}, ports)


_KFP = {"application-crd-id": "kubeflow-pipelines"}
CHARTS: dict[str, list[Pod]] = {
    "cert-manager": [
        _operator("cert-manager", names.CERT_MANAGER, metrics=9402),
        _operator("cert-manager-webhook", names.CERT_MANAGER, https=10250),
    ],
    "cloudnative-pg": [_operator("cloudnative-pg", names.DATABASE_OPERATOR, webhook=9443, metrics=8080)],
    "envoy-gateway": [
        _operator(
            "envoy-gateway",
            names.GATEWAY,
            {"control-plane": "envoy-gateway", "app.kubernetes.io/name": "gateway-helm"},
            grpc=18000,
            ratelimit=18001,
            wasm=18002,
            metrics=19001,
        )
    ],
    "feast-operator": [_operator("feast-operator", names.FEATURES_OPERATOR, metrics=8443)],
    "gpu-operator": [_operator("gpu-operator", names.GPU, metrics=8080)],
    "kserve": [
        _operator(
            "kserve",
            names.SERVING_OPERATOR,
            {"control-plane": "kserve-controller-manager", "app.kubernetes.io/name": "kserve-controller-manager"},
            **{"webhook-server": 9443, "metrics": 8080, "https": 8443},
        )
    ],
    "kuberay-operator": [_operator("kuberay", names.TRAINING_OPERATOR, http=8080)],
    "kubeflow-pipelines": [
        _operator("ml-pipeline", names.PIPELINES, _KFP | {"app": "ml-pipeline"}, http=8888, grpc=8887),
        _operator("ml-pipeline-ui", names.PIPELINES, _KFP | {"app": "ml-pipeline-ui"}, http=3000),
        _operator("ml-pipeline-mysql", names.PIPELINES, _KFP | {"app": "mysql"}, mysql=3306),
        # Whoever's, and that of a run of ours.
        _operator("pipeline-step", names.PIPELINES, {"pipelines.kubeflow.org/v2_component": "true"}),
        _operator("run-step", names.PIPELINES, {"pipelines.kubeflow.org/v2_component": "true", ROLE: STEP}),
    ],
    "kueue": [
        _operator(
            "kueue",
            names.QUEUEING,
            {"control-plane": "controller-manager", "app.kubernetes.io/name": "kueue"},
            **{"webhook-server": 9443, "visibility": 8082, "metrics": 8443},
        )
    ],
    "metrics-server": [
        _operator("metrics-server", names.MONITORING, {"app.kubernetes.io/name": "metrics-server"}, https=10250)
    ],
    "monitoring": [
        _operator("prometheus", names.MONITORING, {"app.kubernetes.io/name": "prometheus"}, web=9090),
        _operator("prometheus-operator", names.MONITORING, {"app": "kube-prometheus-stack-operator"}, https=10250),
        _operator("kube-state-metrics", names.MONITORING, {"app.kubernetes.io/name": "kube-state-metrics"}, http=8080),
        _operator("grafana", names.MONITORING, {"app.kubernetes.io/name": "grafana"}, grafana=3000),
    ],
    "opencost": [_operator("opencost", names.COST, {"app.kubernetes.io/name": "opencost"}, http=9003)],
}
"""Pods of a chart or manifest, by its component's name."""

ADDED: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "Cluster": (
        {"cnpg.io/cluster": names.DATABASE, "cnpg.io/podRole": "instance"},
        {"postgresql": 5432, "status": 8000, "metrics": 9187},
    ),
    "EnvoyProxy": (
        names.ENVOYS | {"app.kubernetes.io/managed-by": "envoy-gateway"},
        {"http-80": 10080, "https-443": 10443, "metrics": 19001, "ready": 19003},
    ),
    "FeatureStore": ({"feast.dev/name": "features"}, {"online": 6566, "registry": 6570}),
    "head": (
        {"ray.io/node-type": "head", "ray.io/is-ray-node": "yes"},
        {"gcs": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080, "serve": 8000},
    ),
    "worker": ({"ray.io/node-type": "worker", "ray.io/is-ray-node": "yes"}, {"metrics": 8080}),
}
"""Labels that an operator gives the pods that it makes of an object, and ports that they listen on."""
CALLED = {"Cluster": "database", "EnvoyProxy": "envoy", "FeatureStore": "feature-store"}
"""What their pods are called here."""

SERVICES = {
    ("database-rw", names.DATA): {5432: ("database", 5432)},
    ("monitoring-prometheus", names.MONITORING): {9090: ("prometheus", 9090)},
    ("monitoring-grafana", names.MONITORING): {80: ("grafana", 3000)},
    ("ml-pipeline", names.PIPELINES): {8888: ("ml-pipeline", 8888)},
    ("ml-pipeline-ui", names.PIPELINES): {80: ("ml-pipeline-ui", 3000)},
}
"""Services that operators and charts make: port -> pods and their port."""

_TOLD = re.compile(r"\b([a-z0-9][a-z0-9-]*)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?(?::([0-9]+))?")
_OF_CLOUD = re.compile(r"(https://)?\b([a-z0-9.-]+\.example\.com)(?::([0-9]+))?")


@dataclass(frozen=True)
class Told:
    """An address that pods called `pod` are given."""

    pod: str
    service: str
    namespace: str
    port: int
    """Of the Service; 0 where only its name is said."""


class PodNetwork:
    """Everybody who is there, by name, and the policies between them."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._specs: list[tuple[Pod, str]] = []
        everybody = [*CLUSTER, PROMETHEUS, *self._written(), *self._brought(), *STRANGERS]
        self.pods = {each.name: each for each in everybody}
        namespaces: dict[str, Mapping[str, str]] = {each.namespace: {} for each in self.pods.values()}
        namespaces |= {each.metadata["name"]: each.metadata["labels"] for each in recording.of_kind("Namespace")}
        policies = [each.inputs for each in recording.of_kind("NetworkPolicy")]
        self.with_blocks = Network(namespaces, policies)
        self.without_blocks = Network(namespaces, policies, blocks_take_pods=False)

    def end(self, name: str) -> End:
        return ADDRESSES.get(name) or self.pods[name]

    def ours(self) -> list[Pod]:
        """Pods of the platform."""
        return [each for each in self.pods.values() if each not in (*CLUSTER, PROMETHEUS, *STRANGERS)]

    def _written(self) -> Iterator[Pod]:
        """Pods of objects of the program, operators' custom resources among them."""
        for each in self.recording.objects():
            if each.kind in ("ServingRuntime", "ConfigMap") or each.kind in ADDED:
                yield from self._made_by_operators(each)
            elif each.kind in {kind for _, kind in TEMPLATES}:
                yield from self._made(each.inputs)

    def _made_by_operators(self, each: Recorded) -> Iterator[Pod]:
        if each.kind == "ServingRuntime":
            contract = load_contract("flight_delay")
            revision = inference_service.describe(contract, 1, "test", each.inputs)
            yield self._remember(revision["spec"]["predictor"], "revision", names.SERVING, {}, {})
        elif each.kind == "ConfigMap":
            for text in (each.inputs.get("data") or {}).values():
                if text.startswith("{") and json.loads(text).get("kind") == "RayJob":
                    yield from self._made(json.loads(text))
        else:
            labels, ports = ADDED[each.kind]
            for pod in pods_of(KubeObject(each.inputs)):
                yield self._remember(
                    each.inputs["spec"], CALLED[each.kind], pod.namespace, {**pod.labels, **labels}, ports
                )

    def _made(self, body: Object) -> Iterator[Pod]:
        for pod in pods_of(KubeObject(body)):
            name = str(pod.labels["app.kubernetes.io/name"])
            labels, ports = dict(pod.labels), dict[str, int]()
            if name == "ray":
                role = "head" if "headGroupSpec" in pod.where or "autoscaler" in pod.where else "worker"
                name, added, ports = f"ray-{role}", *ADDED[role]
                labels |= added
            yield self._remember(pod.spec, name, pod.namespace, labels, ports)

    def _remember(
        self, spec: Object, name: str, namespace: str, labels: Mapping[str, str], ports: Mapping[str, int]
    ) -> Pod:
        own = {
            port.get("name", str(port["containerPort"])): port["containerPort"]
            for container in spec.get("containers") or ()
            for port in container.get("ports") or ()
        }
        pod = Pod(name, namespace, {**labels, **(spec.get("labels") or {})}, {**ports, **own})
        self._specs += [(pod, text) for text in self._texts(spec, namespace)]
        return pod

    def _brought(self) -> Iterator[Pod]:
        """Pods of charts, with the addresses that stand in their values."""
        for each in self.recording.resources:
            if each.type.endswith((":HelmChart", ":Manifest")):
                yield from CHARTS.get(each.name, ())
            elif each.type.startswith("kubernetes:helm.sh"):
                found = [text for _, text in texts(each.inputs.get("values") or {})]
                self._specs += [(pod, text) for pod in CHARTS.get(each.name, ()) for text in found]

    def _texts(self, spec: Object, namespace: str) -> Iterator[str]:
        """Everything that a pod is told: variables, command line, and the files and keys that it is given."""
        for container in spec.get("containers") or ():
            for _, text in texts([container.get("command"), container.get("args"), container.get("env")]):
                yield text
        read = {("Secret", text) for path, text in texts(spec) if path.endswith((".secretName", "secretRef.name"))}
        read |= {("ConfigMap", text) for path, text in texts(spec) if path.endswith("configMap.name")}
        for kind, name in read:
            yield from self._data(kind, namespace, name).values()
        for container in spec.get("containers") or ():
            for variable in container.get("env") or ():
                if key := (variable.get("valueFrom") or {}).get("secretKeyRef"):
                    yield self._data("Secret", namespace, key["name"]).get(key["key"], "")

    def _data(self, kind: str, namespace: str, name: str) -> dict[str, str]:
        try:
            data = self.recording.find(f"{kind}/{namespace}/{name}").inputs["data"]
        except KeyError:
            return {}  # a certificate's, made in the cluster
        return {key: base64.b64decode(text).decode() if kind == "Secret" else text for key, text in data.items()}

    def told(self) -> set[Told]:
        """Every address of a Service that a pod is given; its own name is none."""
        found = set()
        for pod, text in self._specs:
            for service, namespace, port in _TOLD.findall(text):
                if (service, namespace) != (pod.name, pod.namespace):
                    found.add(Told(pod.name, service, namespace, int(port or 0)))
        named = {(each.pod, each.service, each.namespace) for each in found if each.port}
        return {each for each in found if each.port or (each.pod, each.service, each.namespace) not in named}

    def told_of_cloud(self) -> set[tuple[str, str, int]]:
        """(pod, host, port) of the cloud's own services."""
        found = set()
        for pod, text in self._specs:
            for secure, host, port in _OF_CLOUD.findall(text):
                if secure or port:
                    found.add((pod.name, host, int(port or 443)))
        return found

    def behind(self, service: str, namespace: str, port: int) -> tuple[str, int]:
        """Name of the pods behind a Service's port, and their own port. Raises KeyError where there is no such."""
        if (service, namespace) in SERVICES:
            return SERVICES[service, namespace][port]
        spec = self.recording.find(f"Service/{namespace}/{service}").inputs["spec"]
        (target,) = [each.get("targetPort", port) for each in spec["ports"] if each["port"] == port] or [None]
        if target is None:
            raise KeyError(f"{service}.{namespace} has no port {port}")
        (pod,) = [
            pod
            for pod in self.pods.values()
            if pod.namespace == namespace and spec["selector"].items() <= pod.labels.items()
        ]
        return pod.name, pod.ports[target] if isinstance(target, str) else target
