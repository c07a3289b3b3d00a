"""MLflow: runs, versions and bundles, with tables in PostgreSQL and files in the object store.

Every request needs a login, and nobody may do anything that was not granted. It runs no jobs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import database, names, network, object_store
from infra.components.component import Component, Site
from infra.components.pods import FromSecret, Requests, SecretFiles
from infra.components.workload import Workload, WorkloadArgs

PORT = 5000
LOGIN = "registry-login"
"""Secret with the administrator's `username` and `password`, for the platform's own processes."""
_UPGRADE = 'import os; from mlflow.db import upgrade; upgrade.callback(os.environ["MLFLOW_BACKEND_STORE_URI"])'


@dataclass(frozen=True)
class RegistryArgs:
    site: Site
    database: pulumi.Input[str]
    """Host of PostgreSQL."""


class Registry(Component):
    """The tracking server and registry; `url` is what pods use, the gateway serves its pages as `mlflow.<domain>`."""

    def __init__(self, name: str, args: RegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("registry", name, args.site, opts)
        self.args = args
        self.url = f"http://{names.service(name, names.SYSTEM)}:{PORT}"
        self._create_login()
        migration = self._create_migration()
        self._create_server(migration)
        self._create_route("mlflow", names.SYSTEM, name, PORT)
        self.register_outputs({"url": self.url})

    def _create_login(self) -> None:
        password = self.site.secrets.read("registry/administrator")
        tables = self.site.secrets.read(f"database/{database.REGISTRY.name}")
        configuration = pulumi.Output.concat(
            "[mlflow]\n",
            "default_permission = NO_PERMISSIONS\n",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
            "admin_username = slipway\n",
            "admin_password = ", password, "\n",
            f"database_uri = postgresql+psycopg2://{database.REGISTRY.name}:", tables, "@", self.args.database,
            f":{database.PORT}/{database.REGISTRY.name}?sslmode=require\n",
        )  # fmt: skip
        self._create_secret(f"{self.name}-authentication", names.SYSTEM, {"basic_auth.ini": configuration})
        for namespace in (names.SYSTEM, names.SERVING, names.TRAINING):
            self._create_secret(LOGIN, namespace, {"username": "slipway", "password": password})
        self._create_secret(
            f"{self.name}-sessions", names.SYSTEM, {"key": self.site.secrets.read("registry/session-key")}
        )

    def _create_migration(self) -> Workload:
        """Brings the tables to the server's release; a server of another release refuses to start."""
        return Workload(
            f"{self.name}-migration",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="mlflow",
                kind="Job",
                # Not MLflow's command line: it takes the address, password included, as an argument.
                command=("python", "-c", _UPGRADE),
                env={"MLFLOW_BACKEND_STORE_URI": FromSecret(database.REGISTRY.secret, "url"), "HOME": "/tmp"},  # noqa: S108
                requests=Requests("100m", "256Mi", memory_limit="512Mi"),
                egress_to=(_DATABASE,),
            ),
            self._options(),
        )

    def _create_server(self, migration: Workload) -> Workload:
        host = self.site.host("mlflow")
        own = names.service(self.name, names.SYSTEM)
        objects = object_store.REGISTRY.secret
        return Workload(
            self.name,
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="mlflow",
                command=("mlflow", "server"),
                arguments=(
                    "--host=0.0.0.0",
                    f"--port={PORT}",
                    "--workers=1",
                    "--app-name=basic-auth",
                    "--serve-artifacts",
                ),
                env={
                    "HOME": "/tmp",  # noqa: S108
                    "MLFLOW_BACKEND_STORE_URI": FromSecret(database.REGISTRY.secret, "url"),
                    "MLFLOW_ARTIFACTS_DESTINATION": FromSecret(objects, "root"),
                    "MLFLOW_S3_ENDPOINT_URL": FromSecret(objects, "url"),
                    "AWS_ACCESS_KEY_ID": FromSecret(objects, "AWS_ACCESS_KEY_ID"),
                    "AWS_SECRET_ACCESS_KEY": FromSecret(objects, "AWS_SECRET_ACCESS_KEY"),
                    "AWS_REGION": FromSecret(objects, "AWS_REGION"),
                    "MLFLOW_AUTH_CONFIG_PATH": "/etc/registry/basic_auth.ini",
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": FromSecret(f"{self.name}-sessions", "key"),
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    # Any other name in the Host header is answered with 403.
                    "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join((host, own, f"{own}:{PORT}", self.name)),
                    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"https://{host}",
                },
                ports={"http": PORT},
                health="/health",
                volumes=(SecretFiles("/etc/registry", f"{self.name}-authentication"),),
                requests=Requests("100m", "512Mi", memory_limit="1Gi"),
                replicas=self.site.settings.parts.registry.replicas,
                ingress_from=(
                    network.namespace(names.GATEWAY, PORT),
                    network.namespace(names.SYSTEM, PORT),
                    network.namespace(names.SERVING, PORT),
                    network.namespace(names.TRAINING, PORT),
                ),
                egress_to=(_DATABASE, network.namespace(names.DATA, object_store.PORT), network.internet(443)),
            ),
            self._options(migration),
        )


# By the cluster's own server or, on a cloud, by an address inside its network.
_DATABASE = network.anyone(database.PORT)
