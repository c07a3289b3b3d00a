"""Where the parts of the platform are reached: addresses and socket paths, spelled once.

It opens nothing; a part that does not run yet has an address all the same.
"""

from __future__ import annotations

from pathlib import Path

from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.pod import REGISTRY
from slipway.targets.local.ports import read_ports


def scheme_of(environment: Environment) -> str:
    """How browsers and programs reach the gateway: `https` with a certificate, and always in a cluster."""
    settings = environment.settings
    return "https" if settings.kubernetes or settings.gateway.tls_certificate else "http"


def gateway_url(environment: Environment) -> str:
    """Predictions, labels and the pages, without a slash at the end. Raises NotReady before the first `slipway up`."""
    if environment.settings.kubernetes:
        return dashboard_url(environment, "portal")
    gateway = environment.settings.gateway
    host = "127.0.0.1" if gateway.is_loopback else gateway.host
    port = read_ports(environment)["gateway"]
    return f"{scheme_of(environment)}://{f'[{host}]' if ':' in host else host}:{port}"


def dashboard_url(environment: Environment, name: str) -> str:
    """A page for browsers, on the gateway's port; `name` is portal, mlflow, reports or ray.

    Each has a host name of its own below `localhost`, in a cluster below its domain, so that their cookies and scripts
    stay apart.
    """
    if environment.settings.kubernetes:
        return f"https://{name}.{environment.settings.kubernetes.domain}"
    host = "localhost" if name == "portal" else f"{name}.localhost"
    return f"{scheme_of(environment)}://{host}:{read_ports(environment)['gateway']}"


def registry_url(environment: Environment) -> str:
    """MLflow's tracking and registry API: behind the token check, loopback only; a pod is told its Service.

    Raises NotReady in a pod that is told none.
    """
    if environment.pod is not None:
        if not environment.pod.registry_url:
            raise NotReady("this pod is told no registry", hint=f"set {REGISTRY}, or enable the part `registry`")
        return environment.pod.registry_url
    return f"http://127.0.0.1:{read_ports(environment)['registry']}"


def ray_address(environment: Environment) -> str:
    """Ray's Jobs API and dashboard (`http://127.0.0.1:port`), loopback only, token required."""
    return f"http://127.0.0.1:{read_ports(environment)['ray_dashboard']}"


def ray_token_file(environment: Environment) -> Path:
    """The file that RAY_AUTH_TOKEN_PATH names."""
    return environment.state.secrets / "ray_token"


def socket_of(environment: Environment, name: str) -> Path:
    """The unix socket of a process: portal, mlflow, reports, envoy-admin, supervisor."""
    return environment.state.sockets / f"{name}.sock"


def revision_socket(environment: Environment, model: str, version: int) -> Path:
    """The unix socket of the server of one version."""
    return socket_of(environment, f"{model}-{version}")
