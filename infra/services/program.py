"""The list of the stack, in five layers. Each line is a component; what it needs stands above it.

The cluster is another project's (`infra/cluster`): a cluster and the objects on it are never in one preview.
"""

from __future__ import annotations

from pathlib import Path

import pulumi
from pulumi import ResourceOptions

from infra.components import names
from infra.components.cache import Cache, CacheArgs
from infra.components.cert_manager import CertManager, CertManagerArgs
from infra.components.cloudnative_pg import CloudNativePg, CloudNativePgArgs
from infra.components.component import Component, Site
from infra.components.contents import Contents
from infra.components.control_plane import ControlPlane, ControlPlaneArgs
from infra.components.cost import Cost, CostArgs
from infra.components.database import Database, DatabaseArgs
from infra.components.definitions import Definitions, DefinitionsArgs
from infra.components.eks_objects import EksObjects, EksObjectsArgs
from infra.components.envoy_gateway import EnvoyGateway, EnvoyGatewayArgs
from infra.components.feast_operator import FeastOperator, FeastOperatorArgs
from infra.components.features import Features, FeaturesArgs
from infra.components.gateway import Gateway, GatewayArgs
from infra.components.gpu import Gpu, GpuArgs
from infra.components.kserve import KServe, KServeArgs
from infra.components.kubeflow_pipelines import KubeflowPipelines, KubeflowPipelinesArgs
from infra.components.kuberay import KubeRay, KubeRayArgs
from infra.components.kueue import Kueue, KueueArgs
from infra.components.monitoring import Monitoring, MonitoringArgs
from infra.components.object_store import ObjectStore, ObjectStoreArgs
from infra.components.pipelines import Pipelines, PipelinesArgs
from infra.components.platform_pod import environment_file
from infra.components.prometheus import Prometheus, PrometheusArgs
from infra.components.queueing import Queueing, QueueingArgs
from infra.components.registry import Registry, RegistryArgs
from infra.components.secrets import SecretStore
from infra.components.serving import Serving, ServingArgs
from infra.components.training import Training, TrainingArgs
from infra.services.cluster import Cluster, find_cluster
from slipway import signing
from slipway.environment import Environment
from slipway.mirror.versions import Versions, load_versions
from slipway.settings import Settings
from slipway.state import State
from slipway.targets.local.doors import cluster_hosts


def stand_up(settings: Settings, versions: Versions | None = None) -> None:
    """The inline program of project `slipway-services`; `versions` in place of the pinned ones try an upgrade."""
    if settings.kubernetes is None:
        raise ValueError("the services project needs an environment with target kubernetes")
    kubernetes = settings.kubernetes
    secrets = SecretStore(State(settings.state_dir).secrets)
    # Made here, and not by a pod: the public half goes to every server, the private one to who signs.
    signing.prepare(Environment(Path(f"{settings.name}.toml"), settings))
    site = Site(
        settings.name,
        kubernetes,
        versions or load_versions(mirror=kubernetes.mirror.dir),
        secrets,
        Contents(secrets.value("contents-key")),
        environment_file(settings),
    )
    Stack(site, find_cluster(settings)).stand_up()


class Stack:
    """The parts that the settings ask for, by name, as they are made."""

    def __init__(self, site: Site, cluster: Cluster) -> None:
        self.site = site
        self.cluster = cluster
        self.made: dict[str, Component] = {}

    def stand_up(self) -> None:
        self._definitions()
        self._operators()
        self._data_services()
        self._ml_services()
        self._tenant_objects()
        pulumi.export("namespaces", list(names.PLATFORM))
        pulumi.export("urls", {door: f"https://{host}" for door, host in cluster_hosts(self.site.settings).items()})

    def _wants(self, part: str) -> bool:
        return bool(self.site.settings.part(part).enabled)

    def _after(self, *made: str) -> ResourceOptions:
        """Options of a component that is made after these (those of them that there are), and gone before them."""
        needed = [self.made[name] for name in ("definitions", *made) if name in self.made]
        return ResourceOptions(provider=self.cluster.provider, depends_on=needed)

    def _definitions(self) -> None:
        self.made["definitions"] = Definitions("definitions", DefinitionsArgs(self.site), self._after())

    def _operators(self) -> None:
        made, site, settings = self.made, self.site, self.site.settings
        if settings.provider == "eks":
            made["eks"] = EksObjects("eks", EksObjectsArgs(site), self._after())
        if self._wants("cert_manager"):
            made["cert-manager"] = CertManager("certificates", CertManagerArgs(site), self._after())
        if self._wants("gateway"):
            made["envoy-gateway"] = EnvoyGateway(
                "gateway-operator", EnvoyGatewayArgs(site, names.GATEWAY_NAME), self._after("cert-manager")
            )
        if self._wants("database") and not settings.managed.database:
            made["cloudnative-pg"] = CloudNativePg("database-operator", CloudNativePgArgs(site), self._after())
        if self._wants("monitoring"):
            made["prometheus"] = Prometheus("prometheus", PrometheusArgs(site), self._after("cert-manager"))
        if self._wants("features"):
            made["feast-operator"] = FeastOperator("features-operator", FeastOperatorArgs(site), self._after())
        if self._wants("queueing"):
            # Its webhooks fail closed: whatever it looks at comes later.
            made["kueue"] = Kueue("queueing-operator", KueueArgs(site), self._after())
        if self._wants("serving"):
            made["kserve"] = KServe("serving-operator", KServeArgs(site), self._after("cert-manager"))
        if self._wants("training"):
            made["kuberay"] = KubeRay("training-operator", KubeRayArgs(site), self._after("kueue"))
        if self._wants("gpu"):
            made["gpu"] = Gpu("gpu", GpuArgs(site), self._after())

    def _data_services(self) -> None:
        made, site = self.made, self.site
        if self._wants("database"):
            made["database"] = Database(
                "database",
                DatabaseArgs(site, managed=self.cluster.database),
                self._after("cert-manager", "cloudnative-pg"),
            )
        if self._wants("cache"):
            made["cache"] = Cache("cache", CacheArgs(site, self.cluster.cache), self._after("cert-manager"))
        if self._wants("object_store"):
            made["object-store"] = ObjectStore(
                "object-store", ObjectStoreArgs(site, self.cluster.object_store), self._after("cert-manager")
            )

    def _ml_services(self) -> None:
        made, site = self.made, self.site
        if self._wants("gateway"):
            made["gateway"] = Gateway("gateway", GatewayArgs(site, self._issuer()), self._after("envoy-gateway"))
        database, cache = made.get("database"), made.get("cache")
        if self._wants("registry") and isinstance(database, Database):
            made["registry"] = Registry(
                "registry",
                RegistryArgs(site, database.host),
                self._after("cert-manager", "database", "object-store", "gateway"),
            )
        if self._wants("features") and isinstance(database, Database) and isinstance(cache, Cache):
            made["features"] = Features(
                "features",
                FeaturesArgs(site, database.host, cache.address),
                self._after("cert-manager", "feast-operator", "database", "cache", "object-store"),
            )
        if self._wants("serving"):
            made["serving"] = Serving(
                "serving", ServingArgs(site, self._registry()), self._after("kserve", "cache", "registry", "gateway")
            )
        if self._wants("training"):
            made["training"] = Training("training", TrainingArgs(site), self._after("kuberay", "kueue", "registry"))
        if self._wants("pipelines"):
            if self.site.has_kubeflow:
                made["kubeflow-pipelines"] = KubeflowPipelines(
                    "kubeflow",
                    KubeflowPipelinesArgs(site),
                    self._after("cert-manager", "object-store", "gateway", "kueue"),
                )
            made["pipelines"] = Pipelines(
                "pipelines",
                PipelinesArgs(site, self._registry()),
                self._after("registry", "training", "kueue", "kubeflow-pipelines"),
            )
        if self._wants("control_plane"):
            made["control-plane"] = ControlPlane(
                "control-plane",
                ControlPlaneArgs(site, self._registry()),
                self._after("database", "registry", "serving", "gateway"),
            )
        if self._wants("monitoring"):
            made["monitoring"] = Monitoring(
                "monitoring",
                MonitoringArgs(site, self._registry()),
                self._after("prometheus", "database", "object-store", "registry", "gateway"),
            )
        if self._wants("cost"):
            prometheus = made["prometheus"]
            url = prometheus.url if isinstance(prometheus, Prometheus) else ""
            made["cost"] = Cost("cost", CostArgs(site, url), self._after("prometheus"))

    def _tenant_objects(self) -> None:
        if self._wants("queueing"):
            self.made["queueing"] = Queueing("queues", QueueingArgs(self.site), self._after("kueue", "training"))

    def _issuer(self) -> str:
        return self.site.settings.parts.cert_manager.issuer or names.GATEWAY_NAME

    def _registry(self) -> str:
        registry = self.made.get("registry")
        return registry.url if isinstance(registry, Registry) else ""
