"""Feast's registry of a cluster, in PostgreSQL: what its servers know of the views, and whom they let do what.

The platform's own pods read no definitions there (`feature_repo.store`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from feature_repo.definitions import feast_objects
from feature_repo.permissions import feast_permissions
from feature_repo.store import OFFLINE_STORE, PROJECT
from slipway.environment import Environment
from slipway.errors import NotReady

if TYPE_CHECKING:
    from feast import FeatureStore


@contextmanager
def open_registry(environment: Environment) -> Iterator[FeatureStore]:
    """The definitions in the database that this pod is given, and no values. Raises NotReady outside a pod."""
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    if environment.pod is None:
        raise NotReady(
            "only a cluster has a registry to apply to", hint="on this machine definitions are applied on first use"
        )
    store = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry={"registry_type": "sql", "path": environment.pod.database_url, "cache_ttl_seconds": 0},
            online_store=None,
            offline_store={"type": OFFLINE_STORE},
            entity_key_serialization_version=3,
            repo_path=environment.state.features,
        )
    )
    try:
        yield store
    finally:
        store.registry.write_engine.dispose()
        store.registry.read_engine.dispose()


def apply_definitions(environment: Environment) -> None:
    """Make views, services and permissions those of this release; the same ones again change nothing.

    Raises NotReady outside a pod, and what SQLAlchemy raises when the database does not answer.
    """
    wanted = [*feast_objects(), *feast_permissions()]
    declared = {(type(each), each.name) for each in wanted}
    with open_registry(environment) as store:
        registry = store.registry
        applied = [
            *registry.list_permissions(PROJECT),
            *registry.list_feature_services(PROJECT),
            *registry.list_feature_views(PROJECT),
        ]
        gone = [each for each in applied if (type(each), each.name) not in declared]
        store.apply(wanted, objects_to_delete=gone, partial=False)
