"""PostgreSQL: one database and one login for each part that keeps tables, on CloudNativePG or on the cloud's own.

Keeps no backup: name a place for it first (docs/clusters.md). A part reads its login from the Secret
`database-<user>` in its own namespace.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from urllib.parse import urlencode

import pulumi
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra.components import cert_manager, names, network
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import ConfigFiles, Requests, SecretFiles
from infra.components.workload import Workload, WorkloadArgs
from slipway.kubernetes_settings import KubernetesSettings

API = "postgresql.cnpg.io/v1"
PORT = 5432
INSTANCE = Requests("100m", "256Mi", memory_limit="1Gi")
_CERTIFICATE = f"{names.DATABASE}-tls"
_RELOADED = {"cnpg.io/reload": "true"}
_INSTANCES = {"cnpg.io/cluster": names.DATABASE}
"""Labels that CloudNativePG gives the cluster's pods."""


@dataclass(frozen=True)
class DatabaseUser:
    """A login, the database of the same name that it owns, and the namespaces whose pods use it."""

    name: str
    namespaces: tuple[str, ...]

    @property
    def secret(self) -> str:
        return f"database-{self.name}"


REGISTRY = DatabaseUser("registry", (names.SYSTEM,))
LEDGER = DatabaseUser("ledger", (names.SYSTEM, names.TRAINING))
FEATURES = DatabaseUser("features", (names.SYSTEM,))


@dataclass(frozen=True)
class ManagedDatabase:
    """A PostgreSQL of the cloud, as the cluster's project exports it."""

    host: pulumi.Input[str]
    username: pulumi.Input[str]
    password: pulumi.Input[str]


@dataclass(frozen=True)
class DatabaseArgs:
    site: Site
    users: tuple[DatabaseUser, ...] = (REGISTRY, LEDGER, FEATURES)
    managed: ManagedDatabase | None = None


def peer(settings: KubernetesSettings) -> Peer:
    """Where a pod that uses the database has to reach."""
    return network.inside(PORT) if settings.managed.database else network.pods(_INSTANCES, PORT, namespace=names.DATA)


def tls(settings: KubernetesSettings) -> dict[str, str]:
    """How a client asks, in libpq's words: ours shows a certificate of our authority, a cloud's is not checked."""
    if settings.managed.database:
        return {"sslmode": "require"}
    return {"sslmode": "verify-full", "sslrootcert": cert_manager.AUTHORITY_FILE}


def url(
    driver: str, user: DatabaseUser, password: pulumi.Input[str], host: pulumi.Input[str], settings: KubernetesSettings
) -> pulumi.Output[str]:
    """A login's own database, for SQLAlchemy and this driver of it."""
    query = urlencode(tls(settings), safe="/")
    return pulumi.Output.concat(
        f"postgresql+{driver}://{user.name}:", password, "@", host, f":{PORT}/{user.name}?{query}"
    )


class Database(Component):
    """The database server and everybody's login."""

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("database", name, args.site, opts)
        self.args = args
        self.host: pulumi.Input[str]
        if args.managed:
            self.host = args.managed.host
            self._create_roles(args.managed)
        else:
            self.host = names.service(f"{names.DATABASE}-rw", names.DATA)
            self._create_cluster()
        for user in args.users:
            self._create_login(user)
        self.register_outputs({"host": self.host})

    def _password(self, user: DatabaseUser) -> pulumi.Output[str]:
        return self.site.secrets.read(f"database/{user.name}")

    def _create_cluster(self) -> None:
        settings = self.site.settings
        part = settings.parts.database
        storage = {"size": part.storage} | ({"storageClass": settings.storage_class} if settings.storage_class else {})
        passwords = [
            self._create_secret(
                f"role-{user.name}",
                names.DATA,
                {"username": user.name, "password": self._password(user)},
                kind="kubernetes.io/basic-auth",
                labels=_RELOADED,
            )
            for user in self.args.users
        ]
        certificate = self._create_certificate()
        cluster = self._create_custom(
            API,
            "Cluster",
            names.DATABASE,
            names.DATA,
            {
                "instances": part.instances,
                "imageName": self.site.image("postgresql"),
                "storage": storage,
                "resources": INSTANCE.as_dict(),
                "enableSuperuserAccess": False,
                # Replicas and the operator itself show certificates of an authority that the operator makes.
                "certificates": {"serverTLSSecret": _CERTIFICATE, "serverCASecret": _CERTIFICATE},
                # A budget for one instance would keep its node from ever being drained: no other can take over.
                "enablePDB": part.instances > 1,
                "inheritedMetadata": {"labels": self._inherited_labels()},
                "managed": {
                    "roles": [
                        {
                            "name": user.name,
                            "ensure": "present",
                            "login": True,
                            "connectionLimit": 50,
                            "passwordSecret": {"name": f"role-{user.name}"},
                        }
                        for user in self.args.users
                    ]
                },
                "postgresql": {
                    "parameters": {"shared_buffers": "64MB", "max_connections": "160"},
                    "pg_hba": access_rules(self.args.users),
                },
            },
            after=[*passwords, certificate, self._create_network_policy()],
        )
        for user in self.args.users:
            self._create_custom(
                API,
                "Database",
                user.name,
                names.DATA,
                {
                    "name": user.name,
                    "owner": user.name,
                    "cluster": {"name": names.DATABASE},
                    # What `down` keeps or deletes are volumes, not single databases.
                    "databaseReclaimPolicy": "retain",
                },
                after=[cluster],
            )

    def _create_certificate(self) -> pulumi.Resource:
        """For the Services that the operator makes: of the primary, of the replicas, and of both."""
        hosts = [
            host
            for service in ("rw", "ro", "r")
            for host in names.service_names(f"{names.DATABASE}-{service}", names.DATA)
        ]
        spec = cert_manager.certificate_spec(_CERTIFICATE, hosts, names.GATEWAY_NAME)
        # The operator looks at a Secret again that has this label: a renewed one is taken without a restart.
        spec["secretTemplate"] = {"labels": _RELOADED}
        return self._create_custom(cert_manager.API, "Certificate", names.DATABASE, names.DATA, spec)

    def _inherited_labels(self) -> dict[str, str]:
        """Without those that the operator gives its own objects: it would put them right for ever."""
        labels = self._labels(names.DATABASE)
        return {key: labels[key] for key in labels if key.startswith("slipway.dev/") or key.endswith("/part-of")}

    def _create_network_policy(self) -> NetworkPolicy:
        users = sorted({each for user in self.args.users for each in self.site.with_steps(user.namespaces)})
        itself = network.pods(_INSTANCES, PORT, 8000)
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata(names.DATABASE, names.DATA),
            spec=network.policy(
                _INSTANCES,
                ingress=(
                    *(network.namespace(namespace, PORT) for namespace in users),
                    network.namespace(names.FEATURES, PORT),
                    network.namespace(names.DATABASE_OPERATOR, 8000),
                    itself,
                ),
                # Each instance reads its own cluster's object.
                egress=(network.DNS, network.API_SERVER, itself),
            ),
            opts=self._options(),
        )

    def _create_roles(self, managed: ManagedDatabase) -> None:
        """Logins and databases on a server that has no operator: one Job, which may run again."""
        login = "database-administrator"
        service = pulumi.Output.concat(
            "[administrator]\nhost=", managed.host, "\nuser=", managed.username, "\npassword=", managed.password,
            "\ndbname=postgres\nsslmode=require\n",
        )  # fmt: skip
        passwords = {user.name: self._password(user) for user in self.args.users}
        self._create_secret(login, names.DATA, {"service.conf": service, **passwords})
        self._create_config("database-roles", names.DATA, {"roles.sql": roles_script(self.args.users)})
        Workload(
            "database-roles",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.DATA,
                image="postgresql",
                kind="Job",
                command=("psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=/etc/roles/roles.sql"),
                # Not a password file: libpq reads none that a group may read, as the pod's own group must.
                env={"PGSERVICEFILE": f"{_LOGINS}/service.conf", "PGSERVICE": "administrator"},
                volumes=(ConfigFiles("/etc/roles", "database-roles"), SecretFiles(_LOGINS, login)),
                requests=Requests("50m", "64Mi"),
                egress_to=(peer(self.site.settings),),
                user=26,
            ),
            self._options(),
        )

    def _create_login(self, user: DatabaseUser) -> None:
        password = self._password(user)
        address = url("psycopg2", user, password, self.host, self.site.settings)
        for namespace in self.site.with_steps(user.namespaces):
            self._create_secret(
                user.secret,
                namespace,
                {"username": user.name, "password": password, "host": self.host, "url": address},
            )


def access_rules(users: tuple[DatabaseUser, ...]) -> list[str]:
    """Lines of pg_hba.conf after the operator's own: each login by TLS into its own database, and nothing else.

    Left alone, the operator lets everybody into every database in clear, and the login `app` as well, which it makes.
    """
    return [f"hostssl sameuser {','.join(user.name for user in users)} all scram-sha-256", "host all all all reject"]


def roles_script(users: tuple[DatabaseUser, ...]) -> str:
    """SQL for psql that makes what is missing and sets every password anew; passwords come from files."""
    return "".join(_ROLE.substitute(name=user.name, file=f"{_LOGINS}/{user.name}") for user in users)


_LOGINS = "/etc/logins"
_ROLE = Template("""\
\\set password `cat $file`
SELECT 'CREATE ROLE $name LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$name') \\gexec
ALTER ROLE $name PASSWORD :'password';
GRANT $name TO CURRENT_USER;
SELECT 'CREATE DATABASE $name OWNER $name' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '$name') \\gexec
REVOKE CONNECT ON DATABASE $name FROM PUBLIC;
""")
