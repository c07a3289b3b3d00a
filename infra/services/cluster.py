"""The cluster that the services stand on: how it is reached, and what its cloud offers in place of services of ours.

An existing cluster is named by the settings; one that `infra/cluster` made is asked for by its stack's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import KubeClientSettingsArgs, Provider

from infra.components.cache import ManagedCache
from infra.components.database import ManagedDatabase
from infra.components.object_store import ManagedObjectStore, ObjectKey, users_of
from slipway.errors import SlipwayError
from slipway.settings import Settings

_OBJECT_KEY = ("access_key", "secret_key")
_OLDER = "it was made under other settings: `slipway up` brings the cluster up to them first"


@dataclass(frozen=True)
class Cluster:
    provider: Provider
    database: ManagedDatabase | None = None
    cache: ManagedCache | None = None
    object_store: ManagedObjectStore | None = None


def find_cluster(settings: Settings) -> Cluster:
    """The provider for every object, and the cloud's services that the settings ask for.

    The cluster's stack exports `kubeconfig` and, for managed services, `endpoints`: `database` (host, username,
    password), `cache` (host, password), `object_store` (url, region, bucket, keys: access_key, secret_key by user).
    """
    kubernetes = settings.kubernetes
    if kubernetes is None:
        raise ValueError("no cluster: the environment's target is local")
    if kubernetes.provider == "existing":
        kubeconfig = str(kubernetes.kubeconfig) if kubernetes.kubeconfig else None
        return Cluster(_provider(kubeconfig, kubernetes.context or None))
    stack = pulumi.StackReference(f"organization/slipway-cluster/{settings.name}")
    managed = kubernetes.managed

    def endpoint(*path: str) -> pulumi.Output[Any]:
        return stack.require_output("endpoints").apply(lambda endpoints: find_endpoint(endpoints, path))

    return Cluster(
        _provider(stack.require_output("kubeconfig"), None),
        ManagedDatabase(*(endpoint("database", key) for key in ("host", "username", "password")))
        if managed.database
        else None,
        ManagedCache(*(endpoint("cache", key) for key in ("host", "password"))) if managed.cache else None,
        ManagedObjectStore(
            endpoint("object_store", "url"),
            endpoint("object_store", "region"),
            endpoint("object_store", "bucket"),
            {
                user.name: ObjectKey(*(endpoint("object_store", "keys", user.name, key) for key in _OBJECT_KEY))
                for user in users_of(kubernetes)
            },
        )
        if managed.object_store
        else None,
    )


def find_endpoint(endpoints: Any, path: Sequence[str]) -> Any:
    """One value of what the cluster's stack exports. Raises SlipwayError when it is not there."""
    for key in path:
        if key not in endpoints:
            raise SlipwayError(f"endpoints.{'.'.join(path)}: the cluster's stack does not export it", hint=_OLDER)
        endpoints = endpoints[key]
    return endpoints


def _provider(kubeconfig: pulumi.Input[str] | None, context: str | None) -> Provider:
    return Provider(
        "cluster",
        kubeconfig=kubeconfig,
        context=context,
        enable_server_side_apply=True,
        # In place: by default one is deleted and made anew, and pods that start meanwhile find none.
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        # Seconds. After each new definition all schemas are read anew, and a busy API server writes them anew for that.
        kube_client_settings=KubeClientSettingsArgs(timeout=180),
        # Charts are rendered without their hooks on purpose.
        suppress_helm_hook_warnings=True,
    )
