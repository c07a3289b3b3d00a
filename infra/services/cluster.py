"""The cluster that the services stand on: how it is reached, and what its cloud offers in place of services of ours.

An existing cluster is named by the settings; one that `infra/cluster` made is asked for by its stack's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import Provider

from infra.components.cache import ManagedCache
from infra.components.database import ManagedDatabase
from infra.components.object_store import ManagedObjectStore
from slipway.settings import Settings


@dataclass(frozen=True)
class Cluster:
    provider: Provider
    database: ManagedDatabase | None = None
    cache: ManagedCache | None = None
    object_store: ManagedObjectStore | None = None


def find_cluster(settings: Settings) -> Cluster:
    """The provider for every object, and the cloud's services that the settings ask for.

    The cluster's stack exports `kubeconfig` and, for managed services, `endpoints`: `database` (host, username,
    password), `cache` (host, password), `object_store` (url, region, bucket, access_key, secret_key).
    """
    kubernetes = settings.kubernetes
    if kubernetes is None:
        raise ValueError("no cluster: the environment's target is local")
    if kubernetes.provider == "existing":
        kubeconfig = str(kubernetes.kubeconfig) if kubernetes.kubeconfig else None
        return Cluster(_provider(kubeconfig, kubernetes.context or None))
    stack = pulumi.StackReference(f"organization/slipway-cluster/{settings.name}")
    managed = kubernetes.managed

    def endpoint(service: str, key: str) -> pulumi.Output[Any]:
        return stack.require_output("endpoints").apply(lambda endpoints: endpoints[service][key])

    return Cluster(
        _provider(stack.require_output("kubeconfig"), None),
        ManagedDatabase(*(endpoint("database", key) for key in ("host", "username", "password")))
        if managed.database
        else None,
        ManagedCache(*(endpoint("cache", key) for key in ("host", "password"))) if managed.cache else None,
        ManagedObjectStore(
            *(endpoint("object_store", key) for key in ("url", "region", "bucket", "access_key", "secret_key"))
        )
        if managed.object_store
        else None,
    )


def _provider(kubeconfig: pulumi.Input[str] | None, context: str | None) -> Provider:
    return Provider(
        "cluster",
        kubeconfig=kubeconfig,
        context=context,
        enable_server_side_apply=True,
        # An object that another release owns is refused, not taken over.
        suppress_helm_hook_warnings=True,
    )
