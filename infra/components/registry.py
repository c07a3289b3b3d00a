"""MLflow: runs, versions and bundles, with tables in PostgreSQL and files in the object store.

Every request needs a login, and nobody may do anything that was not granted. It runs no jobs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import database, names, network, object_store
from infra.components.cert_manager import AUTHORITY, AUTHORITY_FILES
from infra.components.component import Component, Site
from infra.components.pods import FromSecret, Requests, SecretFiles
from infra.components.workload import CERTIFICATE, Workload, WorkloadArgs

PORT = 5000
LOGIN = "registry-login"
"""Secret with the administrator's `username` and `password`, for the platform's own processes."""
PEER = network.app("registry", PORT, namespace=names.SYSTEM)
"""Where a pod that uses the registry has to reach."""
_USERS = (names.SYSTEM, names.SERVING, names.TRAINING)
"""Namespaces whose pods read and write versions."""
_UPGRADE = 'import os; from mlflow.db import upgrade; upgrade.callback(os.environ["MLFLOW_BACKEND_STORE_URI"])'

# Succeeds while the server answers with the certificate that lies in its files: it reads them at its start and never
# again, so that after a renewal Kubernetes has to start it anew.
_SHOWN = f"""\
import ssl, sys
shown = ssl.get_server_certificate(("127.0.0.1", {PORT}), timeout=8)
sys.exit(shown.strip() not in open("{CERTIFICATE}/tls.crt").read())
"""


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
        self.url = f"https://{names.service(name, names.SYSTEM)}:{PORT}"
        self._create_login()
        migration = self._create_migration()
        self._create_server(migration)
        # The portal puts MLflow's own login in the place of what the client has shown.
        self._create_route("mlflow", names.SYSTEM, name, PORT, hidden=("cookie",))
        self._create_trust()
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
            "database_uri = ",
            database.url("psycopg2", database.REGISTRY, tables, self.args.database, self.site.settings),
            "\n",
        )  # fmt: skip
        self._create_secret(f"{self.name}-authentication", names.SYSTEM, {"basic_auth.ini": configuration})
        for namespace in self.site.with_steps(_USERS):
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
                volumes=(AUTHORITY_FILES,),
                requests=Requests("100m", "256Mi", memory_limit="512Mi"),
                egress_to=(database.peer(self.site.settings),),
            ),
            self._options(),
        )

    def _create_trust(self) -> None:
        """The Gateway asks the server by TLS, too, and believes our authority alone."""
        self._create_custom(
            "gateway.networking.k8s.io/v1",
            "BackendTLSPolicy",
            self.name,
            names.SYSTEM,
            {
                "targetRefs": [{"group": "", "kind": "Service", "name": self.name}],
                "validation": {
                    "hostname": names.service(self.name, names.SYSTEM),
                    "caCertificateRefs": [{"group": "", "kind": "Secret", "name": AUTHORITY}],
                },
            },
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
                    f"--uvicorn-opts=--ssl-certfile={CERTIFICATE}/tls.crt --ssl-keyfile={CERTIFICATE}/tls.key",
                ),
                env={
                    "HOME": "/tmp",  # noqa: S108
                    "MLFLOW_BACKEND_STORE_URI": FromSecret(database.REGISTRY.secret, "url"),
                    "MLFLOW_ARTIFACTS_DESTINATION": FromSecret(objects, "root"),
                    # Credentials, region and endpoint.
                    "AWS_SHARED_CREDENTIALS_FILE": "/etc/objects/aws",
                    "AWS_CONFIG_FILE": "/etc/objects/aws",
                    # Google's Cloud Storage refuses the checksums that boto3 would add to every request.
                    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                    "MLFLOW_AUTH_CONFIG_PATH": "/etc/registry/basic_auth.ini",
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": FromSecret(f"{self.name}-sessions", "key"),
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    # Any other name in the Host header is answered with 403.
                    "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join((host, own, f"{own}:{PORT}", self.name)),
                    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"https://{host}",
                },
                ports={"http": PORT},
                tls=True,
                health="/health",
                alive=("python", "-I", "-c", _SHOWN),
                volumes=(
                    SecretFiles("/etc/registry", f"{self.name}-authentication"),
                    SecretFiles("/etc/objects", objects),
                    AUTHORITY_FILES,
                ),
                requests=Requests("100m", "512Mi", memory_limit="1Gi"),
                replicas=self.site.settings.parts.registry.replicas,
                ingress_from=(
                    network.namespace(names.GATEWAY, PORT),
                    *(network.namespace(each, PORT) for each in self.site.with_steps(_USERS)),
                ),
                egress_to=(database.peer(self.site.settings), object_store.peer(self.site.settings)),
            ),
            self._options(migration),
        )
