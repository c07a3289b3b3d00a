"""The host names under which the gateway answers: `localhost` for the portal, a name below it for each dashboard; in a
cluster a name below its domain for each.

Separate names keep cookies and scripts of the dashboards apart. With a certificate, its DNS names are served as well.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from slipway.environment import Environment
from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.local.routes import DOORS, Door

TITLES: dict[Door, str] = {
    "mlflow": "MLflow", "reports": "Evidently", "ray": "Ray", "grafana": "Grafana", "pipelines": "Pipelines",
}  # fmt: skip
"""The dashboards, as their links are called."""


def cluster_hosts(cluster: KubernetesSettings) -> dict[Door, str]:
    """The name of every page that the parts of a cluster bring."""
    parts, monitoring = cluster.parts, cluster.parts.monitoring
    there: dict[Door, bool] = {
        "portal": parts.control_plane.enabled,
        "mlflow": parts.registry.enabled,
        "reports": monitoring.enabled,
        "grafana": monitoring.enabled and monitoring.brings_grafana,
        "pipelines": parts.pipelines.enabled and parts.pipelines.engine == "kfp",
    }
    return {door: f"{door}.{cluster.domain}" for door, is_there in there.items() if is_there}


def hosts_of(environment: Environment) -> dict[Door, tuple[str, ...]]:
    """Names without port for every door of the gateway's listener, lower case."""
    if cluster := environment.settings.kubernetes:
        return {door: (name,) for door, name in cluster_hosts(cluster).items()}
    gateway = environment.settings.gateway
    names = ["localhost", *(_certificate_names(gateway.tls_certificate) if gateway.tls_certificate else ())]
    addresses = ["127.0.0.1", "[::1]"]
    if not gateway.is_loopback and gateway.host not in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
        addresses.append(f"[{gateway.host}]" if ":" in gateway.host else gateway.host)
    doors: dict[Door, tuple[str, ...]] = {"portal": (*dict.fromkeys([*names, *addresses]),)}
    for door in DOORS[1:]:
        doors[door] = tuple(dict.fromkeys(f"{door}.{name}" for name in names))
    return doors


def door_of(environment: Environment, host: str) -> Door | None:
    """The door that a Host header (with or without port) names; None for a name that is not served."""
    name = host.lower().strip()
    if not name.endswith("]"):
        name = name.rsplit(":", 1)[0] if ":" in name else name
    for door, names in hosts_of(environment).items():
        if name in names:
            return door
    return None


@lru_cache(maxsize=4)
def _certificate_names(certificate: Path) -> tuple[str, ...]:
    """The DNS names of a PEM certificate, without wildcards."""
    from cryptography import x509

    alternatives = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    try:
        found = alternatives.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in found.get_values_for_type(x509.DNSName) if not name.startswith("*"))
