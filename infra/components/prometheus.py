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
from infra.components.network import Peer
from infra.components.pods import Requests
from slipway.kubernetes_settings import KubernetesSettings

PORT = 9090
GRAFANA = 3000
SERVER = Requests("100m", "400Mi", memory_limit="1Gi")
_RELOADER = tuple(Requests("10m", "32Mi", memory_limit="64Mi").as_dict().items())
"""Beside the server; the operator takes no other resources of it than these two."""
_RELEASE = "monitoring"
GRAFANA_LOGIN = "grafana-login"
PODS = {"app.kubernetes.io/name": "prometheus"}
"""Label that the operator gives every server."""


def peer(settings: KubernetesSettings, *ports: int) -> Peer:
    """The server, as those see it that it visits: ours, or one that was there before, wherever that is."""
    where = network.ANY_NAMESPACE if settings.parts.monitoring.existing else names.MONITORING
    return network.pods(PODS, *ports, namespace=where)


@dataclass(frozen=True)
class PrometheusArgs:
    site: Site


class Prometheus(Component):
    """Samples, alerts and pages about them. `url` is where pods ask."""

    def __init__(self, name: str, args: PrometheusArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("monitoring", name, args.site, opts)
        part = args.site.settings.parts.monitoring
        self.url = f"http://{names.service(f'{_RELEASE}-prometheus', names.MONITORING)}:{PORT}"
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
                    # The operator's webhook.
                    *network.from_api_server(10250),
                    network.namespace(names.MONITORING),
                    network.namespace(names.GATEWAY, GRAFANA),
                    network.namespace(names.COST, PORT),
                ),
                egress_to=(network.namespace(names.MONITORING),),
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
                    # Whoever the gateway has let through may look. No header says who comes, so none can be forged.
                    "auth.anonymous": {"enabled": True, "org_role": "Viewer"},
                    "security": {"cookie_secure": True},
                },
            },
            "prometheusOperator": {
                "prometheusConfigReloader": {
                    "image": self._image("prometheus_config_reloader"),
                    "resources": {
                        kind: {name: amounts[name] for name in ("cpu", "memory")} for kind, amounts in _RELOADER
                    },
                },
                # The chart's certificate comes from a hook; cert-manager takes its place.
                "admissionWebhooks": {"patch": {"enabled": False}, "certManager": {"enabled": True}},
            },
            "prometheus": {
                "prometheusSpec": {
                    **every,
                    "image": self._image("prometheus"),
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

    def _image(self, name: str) -> dict[str, str]:
        """Of a pod that the operator makes: no object that could be changed names it, so the values do."""
        pin = self.site.versions.image(name)
        registry, _, repository = pin.repository(self.site.settings.mirror.registry).partition("/")
        return {"registry": registry, "repository": repository, "tag": pin.tag, "sha": pin.digest.partition(":")[2]}

    def _create_metrics_server(self) -> HelmChart:
        return HelmChart(
            "metrics-server",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="metrics_server",
                namespace=names.MONITORING,
                pods={"metrics-server": Requests("20m", "64Mi", memory_limit="128Mi")},
                selector={"app.kubernetes.io/name": "metrics-server"},
                ingress_from=network.from_api_server(10250),
                egress_to=(network.somewhere(10250),),
                values={"apiService": {"insecureSkipTLSVerify": True}},
            ),
            self._options(),
        )

    def _look_up_api_service(self) -> None:
        from pulumi_kubernetes.apiregistration.v1 import APIService

        APIService.get(f"{self.name}-existing-metrics", "v1beta1.metrics.k8s.io", opts=self._options())
