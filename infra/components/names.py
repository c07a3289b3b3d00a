"""Names that several components must spell alike: namespaces, host names, labels, stack."""

from __future__ import annotations

SYSTEM = "slipway-system"
"""Control plane, registry, reports."""
DATA = "slipway-data"
"""PostgreSQL, Valkey, object store, feature store."""
FEATURES = "slipway-features"
"""What the feature store's operator runs: its pods do not pass `restricted`."""
SERVING = "slipway-serving"
"""Revisions: one InferenceService each."""
TRAINING = "slipway-training"
"""Pipeline runs and Ray."""
GATEWAY = "slipway-gateway"
"""Envoy Gateway, the Gateway and its Envoys."""
MONITORING = "slipway-monitoring"
"""Prometheus and Grafana."""

PLATFORM = (SYSTEM, DATA, SERVING, TRAINING, GATEWAY, MONITORING)

CERT_MANAGER = "cert-manager"
DATABASE_OPERATOR = "cnpg-system"
FEATURES_OPERATOR = "feast-operator-system"
SERVING_OPERATOR = "kserve"
TRAINING_OPERATOR = "kuberay-system"
QUEUEING = "kueue-system"
PIPELINES = "kubeflow"
"""Hard-coded in Kubeflow Pipelines' manifests."""
ROUTED = (SYSTEM, SERVING, MONITORING, PIPELINES)
"""Where the Gateway's routes lead."""
GPU = "gpu-operator"
COST = "opencost"

GATEWAY_NAME = "slipway"
"""Of the one Gateway, its class, and the ClusterIssuer of our own authority."""
NODE_PORTS = {"http": 30080, "https": 30443}
"""On kind: what its port mappings lead to."""
ROUTES_LABEL = "slipway.dev/routes"
"""On namespaces whose routes the Gateway takes."""
DATABASE = "database"
"""The PostgreSQL cluster; its read-write Service has `-rw` behind it."""

ENVOYS = {"gateway.envoyproxy.io/owning-gateway-name": GATEWAY_NAME}
"""Labels that Envoy Gateway gives the Gateway's Envoys."""
CLUSTER = "kube-system"
"""The cluster's own pods, its DNS among them."""
DNS = "kube-dns"
"""`k8s-app` label of the cluster's DNS, with CoreDNS, too."""

PLATFORM_TEAM = "platform"
SHARED_MODEL = "shared"
"""Value of the label `slipway.dev/model` on what serves all models."""


def host(name: str, domain: str) -> str:
    """The host name of a page or endpoint behind the gateway."""
    return f"{name}.{domain}"


def service(name: str, namespace: str) -> str:
    """The name by which pods reach a Service."""
    return f"{name}.{namespace}.svc.cluster.local"


def service_names(name: str, namespace: str) -> list[str]:
    """Every name by which pods may reach it, from the shortest on: what its certificate must be good for."""
    return [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", service(name, namespace)]


def labels(
    part: str, name: str, *, environment: str, team: str = PLATFORM_TEAM, model: str = SHARED_MODEL
) -> dict[str, str]:
    """The labels of every object: what it belongs to, and who pays for it."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": part.replace("_", "-"),
        "app.kubernetes.io/part-of": "slipway",
        "app.kubernetes.io/managed-by": "pulumi",
        "slipway.dev/environment": environment,
        "slipway.dev/team": team,
        "slipway.dev/model": model,
    }
