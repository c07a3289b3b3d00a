"""Valkey: the newest feature values, for servers that answer in milliseconds. In the cluster or the cloud's own.

What it holds can be materialized anew from the feature history, so one instance without a replica is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.component import Component, Site
from infra.components.pods import Claim, Requests, SecretFiles
from infra.components.workload import Workload, WorkloadArgs

PORT = 6379
SECRET = "cache"  # noqa: S105  (its name)
USERS = (names.DATA, names.SERVING, names.TRAINING)
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
        # Feast's own spelling of an address.
        tls = ",ssl=true" if args.managed else ""
        self.address = pulumi.Output.concat(self.host, f":{PORT},password=", self.password, tls)
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
                    _CONFIGURATION, f"maxmemory {_bytes(memory)}\nrequirepass ", self.password, "\n"
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
                volumes=(SecretFiles("/etc/valkey", configuration), Claim("/data", "1Gi")),
                requests=Requests("20m", "64Mi", memory_limit=f"{_bytes(memory) * 3 // 2 // 1024**2 + 32}Mi"),
                ingress_from=tuple(network.namespace(namespace, PORT) for namespace in USERS),
            ),
            self._options(),
        )


_CONFIGURATION = f"""\
port {PORT}
dir /data
protected-mode yes
save 300 1
appendonly no
maxmemory-policy allkeys-lru
"""


def _bytes(quantity: str) -> int:
    units = {"Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
    return int(quantity[:-2]) * units[quantity[-2:]]
