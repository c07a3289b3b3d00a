"""Valkey: the newest feature values, for servers that answer in milliseconds. In the cluster or the cloud's own.

What it holds can be materialized anew from the feature history, so one instance without a replica is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.cert_manager import AUTHORITY_FILE
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import Claim, Requests, SecretFiles
from infra.components.workload import CERTIFICATE, Workload, WorkloadArgs
from infra.quantity import parse_bytes
from slipway.kubernetes_settings import KubernetesSettings

PORT = 6379
SECRET = "cache"  # noqa: S105  (its name)
USERS = (names.SERVING, names.TRAINING)
"""Namespaces whose pods read and write feature values."""


@dataclass(frozen=True)
class ManagedCache:
    """A Valkey of the cloud, as the cluster's project exports it."""

    host: pulumi.Input[str]
    password: pulumi.Input[str]


@dataclass(frozen=True)
class CacheArgs:
    site: Site
    managed: ManagedCache | None = None


def peer(settings: KubernetesSettings) -> Peer:
    """Where a pod that uses the cache has to reach."""
    return network.inside(PORT) if settings.managed.cache else network.app("cache", PORT, namespace=names.DATA)


class Cache(Component):
    """The online store's server, and its password for whoever uses it."""

    def __init__(self, name: str, args: CacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cache", name, args.site, opts)
        self.host: pulumi.Input[str]
        self.password: pulumi.Input[str]
        if args.managed:
            self.host, self.password = args.managed.host, args.managed.password
        else:
            self.host = names.service(name, names.DATA)
            self.password = self.site.secrets.read("cache/password")
            self._create_server()
        # Feast's own spelling of an address. A cloud's certificate is one that everybody trusts.
        authority = "" if args.managed else f",ssl_ca_certs={AUTHORITY_FILE}"
        self.address = pulumi.Output.concat(self.host, f":{PORT},password=", self.password, ",ssl=true", authority)
        for namespace in USERS:
            self._create_secret(
                SECRET, namespace, {"host": self.host, "password": self.password, "address": self.address}
            )
        self.register_outputs({"host": self.host})

    def _create_server(self) -> None:
        memory = self.site.settings.parts.cache.memory
        configuration = f"{self.name}-configuration"
        self._create_secret(
            configuration,
            names.DATA,
            {
                "valkey.conf": pulumi.Output.concat(
                    _CONFIGURATION, f"maxmemory {parse_bytes(memory)}\nrequirepass ", self.password, "\n"
                )
            },
        )
        Workload(
            self.name,
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.DATA,
                image="valkey",
                command=("valkey-server", "/etc/valkey/valkey.conf"),
                ports={"valkey": PORT},
                tls=True,
                alive=_ASK,
                volumes=(SecretFiles("/etc/valkey", configuration), Claim("/data", "1Gi")),
                requests=Requests("20m", "64Mi", memory_limit=f"{parse_bytes(memory) * 3 // 2 // 1024**2 + 32}Mi"),
                ingress_from=tuple(network.namespace(namespace, PORT) for namespace in (*USERS, names.FEATURES)),
            ),
            self._options(),
        )


_CONFIGURATION = f"""\
port 0
tls-port {PORT}
tls-cert-file {CERTIFICATE}/tls.crt
tls-key-file {CERTIFICATE}/tls.key
tls-auth-clients no
tls-auto-reload-interval 3600
dir /data
protected-mode yes
save 300 1
appendonly no
maxmemory-policy allkeys-lru
"""
# Without the password: to be refused by it is an answer, too.
_ASK = ("valkey-cli", "--tls", "--insecure", "-p", str(PORT), "ping")
