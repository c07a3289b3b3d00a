"""Who has to reach whom, and why: what pods are told, what routes and monitors name, what programs do by themselves.

A connection that is not here is one that nobody needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.components import control_plane, cost, database, kuberay, names, object_store, pipelines, serving
from infra.policies.objects import mapping
from tests.infra.network_pods import ADDRESSES, INSIDE, PodNetwork
from tests.infra.network_rules import selects


@dataclass(frozen=True)
class Flow:
    """A connection from pods or an address to a port of pods, or of an address."""

    source: str
    target: str
    port: int
    why: str = field(compare=False)
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}:{self.port}/{self.protocol}"


OPERATORS = (
    "cert-manager", "cert-manager-webhook", "cloudnative-pg", "envoy-gateway", "feast-operator", "gpu-operator",
    "kserve", "kuberay", "kueue", "metrics-server", "prometheus", "prometheus-operator", "kube-state-metrics",
    "grafana", "opencost", "ml-pipeline", "ml-pipeline-ui", "pipeline-step",
    "run-step",
)  # fmt: skip

KNOWN = [
    # From outside, and from the API server.
    Flow("internet", "envoy", 10443, "browsers and clients"),
    Flow("internet", "envoy", 10080, "sent to 443"),
    *(
        Flow(source, target, port, why)
        for source in ("api-server", "api-proxy")
        for target, port, why in (
            ("cert-manager-webhook", 10250, "webhook"),
            ("cloudnative-pg", 9443, "webhook"),
            ("kserve", 9443, "webhook"),
            ("kueue", 9443, "webhook"),
            ("kueue", 8082, "what waits in the queues, an API of its own"),
            ("metrics-server", 10250, "the API of metrics"),
            ("prometheus-operator", 10250, "webhook"),
        )
    ),
    # To the API server, besides those with a token of ours.
    *(Flow(each, "api-server", port, "watches its objects") for each in OPERATORS for port in (443, 6443)),
    Flow("database", "api-server", 443, "each instance reads its Cluster"),
    Flow("database", "api-server", 6443, "each instance reads its Cluster"),
    Flow("feature-store", "api-server", 443, "asks whose token it was shown"),
    Flow("feature-store", "api-server", 6443, "asks whose token it was shown"),
    # The gateway.
    Flow("envoy", "envoy-gateway", 18000, "its configuration"),
    Flow("envoy", "portal", control_plane.PORT, "may this request pass?"),
    Flow("controller", "envoy", 19001, "how many answers each version gave"),
    Flow("controller", "internet", 443, "the webhook of alarms"),
    # Revisions.
    Flow("envoy", "revision", serving.PORT, "predictions: the controller makes their routes"),
    Flow("collector", "revision", serving.PORT, "to have the log complete up to now"),
    # Data.
    Flow("database", "database", database.PORT, "replication"),
    Flow("database", "database", 8000, "each other's state"),
    Flow("cloudnative-pg", "database", 8000, "how an instance is"),
    *(Flow("database-roles", where, database.PORT, "makes everybody's login on a cloud's server") for where in INSIDE),
    *(
        Flow(source, "object-store", port, "master, filer and volume server, each with its gRPC port")
        for source in ("object-store", "object-store-buckets")
        for port in object_store._INTERNAL
    ),
    # Training.
    *(
        Flow(source, target, port, "Ray's nodes choose ports as they like")
        for source in ("ray-head", "ray-worker")
        for target, ports in (("ray-head", (6379, 8265, 10001, 8080, 8000)), ("ray-worker", (8080,)))
        for port in ports
    ),
    Flow("kuberay", "ray-head", kuberay.DASHBOARD, "submits a job, asks how it is"),
    # Kubeflow Pipelines.
    Flow("runner", "ml-pipeline", pipelines.KFP_PORT, "submits a run"),
    *(
        Flow(each, "object-store", object_store.PORT, "files of pipelines and runs: our overlay says where")
        for each in ("ml-pipeline", "ml-pipeline-ui", "pipeline-step", "run-step")
    ),
    # One policy for all its parts: MySQL is let where the others have to go.
    Flow("ml-pipeline-mysql", "object-store", object_store.PORT, "shares the others' policy"),
    Flow("ml-pipeline-mysql", "api-server", 443, "shares the others' policy"),
    Flow("ml-pipeline-mysql", "api-server", 6443, "shares the others' policy"),
    Flow("ml-pipeline-ui", "ml-pipeline", 8888, "what its pages show"),
    Flow("ml-pipeline", "ml-pipeline-mysql", 3306, "its tables"),
    Flow("pipeline-step", "ml-pipeline", 8887, "says how a step went"),
    # Watching.
    Flow("grafana", "prometheus", 9090, "samples"),
    Flow("prometheus", "grafana", 3000, "a monitor of its chart"),
    Flow("prometheus", "kube-state-metrics", 8080, "a monitor of its chart"),
    Flow("prometheus", "prometheus-operator", 10250, "a monitor of its chart"),
    Flow("prometheus", "node", 10250, "the kubelet: what containers use"),
    Flow("prometheus", "dns", 9153, "the DNS's own figures"),
    Flow("prometheus", "opencost", cost.PORT, "prices"),
    Flow("opencost", "internet", 443, "the cloud's price list"),
    Flow("metrics-server", "node", 10250, "the kubelet"),
    # Clouds.
    Flow("cluster-autoscaler", "pod-identity", 80, "its role's credentials"),
    Flow("cluster-autoscaler", "internet", 443, "asks for nodes"),
    Flow("gpu-operator", "internet", 80, "a driver fetches the kernel's headers"),
]

OPEN = {
    names.MONITORING: "the pods of one chart among themselves",
    names.PIPELINES: "Kubeflow Pipelines' own parts and steps among themselves",
}
"""Namespaces in which pods are not kept from one another."""


def flows_of(network: PodNetwork) -> set[Flow]:
    """Every connection that somebody needs in this stack."""
    there = {*network.pods, *ADDRESSES}
    found = {flow for flow in KNOWN if {flow.source, flow.target} <= there}
    found |= {*_told(network), *_routed(network), *_scraped(network), *_with_tokens(network)}
    if "run-step" in there:
        # What a run in one pod needs.
        run = {each for each in found if each.source == "pipeline-run"}
        found |= {Flow("run-step", each.target, each.port, each.why) for each in run}
    # A run is not told of the cache yet, and is let to it all the same: it will fill what servers read.
    found |= {Flow("pipeline-run", each.target, each.port, "features") for each in found if each.source == "revision"}
    # Whoever reaches anything by name asks for its address.
    return found | {
        Flow(source, "dns", 53, "names", protocol)
        for source in {flow.source for flow in found} & {pod.name for pod in network.ours()}
        for protocol in ("UDP", "TCP")
    }


def _told(network: PodNetwork) -> Iterator[Flow]:
    for each in network.told():
        target, port = network.behind(each.service, each.namespace, each.port)
        yield Flow(each.pod, target, port, "an address that it is given")
    for pod, host, port in network.told_of_cloud():
        for where in ("cloud-outside",) if host.startswith("objects") else INSIDE:
            yield Flow(pod, where, port, f"{host}, which it is given")


def _routed(network: PodNetwork) -> Iterator[Flow]:
    for route in network.recording.of_kind("HTTPRoute"):
        for rule in route.inputs["spec"]["rules"]:
            for backend in rule.get("backendRefs") or ():
                namespace = route.metadata["namespace"]
                yield Flow(
                    "envoy", *network.behind(backend["name"], namespace, backend["port"]), f"route {route.where}"
                )


def _scraped(network: PodNetwork) -> Iterator[Flow]:
    """Pods that a PodMonitor selects and that have a port which it names."""
    for monitor in network.recording.of_kind("PodMonitor"):
        spec = monitor.inputs["spec"]
        for pod in network.ours():
            if pod.namespace in spec["namespaceSelector"]["matchNames"] and selects(spec["selector"], pod.labels):
                for endpoint in spec["podMetricsEndpoints"]:
                    if endpoint["port"] in pod.ports:
                        yield Flow("prometheus", pod.name, pod.ports[endpoint["port"]], f"monitor {monitor.where}")


def _with_tokens(network: PodNetwork) -> Iterator[Flow]:
    for each in network.recording.of_kind("Deployment"):
        template = each.inputs["spec"]["template"]
        if mapping(template["spec"]).get("automountServiceAccountToken"):
            name = template["metadata"]["labels"]["app.kubernetes.io/name"]
            yield from (Flow(name, "api-server", port, "its account has rights") for port in (443, 6443))
    for each in network.recording.of_kind("RayCluster"):
        if each.inputs["spec"]["enableInTreeAutoscaling"]:
            yield from (Flow("ray-head", "api-server", port, "the autoscaler") for port in (443, 6443))
