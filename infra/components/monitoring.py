"""What is watched and shown: scraping of the platform's pods, alerts, dashboards, and Evidently's pages of reports.

The monitors over models themselves run as CronJobs here, on the inference log; they need no Prometheus.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi
import yaml
from pulumi_kubernetes.core.v1 import ConfigMap
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import (
    cost,
    database,
    names,
    network,
    object_store,
    platform_pod,
    prometheus,
    registry,
    serving,
)
from infra.components.component import Component, Site
from infra.components.pods import Requests, Scratch
from infra.components.workload import Workload, WorkloadArgs

REPORTS_PORT = 8000
_REPOSITORY = Path(__file__).resolve().parents[2]
_FOLDER = _REPOSITORY / "monitoring"
_MONITOR = {"slipway.dev/role": "monitor"}


@dataclass(frozen=True)
class MonitoringArgs:
    site: Site
    registry: str
    """Address of MLflow."""


class Monitoring(Component):
    """Our monitors, alerts, dashboards and reports."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("monitoring", name, args.site, opts)
        self.args = args
        self._create_reports()
        for model in onboarded_models():
            self._create_monitor(model)
        part = args.site.settings.parts.monitoring
        if part.existing or part.prometheus:
            self._create_scraping()
            self._create_alerts()
        if part.brings_grafana:
            # Its cookie is the login of its administrator; ours beside it opens this door and no other.
            self._create_route("grafana", names.MONITORING, "monitoring-grafana", 80, hidden=("authorization",))
        if part.grafana or part.existing:
            self._create_dashboards()
        self.register_outputs({})

    def _create_reports(self) -> Workload:
        """Evidently's own token guards writes only; reads are asked for at the gateway."""
        reports = Workload(
            "reports",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                command=("python", "-m", "slipway.reports_server"),
                env=platform_pod.variables(listen=REPORTS_PORT),
                ports={"http": REPORTS_PORT},
                volumes=(Scratch(platform_pod.STATE, "2Gi"), *platform_pod.files(object_store.REPORTS.secret)),
                requests=Requests("20m", "256Mi", memory_limit="512Mi", scratch="256Mi"),
                ingress_from=(network.namespace(names.GATEWAY, REPORTS_PORT),),
                egress_to=(object_store.peer(self.site.settings),),
            ),
            self._options(),
        )
        self._create_route("reports", names.SYSTEM, "reports", REPORTS_PORT)
        return reports

    def _create_monitor(self, model: str) -> Workload:
        return Workload(
            f"monitor-{model.replace('_', '-')}",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                kind="CronJob",
                # Windows are days long: an hour late is nothing, and a run that finds none due ends at once.
                schedule="17 * * * *",
                command=("python", "-m", "monitoring", "--due", model),
                labels={**_MONITOR, "slipway.dev/model": model},
                env=platform_pod.variables(self.args.registry),
                volumes=(
                    Scratch(platform_pod.STATE, "2Gi"),
                    *platform_pod.files(
                        database.LEDGER.secret,
                        registry.LOGIN,
                        object_store.INFERENCE_LOG.secret,
                        object_store.FEATURES.secret,
                        object_store.SNAPSHOTS.secret,
                        object_store.REPORTS.secret,
                    ),
                ),
                requests=Requests("200m", "512Mi", memory_limit="1Gi"),
                egress_to=(
                    database.peer(self.site.settings),
                    object_store.peer(self.site.settings),
                    registry.PEER,
                ),
            ),
            self._options(),
        )

    def _create_scraping(self) -> None:
        self._create_custom(
            "monitoring.coreos.com/v1",
            "PodMonitor",
            "slipway",
            names.MONITORING,
            {
                "selector": {"matchLabels": {"slipway.dev/metrics": "true"}},
                "namespaceSelector": {"matchNames": list(names.PLATFORM)},
                "podTargetLabels": ["slipway.dev/model", "slipway.dev/team", "app.kubernetes.io/name"],
                "podMetricsEndpoints": [
                    {"port": "http", "path": "/metrics"},
                    {"port": "metrics", "path": "/stats/prometheus"},
                ],
            },
        )
        if not self.site.settings.parts.monitoring.existing:
            self._create_scraping_policy()

    def _create_scraping_policy(self) -> NetworkPolicy:
        """What our Prometheus visits outside of its namespace: whoever adds a monitor adds a line here."""
        return NetworkPolicy(
            f"{self.name}-scraping-network",
            metadata=self._metadata("prometheus", names.MONITORING),
            spec=network.policy(
                prometheus.PODS,
                egress=(
                    network.pods({"slipway.dev/metrics": "true"}, serving.PORT, namespace=names.SERVING),
                    network.pods(names.ENVOYS, 19001, namespace=names.GATEWAY),
                    # The kubelets, and the cluster's DNS.
                    network.somewhere(10250),
                    network.pods({"k8s-app": names.DNS}, 9153, namespace=names.CLUSTER),
                    *((network.namespace(names.COST, cost.PORT),) if self.site.settings.parts.cost.enabled else ()),
                ),
            ),
            opts=self._options(),
        )

    def _create_alerts(self) -> None:
        for file in sorted((_FOLDER / "alerts").glob("*.y*ml")):
            groups = yaml.safe_load(file.read_text())["groups"]
            self._create_custom(
                "monitoring.coreos.com/v1",
                "PrometheusRule",
                file.stem.replace("_", "-"),
                names.MONITORING,
                {"groups": groups},
            )

    def _create_dashboards(self) -> None:
        for file in sorted((_FOLDER / "dashboards").glob("*.json")):
            name = f"dashboard-{file.stem.replace('_', '-')}"
            ConfigMap(
                f"{self.name}-{name}",
                metadata=self._metadata(name, names.MONITORING, labels={"grafana_dashboard": "1"}),
                data={file.name: file.read_text()},
                opts=self._options(),
            )


def onboarded_models() -> list[str]:
    """Every model that has a contract: a folder of `pipelines/` with a model.yaml."""
    return sorted(file.parent.name for file in (_REPOSITORY / "pipelines").glob("*/model.yaml"))
