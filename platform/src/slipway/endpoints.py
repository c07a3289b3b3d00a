"""Where the parts of the platform are reached on this machine: addresses and socket paths, spelled once.

It opens nothing; a part that does not run yet has an address all the same.
"""

from __future__ import annotations

from pathlib import Path

from slipway.environment import Environment
from slipway.targets.local.ports import read_ports


def _url(environment: Environment, port: str) -> str:
    gateway = environment.settings.gateway
    scheme = "https" if gateway.tls_certificate else "http"
    host = "127.0.0.1" if gateway.is_loopback else gateway.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{read_ports(environment)[port]}"


def gateway_url(environment: Environment) -> str:
    """Predictions, labels and the pages, without a slash at the end. Raises NotReady before the first `slipway up`."""
    return _url(environment, "gateway")


def dashboard_url(environment: Environment, name: str) -> str:
    """A page for browsers, on the gateway's port; `name` is portal, mlflow, reports or ray.

    Each has a host name of its own below `localhost`, so that their cookies and scripts stay apart.
    """
    gateway = environment.settings.gateway
    scheme = "https" if gateway.tls_certificate else "http"
    host = "localhost" if name == "portal" else f"{name}.localhost"
    return f"{scheme}://{host}:{read_ports(environment)['gateway']}"


def registry_url(environment: Environment) -> str:
    """MLflow's tracking and registry API behind the token check, loopback only."""
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
