"""The feature store: registry in PostgreSQL, online values in Valkey.

A Job fills the registry with views and permissions before there is a server: with an empty one everybody who reaches it
may do everything. The platform's own pods call no server, they read Valkey by their own code.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from feature_repo.permissions import READERS
from infra.components import cache, cert_manager, database, names, network, platform_pod, pods
from infra.components.component import Component, Site
from infra.components.pods import Requests, Scratch
from infra.components.workload import Workload, WorkloadArgs

SERVER = Requests("50m", "256Mi", memory_limit="512Mi")
_STORES = "feature-stores"
_ADDRESSES = {"FEAST_REGISTRY_ADDRESS": "registry-address", "FEAST_ONLINE_ADDRESS": "online-address"}
"""Variables of its servers that hold passwords, by their keys in that Secret."""
_PORTS = (6566, 6570)
"""Online and registry server."""


@dataclass(frozen=True)
class FeaturesArgs:
    site: Site
    database: pulumi.Input[str]
    """Host of PostgreSQL."""
    cache: pulumi.Input[str]
    """Address of Valkey in Feast's spelling, password included."""


class Features(Component):
    """One FeatureStore for all models."""

    def __init__(self, name: str, args: FeaturesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("features", name, args.site, opts)
        self.args = args
        stores = self._create_stores()
        authority = self._create_custom(*cert_manager.authority_of(names.FEATURES))
        policy = self._create_network_policy()
        definitions = self._create_definitions()
        image = self.site.image("feature_server")
        variables = [
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": _STORES, "key": key}}}
            for variable, key in _ADDRESSES.items()
        ]
        volume, mount = pods.volume_args(cert_manager.AUTHORITY_FILES, name)
        self.store = self._create_custom(
            "feast.dev/v1",
            "FeatureStore",
            name,
            names.FEATURES,
            {
                "feastProject": "slipway",
                "authz": {"kubernetes": {}},
                # The operator makes one that applies Feast's example, and of an image that moves: never to be run.
                "cronJob": {"suspend": True, "containerConfigs": {"image": image, "resources": SERVER.as_dict()}},
                "services": {
                    # It would apply Feast's example at every start of a pod, and take away whatever is not in it.
                    "runFeastApplyOnInit": False,
                    # All that can be said of its pods: their containers' contexts have no field, nor does their token.
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "podAnnotations": {
                        "slipway.dev/configuration": self.site.contents.digest("Secret", names.FEATURES, _STORES)
                    },
                    "volumes": [volume],
                    "onlineStore": {
                        "persistence": {"store": {"type": "redis", "secretRef": {"name": _STORES}}},
                        "server": {
                            "image": image,
                            "env": variables,
                            "resources": SERVER.as_dict(),
                            "logLevel": "warning",
                            "volumeMounts": [mount],
                        },
                    },
                    "registry": {
                        "local": {
                            "persistence": {"store": {"type": "sql", "secretRef": {"name": _STORES}}},
                            "server": {
                                "image": image,
                                "env": variables,
                                "resources": SERVER.as_dict(),
                                "logLevel": "warning",
                                "restAPI": False,
                                "volumeMounts": [mount],
                            },
                        }
                    },
                },
            },
            after=[stores, authority, policy, definitions],
        )
        self.register_outputs({})

    def _create_stores(self) -> pulumi.Resource:
        """Feast's own configuration of both stores, by their type, and what it names: addresses with passwords.

        The operator writes the former into its Deployment, for everybody to read; Feast fills in the variables.
        """
        password = self.site.secrets.read(f"database/{database.FEATURES.name}")
        address = database.url("psycopg", database.FEATURES, password, self.args.database, self.site.settings)
        values: dict[str, pulumi.Input[str]] = {
            "sql": (
                "path: ${FEAST_REGISTRY_ADDRESS}\n"
                "cache_ttl_seconds: 60\n"
                "sqlalchemy_config_kwargs:\n  pool_pre_ping: true\n"
            ),
            "redis": "connection_string: ${FEAST_ONLINE_ADDRESS}\n",
            _ADDRESSES["FEAST_REGISTRY_ADDRESS"]: address,
            _ADDRESSES["FEAST_ONLINE_ADDRESS"]: self.args.cache,
        }
        return self._create_secret(_STORES, names.FEATURES, values)

    def _create_definitions(self) -> Workload:
        return Workload(
            "feature-definitions",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                kind="Job",
                command=("python", "-m", "feature_repo"),
                env=platform_pod.variables(),
                volumes=(Scratch(platform_pod.STATE), *platform_pod.files(database.FEATURES.secret)),
                requests=Requests("50m", "256Mi", memory_limit="512Mi"),
                egress_to=(database.peer(self.site.settings),),
            ),
            self._options(),
        )

    def _create_network_policy(self) -> NetworkPolicy:
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata(self.name, names.FEATURES),
            spec=network.policy(
                {"feast.dev/name": self.name},
                ingress=tuple(network.namespace(each, *_PORTS) for each in READERS),
                # It asks the API server whose token it was shown.
                egress=(
                    network.DNS,
                    network.API_SERVER,
                    database.peer(self.site.settings),
                    cache.peer(self.site.settings),
                ),
            ),
            opts=self._options(),
        )
