"""The Prometheus operator with a Prometheus and, where asked for, Grafana; and metrics-server where asked for.

Does not watch nodes: an exporter on the node needs the host's network and process table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from infra.components import names, network
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests

PORT = 9090
SERVER = Requests("100m", "400Mi", memory_limit="1Gi")
_RELEASE = "monitoring"
GRAFANA_LOGIN = "grafana-login"


@dataclass(frozen=True)
class PrometheusArgs:
    site: Site


class Prometheus(Component):
    """Samples, alerts and pages about them. `url` is where pods ask."""

    def __init__(self, name: str, args: PrometheusArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("monitoring", name, args.site, opts)
        part = args.site.settings.parts.monitoring
        self.url = f"http://{names.service('prometheus', names.MONITORING)}:{PORT}"
        if part.existing:
            self._look_up_definition("servicemonitors.monitoring.coreos.com")
        elif part.prometheus:
            login = self._create_secret(
                GRAFANA_LOGIN,
                names.MONITORING,
                {"admin-user": "slipway", "admin-password": args.site.secrets.read("grafana/administrator")},
            )
            self._create_stack(login)
        if part.metrics_server == "install":
            self._create_metrics_server()
        elif part.metrics_server == "existing":
            self._look_up_api_service()
        self.register_outputs({"url": self.url})

    def _create_stack(self, login: pulumi.Resource) -> HelmChart:
        grafana = self.site.settings.parts.monitoring.grafana
        pods = {
            # The operator makes this one; what it requests stands in the values.
            f"prometheus-{_RELEASE}-prometheus": SERVER,
            f"{_RELEASE}-operator": Requests("20m", "64Mi", memory_limit="256Mi"),
            f"{_RELEASE}-kube-state-metrics": Requests("10m", "64Mi", memory_limit="128Mi"),
        } | ({f"{_RELEASE}-grafana/grafana": Requests("50m", "192Mi", memory_limit="512Mi")} if grafana else {})
        return HelmChart(
            _RELEASE,
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="kube_prometheus_stack",
                namespace=names.MONITORING,
                pods=pods,
                disk=self.site.settings.parts.monitoring.storage,
                ingress_from=(
                    network.anyone(10250),
                    network.namespace(names.MONITORING),
                    network.namespace(names.GATEWAY, 3000),
                    network.namespace(names.SYSTEM, PORT),
                    network.namespace(names.COST, PORT),
                ),
                # Prometheus visits everything that may be watched; what answers is decided there.
                egress_to=(network.anyone(8080, 8082, 8443, 9090, 9187, 9402, 10249, 19001, 5000), *_OWN),
                values=self._values(grafana=grafana),
            ),
            self._options(login),
        )

    def _values(self, *, grafana: bool) -> dict[str, Any]:
        part = self.site.settings.parts.monitoring
        claim: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": part.storage}},
        }
        if self.site.settings.storage_class:
            claim["storageClassName"] = self.site.settings.storage_class
        every: dict[str, Any] = {
            f"{kind}{which}": value
            for kind in ("serviceMonitor", "podMonitor", "rule")
            for which, value in (("Selector", {}), ("NamespaceSelector", {}), ("SelectorNilUsesHelmValues", False))
        }
        return {
            "fullnameOverride": _RELEASE,
            "nodeExporter": {"enabled": False},
            "alertmanager": {"enabled": False},
            # Parts of the control plane that a managed cluster does not show.
            "kubeEtcd": {"enabled": False},
            "kubeControllerManager": {"enabled": False},
            "kubeScheduler": {"enabled": False},
            "kubeProxy": {"enabled": False},
            "defaultRules": {"create": part.grafana},
            "grafana": {
                "enabled": grafana,
                "fullnameOverride": f"{_RELEASE}-grafana",
                "admin": {"existingSecret": GRAFANA_LOGIN, "userKey": "admin-user", "passwordKey": "admin-password"},
                # Its init container changes owners as root.
                "initChownData": {"enabled": False},
                "testFramework": {"enabled": False},
                "sidecar": {"dashboards": {"enabled": True, "searchNamespace": names.MONITORING}},
                "grafana.ini": {
                    "server": {"root_url": f"https://{self.site.host('grafana')}"},
                    "analytics": {"check_for_updates": False, "reporting_enabled": False},
                },
            },
            "prometheusOperator": {
                # The chart's certificate comes from a hook; cert-manager takes its place.
                "admissionWebhooks": {"patch": {"enabled": False}, "certManager": {"enabled": True}},
            },
            "prometheus": {
                "prometheusSpec": {
                    **every,
                    "retention": part.retention,
                    "resources": SERVER.as_dict(),
                    "scrapeInterval": "30s",
                    "storageSpec": {"volumeClaimTemplate": {"spec": claim}},
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "runAsGroup": 2000,
                        "fsGroup": 2000,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                },
            },
        }

    def _create_metrics_server(self) -> HelmChart:
        return HelmChart(
            "metrics-server",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="metrics_server",
                namespace=names.MONITORING,
                pods={"metrics-server": Requests("20m", "64Mi", memory_limit="128Mi")},
                ingress_from=(network.anyone(10250),),
                egress_to=(network.anyone(10250),),
                values={"apiService": {"insecureSkipTLSVerify": True}},
            ),
            self._options(),
        )

    def _look_up_api_service(self) -> None:
        from pulumi_kubernetes.apiregistration.v1 import APIService

        APIService.get(f"{self.name}-existing-metrics", "v1beta1.metrics.k8s.io", opts=self._options())


_OWN = (network.namespace(names.MONITORING),)
