"""MLflow's tracking server and registry on a unix socket: `python -m slipway.registry_server`.

MLflow's own command line is two processes, and after `kill -9` of the first the second keeps the port and is never
restarted; so its ASGI application runs here, in one process. It checks no tokens: Envoy, the only door to the socket,
does. Artifacts are served through the API, so that clients need no access to the folder.
"""

from __future__ import annotations

import os

from slipway import listening, logs
from slipway.environment import Environment, open_environment
from slipway.targets.local.ports import read_ports

_ARTIFACTS = "mlflow-artifacts:/"
"""What clients see as the root of the artifacts."""


def _configuration(environment: Environment) -> dict[str, str]:
    """Environment variables that MLflow reads when it is imported; the underscored ones are what its command sets."""
    ports = read_ports(environment)
    names = ("localhost", "127.0.0.1", "mlflow.localhost")
    hosts = [*names, *(f"{name}:{ports[port]}" for name in names for port in ("gateway", "registry"))]
    store = f"sqlite:///{environment.state.registry / 'mlflow.db'}"
    return {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_REGISTRY_STORE": store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": _ARTIFACTS,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (environment.state.registry / "artifacts").as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"http://mlflow.localhost:{ports['gateway']}",
    }


def main() -> None:
    logs.configure("mlflow")
    environment = open_environment()
    os.environ.update(_configuration(environment))

    from mlflow.server import handlers
    from mlflow.server.fastapi_app import app

    # Creates the database, or refuses one of another release, before the first request asks for it.
    store = os.environ["_MLFLOW_SERVER_FILE_STORE"]
    handlers.initialize_backend_stores(store, store, _ARTIFACTS)
    listening.serve(app, environment, "mlflow")


if __name__ == "__main__":
    main()
