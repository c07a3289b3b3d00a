"""The feature store: registry in PostgreSQL, online values in Valkey, history in the object store.

Which entities, sources and views there are is the feature repository's (`feast apply` from a pipeline step). Rights are
Kubernetes': whoever has no role here may read nothing, and a role alone permits nothing that no Permission names.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.rbac.v1 import Role

from infra.components import cache, database, names, network, object_store
from infra.components.component import Component, Site
from infra.components.pods import Requests

SERVER = Requests("50m", "256Mi", memory_limit="512Mi")
ROLES = ("feast-reader", "feast-writer")
"""Kubernetes roles that the repository's Permission objects name."""
_PORTS = (6566, 6570, 8443)
"""Online and registry server, and their TLS."""


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
        stores = [self._create_stores()]
        roles = [self._create_role(role) for role in ROLES]
        policy = self._create_network_policy()
        self.store = self._create_custom(
            "feast.dev/v1",
            "FeatureStore",
            name,
            names.DATA,
            {
                "feastProject": "slipway",
                "authz": {"kubernetes": {"roles": list(ROLES)}},
                "services": {
                    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                    "onlineStore": {
                        "persistence": {"store": {"type": "redis", "secretRef": {"name": "feature-stores"}}},
                        "server": {"resources": SERVER.as_dict(), "logLevel": "warning"},
                    },
                    "registry": {
                        "local": {
                            "persistence": {"store": {"type": "sql", "secretRef": {"name": "feature-stores"}}},
                            "server": {"resources": SERVER.as_dict(), "logLevel": "warning", "restAPI": False},
                        }
                    },
                },
            },
            after=[*stores, *roles, policy],
        )
        self.register_outputs({})

    def _create_stores(self) -> pulumi.Resource:
        """Feast's own configuration of both stores, by their type; it holds passwords."""
        password = self.site.secrets.read(f"database/{database.FEATURES.name}")
        user = database.FEATURES.name
        sql = pulumi.Output.concat(
            "path: postgresql+psycopg://", user, ":", password, "@", self.args.database, f":{database.PORT}/{user}\n",
            "cache_ttl_seconds: 60\n",
            "sqlalchemy_config_kwargs:\n  connect_args: {sslmode: require}\n  pool_pre_ping: true\n",
        )  # fmt: skip
        redis = pulumi.Output.concat("connection_string: ", self.args.cache, "\n")
        return self._create_secret("feature-stores", names.DATA, {"sql": sql, "redis": redis})

    def _create_role(self, name: str) -> Role:
        """Without rules: the name is what Feast's permissions speak of."""
        return Role(
            f"{self.name}-role-{name}",
            metadata=self._metadata(name, names.DATA),
            rules=[],
            opts=self._options(),
        )

    def _create_network_policy(self) -> NetworkPolicy:
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata(self.name, names.DATA),
            spec=network.policy(
                {"feast.dev/name": self.name},
                ingress=tuple(network.namespace(each, *_PORTS) for each in (names.SERVING, names.TRAINING)),
                # It asks the API server whose token it was shown.
                egress=(
                    network.DNS,
                    network.API_SERVER,
                    network.anyone(database.PORT, cache.PORT),
                    network.app("object-store", object_store.PORT),
                ),
            ),
            opts=self._options(),
        )
