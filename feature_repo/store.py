"""Opens an environment's Feast store: SQL registry and guarded online store on SQLite, offline files read by DuckDB.

A pod finds its online values in the cluster's Valkey and the offline files in the object store, as far as it is given
them. The registry is its own even there: what views there are stands in the code that it runs, and not in what another
release has applied somewhere.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from feature_repo.definitions import all_services, all_views, feast_objects
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.pod import CACHE

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "slipway"
ONLINE = f"{CACHE}/address"
"""File below a pod's secrets: where the online values are, password included."""
OFFLINE_STORE = "feature_repo.offline.AsofDuckDBOfflineStore"
_APPLY_SECONDS = 60


def store_config(environment: Environment, *, offline: str = OFFLINE_STORE) -> Any:
    """Feast's configuration of this environment; `offline` names the class of the offline store."""
    from feast.repo_config import RepoConfig

    folder = environment.state.features
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}", "cache_ttl_seconds": 0},
        online_store=_online_store(environment),
        offline_store={"type": offline} | ({"secrets": environment.pod.secrets} if environment.pod else {}),
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def _online_store(environment: Environment) -> dict[str, str] | None:
    if environment.pod is not None:
        if not environment.pod.is_given(ONLINE):
            return None
        address = environment.pod.read(ONLINE)
        return {"type": "feature_repo.valkey.GuardedValkeyOnlineStore", "connection_string": address}
    path = environment.state.features / "online.db"
    return {"type": "feature_repo.online.GuardedSqliteOnlineStore", "path": str(path)}


def open_store(environment: Environment) -> FeatureStore:
    """The store, with the definitions of this code applied on first use and whenever they change.

    Raises NotReady when another process holds the definitions for longer than a minute.
    """
    from feast import FeatureStore

    folder = environment.state.features
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    applied, wanted = folder / "applied.json", _definitions()
    try:
        with FileLock(folder / "apply.lock", timeout=_APPLY_SECONDS):
            store = FeatureStore(config=store_config(environment))
            if not applied.exists() or applied.read_text() != wanted:
                store.apply(feast_objects())
                draft = applied.with_suffix(".draft")
                draft.write_text(wanted)
                draft.replace(applied)
    except Timeout as error:
        raise NotReady(f"{folder}: another process is applying feature definitions", hint="try again") from error
    return store


def open_online(store: FeatureStore) -> Any:
    """The online store of an opened store. Raises NotReady in a pod that is not given it."""
    online = store._get_provider().online_store
    if online is None:
        raise NotReady("this pod is told no online store", hint=f"is the Secret `{CACHE}` mounted?")
    return online


def _definitions() -> str:
    """What `applied.json` holds: a change of it is applied again."""
    views = {view.name: repr(view) for view in all_views().values()}
    return json.dumps({"views": views, "services": {k: [v.name for v in m] for k, m in all_services().items()}})
